//! What the daemon says over `/ws`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tunnel_api::ws::{MessageType, ModelUpdate};
use tunnel_api::{Event, Metrics, Status, Warning};

use crate::Error;

/// One thing to know.
#[derive(Debug)]
pub enum Update {
    /// How everything stands now.
    Status(Box<Status>),
    /// All models there are now.
    Models(ModelUpdate),
    /// What was measured up to now; comes each `metricsUpdateInterval`.
    Metrics(Box<Metrics>),
    /// Something happened.
    Event(Event),
    /// Something has just come up that someone should look at.
    Warning(Warning),
    /// What another client tells all: `command` is `SHOW`, `HIDE`, `SETTINGS`, `QUIT`, `UPDATE_TOOLTIP` with `text`,
    /// `UPDATE_ICON` with `state`, or a name of a newer daemon.
    Call(Map<String, Value>),
    /// The daemon's answer to a command of this client, with its `id`; several for a stream.
    Answer(Map<String, Value>),
    /// The daemon has gone, or was never there. It is dialled again for as long as updates are waited for.
    Lost(Error),
}

/// What all messages with a type have; the rest is read once it is known what it is.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<MessageType>,
}

#[derive(Deserialize)]
struct Body<T> {
    data: T,
}

/// Reads one message. `None`: a newer daemon says something that this client does not know.
pub(super) fn parse(text: &[u8]) -> Result<Option<Update>, serde_json::Error> {
    let head: Head = serde_json::from_slice(text)?;
    Ok(Some(match head.kind {
        Some(MessageType::StatusUpdate) => Update::Status(Box::new(data(text)?)),
        Some(MessageType::ModelUpdate) => Update::Models(data(text)?),
        Some(MessageType::MetricsUpdate) => Update::Metrics(Box::new(data(text)?)),
        Some(MessageType::Event) => Update::Event(data(text)?),
        Some(MessageType::Warning) => Update::Warning(data(text)?),
        Some(MessageType::Unknown) => return Ok(None),
        None => {
            let message: Map<String, Value> = serde_json::from_slice(text)?;
            if message.contains_key("command") { Update::Call(message) } else { Update::Answer(message) }
        }
    }))
}

fn data<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Body<T>>(text).map(|body| body.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Update> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn messages_are_told_apart() {
        let status = r#"{"type":"status_update","seq":1,"timestamp":"2026-01-01T00:00:00Z","data":{"tunnel":{"state":"connected"}}}"#;
        let Some(Update::Status(status)) = parsed(status) else { panic!() };
        assert_eq!(status.tunnel.state, tunnel_api::TunnelState::Connected);
        let models = r#"{"type":"model_update","data":{"models":[{"name":"m"}],"more":1}}"#;
        let Some(Update::Models(models)) = parsed(models) else { panic!() };
        assert_eq!(models.models[0].name, "m");
        assert!(matches!(parsed(r#"{"type":"metrics_update","data":{}}"#), Some(Update::Metrics(_))));
        assert!(matches!(parsed(r#"{"type":"warning","data":{"code":"x"}}"#), Some(Update::Warning(_))));
        assert!(matches!(parsed(r#"{"command":"SHOW"}"#), Some(Update::Call(_))));
        assert!(matches!(parsed(r#"{"id":7,"status":"pong"}"#), Some(Update::Answer(_))));
    }

    #[test]
    fn what_a_newer_daemon_says_is_skipped_and_what_is_no_message_is_an_error() {
        assert!(parsed(r#"{"type":"weather_update","data":"rain"}"#).is_none());
        for text in
            ["", "[]", "hello", r#"{"type":"status_update"}"#, r#"{"type":"status_update","data":[1]}"#]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
