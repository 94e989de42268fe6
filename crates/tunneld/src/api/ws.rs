//! `/ws`: snapshots as they change, and the commands of the tray.
//!
//! One task a client, which writes one message at a time and takes each snapshot at the moment when it is written: a
//! slow reader skips to the newest, and nobody waits for it. What cannot be written for [`WRITE_LIMIT`] ends the
//! connection.

mod command;
mod legacy;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tracing::debug;
use tunnel_api::ws::{Message, MessageType, ModelUpdate};
use tunnel_api::{Status, Warning};

use super::author::author;
use super::error::ApiError;
use super::{Api, MayChange};
use crate::config::Author;
use crate::notify::{LeftToClients, Taken};
use crate::view;

/// What all clients of `/ws` share.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// What one client tells the others.
    calls: broadcast::Sender<Call>,
    room: Arc<Semaphore>,
    /// What clients have taken over from the daemon's notifications.
    left: LeftToClients,
}

/// A command that one client passes on to the others, and the daemon does nothing with.
#[derive(Debug, Clone)]
struct Call {
    from: u64,
    message: Value,
}

/// Most clients at a time: a tray, a dashboard or two, some that watch.
const MAX_CLIENTS: usize = 64;
/// Calls that a client may lag behind; older ones are lost to it.
const MAX_CALLS: usize = 32;
/// Longest command: prompts come in `PROXY_REQUEST`, and pictures in prompts.
const MAX_COMMAND_BYTES: usize = 16 * 1024 * 1024;
/// Longest wait until a client takes one message.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

impl Clients {
    pub(crate) fn new(left: LeftToClients) -> Self {
        Self { calls: broadcast::Sender::new(MAX_CALLS), room: Arc::new(Semaphore::new(MAX_CLIENTS)), left }
    }
}

/// Answers the upgrade; the client is served by a task of its own.
pub(super) async fn upgrade(
    State(api): State<Api>,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let accept = accept_key(request.method(), request.headers())?;
    let may_change = request.extensions().get::<MayChange>().is_some_and(|may| may.0);
    let author = author(request.headers());
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            "not_a_websocket",
            "this connection cannot be upgraded; ask over HTTP/1.1",
        ));
    };
    let Ok(permit) = Arc::clone(&api.clients.room).try_acquire_owned() else {
        let sentence = format!("{MAX_CLIENTS} clients are connected, which is all that there is room for");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_clients", sentence));
    };
    api.tracker.clone().spawn(serve(api, upgrade, (author, may_change), permit));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Checks that it is an upgrade to WebSocket (RFC 6455 §4.2.1).
fn accept_key(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let right = method == Method::GET && has(CONNECTION, "upgrade") && has(UPGRADE, "websocket");
    let accept =
        key.filter(|_| right).and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
    let sentence =
        "this is a WebSocket; connect to ws://localhost:8765/ws with a WebSocket client, version 13";
    match accept {
        Some(accept) if has(SEC_WEBSOCKET_VERSION, "13") => Ok(accept),
        _ => Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, "not_a_websocket", sentence)),
    }
}

async fn serve(api: Api, upgrade: OnUpgrade, right: (Author, bool), _room: OwnedSemaphorePermit) {
    // A client may go away before it has read the answer.
    let Ok(Ok(upgraded)) = tokio::time::timeout(WRITE_LIMIT, upgrade).await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_COMMAND_BYTES))
        .max_frame_size(Some(MAX_COMMAND_BYTES))
        // What is written is written at once; nothing piles up here.
        .write_buffer_size(0)
        .read_buffer_size(8 * 1024);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let mut client = Client::new(api, socket, right);
    if let Err(error) = client.run().await {
        debug!(%error, "client of /ws ended");
    }
}

/// One client.
struct Client {
    api: Api,
    socket: WebSocketStream<TokioIo<Upgraded>>,
    /// Tells it from the others in [`Call`]s.
    id: u64,
    seq: u64,
    author: Author,
    may_change: bool,
    /// The daemon shuts down: what runs may finish, nothing new is begun.
    leaving: bool,
    /// It asked for `CONNECTION_STATUS_CHANGED`.
    legacy: Option<legacy::Told>,
    /// It shows notifications in the daemon's place for as long as it is connected.
    notifies: Option<Taken>,
    proxies: proxy::Proxies,
    shown_models: Option<ModelUpdate>,
    shown_warnings: Vec<Warning>,
}

/// Why a client is not served any longer.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it has closed")]
    Closed,
    #[error("it does not read")]
    DoesNotRead,
    #[error("{0}")]
    Broken(#[from] WsError),
}

impl Client {
    fn new(
        api: Api,
        socket: WebSocketStream<TokioIo<Upgraded>>,
        (author, may_change): (Author, bool),
    ) -> Self {
        Self {
            proxies: proxy::Proxies::new(api.broker.clone()),
            api,
            socket,
            id: rand::random(),
            seq: 0,
            author,
            may_change,
            leaving: false,
            legacy: None,
            notifies: None,
            shown_models: None,
            shown_warnings: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<(), Ended> {
        let mut status = self.api.status.clone();
        let mut config = self.api.config.follow();
        let mut calls = self.api.clients.calls.subscribe();
        let mut events = self.api.store.subscribe();
        let (stopping, hard) = (self.api.stopping.clone(), self.api.hard.clone());
        let mut every = config.borrow_and_update().config.metrics_update_interval;
        let mut metrics = tokio::time::interval(every);
        metrics.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        status.mark_changed();
        loop {
            tokio::select! {
                // Snapshots before the rest, so that what a client hears first is how things stand.
                biased;
                () = stopping.cancelled(), if !self.leaving => self.leaving = true,
                () = hard.cancelled() => return self.say_goodbye().await,
                Ok(()) = status.changed() => self.show_status().await?,
                _ = metrics.tick() => if self.api.require_metrics().is_ok() {
                    let body = super::metrics::body(&self.api);
                    self.send(MessageType::MetricsUpdate, &body).await?;
                },
                Ok(()) = config.changed() => {
                    let now = config.borrow_and_update().config.metrics_update_interval;
                    if now != every {
                        every = now;
                        metrics = tokio::time::interval(every);
                    }
                }
                call = calls.recv() => match call {
                    Ok(call) if call.from != self.id => self.write(&call.message).await?,
                    // Its own, or so many that the oldest were lost.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // Cannot be: this end holds a sender too.
                    Err(broadcast::error::RecvError::Closed) => return Err(Ended::Closed),
                },
                event = events.recv() => match event {
                    Ok(event) => self.send(MessageType::Event, &*event).await?,
                    // The ids tell that some were missed.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return self.say_goodbye().await,
                },
                answer = self.proxies.next(self.leaving) => match answer {
                    Some(answer) => self.write(&answer).await?,
                    None => return self.say_goodbye().await,
                },
                frame = self.socket.next() => match frame {
                    Some(frame) => self.hear(frame?).await?,
                    None => return Err(Ended::Closed),
                },
            }
        }
    }

    /// Sends the newest status, and of models and warnings what is new.
    async fn show_status(&mut self) -> Result<(), Ended> {
        let status = view::current(&self.api.status.borrow(), &self.api.broker);
        self.send(MessageType::StatusUpdate, &status).await?;
        let models = ModelUpdate { models: super::models::all(&self.api.broker) };
        if self.shown_models.as_ref() != Some(&models) {
            self.send(MessageType::ModelUpdate, &models).await?;
            self.shown_models = Some(models);
        }
        self.show_warnings(&status).await?;
        if let Some(told) = &mut self.legacy {
            for message in told.changes(&status) {
                self.write(&message).await?;
            }
        }
        Ok(())
    }

    async fn show_warnings(&mut self, status: &Status) -> Result<(), Ended> {
        let raised: Vec<Warning> = status
            .warnings
            .iter()
            // Of one code there may be several, and the text of one may change.
            .filter(|warning| {
                !self
                    .shown_warnings
                    .iter()
                    .any(|shown| shown.code == warning.code && shown.since == warning.since)
            })
            .cloned()
            .collect();
        self.shown_warnings.clone_from(&status.warnings);
        for warning in raised {
            self.send(MessageType::Warning, &warning).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, frame: Frame) -> Result<(), Ended> {
        match frame {
            Frame::Text(text) => self.obey(text.as_bytes()).await,
            Frame::Binary(bytes) => self.obey(&bytes).await,
            Frame::Close(_) => Err(Ended::Closed),
            // Answered by the library with the next write.
            Frame::Ping(_) => self.within_limit(async |socket| socket.flush().await).await,
            Frame::Pong(_) | Frame::Frame(_) => Ok(()),
        }
    }

    async fn obey(&mut self, text: &[u8]) -> Result<(), Ended> {
        match command::parse(text) {
            Ok(command) => {
                let id = command.id.clone();
                if let Some(mut answer) = self.carry_out(command).await {
                    if let Value::Object(answer) = &mut answer {
                        answer.insert("id".to_owned(), id);
                    }
                    self.write(&answer).await?;
                }
                Ok(())
            }
            Err(why) => self.write(&json!({ "id": null, "error": why })).await,
        }
    }

    async fn send<T: Serialize>(&mut self, kind: MessageType, data: &T) -> Result<(), Ended> {
        self.seq += 1;
        let message = Message { kind, seq: self.seq, timestamp: Timestamp::now(), data };
        self.write(&message).await
    }

    async fn write<T: Serialize>(&mut self, message: &T) -> Result<(), Ended> {
        // Cannot fail: our own types have string keys only.
        let text = serde_json::to_string(message).unwrap_or_default();
        self.within_limit(async |socket| socket.send(Frame::text(text)).await).await
    }

    async fn say_goodbye(&mut self) -> Result<(), Ended> {
        let close = CloseFrame { code: CloseCode::Away, reason: "tunneld is shutting down".into() };
        self.within_limit(async |socket| socket.close(Some(close)).await).await
    }

    async fn within_limit(
        &mut self,
        write: impl AsyncFnOnce(&mut WebSocketStream<TokioIo<Upgraded>>) -> Result<(), WsError>,
    ) -> Result<(), Ended> {
        let hard = self.api.hard.clone();
        tokio::select! {
            biased;
            written = tokio::time::timeout(WRITE_LIMIT, write(&mut self.socket)) => match written {
                Ok(written) => Ok(written?),
                Err(_) => Err(Ended::DoesNotRead),
            },
            () = hard.cancelled() => Err(Ended::Closed),
        }
    }
}
