//! Doors that move while the daemon runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::backend::{Backend, CHUNKS};
use crate::http::{ask, ask_socket, begin};
use crate::program::{Home, eventually, free_address};

const CHAT: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;

fn with_backend(test: impl FnOnce(&Backend)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let backend = runtime.block_on(Backend::start());
    test(&backend);
}

fn status(home: &Home) -> Value {
    ask_socket(&home.socket(), "GET", "/api/status").json()
}

fn is_open(door: SocketAddr) -> bool {
    TcpStream::connect(door).is_ok()
}

#[test]
fn running_stream_survives_the_move_of_its_door() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let program = home.start();
        eventually("a model server", || status(&home)["best_connection"].is_string());
        let mut stream = begin(home.gateway, "POST", "/api/chat", &[], CHAT);
        backend.chunks.add_permits(1);
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();

        let new = free_address();
        home.configure(json!({ "gatewayPort": new.port() }));
        program.signal(Signal::HUP);
        eventually("the new place", || is_open(new));
        eventually("the old one's end", || !is_open(home.gateway));
        // The guard takes the new name at once; the answer at the old place goes on.
        assert_eq!(ask(new, "GET", "/api/version", &[], "").status, 200);
        backend.let_all_go();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.matches("\"done\":").count() == CHUNKS && rest.ends_with("0\r\n\r\n"), "{rest}");
        assert_eq!(status(&home)["config"]["restart_required"], json!([]));
    });
}

#[test]
fn idle_connection_at_the_old_place_is_closed() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let program = home.start();
        let mut idle = TcpStream::connect(home.control).unwrap();
        let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", home.control);
        idle.write_all(request.as_bytes()).unwrap();
        assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
        let new = free_address();
        home.configure(json!({ "apiServerPort": new.port() }));
        program.signal(Signal::HUP);
        let begun = Instant::now();
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        // Long before the limit on idle connections, which is 10 s.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(ask(new, "GET", "/livez", &[], "").status, 200);
    });
}

#[test]
fn door_that_cannot_move_stays_and_says_who_is_in_the_way() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let program = home.start();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let new = held.local_addr().unwrap();
        home.configure(json!({ "gatewayPort": new.port() }));
        program.signal(Signal::HUP);
        let warning = || {
            let warnings = status(&home)["warnings"].clone();
            warnings.as_array().unwrap().iter().find(|warning| warning["code"] == "port_taken").cloned()
        };
        eventually("the warning", || warning().is_some());
        let told = warning().unwrap()["message"].as_str().unwrap().to_owned();
        for part in [new.to_string(), format!("pid {}", std::process::id())] {
            assert!(told.contains(&part), "{part}: {told}");
        }
        assert_eq!(ask(home.gateway, "GET", "/api/version", &[], "").status, 200);

        drop(held);
        program.signal(Signal::HUP);
        eventually("the move", || is_open(new));
        eventually("the warning's end", || warning().is_none());
        assert!(!is_open(home.gateway));
    });
}

#[test]
fn doors_are_switched_off_and_on() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let program = home.start();
        home.configure(json!({ "enableGateway": false, "enableApiServer": false }));
        program.signal(Signal::HUP);
        eventually("closed doors", || !is_open(home.gateway) && !is_open(home.control));
        // Switched on at another place than it was switched off at.
        let new = free_address();
        home.configure(json!({ "enableGateway": true, "enableApiServer": true, "gatewayPort": new.port() }));
        program.signal(Signal::HUP);
        eventually("open doors", || is_open(new) && is_open(home.control));
        assert_eq!(ask(new, "GET", "/api/version", &[], "").status, 200);
        assert_eq!(ask(home.control, "GET", "/livez", &[], "").status, 200);
    });
}
