use http::HeaderValue;
use serde_json::{Value, json};

use super::Listed;

/// The content type of Ollama's answers.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Writes an error as Ollama does.
pub(crate) fn error(message: &str) -> Vec<u8> {
    json!({ "error": message }).to_string().into_bytes()
}

/// Returns the name in an entry of a list.
pub(crate) fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name").or_else(|| entry.get("model")).and_then(Value::as_str)
}

/// Describes a model of `/api/tags` as Ollama does under `/v1/models`.
pub(crate) fn as_openai(model: &Listed) -> Value {
    let created = model.entry.get("modified_at").and_then(Value::as_str).and_then(unix_time);
    // `me/model` is a user's; what has no user is from the library.
    let owner =
        model.name.rsplit_once('/').map_or("library", |(path, _)| path.rsplit('/').next().unwrap_or(path));
    json!({ "id": model.name, "object": "model", "created": created.unwrap_or(0), "owned_by": owner })
}

/// Reads an RFC 3339 time as seconds since 1970; the fraction is dropped.
fn unix_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), hhmm) => {
            let (hours, minutes) = hhmm.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days since 1970-01-01 in the Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Api;

    #[test]
    fn a_recorded_entry_is_described_as_the_same_ollama_did() {
        let entry =
            json!({"name":"smollm2:135m","modified_at":"2026-11-21T09:56:48.275999716Z","size":98363007});
        let name = "smollm2:135m".to_owned();
        let model = Listed { name, loaded: true, size_bytes: None, api: Api::Ollama, entry };
        let expected =
            json!({"id":"smollm2:135m","object":"model","created":1_795_255_008,"owned_by":"library"});
        assert_eq!(as_openai(&model), expected);
    }

    #[test]
    fn times_with_zones_are_read() {
        assert_eq!(unix_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_time("2024-02-29T12:00:00.5+02:00"), Some(1_709_200_800));
        assert_eq!(unix_time("1969-12-31T23:59:59-01:00"), Some(3599));
        for broken in
            ["", "2024", "2024-02-29T12:00:00", "2024-0x-29T12:00:00Z", "2024-02-29T12:00:00+2", "é"]
        {
            assert_eq!(unix_time(broken), None, "{broken}");
        }
    }

    #[test]
    fn errors_read_as_ollamas() {
        assert_eq!(error("model 'nope' not found"), br#"{"error":"model 'nope' not found"}"#);
    }
}
