use tunnel_api::connection::{CLOUD_ID, ConnectionKind, ConnectionState, Quality};
use tunnel_api::status::{ConfigStatus, TunnelManager};
use tunnel_api::warning::{CONNECTION_DOWN, TOKEN_EXPIRED};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + seconds).unwrap()
}

fn up() -> Status {
    let ollama = Connection {
        id: "ollama".to_owned(),
        kind: ConnectionKind::Ollama,
        state: ConnectionState::Connected,
        connected: true,
        endpoint: "http://localhost:11434".to_owned(),
        version: Some("0.9.0".to_owned()),
        models: (1..=6).map(|n| format!("m{n}:1b")).collect(),
        latency: Some(3.24),
        quality: Quality::Excellent,
        ..Connection::default()
    };
    let lab = Connection {
        id: "laboratory".to_owned(),
        state: ConnectionState::Disconnected,
        endpoint: "http://10.0.0.2:8000".to_owned(),
        error: Some("connection refused".to_owned()),
        quality: Quality::Critical,
        ..Connection::default()
    };
    Status {
        gateway: None,
        tunnel_manager: TunnelManager { running: true, ..TunnelManager::default() },
        tunnel: Tunnel {
            target: Target::Up,
            state: TunnelState::Connected,
            relay: Some("https://relay.example.org".to_owned()),
            device: Some("desk-1".to_owned()),
            since: Some(at(0)),
            rtt_ms: Some(42.4),
            reconnects: 2,
            resumes: 1,
            last_error: Some("an old story".to_owned()),
        },
        connections: [ollama, lab].map(|connection| (connection.id.clone(), connection)).into(),
        best_connection: Some("ollama".to_owned()),
        warnings: vec![Warning::new(CONNECTION_DOWN, "laboratory is down", "start its server")],
        config: ConfigStatus {
            files: vec!["/home/a/tunnel_config.json".to_owned()],
            loaded_at: at(0),
            ..ConfigStatus::default()
        },
        timestamp: at(11_520),
    }
}

#[test]
fn screen_of_a_tunnel_that_is_up() {
    assert_eq!(
        screen(&up(), &Look::symbols(), at(11_520)),
        "\
✓ Tunnel connected, for 3 h 12 min
  relay      https://relay.example.org
  device     desk-1
  round trip 42 ms
  links      2 dialled anew, 1 resumed without loss

Connections
  ✗ laboratory  disconnected                    http://10.0.0.2:8000
    connection refused
  ✓ ollama      connected     6 models  3.2 ms  http://localhost:11434  0.9.0 (preferred)
    m1:1b, m2:1b, m3:1b, m4:1b and 2 more

Warnings
  ! laboratory is down
    → start its server

Configuration /home/a/tunnel_config.json, loaded 3 h 12 min ago
"
    );
}

#[test]
fn screen_of_a_refused_tunnel_has_the_next_step_beside_the_error() {
    let mut status = up();
    status.tunnel.state = TunnelState::Refused;
    status.tunnel.last_error = Some("the token has expired".to_owned());
    status.connections.clear();
    status.tunnel_manager.error = status.tunnel.last_error.clone();
    status.warnings = vec![
        Warning::new(TOKEN_EXPIRED, "the token has expired", "make a new token"),
        Warning::new(CONFIG_INVALID, "the same as below", "mend the file"),
        Warning::new(RESTART_REQUIRED, "the same as below", "restart it"),
        Warning::new("else", "something else", "look"),
    ];
    status.config.files.clear();
    status.config.last_error = Some("ollamaPort: bad\nlogLevel: bad".to_owned());
    status.config.restart_required = vec!["apiServerPort".to_owned()];
    assert_eq!(
        screen(&status, &Look::plain(), at(61)),
        "\
FAIL Tunnel refused, for 1 min 1 s
  relay      https://relay.example.org
  device     desk-1
  links      2 dialled anew, 1 resumed without loss
  error      the token has expired
  next step  make a new token

Connections
  none: switch on enableLocalOllama, or add one to connections

Warnings
  WARN something else
       -> look

Configuration built-in defaults, loaded 1 min 1 s ago
  FAIL its newest version is not in force:
       ollamaPort: bad
       logLevel: bad
       -> mend the file
  WARN changed, but in force only after a restart: apiServerPort
       -> restart it
"
    );
}

#[test]
fn without_a_token_nothing_is_wrong() {
    let mut status = up();
    status.tunnel.state = TunnelState::Disconnected;
    status.tunnel.last_error = None;
    status.warnings = vec![Warning::new(NO_TOKEN, "there is no token", "pass one with --token-file")];
    let cloud = Connection {
        id: CLOUD_ID.to_owned(),
        state: ConnectionState::Disconnected,
        error: Some("no token".to_owned()),
        ..Connection::default()
    };
    status.connections = [(CLOUD_ID.to_owned(), cloud)].into();
    let text = screen(&status, &Look::plain(), at(1));
    assert!(!text.contains("FAIL"), "{text}");
    assert!(text.starts_with("off  Tunnel no token, for 1 s\n"), "{text}");
    assert!(text.contains("  next step  pass one with --token-file\n"), "{text}");
    assert!(!text.contains("Warnings"), "{text}");
}

#[test]
fn daemon_that_ends_says_so() {
    let mut status = up();
    status.tunnel_manager.running = false;
    assert!(screen(&status, &Look::plain(), at(1)).starts_with("FAIL tunneld is shutting down\nOK   Tunnel"));
}

#[test]
fn stopped_and_switched_off_tunnels_say_so() {
    let mut status = up();
    status.tunnel.state = TunnelState::Disconnected;
    status.tunnel.target = Target::Down;
    assert!(screen(&status, &Look::plain(), at(1)).starts_with("off  Tunnel stopped"));
    status.tunnel.relay = None;
    let text = screen(&status, &Look::plain(), at(1));
    assert!(text.starts_with("off  Tunnel switched off in the configuration\n"), "{text}");
}

#[test]
fn what_the_daemon_sends_cannot_steer_the_terminal() {
    let evil = "\x1b]0;evil\x07\u{202e}\n".to_owned();
    let mut status = up();
    status.tunnel_manager.error = Some(format!("{evil}!"));
    status.tunnel.state = TunnelState::Backoff;
    status.tunnel.relay = Some(evil.clone());
    status.tunnel.device = Some(evil.clone());
    status.tunnel.last_error = Some(evil.clone());
    status.warnings = vec![Warning::new(TOKEN_EXPIRED, &evil, &evil), Warning::new(&evil, &evil, &evil)];
    status.connections = [(
        evil.clone(),
        Connection {
            id: evil.clone(),
            endpoint: evil.clone(),
            version: Some(evil.clone()),
            models: vec![evil.clone()],
            error: Some(evil.clone()),
            ..Connection::default()
        },
    )]
    .into();
    status.config.files = vec![evil.clone()];
    status.config.last_error = Some(evil.clone());
    status.config.restart_required = vec![evil];
    let text = screen(&status, &Look::plain(), at(1));
    assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
}

#[test]
fn status_of_nothing_is_still_a_screen() {
    assert!(screen(&Status::default(), &Look::plain(), at(0)).contains("Tunnel"));
}

#[test]
fn daemon_that_went_away_is_told_with_what_to_do() {
    let error = Error::NotTunneld { door: "d".to_owned(), detail: "\x1b[2J".to_owned() };
    assert_eq!(
        lost(&error, at(0), &Look::plain(), at(61)),
        "\
FAIL tunneld does not answer, for 1 min 1 s
       what answers at d is not tunneld: ?[2J; name the right address with --url
       -> if it does not come back: tunnelctl start

It is shown again as soon as it is back; Ctrl-C ends.
"
    );
}
