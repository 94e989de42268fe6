//! What the tray knows of the daemon, all of it from the local API.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tunnel_api::connection::{CLOUD_ID, OLLAMA_ID};
use tunnel_api::tunnel::Target;
use tunnel_api::{AuthStatus, Connection, Model, Severity, Status, TunnelState};

use crate::icon::Icon;

/// Everything that is shown, newest first hand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) daemon: Daemon,
    pub(crate) status: Status,
    pub(crate) missed: Missed,
    pub(crate) models: Vec<Model>,
    pub(crate) requests: Vec<Running>,
    /// None until it was answered.
    pub(crate) auth: Option<AuthStatus>,
    /// None until it was answered.
    pub(crate) settings: Option<Settings>,
    pub(crate) override_icon: Option<Icon>,
    pub(crate) override_tooltip: Option<String>,
}

/// Whether the daemon answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// Not known yet: the tray has just started.
    #[default]
    Awaited,
    There,
    /// It does not run.
    Away,
    /// Something is in the way that starting it would not mend; one sentence.
    Barred(String),
}

/// How long the tunnel has been wanted and not up. The dials in between, and the waits between them, change nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Missed {
    #[default]
    No,
    /// Since this moment, as far as the tray has seen.
    Since(Instant),
    /// For longer than it takes to dial it a few times.
    Long,
}

impl Missed {
    /// How long a tunnel may be dialled before it counts as down: longer than a relay takes to restart.
    const GRACE: Duration = Duration::from_secs(15);

    /// Returns when the grace ends.
    pub(crate) fn due(self) -> Option<Instant> {
        match self {
            Self::Since(begun) => Some(begun + Self::GRACE),
            Self::No | Self::Long => None,
        }
    }
}

/// A request that runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) model: Option<String>,
    pub(crate) tokens_per_s: Option<f64>,
}

/// The part of the configuration that the tray shows or changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) start_at_login: bool,
    pub(crate) notifications: bool,
    /// Where the gateway is to be; none where it is switched off.
    pub(crate) gateway_port: Option<u16>,
    /// All that are configured with whether they are switched on.
    pub(crate) connections: Vec<(String, bool)>,
}

impl Settings {
    /// Reads the answer of `GET /api/config`. A key that is missing is taken as it is by default.
    pub(crate) fn read(config: &Map<String, Value>) -> Self {
        let flag = |key: &str, default| config.get(key).and_then(Value::as_bool).unwrap_or(default);
        let mut connections = vec![
            (OLLAMA_ID.to_owned(), flag("enableLocalOllama", true)),
            (CLOUD_ID.to_owned(), flag("enableCloudProxy", true)),
        ];
        for entry in config.get("connections").and_then(Value::as_array).into_iter().flatten() {
            let Some(id) = entry.get("id").and_then(Value::as_str) else { continue };
            let enabled = entry.get("enabled").and_then(Value::as_bool).unwrap_or(true);
            connections.push((id.to_owned(), enabled));
        }
        let port = config.get("gatewayPort").and_then(Value::as_u64).and_then(|port| port.try_into().ok());
        Self {
            start_at_login: flag("autoStartOnBoot", false),
            notifications: flag("showNotifications", true),
            gateway_port: flag("enableGateway", true).then_some(port.unwrap_or(11435)),
            connections,
        }
    }

    /// Returns what has to be patched so that a connection is switched on or off. None if there is none of that id.
    ///
    /// `config` is the whole configuration as it is: lists are patched as a whole.
    pub(crate) fn switch(config: &Map<String, Value>, id: &str, on: bool) -> Option<Map<String, Value>> {
        let change = match id {
            OLLAMA_ID => ("enableLocalOllama".to_owned(), on.into()),
            CLOUD_ID => ("enableCloudProxy".to_owned(), on.into()),
            _ => {
                let mut connections = config.get("connections")?.as_array()?.clone();
                let entry =
                    connections.iter_mut().find(|entry| entry.get("id").is_some_and(|it| it == id))?;
                entry.as_object_mut()?.insert("enabled".to_owned(), on.into());
                ("connections".to_owned(), connections.into())
            }
        };
        Some(Map::from_iter([change]))
    }
}

impl View {
    /// Returns the model servers, without the tunnel.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Connection> {
        self.status.connections.values().filter(|connection| !connection.is_tunnel())
    }

    /// Returns the address that OpenAI's clients take as their base URL. None while the gateway is closed.
    pub(crate) fn base_url(&self) -> Option<String> {
        let configured = self.settings.as_ref().and_then(|settings| settings.gateway_port);
        self.status.gateway_url(configured).map(|url| format!("{url}/v1"))
    }

    /// Tells whether the tunnel is switched on in the configuration.
    pub(crate) fn has_tunnel(&self) -> bool {
        self.status.tunnel.relay.is_some()
    }

    /// Tells whether the tunnel should be up: it is switched on, the user wants it, and nothing that is nobody's
    /// fault (no token yet) stands against it.
    pub(crate) fn wants_tunnel(&self) -> bool {
        let excused = self.status.tunnel_warning().is_some_and(|warning| warning.severity == Severity::Info);
        self.has_tunnel() && self.status.tunnel.target == Target::Up && !excused
    }

    /// Notes how long the tunnel is missed. True: that makes a difference.
    pub(crate) fn pass(&mut self, now: Instant) -> bool {
        let is_there = matches!(self.status.tunnel.state, TunnelState::Connected | TunnelState::Refused);
        let missed = match self.missed {
            _ if self.daemon != Daemon::There || is_there || !self.wants_tunnel() => Missed::No,
            Missed::No => Missed::Since(now),
            since if since.due().is_some_and(|due| now >= due) => Missed::Long,
            same => same,
        };
        std::mem::replace(&mut self.missed, missed) != missed
    }

    /// Tells whether the user has paused the tunnel.
    pub(crate) fn is_paused(&self) -> bool {
        self.has_tunnel() && self.status.tunnel.target == Target::Down
    }
}

/// Returns the requests with the speed since they were last looked at.
///
/// `before` is that look and `since` how long ago it was. A request that is new has the average since its start.
pub(crate) fn running(
    now: &[tunnel_api::request::Request],
    before: &[tunnel_api::request::Request],
    since: Duration,
) -> Vec<Running> {
    now.iter()
        .map(|request| {
            let old = before.iter().find(|old| old.id == request.id);
            let (tokens, seconds) = match old {
                Some(old) => (request.tokens.saturating_sub(old.tokens), since.as_secs_f64()),
                None => (request.tokens, request.duration_ms as f64 / 1e3),
            };
            let streams = request.tokens > 0 && seconds > 0.0;
            Running {
                id: request.id.clone(),
                model: request.model.clone(),
                tokens_per_s: streams.then(|| tokens as f64 / seconds),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tunnel_api::Gateway;
    use tunnel_api::request::Request;

    use super::*;

    fn config(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_are_read_and_switched_by_the_keys_of_the_configuration() {
        let config = config(json!({
            "enableLocalOllama": false, "gatewayPort": 1234, "autoStartOnBoot": true,
            "connections": [{ "id": "a", "url": "http://a", "enabled": false }, { "id": "b", "url": "http://b" }],
        }));
        let settings = Settings::read(&config);
        let expected = [("ollama", false), ("cloud", true), ("a", false), ("b", true)];
        assert_eq!(settings.connections, expected.map(|(id, on)| (id.to_owned(), on)));
        assert_eq!(settings.gateway_port, Some(1234));
        assert!(settings.start_at_login && settings.notifications);

        let switch = |id, on| Settings::switch(&config, id, on).map(Value::Object);
        assert_eq!(switch("ollama", true), Some(json!({ "enableLocalOllama": true })));
        assert_eq!(switch("cloud", false), Some(json!({ "enableCloudProxy": false })));
        let connections = json!({ "connections": [
            { "id": "a", "url": "http://a", "enabled": false }, { "id": "b", "url": "http://b", "enabled": false },
        ] });
        assert_eq!(switch("b", false), Some(connections));
        assert_eq!(switch("c", true), None);
    }

    #[test]
    fn base_url_is_that_of_the_open_door_and_not_of_its_configured_port() {
        let mut view = View { settings: Some(Settings::read(&Map::new())), ..View::default() };
        assert_eq!(view.base_url().unwrap(), "http://127.0.0.1:11435/v1", "of a daemon that does not tell");
        let url = Some("http://127.0.0.1:4711".to_owned());
        view.status.gateway = Some(Gateway { url, ..Gateway::default() });
        assert_eq!(view.base_url().unwrap(), "http://127.0.0.1:4711/v1");
        view.status.gateway = Some(Gateway::default());
        assert_eq!(view.base_url(), None);
    }

    #[test]
    fn speed_is_that_since_the_last_look() {
        let request = |id: &str, tokens, duration_ms| Request {
            id: id.to_owned(),
            tokens,
            duration_ms,
            ..Request::default()
        };
        let before = [request("a", 100, 5000)];
        let now = [request("a", 150, 6000), request("b", 30, 2000), request("c", 0, 2000)];
        let speeds = running(&now, &before, Duration::from_secs(1));
        let speeds: Vec<_> = speeds.iter().map(|running| running.tokens_per_s).collect();
        assert_eq!(speeds, [Some(50.0), Some(15.0), None]);
    }

    #[test]
    fn tunnel_that_is_dialled_in_vain_is_missed_long_and_one_that_was_up_begins_anew() {
        use TunnelState::{Backoff, Connected, Connecting, Refused};
        let mut view = crate::icon::tests::view(Target::Up, Connected, &[true]);
        let start = Instant::now();
        let mut after = |s, state| {
            view.status.tunnel.state = state;
            view.pass(start + Duration::from_secs(s));
            view.missed
        };
        let since = |s| Missed::Since(start + Duration::from_secs(s));
        assert_eq!(after(0, Connected), Missed::No);
        assert_eq!(after(10, Connecting), since(10));
        assert_eq!(after(20, Backoff), since(10));
        assert_eq!(since(10).due(), Some(start + Duration::from_secs(25)));
        assert_eq!(after(24, Connecting), since(10));
        assert_eq!(after(25, Backoff), Missed::Long);
        assert_eq!(after(26, Connecting), Missed::Long);
        assert_eq!(after(27, Connected), Missed::No);
        assert_eq!(after(28, Backoff), since(28));
        assert_eq!(after(29, Refused), Missed::No);
        assert_eq!(after(90, Connecting), since(90));
        view.status.tunnel.target = Target::Down;
        assert!(view.pass(start) && view.missed == Missed::No);
        assert!(!view.pass(start), "nothing has changed");
    }
}
