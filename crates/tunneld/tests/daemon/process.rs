//! The real program: exit codes, signals, and what it can do without.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::backend::{Backend, CHUNKS};
use crate::http::{ask, ask_socket, begin};
use crate::program::{Home, eventually};

const CHAT: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;

/// Runs a scripted model server beside a test that blocks.
fn with_backend(test: impl FnOnce(&Backend)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let backend = runtime.block_on(Backend::start());
    test(&backend);
}

fn wait_until_ready(home: &Home) {
    eventually("readiness", || ask(home.control, "GET", "/readyz", &[], "").status == 200);
}

#[test]
fn five_faults_are_told_at_once() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        home.configure(json!({
            "ollamaPort": 0, "healthCheckInterval": 4, "logLevel": "LOUD", "maxRetries": 0, "cloudProxyURL": "x",
        }));
        let output = home.output();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{told}");
        for key in ["ollamaPort", "healthCheckInterval", "logLevel", "maxRetries", "cloudProxyUrl"] {
            assert!(told.contains(key), "{key}: {told}");
        }
        assert_eq!(told.lines().count(), 6, "{told}");
    });
}

#[test]
fn taken_port_names_itself_and_its_owner() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let _held = TcpListener::bind(home.gateway).unwrap();
        let output = home.output();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(9), "{told}");
        for part in
            [home.gateway.to_string(), format!("pid {}", std::process::id()), "gatewayPort".to_owned()]
        {
            assert!(told.contains(&part), "{part}: {told}");
        }
    });
}

#[test]
fn gateway_serves_without_directories_token_or_relay() {
    with_backend(|backend| {
        backend.let_all_go();
        let home = Home::new(backend.address);
        home.configure(json!({ "enableCloudProxy": true, "cloudProxyUrl": "http://127.0.0.1:9" }));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunneld"));
        command.env_clear().env("XDG_RUNTIME_DIR", "/dev/null/run");
        command.arg("--config").arg(home.config()).args(["--state-dir", "/dev/null/state"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _program = home.start_with(&mut command);
        wait_until_ready(&home);
        assert_eq!(ask(home.gateway, "POST", "/api/chat", &[], CHAT).status, 200);
        let status = ask(home.control, "GET", "/api/status", &[], "").json();
        let codes: Vec<&str> =
            status["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect();
        for code in ["no_state_dir", "no_control_socket", "no_token"] {
            assert_eq!(codes.iter().filter(|found| **found == code).count(), 1, "{code}: {codes:?}");
        }
    });
}

#[test]
fn sigterm_lets_a_running_stream_end_and_takes_nothing_new() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let mut program = home.start();
        wait_until_ready(&home);
        let mut stream = begin(home.gateway, "POST", "/api/chat", &[], CHAT);
        backend.chunks.add_permits(1);
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        program.signal(Signal::TERM);
        eventually("closed doors", || TcpStream::connect(home.gateway).is_err());
        backend.let_all_go();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.matches("\"done\":").count(), CHUNKS, "{rest}");
        assert!(rest.contains("\"done\":true") && rest.ends_with("0\r\n\r\n"), "{rest}");
        assert_eq!(program.wait().code(), Some(0));
        assert!(!home.socket().exists());
    });
}

#[test]
fn second_signal_ends_at_once() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let mut program = home.start();
        wait_until_ready(&home);
        let mut stream = begin(home.gateway, "POST", "/api/chat", &[], CHAT);
        backend.chunks.add_permits(1);
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        program.signal(Signal::TERM);
        eventually("closed doors", || TcpStream::connect(home.gateway).is_err());
        program.signal(Signal::TERM);
        program.wait();
        // The stream was cut, which must not look like its end.
        let mut rest = String::new();
        let _cut = stream.read_to_string(&mut rest);
        assert!(!rest.ends_with("0\r\n\r\n") && !rest.contains("\"done\":true"), "{rest}");
    });
}

#[test]
fn reload_takes_what_is_good_and_reports_what_is_not() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let program = home.start();
        wait_until_ready(&home);
        let status = || ask_socket(&home.socket(), "GET", "/api/status").json();

        home.configure(json!({ "connections": [
            { "id": "second", "type": "ollama", "url": format!("http://{}", backend.address) },
        ] }));
        program.signal(Signal::HUP);
        eventually("the new connection", || status()["connections"]["second"]["connected"] == true);

        home.configure(json!({ "maxRetries": 0, "logLevel": "LOUD" }));
        program.signal(Signal::HUP);
        eventually("the report", || status()["config"]["last_error"].is_string());
        let told = status()["config"]["last_error"].as_str().unwrap().to_owned();
        assert!(told.contains("maxRetries") && told.contains("logLevel"), "{told}");
        assert_eq!(status()["connections"]["second"]["connected"], true);

        home.configure(json!({ "maxRetries": 3, "logLevel": "INFO", "connections": [] }));
        program.signal(Signal::HUP);
        eventually("the mended file", || status()["config"]["last_error"].is_null());
        eventually("the connection's end", || status()["connections"]["second"].is_null());
        assert_eq!(ask(home.gateway, "GET", "/api/version", &[], "").status, 200);
    });
}

#[test]
fn log_goes_to_a_file_where_nobody_would_see_it_otherwise() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        // Standard error is /dev/null.
        let mut program = home.start();
        program.signal(Signal::TERM);
        assert_eq!(program.wait().code(), Some(0));
        let log = std::fs::read_to_string(home.path().join("state/tunneld.log")).unwrap();
        // The last line too: it is written before the process ends.
        assert!(log.contains("listening") && log.contains("stopping"), "{log}");
    });
}

#[test]
fn log_goes_to_the_file_that_is_named() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let path = home.path().join("named.log");
        let mut command = home.command();
        command.env("TUNNELD_LOG_FILE", &path).stderr(Stdio::piped());
        let program = home.start_with(&mut command);
        eventually("the first line", || {
            std::fs::read_to_string(&path).is_ok_and(|log| log.contains("listening"))
        });
        drop(program);
        assert!(!home.path().join("state/tunneld.log").exists());

        command.env("TUNNELD_LOG_FILE", "/dev/null/log");
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("cannot log to /dev/null/log"), "{told}");
    });
}
