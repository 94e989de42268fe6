//! Whether the daemon answers, and what it finds.

use std::time::Duration;

use tunnel_api::{Check, Version};
use tunnel_client::{Client, Error};

use super::CHECK_LIMIT;
use super::finding::Finding;
use crate::commands::service::RESTART;

/// Whether the daemon can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Answers,
    /// Somebody took the question, and nothing came back: it hangs, or was stopped.
    Silent,
    Not,
}

/// Asks the daemon for its version.
pub(super) async fn reach(client: &Client) -> (Check, Reach) {
    let (finding, reach) = match tokio::time::timeout(CHECK_LIMIT, client.version()).await {
        Ok(Ok(version)) => (answers(&version, Client::version_of_client(), client), Reach::Answers),
        Ok(Err(error @ Error::Timeout { .. })) => (unreachable(&error), Reach::Silent),
        Ok(Err(error)) => (unreachable(&error), Reach::Not),
        Err(_) => {
            let detail = format!("no answer at {} within {} s", client.door(), CHECK_LIMIT.as_secs());
            (Finding::fail(detail, "see what it does: tunnelctl logs"), Reach::Silent)
        }
    };
    (finding.check("daemon", "daemon"), reach)
}

fn answers(version: &Version, own: &str, client: &Client) -> Finding {
    let daemon = &version.tunnel_manager;
    if daemon == own {
        return Finding::pass(format!("answers at {}, version {daemon}", client.door()));
    }
    Finding::warn(
        format!("tunneld {daemon} answers, and this is tunnelctl {own}"),
        format!("after an update {RESTART}"),
    )
}

fn unreachable(error: &Error) -> Finding {
    match error {
        Error::NotRunning { door, step, .. } => Finding::fail(format!("nobody answers at {door}"), *step),
        Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::NotReady(_)
        | Error::WaitOver(_)
        | Error::Refused(_)
        | Error::Timeout { .. }
        | Error::Lost { .. }
        | Error::Setup(_) => {
            // Such a text says what happened; then, behind a semicolon, what to do.
            let text = error.to_string();
            let (what, step) = text.split_once("; ").unwrap_or((&text, "see what it does: tunnelctl logs"));
            Finding::fail(what, step)
        }
    }
}

/// Has the daemon look at itself and its surroundings.
pub(super) async fn diagnosis(client: &Client, limit: Duration) -> Vec<Check> {
    let finding = match tokio::time::timeout(limit, client.diagnosis()).await {
        Ok(Ok(diagnosis)) => return diagnosis.checks,
        Ok(Err(Error::Refused(body))) if matches!(body.status_code, 404 | 405) => Finding {
            next_step: "update tunneld and restart it".to_owned(),
            ..Finding::skip("this tunneld is older and cannot look at its surroundings")
        },
        Ok(Err(error)) => unreachable(&error),
        Err(_) => {
            let detail = format!("it did not finish its checks within {} s", limit.as_secs());
            Finding::fail(detail, "try again; if it stays so, send: tunnelctl diag")
        }
    };
    vec![finding.check("diagnosis", "daemon's own checks")]
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;
    use tunnel_client::Door;

    use super::*;

    #[test]
    fn another_version_is_worth_a_look() {
        let client = Client::new("http://127.0.0.1:1".parse::<Door>().unwrap()).unwrap();
        let version = |text: &str| Version { tunnel_manager: text.to_owned(), ..Version::default() };
        let found = answers(&version("1.2.3"), "1.2.3", &client);
        assert_eq!(found, Finding::pass("answers at http://127.0.0.1:1, version 1.2.3"));
        let found = answers(&version("1.2.4"), "1.2.3", &client);
        assert_eq!(found.verdict, Verdict::Warn);
        assert!(found.next_step.contains("restart tunneld"), "{found:?}");
    }

    #[test]
    fn errors_are_taken_apart_into_what_happened_and_what_to_do() {
        let door = "x".to_owned();
        let found = unreachable(&Error::NotAllowed { door, body: None });
        assert_eq!(found.detail, "tunneld at x does not let this user in");
        assert_eq!(found.next_step, "ask as the user that runs it");
    }
}
