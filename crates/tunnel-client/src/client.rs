//! Asking the daemon.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tunnel_api::config_api::ImportAnswer;
use tunnel_api::{AuthStatus, Connections, ErrorBody, Health, Status, TunnelAnswer, VERSION_HEADER, Version};

use crate::{Door, Error};

/// Longest wait for an answer. The daemon answers each question from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a change that is written to a disk and perhaps to a keyring.
const CHANGE: Duration = Duration::from_secs(30);
/// Longest wait for a TCP connection; all doors are on this machine.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes: a status with thousands of models is far below.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Client of one daemon. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    door: Arc<Door>,
    skew: Arc<Mutex<Skew>>,
}

/// The daemon is of another version than this client; unknown fields are skipped, new verbs may fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionMismatch {
    /// This client's version.
    pub client: String,
    /// The daemon's version.
    pub daemon: String,
}

/// What is known of the daemon's version.
#[derive(Debug, Default)]
enum Skew {
    /// Nothing, or it is ours.
    #[default]
    None,
    Found(VersionMismatch),
    Told,
}

impl Client {
    /// Returns a client that asks at this door. Nothing is connected yet.
    pub fn new(door: Door) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // The daemon is on this machine: neither a proxy nor a redirect has a place in between.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if let Door::Socket(path) = &door {
            builder = builder.unix_socket(path.as_path());
        }
        let http = builder.build().map_err(Error::Setup)?;
        Ok(Self { http, door: Arc::new(door), skew: Arc::default() })
    }

    /// Returns where it asks.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Returns this client's version.
    pub fn version_of_client() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Returns, once, that the daemon is of another version, as its answers so far told.
    pub fn version_mismatch(&self) -> Option<VersionMismatch> {
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *skew) {
            Skew::None => None,
            Skew::Found(mismatch) => {
                *skew = Skew::Told;
                Some(mismatch)
            }
            Skew::Told => {
                *skew = Skew::Told;
                None
            }
        }
    }

    /// Asks `GET /api/health`.
    pub async fn health(&self) -> Result<Health, Error> {
        self.get("/api/health").await
    }

    /// Asks `GET /api/status`.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/api/status").await
    }

    /// Asks `GET /api/status` and returns it as it came, with what a newer daemon adds.
    pub async fn status_json(&self) -> Result<Value, Error> {
        self.get("/api/status").await
    }

    /// Asks `GET /api/connections`.
    pub async fn connections(&self) -> Result<Connections, Error> {
        self.get("/api/connections").await
    }

    /// Asks `GET /api/version`.
    pub async fn version(&self) -> Result<Version, Error> {
        self.get("/api/version").await
    }

    /// Tells whether the daemon runs: an error says why not.
    pub async fn livez(&self) -> Result<(), Error> {
        self.get::<Value>("/livez").await.map(drop)
    }

    /// Tells whether a request would be answered: [`Error::NotReady`] says why not.
    pub async fn readyz(&self) -> Result<(), Error> {
        self.get::<Value>("/readyz").await.map(drop)
    }

    /// Orders the tunnel to be opened.
    ///
    /// With `wait`, answers when it is up, or [`Error::WaitOver`].
    pub async fn start(&self, wait: Option<Duration>) -> Result<TunnelAnswer, Error> {
        self.order("start", wait).await
    }

    /// Orders the tunnel to be closed once its running requests have ended.
    ///
    /// With `wait`, answers when it is closed, or [`Error::WaitOver`].
    pub async fn stop(&self, wait: Option<Duration>) -> Result<TunnelAnswer, Error> {
        self.order("stop", wait).await
    }

    /// Orders the tunnel to be closed and opened anew.
    ///
    /// With `wait`, answers when it is up again, or [`Error::WaitOver`].
    pub async fn restart(&self, wait: Option<Duration>) -> Result<TunnelAnswer, Error> {
        self.order("restart", wait).await
    }

    /// Has the original's `connection_config.json` taken over; `file` is its content.
    pub async fn import_config(&self, file: &Map<String, Value>) -> Result<ImportAnswer, Error> {
        self.send(Method::POST, "/api/config/import", Some(file), CHANGE).await
    }

    /// Stores the token that the tunnel is dialled with, and returns where it is kept.
    pub async fn store_token(&self, token: &str) -> Result<AuthStatus, Error> {
        let body = Map::from_iter([("token".to_owned(), Value::from(token))]);
        self.send(Method::PUT, "/api/auth/token", Some(&body), CHANGE).await
    }

    /// Makes the token void where that can be done, and forgets it.
    pub async fn logout(&self) -> Result<AuthStatus, Error> {
        self.send(Method::POST, "/api/auth/logout", None, CHANGE).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path, ANSWER).await
    }

    async fn order(&self, verb: &str, wait: Option<Duration>) -> Result<TunnelAnswer, Error> {
        let path = match wait {
            Some(wait) => format!("/api/tunnel/{verb}?wait={}", wait.as_secs_f64()),
            None => format!("/api/tunnel/{verb}"),
        };
        // The daemon watches the clock; this one only notices that it does not.
        self.ask(Method::POST, &path, wait.unwrap_or_default().saturating_add(ANSWER)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        within: Duration,
    ) -> Result<T, Error> {
        self.send(method, path, None, within).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Map<String, Value>>,
        within: Duration,
    ) -> Result<T, Error> {
        let url = format!("{}{path}", self.door.base());
        let failed = |error| self.failed(error, within);
        let mut request = self.http.request(method, url).timeout(within);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(failed)?;

        let version = response.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        let Some(version) = version else {
            return Err(
                self.not_tunneld(format!("its answer {} names no version", response.status().as_u16()))
            );
        };
        self.note_version(version);

        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.not_tunneld("its answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            serde_json::from_slice(&body)
                .map_err(|error| self.not_tunneld(format!("its answer is odd: {error}")))
        } else {
            Err(self.refused(status, &body))
        }
    }

    fn note_version(&self, daemon: &str) {
        let client = Self::version_of_client();
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        if daemon != client && matches!(*skew, Skew::None) {
            *skew = Skew::Found(VersionMismatch { client: client.to_owned(), daemon: daemon.to_owned() });
        }
    }

    fn failed(&self, error: reqwest::Error, within: Duration) -> Error {
        let door = self.door.to_string();
        // The address is in `door`, and that of a socket would mislead.
        let error = error.without_url();
        if error.is_timeout() {
            return Error::Timeout { door, after: if error.is_connect() { CONNECT } else { within } };
        }
        match io_error(&error) {
            Some(io::ErrorKind::PermissionDenied) => Error::NotAllowed { door, body: None },
            _ if error.is_connect() => Error::NotRunning { door, source: error },
            _ => Error::Lost { door, source: error },
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        let mut body: Box<ErrorBody> = serde_json::from_slice(body).unwrap_or_default();
        body.status_code = status.as_u16();
        if body.error.is_empty() {
            body.error = format!("tunneld answered {status}");
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::NotAllowed { door: self.door.to_string(), body: Some(body) }
            }
            StatusCode::SERVICE_UNAVAILABLE if body.code == "not_ready" => Error::NotReady(body),
            StatusCode::GATEWAY_TIMEOUT => Error::WaitOver(body),
            _ => Error::Refused(body),
        }
    }

    fn not_tunneld(&self, detail: String) -> Error {
        Error::NotTunneld { door: self.door.to_string(), detail }
    }
}

/// Returns the kind of the input or output error at the bottom of this one.
fn io_error(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}
