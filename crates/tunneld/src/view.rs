//! What the API shows, made out of what the parts tell. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use tunnel_api::config::RoutingPolicy;
use tunnel_api::connection::{
    Api, Breaker, CLOUD_ID, ConnectionHealth, ConnectionKind, ConnectionState, quality,
};
use tunnel_api::status::TunnelManager;
use tunnel_api::tunnel::Target;
use tunnel_api::warning::{
    CONFIG_INVALID, CONNECTION_DOWN, KEY_WITHOUT_EFFECT, LAN_GATEWAY_PLAIN, NO_TOKEN, PLUGIN_FAILING,
    RESTART_REQUIRED,
};
use tunnel_api::{Config, Connection, Gateway, HealthStatus, Severity, Status, TunnelState, Warning};
use tunnel_broker::{BackendState, BackendStatus, BreakerState, Broker, Health, Side};

use crate::config::ConfigState;
use crate::doors::heartbeat::{LanPlace, Places};
use crate::plugins;
use crate::tunnel::TunnelReport;
use crate::warnings::{Condition, Said};

/// Everything that a snapshot is made of.
pub(crate) struct Parts<'a> {
    pub(crate) backends: &'a [BackendStatus],
    pub(crate) tunnel: &'a TunnelReport,
    pub(crate) config: &'a ConfigState,
    /// Where the doors listen.
    pub(crate) places: &'a Places,
    /// What was found missing at the start.
    pub(crate) missing: &'a [Warning],
    /// What other parts say is wrong with them.
    pub(crate) said: &'a Said,
    pub(crate) stopping: bool,
}

/// Joins the parts into one snapshot, with the warnings that are shown.
pub(crate) fn snapshot(parts: &Parts<'_>, warnings: Vec<Warning>, now: Timestamp) -> Status {
    let mut connections: BTreeMap<String, Connection> =
        parts.backends.iter().map(|backend| (backend.id.clone(), with_plugin(backend, parts.said))).collect();
    if parts.config.config.enable_cloud_proxy {
        connections.insert(CLOUD_ID.to_owned(), cloud(parts.tunnel, parts.config));
    }
    Status {
        tunnel_manager: manager(parts),
        tunnel: parts.tunnel.tunnel.clone(),
        gateway: Some(Gateway {
            url: gateway_url(&parts.places.gateway),
            lan_url: parts.places.lan.as_ref().map(lan_url),
        }),
        best_connection: best(parts),
        warnings,
        config: parts.config.status.clone(),
        connections,
        timestamp: now,
    }
}

/// Returns the snapshot as of now: with the time and the requests that run at this moment.
pub(crate) fn current(status: &Status, broker: &Broker) -> Status {
    let mut status = status.clone();
    for backend in broker.snapshot() {
        if let Some(connection) = status.connections.get_mut(&backend.id) {
            connection.in_flight = backend.in_flight as u64;
            let now = self::connection(&backend);
            (connection.health, connection.breaker) = (now.health, now.breaker);
            connection.queued = backend.queued as u64;
        }
    }
    status.timestamp = Timestamp::now();
    status
}

/// Judges a snapshot: can requests be answered, and does all work that is switched on.
pub(crate) fn health(status: &Status) -> HealthStatus {
    let mut backends = status.connections.values().filter(|connection| !connection.is_tunnel());
    let warming = |backend: &Connection| backend.health == ConnectionHealth::Warming;
    if !backends.clone().any(|backend| backend.connected || warming(backend)) {
        return HealthStatus::Unhealthy;
    }
    let all_up = backends.all(|backend| backend.connected);
    let tunnel = &status.tunnel;
    // Without a token there is no tunnel to be had, and that is nobody's fault.
    let unavoidable = status.tunnel_warning().is_some_and(|warning| warning.severity == Severity::Info);
    let tunnel_fine = tunnel.target != Target::Up || tunnel.state == TunnelState::Connected || unavoidable;
    if all_up && tunnel_fine { HealthStatus::Healthy } else { HealthStatus::Degraded }
}

/// Returns a model server as the API shows it.
pub(crate) fn connection(backend: &BackendStatus) -> Connection {
    let connected = backend.state == BackendState::Connected;
    Connection {
        id: backend.id.clone(),
        kind: ConnectionKind::named(backend.kind.as_str()),
        speaks: speaks(backend),
        state: match backend.state {
            BackendState::Connecting => ConnectionState::Connecting,
            BackendState::Connected => ConnectionState::Connected,
            BackendState::Disconnected => ConnectionState::Disconnected,
            BackendState::Error => ConnectionState::Error,
        },
        health: match backend.health {
            Health::Unknown => ConnectionHealth::Unknown,
            Health::Up => ConnectionHealth::Up,
            Health::Busy => ConnectionHealth::Busy,
            Health::Warming => ConnectionHealth::Warming,
            Health::Degraded => ConnectionHealth::Degraded,
            Health::Down => ConnectionHealth::Down,
            Health::Unauthorised => ConnectionHealth::Unauthorised,
        },
        connected,
        endpoint: backend.endpoint.clone(),
        version: backend.version.clone(),
        models: backend.models.iter().map(|model| model.name.clone()).collect(),
        latency: backend.latency.map(|latency| milliseconds(latency.as_secs_f64())),
        last_check: backend.last_check.and_then(|checked| Timestamp::try_from(checked).ok()),
        quality: quality(connected, backend.latency, backend.error_rate),
        error: backend.error.clone(),
        in_flight: backend.in_flight as u64,
        queued: backend.queued as u64,
        breaker: match backend.breaker {
            BreakerState::Closed => Breaker::Closed,
            BreakerState::Open => Breaker::Open,
            BreakerState::HalfOpen => Breaker::HalfOpen,
        },
    }
}

fn speaks(backend: &BackendStatus) -> Vec<Api> {
    let known = [(Api::Ollama, backend.speaks.ollama), (Api::Openai, backend.speaks.openai)];
    known.into_iter().filter(|(_, speaks)| *speaks).map(|(api, _)| api).collect()
}

/// Returns a model server, with why it does not run where it is a program of ours.
fn with_plugin(backend: &BackendStatus, said: &Said) -> Connection {
    let mut connection = connection(backend);
    if !connection.connected
        && let Some(warning) = failing_plugin(&backend.id, said)
    {
        connection.error = Some(warning.message.clone());
    }
    connection
}

fn failing_plugin<'a>(id: &str, said: &'a Said) -> Option<&'a Warning> {
    let plugins = said.get(plugins::PART)?;
    let found = plugins.iter().find(|told| told.subject == id && told.warning.code == PLUGIN_FAILING);
    found.map(|told| &told.warning)
}

fn cloud(report: &TunnelReport, config: &ConfigState) -> Connection {
    let tunnel = &report.tunnel;
    let connected = tunnel.state == TunnelState::Connected;
    let no_token = report.warning.as_ref().is_some_and(|warning| warning.code == NO_TOKEN);
    Connection {
        id: CLOUD_ID.to_owned(),
        kind: ConnectionKind::Cloud,
        speaks: Vec::new(),
        state: match tunnel.state {
            TunnelState::Connected => ConnectionState::Connected,
            TunnelState::Connecting | TunnelState::Backoff => ConnectionState::Connecting,
            TunnelState::Refused => ConnectionState::Error,
            TunnelState::Disconnected => ConnectionState::Disconnected,
            TunnelState::Unknown => ConnectionState::Unknown,
        },
        health: match tunnel.state {
            TunnelState::Connected => ConnectionHealth::Up,
            TunnelState::Refused | TunnelState::Disconnected | TunnelState::Backoff => ConnectionHealth::Down,
            TunnelState::Connecting | TunnelState::Unknown => ConnectionHealth::Unknown,
        },
        connected,
        endpoint: config.config.cloud_proxy_url.as_str().trim_end_matches('/').to_owned(),
        version: None,
        models: Vec::new(),
        latency: tunnel.rtt_ms,
        last_check: tunnel.since,
        quality: quality(connected, None, 0.0),
        error: if no_token { Some("no token".to_owned()) } else { tunnel.last_error.clone() },
        in_flight: 0,
        queued: 0,
        breaker: Breaker::Closed,
    }
}

/// Returns how apps on this machine address a door: by IPv4 where it can be, which all of them know.
fn gateway_url(addresses: &[SocketAddr]) -> Option<String> {
    let mut address = *addresses.iter().min_by_key(|address| address.is_ipv6())?;
    // The service manager may have been told to listen everywhere, which is no place to connect to.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    Some(format!("http://{address}"))
}

/// Returns where other machines find the gateway.
fn lan_url(lan: &LanPlace) -> String {
    let scheme = if lan.tls { "https" } else { "http" };
    format!("{scheme}://{}", lan.shown)
}

fn manager(parts: &Parts<'_>) -> TunnelManager {
    let tunnel = &parts.tunnel.tunnel;
    let backends_connecting = parts.backends.iter().any(|backend| backend.state == BackendState::Connecting);
    let tunnel_connecting = matches!(tunnel.state, TunnelState::Connecting | TunnelState::Backoff);
    let info = parts.tunnel.warning.as_ref().is_some_and(|warning| warning.severity == Severity::Info);
    TunnelManager {
        running: !parts.stopping,
        connecting: backends_connecting || tunnel_connecting,
        error: tunnel.last_error.clone().filter(|_| !info),
    }
}

/// The connection that a request without preferences goes to: of those that are up and allowed the first in the broker's
/// own order, as far as it is the same for all models; then the quickest.
fn best(parts: &Parts<'_>) -> Option<String> {
    let priority = |id: &str| {
        let configured = parts.config.config.connections.iter().find(|connection| connection.id == id);
        configured.map_or(0, |connection| connection.priority)
    };
    let policy = parts.config.config.routing_policy;
    let preferred = match policy {
        RoutingPolicy::PreferLocal | RoutingPolicy::LocalOnly => Side::Local,
        RoutingPolicy::PreferCloud => Side::Cloud,
    };
    let order = |backend: &&BackendStatus| {
        let is_ejected = backend.breaker != BreakerState::Closed;
        let is_doubtful = backend.health == Health::Degraded;
        let is_elsewhere = backend.profile.side != preferred;
        (is_ejected, is_elsewhere, is_doubtful, priority(&backend.id), backend.latency)
    };
    let may = |backend: &&BackendStatus| {
        backend.state == BackendState::Connected
            && (policy != RoutingPolicy::LocalOnly || backend.profile.side == Side::Local)
    };
    parts.backends.iter().filter(may).min_by_key(order).map(|backend| backend.id.clone())
}

/// Returns all that is wrong, whether it is worth a warning yet or not.
pub(crate) fn conditions(parts: &Parts<'_>) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = parts.missing.iter().cloned().map(Condition::new).collect();
    conditions.extend(parts.tunnel.warning.clone().map(Condition::new));
    if let Some(error) = &parts.config.status.last_error {
        let next_step = "mend the file; it is read again as soon as it is saved";
        let warning = Warning::new(CONFIG_INVALID, error.clone(), next_step).with_severity(Severity::Error);
        conditions.push(Condition::new(warning));
    }
    let idle = without_effect(&parts.config.config);
    if !idle.is_empty() {
        let message = format!("{} is set, and has no effect in this version", idle.join(", "));
        let next_step = "nothing; or take it out of the configuration, so that nobody relies on it";
        let warning = Warning::new(KEY_WITHOUT_EFFECT, message, next_step).with_severity(Severity::Info);
        conditions.push(Condition::new(warning));
    }
    if !parts.config.status.restart_required.is_empty() {
        let keys = parts.config.status.restart_required.join(", ");
        let message = format!("a change of {keys} takes effect after a restart");
        let next_step = "systemctl --user restart tunneld";
        conditions.push(Condition::new(Warning::new(RESTART_REQUIRED, message, next_step)));
    }
    conditions.extend(
        parts.places.lan.as_ref().filter(|lan| !lan.tls && !lan.address.ip().is_loopback()).map(plain_lan),
    );
    // That nobody answers on its socket says less than why.
    let told = |backend: &&BackendStatus| failing_plugin(&backend.id, parts.said).is_none();
    conditions.extend(parts.backends.iter().filter(told).filter_map(|backend| down(backend, parts.config)));
    conditions.extend(parts.said.values().flatten().cloned());
    conditions
}

/// Returns the keys that say something, and that nothing heeds yet.
fn without_effect(config: &Config) -> Vec<&'static str> {
    let default = Config::default();
    let keys = [("cloudProxyAudience", config.cloud_proxy_audience != default.cloud_proxy_audience)];
    keys.into_iter().filter(|(_, says)| *says).map(|(key, _)| key).collect()
}

/// Says that the network can read along.
fn plain_lan(lan: &LanPlace) -> Condition {
    let message = format!(
        "the LAN gateway at {} speaks plain HTTP: keys, prompts and answers can be read on the network",
        lan.address
    );
    let next_step = "set lanGateway.certFile and lanGateway.keyFile, or its address to one behind a VPN or a proxy with TLS";
    Condition::new(Warning::new(LAN_GATEWAY_PLAIN, message, next_step))
}

fn down(backend: &BackendStatus, config: &ConfigState) -> Option<Condition> {
    let why = match backend.state {
        BackendState::Connected | BackendState::Connecting => return None,
        BackendState::Disconnected | BackendState::Error => backend.error.as_deref().unwrap_or("no answer"),
    };
    let message = format!("{} at {} is not available: {why}", backend.id, backend.endpoint);
    let entry = config.config.connections.iter().find(|entry| entry.id == backend.id);
    let next_step = match entry.and_then(|entry| entry.credential.as_deref()) {
        // It has a name already.
        Some(name) if backend.health == Health::Unauthorised => {
            format!("store a secret that it takes: tunnelctl connections credential set {name}")
        }
        _ => start_step(backend),
    };
    Some(Condition::of(&backend.id, Warning::new(CONNECTION_DOWN, message, next_step)))
}

/// What to do about a model server that is down.
pub(crate) fn start_step(backend: &BackendStatus) -> String {
    match backend.health {
        Health::Unauthorised => {
            "store a secret that it takes, and name it as the connection's credential: tunnelctl connections \
                                 credential set NAME"
                .to_owned()
        }
        Health::Unknown | Health::Up | Health::Busy | Health::Warming | Health::Degraded | Health::Down => {
            backend.profile.start_step.clone().into_owned()
        }
    }
}

/// Seconds as milliseconds with two places: more is noise to a reader.
pub(crate) fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e5).round() / 1e2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tunnel_api::Tunnel;
    use tunnel_api::connection::Quality;
    use tunnel_broker::BackendKind;

    use super::*;

    fn backend(id: &str, state: BackendState, latency_ms: u64) -> BackendStatus {
        BackendStatus {
            id: id.to_owned(),
            kind: BackendKind::Ollama,
            profile: Arc::new(BackendKind::Ollama.profile().clone()),
            speaks: BackendKind::Ollama.profile().speaks,
            endpoint: format!("http://{id}.test"),
            state,
            health: Health::Up,
            breaker: BreakerState::Closed,
            version: None,
            models: Vec::new(),
            latency: Some(Duration::from_millis(latency_ms)),
            last_check: None,
            error: None,
            in_flight: 0,
            queued: 0,
            error_rate: 0.0,
        }
    }

    fn tunnel(target: Target, state: TunnelState, warning: Option<Warning>) -> TunnelReport {
        let last_error = warning.as_ref().map(|warning| warning.message.clone());
        TunnelReport { tunnel: Tunnel { target, state, last_error, ..Tunnel::default() }, warning }
    }

    fn status(backends: &[BackendStatus], tunnel: &TunnelReport) -> Status {
        let config = ConfigState::defaults();
        let said = Said::new();
        let parts = Parts {
            backends,
            tunnel,
            config: &config,
            places: &Places::default(),
            missing: &[],
            said: &said,
            stopping: false,
        };
        let warnings = conditions(&parts).into_iter().map(|condition| condition.warning).collect();
        snapshot(&parts, warnings, Timestamp::UNIX_EPOCH)
    }

    fn no_token() -> Warning {
        Warning::new(NO_TOKEN, "there is no token yet", "").with_severity(Severity::Info)
    }

    #[test]
    fn gateway_is_where_its_listeners_are() {
        let url = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            gateway_url(&addresses)
        };
        assert_eq!(url(&["[::1]:11435", "127.0.0.1:11435"]).unwrap(), "http://127.0.0.1:11435");
        assert_eq!(url(&["[::]:4711"]).unwrap(), "http://[::1]:4711");
        assert_eq!(url(&["0.0.0.0:4711"]).unwrap(), "http://127.0.0.1:4711");
        assert_eq!(url(&[]), None);
    }

    #[test]
    fn missing_token_is_shown_and_is_no_error() {
        let report = tunnel(Target::Up, TunnelState::Disconnected, Some(no_token()));
        let status = status(&[backend("ollama", BackendState::Connected, 3)], &report);
        assert_eq!(status.connections[CLOUD_ID].error.as_deref(), Some("no token"));
        assert_eq!(status.tunnel_manager.error, None);
        assert_eq!(health(&status), HealthStatus::Healthy);
    }

    #[test]
    fn health_follows_backends_and_a_tunnel_that_is_wanted() {
        let up = backend("a", BackendState::Connected, 3);
        let down = backend("b", BackendState::Disconnected, 3);
        let wanted =
            tunnel(Target::Up, TunnelState::Backoff, Some(Warning::new("relay_unreachable", "x", "")));
        let unwanted = tunnel(Target::Down, TunnelState::Disconnected, None);
        let judge = |backends: &[BackendStatus], tunnel| health(&status(backends, tunnel));
        assert_eq!(judge(std::slice::from_ref(&up), &unwanted), HealthStatus::Healthy);
        assert_eq!(judge(std::slice::from_ref(&up), &wanted), HealthStatus::Degraded);
        assert_eq!(judge(&[up, down.clone()], &unwanted), HealthStatus::Degraded);
        assert_eq!(judge(&[down], &unwanted), HealthStatus::Unhealthy);
        assert_eq!(judge(&[], &unwanted), HealthStatus::Unhealthy);
    }

    #[test]
    fn a_model_that_loads_is_no_fault() {
        let report = tunnel(Target::Down, TunnelState::Disconnected, None);
        let loading = BackendStatus {
            health: Health::Warming,
            error: Some("still loading its model".to_owned()),
            ..backend("a", BackendState::Connecting, 3)
        };
        let status = status(&[loading], &report);
        assert_eq!(status.warnings, []);
        assert_eq!(health(&status), HealthStatus::Degraded);
        let shown = status.connections["a"].clone().into_report(Timestamp::UNIX_EPOCH);
        assert_eq!(shown.status_description, "Warming up: it is loading its model");
        assert!(!shown.needs_attention);
    }

    #[test]
    fn best_connection_is_up_first_in_priority_and_quick() {
        let report = tunnel(Target::Down, TunnelState::Disconnected, None);
        let backends = [
            backend("slow", BackendState::Connected, 30),
            backend("quick", BackendState::Connected, 3),
            backend("down", BackendState::Disconnected, 1),
        ];
        assert_eq!(status(&backends, &report).best_connection.as_deref(), Some("quick"));
        let text =
            r#"{"connections": [{"id": "quick", "type": "ollama", "url": "http://h", "priority": 5}]}"#;
        let config = Config::check(&serde_json::from_str(text).unwrap()).unwrap();
        let config = ConfigState { config: config.into(), ..ConfigState::defaults() };
        let said = Said::new();
        let parts = Parts {
            backends: &backends,
            tunnel: &report,
            config: &config,
            places: &Places::default(),
            missing: &[],
            said: &said,
            stopping: false,
        };
        assert_eq!(best(&parts).as_deref(), Some("slow"));
    }

    #[test]
    fn best_connection_is_on_the_side_that_the_policy_prefers_and_not_ejected() {
        let report = tunnel(Target::Down, TunnelState::Disconnected, None);
        let said = Said::new();
        let best = |policy: &str, backends: &[BackendStatus]| {
            let keys = serde_json::json!({ "routingPolicy": policy });
            let config = Config::check(keys.as_object().unwrap()).unwrap();
            let config = ConfigState { config: config.into(), ..ConfigState::defaults() };
            best(&Parts {
                backends,
                tunnel: &report,
                config: &config,
                places: &Places::default(),
                missing: &[],
                said: &said,
                stopping: false,
            })
        };
        let local = backend("local", BackendState::Connected, 30);
        let profile = Arc::new(BackendKind::Cloud.profile().clone());
        let cloud = BackendStatus { profile, ..backend("away", BackendState::Connected, 3) };
        let both = [local.clone(), cloud.clone()];
        assert_eq!(best("preferLocal", &both).as_deref(), Some("local"));
        assert_eq!(best("preferCloud", &both).as_deref(), Some("away"));
        assert_eq!(best("localOnly", std::slice::from_ref(&cloud)), None);
        let ejected = BackendStatus { breaker: BreakerState::Open, ..local.clone() };
        assert_eq!(best("preferLocal", &[ejected, cloud]).as_deref(), Some("away"));
        let doubtful = BackendStatus { health: Health::Degraded, ..backend("d", BackendState::Connected, 1) };
        assert_eq!(best("preferLocal", &[doubtful, local]).as_deref(), Some("local"));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_subject() {
        let report = tunnel(Target::Up, TunnelState::Disconnected, Some(no_token()));
        let mut config = ConfigState::defaults();
        config.status.last_error = Some("logLevel: …".to_owned());
        let backends = [backend("a", BackendState::Disconnected, 1), backend("b", BackendState::Error, 1)];
        let missing = [Warning::new("no_state_dir", "x", "")];
        let said = Said::from([("alerts", vec![Condition::new(Warning::new("memory_high", "x", ""))])]);
        let parts = Parts {
            backends: &backends,
            tunnel: &report,
            config: &config,
            places: &Places::default(),
            missing: &missing,
            said: &said,
            stopping: true,
        };
        let conditions = conditions(&parts);
        let told: Vec<(&str, &str)> = conditions
            .iter()
            .map(|condition| (condition.warning.code.as_str(), condition.subject.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("no_state_dir", ""),
                (NO_TOKEN, ""),
                (CONFIG_INVALID, ""),
                (CONNECTION_DOWN, "a"),
                (CONNECTION_DOWN, "b"),
                ("memory_high", ""),
            ]
        );
        let status = snapshot(&parts, Vec::new(), Timestamp::UNIX_EPOCH);
        assert!(!status.tunnel_manager.running);
        assert_eq!(status.connections["a"].quality, Quality::Critical);
        assert!(status.connections["a"].state == ConnectionState::Disconnected, "the truth does not wait");
    }
}
