//! What the daemon tells of itself.

use std::time::Duration;

use serde::Serialize;
use tunnel_client::{Client, Error};

use super::job::{Content, Job, Trouble};

/// Longest wait for a sign of life, so that a daemon that hangs does not cost a limit for each question.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Events that are asked for: more than a day of an unsteady link.
const EVENTS: usize = 500;

/// Returns the questions to the daemon; without one they are skipped.
pub(super) async fn jobs(client: &Client) -> Vec<Job> {
    let absent = match tokio::time::timeout(SIGN_OF_LIFE, client.livez()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("tunneld does not answer within {} s", SIGN_OF_LIFE.as_secs())),
    };
    // The first says why; it would help nobody to read that a dozen times.
    let first = match &absent {
        Some(why) => {
            let why = why.clone();
            Job::new("version.json", async { Err(Trouble::Err(why)) })
        }
        None => {
            let client = client.clone();
            Job::new("version.json", async move { json(client.version().await) })
        }
    };
    let absent = absent.map(|_| "tunneld does not answer".to_owned());
    /// A question: the file, and the client's method that asks it.
    macro_rules! ask {
        ($file:literal, $client:ident => $answer:expr) => {
            match &absent {
                Some(why) => Job::skipped($file, why.clone()),
                None => {
                    let $client = client.clone();
                    Job::new($file, async move { json($answer.await) })
                }
            }
        };
    }
    vec![
        first,
        ask!("health.json", client => client.health()),
        ask!("status.json", client => client.status_json()),
        ask!("connections.json", client => client.connections()),
        ask!("models.json", client => client.models()),
        ask!("requests.json", client => client.requests()),
        ask!("warnings.json", client => client.warnings()),
        ask!("events.json", client => client.events(None, EVENTS)),
        ask!("metrics.json", client => client.metrics()),
        match absent.clone() {
            Some(why) => Job::skipped("metrics.txt", why),
            None => {
                let client = client.clone();
                Job::new("metrics.txt", async move {
                    client.metrics_page().await.map(Content::Text).map_err(|error| trouble(&error))
                })
            }
        },
        ask!("config.json", client => client.config()),
        ask!("config-origins.json", client => client.config_origins()),
        ask!("auth.json", client => client.auth()),
    ]
}

fn json(answer: Result<impl Serialize, Error>) -> Result<Content, Trouble> {
    let answer = answer.map_err(|error| trouble(&error))?;
    serde_json::to_value(answer).map(Content::Json).map_err(|error| Trouble::Err(error.to_string()))
}

fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Refused(body) if body.status_code == 404 => {
            Trouble::Skip("this tunneld does not have it".to_owned())
        }
        Error::NotRunning { .. }
        | Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::NotReady(_)
        | Error::WaitOver(_)
        | Error::Refused(_)
        | Error::Timeout { .. }
        | Error::Lost { .. }
        | Error::Setup(_) => Trouble::Err(error.to_string()),
    }
}
