use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, Response};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::config::BrokerConfig;
use crate::error::Failure;
use crate::forward::{forward, refuse};
use crate::headers::{self, CONNECTION_ID, REQUEST_ID};
use crate::listing::list;
use crate::path::{Dialect, Endpoint};
use crate::permit::Running;
use crate::prefix;
use crate::route::Spread;
use crate::shared::Shared;
use crate::status::BackendStatus;

/// The door through which a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// The gateway: a program of the same user. A response that breaks off ends with an in-band error.
    Local,
    /// The tunnel: a remote caller. The remote path policy applies, and the relay writes in-band errors.
    Tunnel,
}

/// Knows the backends and forwards requests to them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    /// Whose turn it is among equals.
    turn: Arc<AtomicUsize>,
}

impl Broker {
    /// Starts the probers of `config`'s backends on `tracker`; they end when `shutdown` is cancelled.
    ///
    /// Requests are taken at once; one that comes before the first probe has ended waits for it. `shutdown`
    /// does not end requests that run: dropping their futures and bodies does.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn start(config: BrokerConfig, tracker: &TaskTracker, shutdown: CancellationToken) -> Self {
        Self { shared: Shared::start(config, tracker.clone(), shutdown), turn: Arc::default() }
    }

    /// Takes over a new configuration. Backends whose id, kind and URL stay keep their state and connections;
    /// requests that run keep what they started with.
    pub fn reconfigure(&self, config: BrokerConfig) {
        self.shared.reconfigure(config);
    }

    /// Answers one request. Never fails: what goes wrong is told in the caller's dialect.
    ///
    /// Dropping the future or the response's body closes the connection to the backend at once. The target may
    /// be in origin or in absolute form; of the latter only path and query are used.
    pub async fn handle<B>(&self, ingress: Ingress, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut call = Call {
            ingress,
            dialect: Dialect::of(target.path()),
            request_id: headers::request_id(&head.headers).cloned().unwrap_or_else(headers::new_request_id),
            pin: head
                .headers
                .get(CONNECTION_ID)
                .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
            model: None,
            manages: false,
            running: Running::new(&self.shared.running),
            method: head.method,
            target: target.clone(),
            headers: {
                headers::clean_request(&mut head.headers);
                head.headers
            },
        };
        call.headers.insert(REQUEST_ID, call.request_id.clone());
        if let Err(failure) = self.admit(&call) {
            return refuse(&call, failure);
        }
        match Endpoint::of(&call.method, target.path()) {
            Endpoint::Management => {
                call.manages = call.method != Method::GET && call.method != Method::HEAD;
                forward(&self.shared, call, prefix::unread(body), Spread::First).await
            }
            Endpoint::Unnamed => forward(&self.shared, call, prefix::unread(body), Spread::First).await,
            Endpoint::Named => {
                let stall = self.shared.settings().first_byte_timeout;
                let (mut payload, model) = match prefix::read(body, stall).await {
                    Ok(read) => read,
                    Err(failure) => return refuse(&call, failure),
                };
                let spread = match model {
                    Some(model) => {
                        let table = self.shared.table.load();
                        call.name(model, &mut payload, &table);
                        self.next_turn(table.backends.len())
                    }
                    None => Spread::First,
                };
                forward(&self.shared, call, payload, spread).await
            }
            listed => Box::pin(list(&self.shared, call, listed)).await,
        }
    }

    /// Follows the backends: a new snapshot after each probe and each change of the configuration.
    pub fn status(&self) -> watch::Receiver<Arc<Vec<BackendStatus>>> {
        self.shared.status.subscribe()
    }

    /// Returns the backends as they are now, with exact counts of running requests.
    pub fn snapshot(&self) -> Vec<BackendStatus> {
        self.shared.table.load().backends.iter().map(|backend| backend.status()).collect()
    }

    /// Has every backend probed at once rather than at its next turn. Does not wait.
    pub fn probe_now(&self) {
        for backend in &self.shared.table.load().backends {
            backend.upstream.order_probe();
        }
    }

    /// Counts the requests that run, from their arrival to the end of the response.
    pub fn in_flight(&self) -> usize {
        self.shared.running.load(Ordering::Relaxed)
    }

    /// Applies the remote path policy to what comes from the tunnel, and refuses what no backend has.
    fn admit(&self, call: &Call) -> Result<(), Failure> {
        if call.method == Method::CONNECT {
            return Err(Failure::MethodNotAllowed);
        }
        match call.ingress {
            Ingress::Local => {}
            Ingress::Tunnel => {
                let table = self.shared.table.load();
                let allowed = table.settings.remote_paths.allows(&call.method, call.target.as_str());
                allowed.map_err(|_| Failure::PathNotAllowed)?;
            }
        }
        // `OPTIONS *` asks about a server, and there are several.
        if call.target.path().starts_with('/') { Ok(()) } else { Err(Failure::NotFound) }
    }

    fn next_turn(&self, n_backends: usize) -> Spread {
        match n_backends {
            0 | 1 => Spread::Load(0),
            n => Spread::Load(self.turn.fetch_add(1, Ordering::Relaxed) % n),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Incoming;

    use super::*;

    fn is_send<T: Send>(_: impl FnOnce(Broker, Request<Incoming>) -> T) {}

    #[test]
    fn servers_can_run_it_on_any_thread() {
        is_send(|broker, request| async move { broker.handle(Ingress::Local, request).await });
    }
}
