use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::affinity::Trail;
use crate::alias::Meaning;
use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::class::EndpointClass;
use crate::config::BrokerConfig;
use crate::error::Failure;
use crate::explain::{Chance, Explanation, Query, explain};
use crate::finished::{CallerLabel, Finished};
use crate::forward::forward;
use crate::headers::{self, CONNECTION_ID, REQUEST_ID};
use crate::listing::list;
use crate::load::Tick;
use crate::memory::{self, KeptWarm, LoadOrder, MoveError, Moved};
use crate::meter::Meter;
use crate::metrics::MetricsSnapshot;
use crate::metrics::page::Page;
use crate::offer::{aliases, offered};
use crate::pass::{number, refuse};
use crate::path::{Dialect, Endpoint, is_about_a_model};
use crate::policy::RemotePaths;
use crate::prefix::{self, Payload};
use crate::route::{Draw, Spread};
use crate::scope::{CallerScope, Watched};
use crate::shared::Shared;
use crate::status::{AliasStatus, BackendStatus, OfferedModel};
use crate::tally::Tally;
use crate::track::{RunningRequest, Track};
use tokio::time::Instant;

/// The door through which a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ingress {
    /// The gateway: a program of the same user. A response that breaks off ends with an in-band error.
    Local,
    /// The tunnel: a remote caller. The remote path policy applies, and the relay writes in-band errors.
    Tunnel,
    /// The network: a caller with a key. Its [`CallerScope`] says what it reaches; without one, inference and listing.
    Lan,
}

impl Ingress {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Local, Self::Tunnel, Self::Lan];

    /// The name in records and metrics: `local`, `tunnel` or `lan`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tunnel => "tunnel",
            Self::Lan => "lan",
        }
    }
}

/// Knows the backends and forwards requests to them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
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
        Self { shared: Shared::start(config, tracker.clone(), shutdown) }
    }

    /// Takes over a new configuration. Backends whose id, profile, URL and credential stay keep their state and connections;
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
        let dialect = Dialect::of(target.path());
        let request_id = headers::request_id(&head.headers).cloned().unwrap_or_else(headers::new_request_id);
        let class = EndpointClass::of(&head.method, target.path());
        let caller = head.extensions.remove::<CallerLabel>();
        let tally = head.extensions.remove::<Tally>();
        let scope = head.extensions.remove::<Arc<CallerScope>>();
        let key = caller.as_ref().map(|caller| Arc::clone(&caller.0));
        let track = Track::new(request_id.clone(), ingress, class, target.clone(), key);
        let mut call = Box::new(Call {
            ingress,
            dialect,
            request_id,
            pin: head
                .headers
                .get(CONNECTION_ID)
                .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
            pinned_as: None,
            model: None,
            alias: None,
            trail: Trail::default(),
            manages: false,
            manager_chosen: false,
            // Read before the headers are cleaned.
            admitted: self.admit(ingress, scope.as_deref(), &head.method, &target, &head.headers),
            scope,
            meter: Meter::begin(&self.shared.books, track, caller, tally),
            method: head.method,
            target,
            headers: {
                headers::clean_request(&mut head.headers);
                head.headers
            },
        });
        call.headers.insert(REQUEST_ID, call.request_id.clone());
        let track = Arc::clone(call.meter.track());
        let mut answering = pin!(self.answer(call, body));
        let answer = poll_fn(|cx| track.poll_unless_cancelled(answering.as_mut(), cx)).await;
        answer.unwrap_or_else(|| {
            let mut response = Failure::Cancelled.response(dialect);
            number(response.headers_mut(), &track.request_id);
            response
        })
    }

    async fn answer<B>(&self, mut call: Box<Call>, body: B) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let Err(failure) = std::mem::replace(&mut call.admitted, Ok(())) {
            return refuse(&mut call, failure);
        }
        // Cheap, and it lets the call be changed while the endpoint refers to the path.
        let target = call.target.clone();
        match Endpoint::of(&call.method, target.path()) {
            Endpoint::Management => {
                call.manages = !call.only_reads();
                let (mut payload, model) = if is_about_a_model(target.path()) {
                    let stall = self.shared.settings().first_byte_timeout;
                    match Box::pin(prefix::read(body, stall, None)).await {
                        Ok(read) => read,
                        Err(failure) => return refuse(&mut call, failure),
                    }
                } else {
                    (prefix::unread(body), None)
                };
                call.meter.sent(payload.len());
                let table = self.shared.table.load();
                if let Some(model) = model {
                    if let Err(failure) = Meaning::managed(&table, &model.name, call.pin.as_deref()) {
                        return refuse(&mut call, failure);
                    }
                    call.name(model, &mut payload, &table);
                }
                // It may go to one that is not known to have it: only the server can tell.
                let model = call.model.take();
                if call.pin.is_none() {
                    call.pin = table.manager(call.ingress, model.as_deref()).map(str::to_owned);
                    call.manager_chosen = call.manages;
                }
                drop(table);
                forward(&self.shared, call, payload, Spread::First).await
            }
            Endpoint::Unnamed => forward(&self.shared, call, prefix::unread(body), Spread::First).await,
            Endpoint::Named => {
                let stall = self.shared.settings().first_byte_timeout;
                let room = self
                    .may_wait_for_model(&call)
                    .then(|| self.shared.room.share(call.ingress == Ingress::Local && call.scope.is_none()));
                let read = if call.scope.as_ref().is_some_and(|scope| scope.is_bounded()) {
                    // Boxed: what is rarer must not make the future of every request larger.
                    let (body, found) = Watched::new(Box::pin(body));
                    Box::pin(prefix::read(body, stall, room))
                        .await
                        .map_err(|failure| found.instead_of(failure))
                } else {
                    prefix::read(body, stall, room).await
                };
                let (mut payload, model) = match read {
                    Ok(read) => read,
                    Err(failure) => return refuse(&mut call, failure),
                };
                call.meter.sent(payload.len());
                let spread = match model {
                    Some(model) => {
                        let table = self.shared.table.load();
                        let span = call.name(model, &mut payload, &table);
                        let has_choice = table.backends.len() > 1 && call.pin.is_none();
                        if has_choice {
                            call.trail = self.trail(&payload, span);
                        }
                        spread(has_choice)
                    }
                    // What is not known to ask a model may well name none.
                    None if payload.is_too_long() && call.meter.track().class.is_some() => {
                        return refuse(&mut call, Failure::ModelTooLate);
                    }
                    None => Spread::First,
                };
                if let Some(scope) = &call.scope
                    && !call.alias.as_deref().is_some_and(|alias| scope.allows(alias))
                    && let Err(failure) =
                        scope.check_model(call.model.as_deref(), &self.shared.table.load().catalog)
                {
                    return refuse(&mut call, failure);
                }
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

    /// Returns the names that can be asked for now, those of models and aliases, by name.
    pub fn models(&self) -> Vec<OfferedModel> {
        self.models_for(Ingress::Local)
    }

    /// Like [`Broker::models`], those that a request may ask for that comes in there: what is in the cloud is not
    /// offered through the tunnel.
    pub fn models_for(&self, ingress: Ingress) -> Vec<OfferedModel> {
        offered(&self.shared.table.load(), ingress)
    }

    /// Returns all aliases, by name.
    pub fn aliases(&self) -> Vec<AliasStatus> {
        aliases(&self.shared.table.load())
    }

    /// Follows the models that are kept in memory.
    pub fn kept_warm(&self) -> watch::Receiver<Arc<Vec<KeptWarm>>> {
        self.shared.kept_warm.subscribe()
    }

    /// Has a model loaded, and waits until it is in memory.
    ///
    /// Waits no longer than [`first_byte_timeout`](BrokerConfig::first_byte_timeout); dropping the future, or
    /// cancelling it as a request, ends it. It is listed with the requests that run, and not measured.
    ///
    /// # Errors
    ///
    /// There is no such model, or its server cannot do it, did not want to or did not answer.
    pub async fn load(&self, order: &LoadOrder) -> Result<Moved, MoveError> {
        memory::load(&self.shared, order).await
    }

    /// Has a model taken out of memory, on one connection or on all that have it there.
    ///
    /// # Errors
    ///
    /// As with [`Broker::load`]; when several are asked, the first failure.
    pub async fn unload(&self, model: &str, connection: Option<&str>) -> Result<Vec<Moved>, MoveError> {
        memory::unload(&self.shared, model, connection).await
    }

    /// Has one backend probed, waits for the outcome, and returns how it is then. None when there is no such
    /// backend, or no longer.
    ///
    /// Waits no longer than 10 seconds; a backend that has said nothing by then is returned as it was last seen,
    /// as its `last_check` shows.
    pub async fn probe(&self, id: &str) -> Option<BackendStatus> {
        const LONGEST: Duration = Duration::from_secs(10);
        let upstream = Arc::clone(&self.shared.table.load().backend(id)?.upstream);
        let probed = upstream.probed(upstream.order_probe());
        // Timing out is one of the expected ends, and so is that the backend is removed meanwhile.
        drop(tokio::time::timeout(LONGEST, upstream.stop.run_until_cancelled(probed)).await);
        self.shared.table.load().backend(id).map(|backend| backend.status())
    }

    /// Counts the requests that run, from their arrival to the end of the response.
    pub fn in_flight(&self) -> usize {
        self.shared.books.in_flight()
    }

    /// Waits until the count of requests that run has changed since this call.
    pub fn load_changes(&self) -> impl Future<Output = ()> + Send + '_ {
        self.shared.books.load_changes()
    }

    /// Returns the requests that run, the oldest first.
    pub fn requests(&self) -> Vec<RunningRequest> {
        // Not under the lock of the books.
        let positions = self.shared.queue.positions();
        self.shared.books.requests(&positions)
    }

    /// Cancels the requests with this id; tells whether there were any. Callers choose ids, so there may be several.
    ///
    /// The connection to the backend is closed at once, even if the caller does not read. An answer that has begun
    /// ends as a failed one, with the code `cancelled`; before that the caller gets 503.
    pub fn cancel(&self, request_id: &str) -> bool {
        self.shared.books.cancel(request_id)
    }

    /// Cancels the requests of the caller with this [`CallerLabel`], as [`Broker::cancel`] does; tells whether there were
    /// any.
    pub fn cancel_caller(&self, caller: &str) -> bool {
        self.shared.books.cancel_caller(caller)
    }

    /// Returns what was measured since the start. Nothing more is added while
    /// [`metrics_enabled`](BrokerConfig::metrics_enabled) is off.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.books.snapshot()
    }

    /// Says where a request would go as things stand, and why. Sends nothing, waits for nothing.
    ///
    /// Among equals a draw decides: another request of the same kind may go elsewhere.
    pub fn explain(&self, query: &Query) -> Explanation {
        let chance = Chance { affinity: &self.shared.affinity, seed: rand::random(), now: Instant::now() };
        explain(&self.shared.table.load(), query, &chance)
    }

    /// Hands out a record of each LLM request that ends from now on. None when somebody has them already.
    ///
    /// The broker never waits: when `capacity` records wait to be read, the next one is dropped and counted.
    pub fn records(&self, capacity: usize) -> Option<mpsc::Receiver<Finished>> {
        self.shared.books.records(capacity)
    }

    /// Adds what is measured to a page of metrics, whose prefix comes before each name: `requests_total`,
    /// `tokens_total`, `bytes_total`, `requests_in_flight`, `queued`, `queue_wait_seconds`, `time_to_first_token_seconds`,
    /// `request_duration_seconds`, `backend_up`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Page(Arc::clone(&self.shared))));
    }

    /// Applies the path policies of door and caller, and refuses what no backend has.
    fn admit(
        &self,
        ingress: Ingress,
        scope: Option<&CallerScope>,
        method: &Method,
        target: &PathAndQuery,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        if *method == Method::CONNECT {
            return Err(Failure::MethodNotAllowed);
        }
        match (ingress, scope) {
            (Ingress::Local, _) | (Ingress::Lan, Some(_)) => {}
            (Ingress::Tunnel, _) => {
                let table = self.shared.table.load();
                let allowed = table.settings.remote_paths.allows(method, target.as_str());
                allowed.map_err(|_| Failure::PathNotAllowed)?;
            }
            (Ingress::Lan, None) => {
                let allowed = RemotePaths::Inference.allows(method, target.as_str());
                allowed.map_err(|_| Failure::PathNotInScope)?;
            }
        }
        if let Some(scope) = scope {
            scope.paths.allows(method, target.as_str()).map_err(|_| Failure::PathNotInScope)?;
            scope.check_head(method, target.path(), headers)?;
        }
        // `OPTIONS *` asks about a server, and there are several.
        if target.path().starts_with('/') { Ok(()) } else { Err(Failure::NotFound) }
    }

    /// Tells whether it matters which model a request names, so that the whole body may have to be read to find it: there
    /// is a choice, or the name may stand for another, or it is what the caller's key is for.
    fn may_wait_for_model(&self, call: &Call) -> bool {
        let table = self.shared.table.load();
        let pin = call.pin.as_deref();
        let able = table.backends.iter().filter(|backend| {
            pin.is_none_or(|pin| backend.config.id == pin)
                && backend.takes_from(call.ingress)
                && backend.speaks(call.dialect)
        });
        !table.settings.aliases.is_empty()
            || call.scope.as_ref().is_some_and(|scope| scope.is_bounded())
            || able.count() > 1
    }

    fn trail(&self, payload: &Payload, span: Range<usize>) -> Trail {
        let affinity = Arc::clone(&self.shared.affinity);
        match payload {
            Payload::Whole { bytes, .. } => Trail::new(affinity, bytes.clone(), span),
            // How much of it has come by now is chance: only a header can tell.
            Payload::Begun { .. } => Trail::new(affinity, Bytes::new(), 0..0),
        }
    }
}

/// Says how to choose for a request that names a model. Nothing is drawn where nothing is to be chosen.
fn spread(has_choice: bool) -> Spread {
    let (seed, now) = if has_choice { (rand::random(), Tick::of(Instant::now())) } else { (0, Tick::ZERO) };
    Spread::Load(Draw { seed, now })
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
