use jiff::Timestamp;
use tunnel_api::connection::{ConnectionState, Quality};
use tunnel_api::detect::Product;
use tunnel_api::warning::TOKEN_EXPIRED;
use tunnel_api::{DetectedServer, Warning};

use super::*;

fn connection(id: &str, connected: bool, models: usize) -> Connection {
    Connection {
        id: id.to_owned(),
        kind: if id == "ollama" { ConnectionKind::Ollama } else { ConnectionKind::Openai },
        state: if connected { ConnectionState::Connected } else { ConnectionState::Disconnected },
        connected,
        quality: Quality::Excellent,
        endpoint: format!("http://{id}"),
        error: (!connected).then(|| "connection refused".to_owned()),
        models: (0..models).map(|n| format!("m{n}")).collect(),
        ..Connection::default()
    }
}

fn told(connections: Vec<Connection>, found: Found, tunnel: Tunnel) -> Told {
    Told {
        started: false,
        found,
        tunnel,
        connections: Connections::new(connections, Timestamp::UNIX_EPOCH),
        gateway: Gateway::Open { url: "http://127.0.0.1:11435".to_owned() },
    }
}

fn no_token() -> Tunnel {
    Tunnel::NoToken { message: "the tunnel is being opened".to_owned() }
}

#[test]
fn beginner_is_led_to_a_first_answer() {
    let server = DetectedServer { product: Product::LlamaCpp, ..DetectedServer::default() };
    let added = Added { id: "llama-cpp".to_owned(), server, test: None };
    let connections = vec![connection("ollama", false, 0), connection("llama-cpp", true, 1)];
    let told = Told {
        started: true,
        ..told(connections, Found::Looked { added: vec![added], off: vec![] }, no_token())
    };
    assert_eq!(
        told.text(&Look::symbols()),
        "\
✓ tunneld is started

Model servers
  ✓  llama-cpp  1 model  http://llama-cpp  llama.cpp, found and added

Addresses for apps on this machine
  OpenAI's API  http://127.0.0.1:11435/v1
  Ollama's API  OLLAMA_HOST=http://127.0.0.1:11435

Tunnel
  – no token, which is optional: it opens the models to you from elsewhere
    → tunnelctl login, or with a token: tunnelctl login --token-stdin

Next step
  tunnelctl connect curl
"
    );
    let json = told.json();
    assert_eq!((&json["status"], &json["daemon_started"]), (&json!("success"), &json!(true)));
    assert_eq!(
        (&json["added"][0]["id"], &json["tunnel"]["state"]),
        (&json!("llama-cpp"), &json!("no_token"))
    );
    assert_eq!(json["gateway"]["openai_base_url"], "http://127.0.0.1:11435/v1");
    assert_eq!(json["next_steps"], json!(["tunnelctl connect curl"]));
}

#[test]
fn without_a_model_server_it_says_what_to_start_and_how_to_look_again() {
    let told = told(
        vec![connection("ollama", false, 0)],
        Found::Looked { added: vec![], off: vec![] },
        Tunnel::SwitchedOff,
    );
    let text = told.text(&Look::plain());
    assert!(text.contains("  FAIL  ollama  0 models  http://ollama  connection refused\n"), "{text}");
    assert!(
        text.contains("https://ollama.com/download") && text.ends_with("\n  tunnelctl start\n"),
        "{text}"
    );
    assert!(text.contains("  off  switched off in the configuration"), "{text}");
}

#[test]
fn server_that_is_switched_off_is_to_be_switched_on_and_not_to_be_installed() {
    for found in [
        Found::Looked { added: vec![], off: vec!["ollama".to_owned()] },
        Found::Named { off: vec!["ollama".to_owned()] },
    ] {
        let steps = told(vec![], found, no_token()).next_steps();
        assert_eq!(steps, ["ollama is switched off; to use it:", "tunnelctl connections enable ollama"]);
    }
}

#[test]
fn where_nothing_was_looked_for_it_says_so() {
    let told = told(vec![connection("far", false, 0)], Found::Named { off: vec![] }, no_token());
    assert!(told.next_steps().contains(&"tunnelctl connections detect --add".to_owned()));
    assert_eq!(told.json()["looked_for_servers"], false);
}

#[test]
fn server_without_a_model_needs_one() {
    let step = |connection| told(vec![connection], Found::Connected, no_token()).next_steps().pop().unwrap();
    assert_eq!(step(connection("ollama", true, 0)), "ollama pull llama3.2:3b");
    assert_eq!(step(connection("vllm", true, 0)), "tunnelctl models list");
    assert_eq!(step(connection("vllm", true, 1)), "tunnelctl connect curl");
}

#[test]
fn gateway_that_is_off_has_no_address() {
    let mut told = told(vec![connection("ollama", true, 1)], Found::Connected, no_token());
    told.gateway = Gateway::SwitchedOff;
    assert!(told.text(&Look::plain()).contains("tunnelctl config set enableGateway true"));
    assert_eq!(told.json()["gateway"], Value::Null);
}

#[test]
fn tunnel_that_is_refused_has_its_next_step() {
    let mut status = Status::default();
    status.tunnel.state = TunnelState::Refused;
    status.tunnel.relay = Some("https://r".to_owned());
    status.warnings = vec![Warning::new(TOKEN_EXPIRED, "the token has expired", "make a new token")];
    let text = |status: &Status| {
        Tunnel::Ordered { message: String::new(), status: Box::new(status.clone()) }.text(&Look::plain())
    };
    assert_eq!(
        text(&status),
        "  FAIL refused by https://r\n       the token has expired\n       -> make a new token\n"
    );
    status.tunnel.state = TunnelState::Connected;
    assert_eq!(text(&status), "  OK   connected to https://r\n");
}
