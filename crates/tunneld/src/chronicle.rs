//! Writes down what happened: follows the status and turns each change that a person would call one into an event.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tunnel_api::connection::ConnectionState;
use tunnel_api::tunnel::Target;
use tunnel_api::{Connection, Severity, Status, TunnelState, Warning};

use crate::store::{NewEvent, RecorderHandle};
use crate::warnings::{Transition, Turn};

/// Warnings that come and go while the chronicle is busy; it never takes long.
pub(crate) const ROOM: usize = 64;

/// Records events, and which warnings are active, until `soft` ends.
pub(crate) async fn keep(
    mut status: watch::Receiver<Arc<Status>>,
    mut transitions: mpsc::Receiver<Transition>,
    recorder: RecorderHandle,
    soft: CancellationToken,
) {
    let started = format!("tunneld {} has started", env!("CARGO_PKG_VERSION"));
    let version = json!({ "version": env!("CARGO_PKG_VERSION") });
    recorder.event(event("daemon_started", Severity::Info, started, version));
    let mut before = Arc::clone(&status.borrow_and_update());
    let mut active = BTreeMap::new();
    // What an earlier run left is over, unless it is raised again.
    recorder.warnings([]);
    loop {
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    break;
                }
                let after = Arc::clone(&status.borrow_and_update());
                between(&before, &after).into_iter().for_each(|event| recorder.event(event));
                before = after;
            }
            Some(transition) = transitions.recv() => {
                recorder.event(told(&transition));
                note(&mut active, transition);
                recorder.warnings(active.iter().map(|((_, subject), warning)| (subject.clone(), warning.clone())));
            }
            () = soft.cancelled() => break,
        }
    }
    // What came at the same moment.
    while let Ok(transition) = transitions.try_recv() {
        recorder.event(told(&transition));
        note(&mut active, transition);
    }
    between(&before, &status.borrow()).into_iter().for_each(|event| recorder.event(event));
    recorder.event(event("daemon_stopping", Severity::Info, "tunneld is shutting down", json!({})));
}

fn note(active: &mut BTreeMap<(String, String), Warning>, transition: Transition) {
    let Transition { turn, subject, warning, .. } = transition;
    let key = (warning.code.clone(), subject);
    match turn {
        Turn::Raised => active.insert(key, warning),
        Turn::Cleared => active.remove(&key),
    };
}

/// Returns what happened between two snapshots. Pure.
fn between(before: &Status, after: &Status) -> Vec<NewEvent> {
    let mut events = Vec::new();
    tunnel(before, after, &mut events);
    connections(before, after, &mut events);
    config(before, after, &mut events);
    events
}

fn tunnel(before: &Status, after: &Status, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.tunnel, &after.tunnel);
    if old.target != new.target && old.target != Target::Unknown {
        let (kind, message) = match new.target {
            Target::Up => ("tunnel_start", "the tunnel is wanted up"),
            Target::Down => ("tunnel_stop", "the tunnel is wanted down"),
            Target::Unknown => return,
        };
        events.push(event(kind, Severity::Info, message, json!({})));
    }
    let relay = new.relay.as_deref().unwrap_or("the relay");
    if old.state != new.state {
        match new.state {
            TunnelState::Connected => {
                let message = format!("the tunnel to {relay} is up");
                events.push(event("tunnel_up", Severity::Info, message, json!({ "resumes": new.resumes })));
            }
            TunnelState::Refused => {
                let why = new.last_error.clone().unwrap_or_else(|| "the relay refuses the tunnel".to_owned());
                events.push(event("tunnel_refused", Severity::Error, why, json!({})));
            }
            TunnelState::Disconnected | TunnelState::Connecting | TunnelState::Backoff
                if old.state == TunnelState::Connected =>
            {
                let why = new.last_error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                let severity = if new.target == Target::Up { Severity::Warning } else { Severity::Info };
                events.push(event(
                    "tunnel_down",
                    severity,
                    format!("the tunnel to {relay} is down{why}"),
                    json!({}),
                ));
            }
            TunnelState::Disconnected
            | TunnelState::Connecting
            | TunnelState::Backoff
            | TunnelState::Unknown => {}
        }
    }
}

fn connections(before: &Status, after: &Status, events: &mut Vec<NewEvent>) {
    let is_server = |connection: &&Connection| !connection.is_tunnel();
    for new in after.connections.values().filter(is_server) {
        let was = before.connections.get(&new.id).map_or(ConnectionState::Connecting, |old| old.state);
        if was == new.state {
            continue;
        }
        let data = json!({ "connection": new.id });
        match new.state {
            ConnectionState::Connected => {
                let message = format!("{} at {} is up", new.id, new.endpoint);
                events.push(event("connection_up", Severity::Info, message, data));
            }
            ConnectionState::Disconnected | ConnectionState::Error => {
                let why = new.error.as_deref().unwrap_or("no answer");
                let message = format!("{} at {} is down: {why}", new.id, new.endpoint);
                events.push(event("connection_down", Severity::Warning, message, data));
            }
            ConnectionState::Connecting | ConnectionState::Unknown => {}
        }
    }
}

fn config(before: &Status, after: &Status, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.config, &after.config);
    if old.loaded_at != new.loaded_at {
        let data = json!({ "restart_required": new.restart_required });
        events.push(event("config_reloaded", Severity::Info, "a changed configuration is in force", data));
    }
    if let Some(error) = new.last_error.as_ref().filter(|error| old.last_error.as_ref() != Some(error)) {
        events.push(event("config_rejected", Severity::Error, error.clone(), json!({})));
    }
}

fn told(transition: &Transition) -> NewEvent {
    let warning = &transition.warning;
    match transition.turn {
        Turn::Raised => {
            let data = json!({ "code": warning.code, "next_step": warning.next_step });
            event("warning_raised", warning.severity, warning.message.clone(), data)
        }
        Turn::Cleared => {
            let message = format!("no longer: {}", warning.message);
            event("warning_cleared", Severity::Info, message, json!({ "code": warning.code }))
        }
    }
}

fn event(
    kind: &'static str,
    severity: Severity,
    message: impl Into<String>,
    data: serde_json::Value,
) -> NewEvent {
    NewEvent { at: Timestamp::now(), kind, severity, message: message.into(), data }
}

#[cfg(test)]
mod tests {
    use tunnel_api::connection::{CLOUD_ID, ConnectionKind};

    use super::*;

    fn kinds(before: &Status, after: &Status) -> Vec<&'static str> {
        between(before, after).into_iter().map(|event| event.kind).collect()
    }

    fn status(state: TunnelState, target: Target) -> Status {
        let mut status = Status::default();
        (status.tunnel.state, status.tunnel.target) = (state, target);
        status
    }

    #[test]
    fn tunnel_that_comes_and_goes_is_two_events() {
        let up = status(TunnelState::Connected, Target::Up);
        let lost = status(TunnelState::Backoff, Target::Up);
        let trying = status(TunnelState::Connecting, Target::Up);
        assert_eq!(kinds(&trying, &up), ["tunnel_up"]);
        assert_eq!(kinds(&up, &lost), ["tunnel_down"]);
        assert!(kinds(&lost, &trying).is_empty());
        let stopped = status(TunnelState::Disconnected, Target::Down);
        assert_eq!(kinds(&up, &stopped), ["tunnel_stop", "tunnel_down"]);
        assert_eq!(between(&up, &stopped)[1].severity, Severity::Info, "it was asked for");
    }

    #[test]
    fn servers_are_told_of_and_the_cloud_is_the_tunnel() {
        let with = |id: &str, kind, state| {
            let connection = Connection { id: id.to_owned(), kind, state, ..Connection::default() };
            Status { connections: [(id.to_owned(), connection)].into(), ..Status::default() }
        };
        let server = |state| with("a", ConnectionKind::Ollama, state);
        assert_eq!(kinds(&Status::default(), &server(ConnectionState::Connected)), ["connection_up"]);
        assert!(kinds(&Status::default(), &server(ConnectionState::Connecting)).is_empty());
        assert_eq!(
            kinds(&server(ConnectionState::Connected), &server(ConnectionState::Error)),
            ["connection_down"]
        );
        let cloud = |state| with(CLOUD_ID, ConnectionKind::Cloud, state);
        assert!(kinds(&cloud(ConnectionState::Connected), &cloud(ConnectionState::Error)).is_empty());
    }

    #[test]
    fn configuration_is_told_of_once() {
        let mut after = Status::default();
        after.config.last_error = Some("logLevel: …".to_owned());
        assert_eq!(kinds(&Status::default(), &after), ["config_rejected"]);
        assert!(kinds(&after, &after).is_empty());
        let mut mended = Status::default();
        mended.config.loaded_at = Timestamp::from_second(1).unwrap();
        assert_eq!(kinds(&after, &mended), ["config_reloaded"]);
    }

    #[test]
    fn warning_is_raised_with_its_next_step_and_cleared() {
        let warning = Warning::new("config_invalid", "logLevel: …", "mend it");
        let at = |turn| Transition {
            turn,
            subject: String::new(),
            warning: warning.clone(),
            at: Timestamp::UNIX_EPOCH,
        };
        let raised = told(&at(Turn::Raised));
        assert_eq!((raised.kind, &raised.data["next_step"]), ("warning_raised", &"mend it".into()));
        let cleared = told(&at(Turn::Cleared));
        assert_eq!((cleared.kind, cleared.severity), ("warning_cleared", Severity::Info));
    }
}
