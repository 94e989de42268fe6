//! The scripted daemon's `/ws`: it tells the status again and again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::SinkExt;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::script::Script;

/// Time between two messages.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn serve(State(script): State<Arc<Mutex<Script>>>, mut request: Request) -> Response {
    let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let told = async move {
        let socket = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
        loop {
            let status = script.lock().unwrap().status();
            let message = json!({ "type": "status_update", "seq": 1, "data": status }).to_string();
            if socket.send(Message::text(message)).await.is_err() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with the daemon's runtime")]
    drop(tokio::spawn(told));
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", key)
        .header("tunneld-version", env!("CARGO_PKG_VERSION"))
        .body(Body::empty())
        .unwrap()
}
