//! Asking the daemon.

mod config;

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tunnel_api::config_api::ConfigAnswer;
use tunnel_api::connection::ConnectionTest;
use tunnel_api::credential::{StoredCredential, StoredCredentials};
use tunnel_api::explain::{ExplainRequest, Explanation};
use tunnel_api::{
    AliasOrder, AuthStatus, Connections, Detected, Devices, Diagnosis, ErrorBody, Events, Health, Key,
    KeyRequest, Keys, LoginBegun, LoginFlow, LoginStatus, Metrics, ModelMoves, ModelOrder, Models, NewKey,
    Requests, Status, TunnelAnswer, Usage, UsageBy, VERSION_HEADER, Version, Warnings,
};

pub use self::config::VersionedConfig;
use crate::{Door, Error};

/// Longest wait for an answer. The daemon answers each question from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a change that is written to a disk and perhaps to a keyring.
const CHANGE: Duration = Duration::from_secs(30);
/// Longest wait for what the daemon has to ask others for: `connectionTimeout` is at most 300 s.
const PROBE: Duration = Duration::from_secs(310);
/// Longest wait for what the daemon asks the relay once, which it waits 30 s for.
const RELAY: Duration = Duration::from_secs(40);
/// Longest wait for a model server to load a model. The daemon watches the clock, by `firstByteTimeout`.
const LOAD: Duration = Duration::from_secs(24 * 3600);
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
    limit: Option<Duration>,
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
        Ok(Self { http, door: Arc::new(door), skew: Arc::default(), limit: None })
    }

    /// Returns a client that waits this long for each answer, whatever is asked.
    ///
    /// Without it each question has a limit of its own. An order with `wait` keeps the longer of both.
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Returns a client that asks at another door, and waits as long as this one.
    pub fn at(&self, door: Door) -> Result<Self, Error> {
        Ok(Self { limit: self.limit, skew: Arc::clone(&self.skew), ..Self::new(door)? })
    }

    /// Returns where it asks.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Returns this client's version.
    pub fn version_of_client() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Returns a client of the control socket, if this one asks at the default port since there was none, and there
    /// is one by now: for those who wait for a daemon to be started.
    ///
    /// `env` looks up a variable, as for [`Door::find`].
    pub fn found_anew(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Error> {
        match (&*self.door, Door::find(env)) {
            (Door::DefaultPort { .. }, door @ Door::Socket(_)) => self.at(door).map(Some),
            _ => Ok(None),
        }
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

    /// Asks `GET /api/devices`.
    pub async fn devices(&self) -> Result<Devices, Error> {
        self.get("/api/devices").await
    }

    /// Asks `GET /api/models`.
    pub async fn models(&self) -> Result<Models, Error> {
        self.get("/api/models").await
    }

    /// Asks where a request would go: `POST /api/explain`.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Error> {
        let fields = [
            ("path", &request.path),
            ("dialect", &request.dialect),
            ("model", &request.model),
            ("connection", &request.connection),
            ("session", &request.session),
        ];
        let given =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into())));
        self.send(Method::POST, "/api/explain", Some(&given.collect()), ANSWER).await
    }

    /// Has a model loaded, and waits until it is in memory: `POST /api/models/load`.
    pub async fn load_model(&self, order: &ModelOrder) -> Result<ModelMoves, Error> {
        self.send(Method::POST, "/api/models/load", Some(&object(order)), LOAD).await
    }

    /// Has a model taken out of memory: `POST /api/models/unload`.
    pub async fn unload_model(&self, order: &ModelOrder) -> Result<ModelMoves, Error> {
        self.send(Method::POST, "/api/models/unload", Some(&object(order)), LOAD).await
    }

    /// Gives a model a name of the user's own: `PUT /api/models/aliases/{name}`.
    pub async fn set_alias(&self, name: &str, order: &AliasOrder) -> Result<ConfigAnswer, Error> {
        let path = format!("/api/models/aliases/{}", segment(name));
        self.send(Method::PUT, &path, Some(&object(order)), CHANGE).await
    }

    /// Forgets such a name: `DELETE /api/models/aliases/{name}`.
    pub async fn remove_alias(&self, name: &str) -> Result<ConfigAnswer, Error> {
        self.ask(Method::DELETE, &format!("/api/models/aliases/{}", segment(name)), CHANGE).await
    }

    /// Has a model kept in memory: `PUT /api/models/warm/{model}`.
    pub async fn keep_warm(&self, model: &str) -> Result<ConfigAnswer, Error> {
        self.ask(Method::PUT, &format!("/api/models/warm/{}", segment(model)), CHANGE).await
    }

    /// Has it no longer kept there: `DELETE /api/models/warm/{model}`.
    pub async fn let_cool(&self, model: &str) -> Result<ConfigAnswer, Error> {
        self.ask(Method::DELETE, &format!("/api/models/warm/{}", segment(model)), CHANGE).await
    }

    /// Asks `GET /api/requests`.
    pub async fn requests(&self) -> Result<Requests, Error> {
        self.get("/api/requests").await
    }

    /// Has a running request ended: `DELETE /api/requests/{id}`.
    pub async fn cancel_request(&self, id: &str) -> Result<Value, Error> {
        self.ask(Method::DELETE, &format!("/api/requests/{}", segment(id)), ANSWER).await
    }

    /// Asks `GET /api/usage`, from the given day on where there is one.
    pub async fn usage(&self, by: UsageBy, since: Option<Date>) -> Result<Usage, Error> {
        let since = since.map_or_else(String::new, |since| format!("&since={since}"));
        self.get(&format!("/api/usage?by={by}{since}")).await
    }

    /// Asks `GET /api/events`: the oldest `limit` after the id `since`, or without it the newest.
    pub async fn events(&self, since: Option<u64>, limit: usize) -> Result<Events, Error> {
        let since = since.map_or_else(String::new, |since| format!("&since={since}"));
        self.get(&format!("/api/events?limit={limit}{since}")).await
    }

    /// Asks `GET /api/warnings`.
    pub async fn warnings(&self) -> Result<Warnings, Error> {
        self.get("/api/warnings").await
    }

    /// Asks `GET /api/metrics`.
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        self.get("/api/metrics").await
    }

    /// Asks `GET /api/metrics` and returns it as it came, with what a newer daemon adds.
    pub async fn metrics_json(&self) -> Result<Value, Error> {
        self.get("/api/metrics").await
    }

    /// Asks `GET /metrics`: the page that Prometheus reads.
    pub async fn metrics_page(&self) -> Result<String, Error> {
        let body = self.exchange(Method::GET, "/metrics", None, ANSWER).await?;
        String::from_utf8(body).map_err(|_| self.not_tunneld("its metrics page is no text".to_owned()))
    }

    /// Probes a connection: `POST /api/connections/{id}/test`.
    ///
    /// Waits as long as the daemon may: `connectionTimeout` is at most 300 s.
    pub async fn test_connection(&self, id: &str) -> Result<ConnectionTest, Error> {
        self.ask(Method::POST, &format!("/api/connections/{}/test", segment(id)), PROBE).await
    }

    /// Looks for model servers on this machine: `POST /api/connections/detect`.
    pub async fn detect(&self) -> Result<Detected, Error> {
        self.ask(Method::POST, "/api/connections/detect", CHANGE).await
    }

    /// Looks what speaks at one address: `POST /api/connections/detect?url=…`. Finds one server, or none.
    pub async fn detect_at(&self, url: &str) -> Result<Detected, Error> {
        self.ask(Method::POST, &format!("/api/connections/detect?url={}", segment(url)), CHANGE).await
    }

    /// Has the daemon look at itself and its surroundings: `POST /api/diagnosis`.
    pub async fn diagnosis(&self) -> Result<Diagnosis, Error> {
        self.ask(Method::POST, "/api/diagnosis", PROBE).await
    }

    /// Asks `GET /api/auth`.
    pub async fn auth(&self) -> Result<AuthStatus, Error> {
        self.get("/api/auth").await
    }

    /// Begins a login in place of one that is under way: `POST /api/auth/login`.
    pub async fn begin_login(&self, flow: LoginFlow) -> Result<LoginBegun, Error> {
        let body = Map::from_iter([("flow".to_owned(), Value::from(flow.as_str()))]);
        self.send(Method::POST, "/api/auth/login", Some(&body), CHANGE).await
    }

    /// Asks `GET /api/auth/login`.
    pub async fn login_status(&self) -> Result<LoginStatus, Error> {
        self.get("/api/auth/login").await
    }

    /// Ends the login that is under way: `DELETE /api/auth/login`.
    pub async fn cancel_login(&self) -> Result<LoginStatus, Error> {
        self.ask(Method::DELETE, "/api/auth/login", ANSWER).await
    }

    /// Asks `GET /api/keys`.
    pub async fn keys(&self) -> Result<Keys, Error> {
        self.get("/api/keys").await
    }

    /// Has the relay make a key for an app: `POST /api/keys`.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<NewKey, Error> {
        self.send(Method::POST, "/api/keys", Some(&object(request)), RELAY).await
    }

    /// Has the relay take a key back: `DELETE /api/keys/{id}`.
    pub async fn revoke_key(&self, id: &str) -> Result<Key, Error> {
        self.ask(Method::DELETE, &format!("/api/keys/{}", segment(id)), RELAY).await
    }

    /// Asks `GET /api/credentials`.
    pub async fn credentials(&self) -> Result<StoredCredentials, Error> {
        self.get("/api/credentials").await
    }

    /// Has a secret kept for connections: `PUT /api/credentials/{name}`.
    pub async fn store_credential(&self, name: &str, secret: &str) -> Result<StoredCredential, Error> {
        let body = Map::from_iter([("secret".to_owned(), Value::from(secret))]);
        self.send(Method::PUT, &format!("/api/credentials/{}", segment(name)), Some(&body), CHANGE).await
    }

    /// Has a secret forgotten: `DELETE /api/credentials/{name}`.
    pub async fn remove_credential(&self, name: &str) -> Result<StoredCredential, Error> {
        self.ask(Method::DELETE, &format!("/api/credentials/{}", segment(name)), CHANGE).await
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
        let within = wait.unwrap_or_default().saturating_add(self.limit.unwrap_or(ANSWER));
        let patient = Self { limit: None, ..self.clone() };
        patient.ask(Method::POST, &path, within).await
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
        let body = self.exchange(method, path, body, within).await?;
        self.read(&body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| self.not_tunneld(format!("its answer is odd: {error}")))
    }

    /// Asks, and returns the body of a good answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Map<String, Value>>,
        within: Duration,
    ) -> Result<Vec<u8>, Error> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(self.deliver(request, within).await?.body)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.door.base()))
    }

    /// Asks, and returns a good answer.
    async fn deliver(&self, request: RequestBuilder, within: Duration) -> Result<Answer, Error> {
        let within = self.limit.unwrap_or(within);
        let response = request.timeout(within).send().await.map_err(|error| self.failed(error, within))?;
        self.receive(response, within).await
    }

    /// Asks for a connection to be upgraded, and returns what the daemon answered: 101, or why not.
    pub(crate) async fn ask_for_upgrade(
        &self,
        path: &str,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, Error> {
        let within = self.limit.unwrap_or(ANSWER);
        let asking = async {
            let response = self.request(Method::GET, path).headers(headers).send().await;
            let response = response.map_err(|error| self.failed(error, within))?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            self.receive(response, within).await?;
            Err(self.not_tunneld(format!("it does not upgrade {path}")))
        };
        // Not the request's own limit, which would end the upgraded connection too.
        let asked = tokio::time::timeout(within, asking).await;
        asked.unwrap_or_else(|_| Err(Error::Timeout { door: self.door.to_string(), after: within }))
    }

    /// Reads an answer, and returns a good one.
    async fn receive(&self, mut response: reqwest::Response, within: Duration) -> Result<Answer, Error> {
        let failed = |error| self.failed(error, within);
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
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        Ok(Answer { headers: std::mem::take(response.headers_mut()), body })
    }

    fn note_version(&self, daemon: &str) {
        let client = Self::version_of_client();
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        if daemon != client && matches!(*skew, Skew::None) {
            *skew = Skew::Found(VersionMismatch { client: client.to_owned(), daemon: daemon.to_owned() });
        }
    }

    pub(crate) fn failed(&self, error: reqwest::Error, within: Duration) -> Error {
        let door = self.door.to_string();
        // The address is in `door`, and that of a socket would mislead.
        let error = error.without_url();
        if error.is_timeout() {
            return Error::Timeout { door, after: if error.is_connect() { CONNECT } else { within } };
        }
        match io_error(&error) {
            Some(io::ErrorKind::PermissionDenied) => Error::NotAllowed { door, body: None },
            _ if error.is_connect() => {
                Error::NotRunning { door, step: self.door.step_to_run(), source: error }
            }
            _ => Error::Lost { door, source: error.into() },
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

    /// Returns the error for a connection that ended.
    pub(crate) fn lost(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Lost { door: self.door.to_string(), source: source.into() }
    }

    pub(crate) fn not_tunneld(&self, detail: String) -> Error {
        Error::NotTunneld { door: self.door.to_string(), detail }
    }
}

/// A good answer.
struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Returns a body. Empty for what is no object, which none of them is.
fn object(body: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(body) {
        Ok(Value::Object(body)) => body,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Returns a text as one segment of a path, or one value of a query.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_that_comes_later_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| directory.path().as_os_str().to_owned());
        let client = Client::new(Door::find(env)).unwrap().with_limit(ANSWER);
        assert!(client.found_anew(env).unwrap().is_none());
        let path = directory.path().join("tunneld/api.sock");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        let found = client.found_anew(env).unwrap().unwrap();
        assert_eq!((found.door(), found.limit), (&Door::Socket(path), Some(ANSWER)));
        // One that was named stays.
        let named = Client::new("http://127.0.0.1:1".parse().unwrap()).unwrap();
        assert!(named.found_anew(env).unwrap().is_none());
    }
}
