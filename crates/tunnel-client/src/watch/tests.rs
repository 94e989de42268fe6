//! A watch against a scripted daemon.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{WebSocketStream, accept_async};
use tunnel_api::TunnelState;
use tunnel_api::ws::Command;

use super::{Pace, Update, Watch};
use crate::{Client, Error};

/// Longest wait in a test; reached only when it fails.
const LIMIT: Duration = Duration::from_secs(10);

/// As in earnest, but for the impatient.
const QUICK: Pace = Pace {
    first_wait: Duration::from_millis(10),
    longest_wait: Duration::from_millis(40),
    ping_after: Duration::from_secs(30),
    pong_within: Duration::from_secs(10),
};

struct Daemon(TcpListener);

impl Daemon {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn watch(&self, pace: Pace) -> Watch {
        let door = format!("http://{}", self.0.local_addr().unwrap());
        Watch::new(Client::new(door.parse().unwrap()).unwrap(), pace)
    }

    async fn accept(&self) -> WebSocketStream<TcpStream> {
        accept_async(self.0.accept().await.unwrap().0).await.unwrap()
    }

    /// Accepts a client and tells it this state of the tunnel.
    async fn serve(&self, state: &str) -> WebSocketStream<TcpStream> {
        let mut socket = self.accept().await;
        socket.send(status(state)).await.unwrap();
        socket
    }
}

fn status(state: &str) -> Frame {
    let message = json!({ "type": "status_update", "seq": 1, "data": { "tunnel": { "state": state } } });
    Frame::text(message.to_string())
}

async fn next(watch: &mut Watch) -> Update {
    timeout(LIMIT, watch.next()).await.unwrap()
}

async fn next_state(watch: &mut Watch) -> TunnelState {
    match next(watch).await {
        Update::Status(status) => status.tunnel.state,
        other => panic!("{other:?}"),
    }
}

fn ping() -> Command {
    Command { command: "PING".to_owned(), id: 7.into(), payload: Map::new() }
}

#[tokio::test]
async fn daemon_that_goes_is_lost_once_and_found_again_with_snapshots() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    let (socket, state) = tokio::join!(daemon.serve("connected"), next_state(&mut watch));
    assert_eq!(state, TunnelState::Connected);
    drop(socket);
    assert!(matches!(next(&mut watch).await, Update::Lost(Error::Lost { .. })));

    // Connections that end before a word are the same absence.
    let refuse = async {
        for _ in 0..3 {
            drop(daemon.accept().await);
        }
        daemon.serve("backoff").await
    };
    let (socket, state) = tokio::join!(refuse, next_state(&mut watch));
    assert_eq!(state, TunnelState::Backoff);
    drop(socket);
    assert!(matches!(next(&mut watch).await, Update::Lost(_)));
}

#[tokio::test]
async fn daemon_that_was_never_there_is_lost_and_its_reason_is_told() {
    let daemon = Daemon::start().await;
    let address = daemon.0.local_addr().unwrap();
    let mut watch = daemon.watch(QUICK);
    drop(daemon);
    assert!(matches!(next(&mut watch).await, Update::Lost(Error::NotRunning { .. })));

    let waited = timeout(Duration::from_millis(200), watch.next()).await;
    assert!(waited.is_err(), "told again: {waited:?}");
    let daemon = Daemon(TcpListener::bind(address).await.unwrap());
    let (_socket, state) = tokio::join!(daemon.serve("connected"), next_state(&mut watch));
    assert_eq!(state, TunnelState::Connected);
}

#[tokio::test]
async fn nothing_is_connected_before_it_is_waited_for() {
    let daemon = Daemon::start().await;
    let _watch = daemon.watch(QUICK);
    assert!(timeout(Duration::from_millis(50), daemon.0.accept()).await.is_err());
}

#[tokio::test]
async fn waiting_that_is_given_up_again_and_again_loses_nothing() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    let serve = async {
        let mut socket = daemon.accept().await;
        for state in ["connecting", "connected", "backoff", "refused"] {
            let Frame::Text(text) = status(state) else { unreachable!() };
            // In two frames, so that it can be dropped between them.
            use tokio_tungstenite::tungstenite::protocol::frame::Frame as Raw;
            use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
            let (first, second) = text.as_str().split_at(20);
            let first = Raw::message(first.to_owned(), OpCode::Data(Data::Text), false);
            let second = Raw::message(second.to_owned(), OpCode::Data(Data::Continue), true);
            socket.send(Frame::Frame(first)).await.unwrap();
            sleep(Duration::from_millis(15)).await;
            socket.send(Frame::Frame(second)).await.unwrap();
        }
        socket
    };
    let watched = async {
        let mut states = Vec::new();
        while states.len() < 4 {
            if let Ok(Update::Status(status)) = timeout(Duration::from_millis(1), watch.next()).await {
                states.push(status.tunnel.state);
            }
        }
        states
    };
    let (_socket, states) = timeout(LIMIT, async { tokio::join!(serve, watched) }).await.unwrap();
    let expected =
        [TunnelState::Connecting, TunnelState::Connected, TunnelState::Backoff, TunnelState::Refused];
    assert_eq!(states, expected);
}

#[tokio::test]
async fn command_connects_and_its_answer_comes() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    let answer = async {
        let mut socket = daemon.accept().await;
        let Some(Ok(Frame::Text(command))) = socket.next().await else { panic!() };
        let command: Value = serde_json::from_str(&command).unwrap();
        assert_eq!(command, json!({ "command": "PING", "id": 7 }));
        socket.send(Frame::text(json!({ "id": 7, "status": "pong" }).to_string())).await.unwrap();
        socket.send(Frame::text(json!({ "command": "SHOW" }).to_string())).await.unwrap();
        socket
    };
    let ask = async {
        watch.send(&ping()).await.unwrap();
        let Update::Answer(answer) = next(&mut watch).await else { panic!() };
        assert_eq!(answer["status"], "pong");
        let Update::Call(call) = next(&mut watch).await else { panic!() };
        assert_eq!(call["command"], "SHOW");
    };
    timeout(LIMIT, async { tokio::join!(answer, ask) }).await.unwrap();
}

#[tokio::test]
async fn command_to_nobody_fails_and_the_loss_is_told_once() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    drop(daemon);
    assert!(matches!(watch.send(&ping()).await, Err(Error::NotRunning { .. })));
    assert!(matches!(next(&mut watch).await, Update::Lost(_)));
    assert!(watch.send(&ping()).await.is_err());
    assert!(timeout(Duration::from_millis(100), watch.next()).await.is_err());
}

#[tokio::test]
async fn silent_daemon_is_asked_and_then_given_up() {
    let daemon = Daemon::start().await;
    let pace = Pace { ping_after: Duration::from_millis(30), pong_within: Duration::from_secs(2), ..QUICK };
    let mut watch = daemon.watch(pace);
    let serve = async {
        let mut socket = daemon.serve("connected").await;
        let mut n_pings = 0;
        // As long as it reads, the library answers.
        while n_pings < 3 {
            match socket.next().await {
                Some(Ok(Frame::Ping(_))) => n_pings += 1,
                Some(Ok(_)) => {}
                ended => panic!("given up while it answered: {ended:?}"),
            }
        }
        socket.flush().await.unwrap();
        socket
    };
    let watched = async {
        assert_eq!(next_state(&mut watch).await, TunnelState::Connected);
        next(&mut watch).await
    };
    let (socket, lost) = timeout(LIMIT, async { tokio::join!(serve, watched) }).await.unwrap();
    assert!(matches!(lost, Update::Lost(Error::Timeout { .. })), "{lost:?}");
    drop(socket);
}

#[tokio::test]
async fn what_is_not_tunneld_is_called_so() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    let serve = async {
        let mut socket = daemon.accept().await;
        socket.send(Frame::text("hello")).await.unwrap();
        socket
    };
    let (_socket, lost) = tokio::join!(serve, next(&mut watch));
    assert!(matches!(lost, Update::Lost(Error::NotTunneld { .. })), "{lost:?}");
}

#[tokio::test]
async fn unknown_messages_are_skipped() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.watch(QUICK);
    let serve = async {
        let mut socket = daemon.accept().await;
        socket.send(Frame::text(r#"{"type":"weather_update","data":[]}"#)).await.unwrap();
        socket.send(status("connected")).await.unwrap();
        socket
    };
    let (_socket, state) = tokio::join!(serve, next_state(&mut watch));
    assert_eq!(state, TunnelState::Connected);
}
