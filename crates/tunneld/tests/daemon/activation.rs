//! Sockets that somebody else listens on: they outlive the program.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::process::Signal;
use serde_json::json;

use crate::backend::Backend;
use crate::http::{ask, ask_socket, begin};
use crate::program::{Home, eventually, free_address};

fn with_backend(test: impl FnOnce(&Backend)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let backend = runtime.block_on(Backend::start());
    test(&backend);
}

/// Listens as the socket unit does, for a shell that is to pass it on.
fn listen(address: SocketAddr) -> OwnedFd {
    passable(TcpListener::bind(address).unwrap().into())
}

fn passable(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    fd
}

#[test]
fn connection_made_while_nothing_runs_is_served_by_the_next_program() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let path = home.socket();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let sockets =
            [listen(home.control), listen(home.gateway), passable(UnixListener::bind(&path).unwrap().into())];
        for _ in 0..2 {
            // Taken by the kernel before there is a program.
            let early = begin(home.control, "GET", "/livez", &[], "");
            let mut program = home.start_with_sockets(&sockets);
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut &early, &mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert_eq!(ask(home.gateway, "GET", "/api/version", &[], "").status, 200);
            assert_eq!(ask_socket(&path, "GET", "/livez").status, 200);
            program.signal(Signal::TERM);
            assert_eq!(program.wait().code(), Some(0));
            assert!(TcpStream::connect(home.control).is_ok() && UnixStream::connect(&path).is_ok());
        }
    });
}

#[test]
fn passed_doors_do_not_move_and_strays_are_told() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        let stray = free_address();
        let program = home.start_with_sockets(&[listen(home.gateway), listen(stray)]);
        eventually("the control port", || TcpStream::connect(home.control).is_ok());
        let status = || ask(home.control, "GET", "/api/status", &[], "").json();
        let told = status()["warnings"].to_string();
        assert!(told.contains("socket_unused") && told.contains(&stray.to_string()), "{told}");

        home.configure(json!({ "gatewayPort": free_address().port(), "enableGateway": false }));
        program.signal(Signal::HUP);
        let waiting = json!(["enableGateway", "gatewayPort"]);
        eventually("what waits for a restart", || status()["config"]["restart_required"] == waiting);
        assert_eq!(ask(home.gateway, "GET", "/api/version", &[], "").status, 200);
    });
}

#[test]
fn passed_door_that_is_off_is_opened_when_it_is_switched_on() {
    with_backend(|backend| {
        let home = Home::new(backend.address);
        home.configure(json!({ "enableGateway": false }));
        let sockets = [listen(home.gateway)];
        let program = home.start_with_sockets(&sockets);
        eventually("the control port", || TcpStream::connect(home.control).is_ok());
        let waiting = begin(home.gateway, "GET", "/api/version", &[], "");
        home.configure(json!({ "enableGateway": true }));
        program.signal(Signal::HUP);
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut &waiting, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}
