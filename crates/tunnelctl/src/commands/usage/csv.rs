//! Usage as comma-separated values, RFC 4180: a head, lines that end with CR LF, quotes where they are needed.

use tunnel_api::{UsageBy, UsageRow};

use super::name;

pub(super) fn lines(by: UsageBy, rows: &[UsageRow]) -> String {
    let head = format!(
        "{by},requests,failed,prompt_tokens,completion_tokens,bytes_in,bytes_out,duration_ms,\
                 cached_tokens,streamed,first_token_ms,load_ms,prompt_ms,generation_ms\r\n"
    );
    let line = |row: &UsageRow| {
        format!(
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{}\r\n",
            field(&name(by, row)),
            row.requests,
            row.failed,
            row.prompt_tokens,
            row.completion_tokens,
            row.bytes_in,
            row.bytes_out,
            row.duration_ms,
            row.cached_tokens,
            row.streamed,
            row.first_token_ms,
            row.load_ms,
            row.prompt_ms,
            row.generation_ms
        )
    };
    head + &rows.iter().map(line).collect::<String>()
}

/// Returns a text as one field.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let row =
            |model: &str| UsageRow { model: Some(model.to_owned()), requests: 1, ..UsageRow::default() };
        assert_eq!(
            lines(UsageBy::Model, &[row("llama3.2:3b"), row("a,\"b\"\nc"), row("")]),
            "model,requests,failed,prompt_tokens,completion_tokens,bytes_in,bytes_out,duration_ms,\
             cached_tokens,streamed,first_token_ms,load_ms,prompt_ms,generation_ms\r\n\
             llama3.2:3b,1,0,0,0,0,0,0,0,0,0,0,0,0\r\n\"a,\"\"b\"\"\nc\",1,0,0,0,0,0,0,0,0,0,0,0,0\r\n\
             ,1,0,0,0,0,0,0,0,0,0,0,0,0\r\n"
        );
        assert!(lines(UsageBy::Day, &[]).starts_with("day,requests,"));
    }
}
