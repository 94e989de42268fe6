//! One connection to `/ws`.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message as Frame};
use tunnel_api::ws::Command;

use super::{Pace, Update, update};
use crate::{Client, Error};

/// Longest message that is read, in bytes: a status with thousands of models is far below.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Piece that is read at a time, in bytes; the library's 128 KiB would be held for good.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Longest wait until the daemon takes a command.
const SEND: Duration = Duration::from_secs(10);

const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// A connection that is up.
pub(super) struct Session {
    client: Client,
    socket: WebSocketStream<reqwest::Upgraded>,
    pace: Pace,
    /// When the daemon last sent anything.
    heard: Instant,
    /// Until when it has to, after a ping.
    pong_by: Option<Instant>,
    /// A ping has been written but perhaps not sent.
    unflushed: bool,
}

impl Session {
    /// Connects, as `Client` does for any question, and upgrades to a WebSocket (RFC 6455 §4.1).
    pub(super) async fn dial(client: Client, pace: Pace) -> Result<Self, Error> {
        let key = generate_key();
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let odd = |detail: &str| client.not_tunneld(detail.to_owned());
        let value = HeaderValue::from_str(&key).map_err(|_| odd("no key can be made for it"))?;
        headers.insert(WEBSOCKET_KEY, value);

        let response = client.ask_for_upgrade("/ws", headers).await?;
        let accepted = response.headers().get(WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(odd("it does not speak WebSocket"));
        }
        let upgraded = timeout(SEND, response.upgrade())
            .await
            .map_err(|_| client.lost("it never finished the upgrade"))?
            .map_err(|error| client.failed(error, SEND))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES))
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0);
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        Ok(Self { client, socket, pace, heard: Instant::now(), pong_by: None, unflushed: false })
    }

    /// Waits for the next update. Cancel safe. An error ends the connection.
    pub(super) async fn next(&mut self) -> Result<Update, Error> {
        loop {
            let limit = self.pong_by.unwrap_or(self.heard + self.pace.ping_after);
            if self.unflushed {
                let flushed = timeout_at(limit, self.socket.flush()).await;
                flushed.map_err(|_| self.silent())?.map_err(|error| self.client.lost(error))?;
                self.unflushed = false;
            }
            let Ok(frame) = timeout_at(limit, self.socket.next()).await else {
                if self.pong_by.is_some() {
                    return Err(self.silent());
                }
                let fed = timeout(self.pace.pong_within, self.socket.feed(Frame::Ping(Bytes::new()))).await;
                fed.map_err(|_| self.silent())?.map_err(|error| self.client.lost(error))?;
                self.unflushed = true;
                self.pong_by = Some(Instant::now() + self.pace.pong_within);
                continue;
            };
            self.heard = Instant::now();
            self.pong_by = None;
            let ended = || self.client.lost("it has closed the connection");
            let update = match frame.ok_or_else(ended)?.map_err(|error| self.client.lost(error))? {
                Frame::Text(text) => update::parse(text.as_bytes()),
                Frame::Binary(bytes) => update::parse(&bytes),
                Frame::Close(Some(close)) if !close.reason.is_empty() => {
                    return Err(self.client.lost(close.reason.as_str()));
                }
                Frame::Close(_) => return Err(ended()),
                // The library has the pong ready; it goes with the flush.
                Frame::Ping(_) => {
                    self.unflushed = true;
                    continue;
                }
                Frame::Pong(_) | Frame::Frame(_) => continue,
            };
            match update {
                Ok(Some(update)) => return Ok(update),
                Ok(None) => {}
                Err(error) => return Err(self.client.not_tunneld(format!("its message is odd: {error}"))),
            }
        }
    }

    /// Sends a command. An error ends the connection.
    pub(super) async fn send(&mut self, command: &Command) -> Result<(), Error> {
        // Cannot fail: a command has string keys only.
        let text = serde_json::to_string(command).unwrap_or_default();
        match timeout(SEND, self.socket.send(Frame::text(text))).await {
            Ok(sent) => sent.map_err(|error| self.client.lost(error)),
            Err(_) => Err(Error::Timeout { door: self.client.door().to_string(), after: SEND }),
        }
    }

    fn silent(&self) -> Error {
        Error::Timeout { door: self.client.door().to_string(), after: self.pace.pong_within }
    }
}
