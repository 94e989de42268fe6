//! What comes of the dial with a token that was stored a moment ago.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tunnel_api::tunnel::Target;
use tunnel_api::{Status, Tunnel, TunnelState};
use tunnel_client::{Client, Error};

/// Longest wait for the outcome.
const LIMIT: Duration = Duration::from_secs(3);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// How the dial went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The tunnel is switched off in the configuration.
    SwitchedOff,
    /// It was stopped.
    Stopped,
    Connected,
    Refused {
        why: String,
        next_step: String,
    },
    /// Not known yet, perhaps for this reason.
    Open(Option<String>),
}

impl Outcome {
    /// Waits for it, since `before`, which is the status before the token was stored.
    pub(super) async fn since(before: &Tunnel, client: &Client) -> Result<Self, Error> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = client.status().await?;
            let over = Instant::now() >= deadline;
            if let Some(outcome) = judge(before, &status, over) {
                return Ok(outcome);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) fn json(&self) -> Value {
        let (state, why) = match self {
            Self::SwitchedOff => ("switched_off", None),
            Self::Stopped => ("stopped", None),
            Self::Connected => ("connected", None),
            Self::Refused { why, .. } => ("refused", Some(why)),
            Self::Open(why) => ("not_known_yet", why.as_ref()),
        };
        json!({ "outcome": state, "error": why })
    }
}

/// None as long as it is worth waiting. What stood before the token came is none of its doing until the wait is over.
fn judge(before: &Tunnel, status: &Status, over: bool) -> Option<Outcome> {
    let tunnel = &status.tunnel;
    if tunnel.relay.is_none() {
        return Some(Outcome::SwitchedOff);
    }
    if tunnel.target != Target::Up {
        return Some(Outcome::Stopped);
    }
    if !over && (tunnel.state, tunnel.since) == (before.state, before.since) {
        return None;
    }
    match tunnel.state {
        TunnelState::Connected => Some(Outcome::Connected),
        TunnelState::Refused => {
            let warning = status.tunnel_warning();
            let why = tunnel.last_error.clone().or(warning.map(|warning| warning.message.clone()));
            Some(Outcome::Refused {
                why: why.unwrap_or_else(|| "it did not say why".to_owned()),
                next_step: warning.map(|warning| warning.next_step.clone()).unwrap_or_default(),
            })
        }
        TunnelState::Backoff => Some(Outcome::Open(tunnel.last_error.clone())),
        TunnelState::Disconnected | TunnelState::Connecting | TunnelState::Unknown => {
            over.then(|| Outcome::Open(tunnel.last_error.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::Warning;
    use tunnel_api::warning::TOKEN_INVALID;

    use super::*;

    fn status(state: TunnelState, since: i64, error: Option<&str>) -> Status {
        let tunnel = Tunnel {
            target: Target::Up,
            state,
            relay: Some("https://relay.example".to_owned()),
            since: Some(jiff::Timestamp::from_second(since).unwrap()),
            last_error: error.map(str::to_owned),
            ..Tunnel::default()
        };
        Status { tunnel, ..Status::default() }
    }

    #[test]
    fn what_stood_before_the_token_is_not_its_outcome() {
        let mut refused = status(TunnelState::Refused, 1, Some("it does not know this token"));
        refused.warnings = vec![Warning::new(TOKEN_INVALID, "it does not know this token", "make another")];
        let outcome = Outcome::Refused {
            why: "it does not know this token".to_owned(),
            next_step: "make another".to_owned(),
        };
        assert_eq!(judge(&refused.tunnel, &refused, false), None);
        assert_eq!(judge(&refused.tunnel, &refused, true), Some(outcome.clone()));
        let before = status(TunnelState::Disconnected, 0, None).tunnel;
        assert_eq!(judge(&before, &refused, false), Some(outcome));
    }

    #[test]
    fn tunnel_that_is_being_opened_is_waited_for() {
        let before = status(TunnelState::Disconnected, 0, None).tunnel;
        let judged = |state, over| judge(&before, &status(state, 1, Some("no route")), over);
        let open = Some(Outcome::Open(Some("no route".to_owned())));
        assert_eq!(judged(TunnelState::Connecting, false), None);
        assert_eq!(judged(TunnelState::Connecting, true), open);
        assert_eq!(judged(TunnelState::Backoff, false), open);
        assert_eq!(judged(TunnelState::Connected, false), Some(Outcome::Connected));
    }

    #[test]
    fn tunnel_that_nobody_wants_is_not_waited_for() {
        let before = Tunnel::default();
        let mut off = status(TunnelState::Disconnected, 0, None);
        off.tunnel.target = Target::Down;
        assert_eq!(judge(&before, &off, false), Some(Outcome::Stopped));
        off.tunnel.relay = None;
        assert_eq!(judge(&before, &off, false), Some(Outcome::SwitchedOff));
    }
}
