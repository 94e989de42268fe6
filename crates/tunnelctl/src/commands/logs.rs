//! `tunnelctl logs`: what the daemon logged, from the journal or from its log file.

mod file;
mod journal;
pub(super) mod source;

use serde_json::json;
use tunnel_client::{Client, exit};

pub(super) use self::file::last_lines as last_file_lines;
pub(super) use self::journal::last_lines as last_journal_lines;
use self::source::Source;
use crate::output::Output;

/// Longest request id that the daemon takes from a caller.
const LONGEST_ID: usize = 128;

/// The id of a request, fit to be handed to other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// Takes what the daemon takes as an id, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let fit = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
        let good = (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(fit);
        good.then(|| Self(text.to_owned()))
    }

    /// Returns the two forms in which the daemon logs it: as it is, and between quotation marks.
    fn forms(&self) -> [String; 2] {
        [self.0.clone(), format!("\"{}\"", self.0)]
    }
}

pub(super) async fn show(
    client: &Client,
    follow: bool,
    request: Option<&str>,
    lines: u32,
    output: &Output,
) -> anyhow::Result<u8> {
    let request = match request.map(|text| RequestId::parse(text).ok_or(text)).transpose() {
        Ok(request) => request,
        Err(text) => {
            output.error(&format!("{text:?} is no request id; an answer's X-Request-Id tells it"));
            return Ok(exit::USAGE);
        }
    };
    match source::find(client).await {
        Source::Journal => journal::show(follow, request.as_ref(), lines, output).await,
        Source::File(path) => {
            if !output.wants_json() {
                output.talk(&format!("{}:", path.display()));
            }
            file::show(&path, follow, request.as_ref(), lines as usize, output).await
        }
        Source::Stderr => {
            output.error(
                "tunneld logs to where it was started, a terminal perhaps; to have it in a file, start it with: tunneld \
                 --log-file FILE",
            );
            Ok(exit::NOT_FOUND)
        }
        Source::None { looked } => {
            let places: Vec<String> = looked.iter().map(|path| path.display().to_string()).collect();
            if output.wants_json() {
                output.json(json!({ "lines": [], "looked_at": looked }))?;
            }
            let file = match places.as_slice() {
                [] => "without HOME there is no place for a file".to_owned(),
                places => format!("there is no file {}", places.join(" or ")),
            };
            output.error(&format!(
                "there is no log: the journal has nothing of tunneld, and {file}; a tunneld that was started in a \
                 terminal logs there"
            ));
            Ok(exit::NOT_FOUND)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_daemon_takes_is_a_request_id() {
        for text in ["a", "0123456789abcdef", "a-b_c.d:e/f+g=", &"x".repeat(128)] {
            assert!(RequestId::parse(text).is_some(), "{text}");
        }
        for text in ["", " ", "a b", "a\n", "a\"", "é", &"x".repeat(129)] {
            assert_eq!(RequestId::parse(text), None, "{text}");
        }
    }
}
