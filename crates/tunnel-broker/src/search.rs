//! What one request has found out about its backends, and whether it looks further.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::debug;

use crate::attempt::{Another, AttemptError, Blame};
use crate::body::Body;
use crate::budget::ASK_AGAIN;
use crate::call::Call;
use crate::conn::Conn;
use crate::connect::ConnectError;
use crate::decide::wanted;
use crate::error::Failure;
use crate::kept::{self, Kept};
use crate::loading::{may_say_loading, says_loading};
use crate::pass::{pass_kept, refuse};
use crate::path::Dialect;
use crate::permit::Permit;
use crate::profile::Side;
use crate::route::{NoRoute, Spread, Standing};
use crate::shared::Shared;
use crate::table::{Route, Tried};
use crate::track::RequestState;
use crate::upstream::Upstream;
use crate::wait::Wait;

/// The search of one request for a backend that answers it.
#[derive(Default)]
pub(crate) struct Search {
    /// What is passed over.
    pub(crate) tried: Tried,
    /// Those of it that get another chance when nobody else is left: they were slow to accept, and get all the time
    /// there is then, or load the model.
    later: Vec<Arc<Upstream>>,
    patient: bool,
    /// What the caller gets if nothing better is found.
    told: Option<Told>,
    /// Until when a server is asked again that answers that it loads its model.
    loads_until: Option<Instant>,
}

/// Pause before a backend is asked again that was loading its model, whatever its probes say: if they know nothing
/// of the model, this is what keeps all that wait from asking again and again.
const WARMING_PAUSE: Duration = Duration::from_secs(1);

/// An attempt, and all that matters for the question whether another may follow.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) call: &'a Call,
    /// Whether it may be sent again although a server has got it.
    pub(crate) again: bool,
    pub(crate) spread: Spread,
    pub(crate) route: &'a Route,
}

/// The bad news that a caller gets.
pub(crate) enum Told {
    /// In our own words.
    Refused(Failure),
    /// In the backend's.
    Answered(Box<Kept>),
}

/// What is done with a response that may be other than the last word.
pub(crate) enum Weighed {
    Pass(Box<(Response<Incoming>, Conn, Permit)>),
    Again,
    Tell(Told),
}

impl Search {
    /// Tells whether a backend is passed over for now that is slow to accept.
    pub(crate) fn is_hasty(&self) -> bool {
        !self.patient
    }

    /// Looks for a way on when there is no backend to ask: gives those another chance that may only need time.
    /// Failing that, returns what to tell the caller.
    pub(crate) fn go_on(&mut self, failure: Failure) -> Result<(), Told> {
        if !self.later.is_empty() {
            let later = std::mem::take(&mut self.later);
            self.tried.servers.retain(|tried| !later.iter().any(|later| Arc::ptr_eq(later, tried)));
            self.patient = true;
            return Ok(());
        }
        Err(self.told.take().unwrap_or(Told::Refused(failure)))
    }

    /// Takes in an attempt that brought no response. Returns what to tell the caller, or none when another backend
    /// is to be asked.
    pub(crate) async fn failed(
        &mut self,
        asked: &Asked<'_>,
        error: &AttemptError,
        failure: Failure,
        permit: Permit,
    ) -> Option<Told> {
        let upstream = &asked.route.backend.upstream;
        match error.blame() {
            Blame::Nobody => drop(permit),
            // Its prober should know before its next turn.
            Blame::Failed => {
                permit.failed();
                upstream.order_check();
            }
            Blame::Away => {
                // First: its slot is handed to the next one that waits, and there is nothing to be had.
                upstream.outcomes.unreachable();
                permit.unused();
                upstream.order_probe();
            }
        }
        if error.blame() != Blame::Nobody {
            asked.call.meter.attempt_failed();
        }
        self.tried.servers.push(Arc::clone(upstream));
        if let AttemptError::Connect { error: ConnectError::Timeout { .. }, hasty: true } = error {
            self.later.push(Arc::clone(upstream));
        }
        let again = match error.another() {
            Another::Never => false,
            Another::Free => true,
            Another::OnBudget => asked.again && self.has_other(asked) && asked.waits_for_attempt().await,
        };
        debug!(
            request_id = ?asked.call.request_id, backend = %asked.route.backend.config.id,
            error = failure.code(), again, "attempt failed"
        );
        self.note(Told::Refused(failure));
        if again { None } else { self.told.take() }
    }

    /// Decides about a response that may be other than the last word.
    pub(crate) async fn weigh(
        &mut self,
        asked: &Asked<'_>,
        response: Response<Incoming>,
        mut conn: Conn,
        permit: Permit,
    ) -> Weighed {
        let Asked { shared, call, route, .. } = *asked;
        let backend = &route.backend;
        let (head, body) = response.into_parts();
        let length = body.size_hint().exact();
        let status = head.status;
        let has_credential = backend.upstream.credential().is_some();
        match status {
            // No caller's credential goes to a backend, so it is ours that is refused: its prober will see.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_credential => {
                drop(permit);
                return self.unauthorised(asked, status);
            }
            StatusCode::UNAUTHORIZED => {
                backend.upstream.order_check();
            }
            _ => {}
        }
        let lookable = may_say_loading(&backend.config.profile, &head, length);
        let keepable = length.is_none_or(|length| length <= kept::LONGEST as u64);
        // What may say that the model is being loaded is read first: that takes nothing out of the budget.
        let decided = (!lookable).then(|| keepable && self.moves_on(asked, status));
        if decided == Some(false) {
            let response = Response::from_parts(head, body);
            return Weighed::Pass(Box::new((response, conn, permit)));
        }
        let Some((body, whole)) = kept::read(&mut conn, body).await else {
            permit.failed();
            call.meter.attempt_failed();
            let failure = Failure::Lost(backend.config.id.clone());
            let again = decided.unwrap_or_else(|| self.moves_on(asked, status));
            return self.put_aside(asked, Told::Refused(failure), again);
        };
        let loading = lookable && whole && says_loading(&body);
        let kept = Kept { route: route.clone(), head, body, whole };
        let told = Told::Answered(Box::new(kept));
        if loading {
            // Of one model among others its probes say nothing, and all that ask for the others are served meanwhile.
            let noted = backend.has_one_model();
            if noted {
                backend.upstream.note_loading();
            }
            backend.upstream.pool.put(conn, shared.settings().pool_size);
            permit.unused();
            self.keep_side(asked);
            let now = Instant::now();
            let asked_before = self.loads_until.is_some();
            let until = *self.loads_until.get_or_insert(now + shared.settings().first_byte_timeout);
            if !asked.again || now >= until {
                return Weighed::Tell(told);
            }
            let has_other = self.has_other_but(asked) && !self.patient;
            if has_other && (asked_before || !noted) {
                // Its probes do not tell when it is ready. To come back to it again and again would cost the place in
                // the others' queues.
                self.tried.servers.push(Arc::clone(&backend.upstream));
                self.later.push(Arc::clone(&backend.upstream));
            } else if !has_other {
                // It is asked again when it is ready.
                let wait = Wait::begin(call.meter.track());
                wait.show(None, vec![Arc::clone(&backend.label)]);
                tokio::time::sleep(WARMING_PAUSE).await;
                if self.has_free_other(asked) {
                    self.tried.servers.push(Arc::clone(&backend.upstream));
                    self.later.push(Arc::clone(&backend.upstream));
                }
            }
            self.note(told);
            return Weighed::Again;
        }
        let again = decided.unwrap_or_else(|| self.moves_on(asked, status));
        debug!(
            request_id = ?call.request_id, backend = %backend.config.id, status = status.as_u16(), again,
            "backend refuses"
        );
        if !whole || status.is_server_error() {
            call.meter.attempt_failed();
        }
        if !whole {
            permit.failed();
        } else if status.is_server_error() {
            permit.answered_badly(conn)
        } else {
            permit.succeeded(conn)
        }
        self.put_aside(asked, told, again)
    }

    /// Takes in that a backend refuses our credential. No caller can do anything about that, and some servers' words
    /// repeat a part of it: they end here.
    ///
    /// It is no failure of the server, which would close it to all: a gateway refuses one model of many so. If the
    /// credential is good for nothing its prober sees that.
    fn unauthorised(&mut self, asked: &Asked<'_>, status: StatusCode) -> Weighed {
        let backend = &asked.route.backend;
        let id = &backend.config.id;
        debug!(
            request_id = ?asked.call.request_id, backend = %id, status = status.as_u16(),
            "backend refuses our credential"
        );
        // It has answered: a breaker that waited for that must not wait on.
        backend.upstream.outcomes.succeeded();
        backend.upstream.order_check();
        asked.call.meter.attempt_failed();
        self.keep_side(asked);
        let again = asked.again && self.has_other_but(asked) && asked.takes_attempt();
        self.put_aside(asked, Told::Refused(Failure::Unauthorised(id.clone())), again)
    }

    /// Passes over the cloud from now on if the backend that has answered is local. It is up, after all; were each
    /// error of a server at home enough, one bad request would send its prompt out of the house.
    fn keep_side(&mut self, asked: &Asked<'_>) {
        self.tried.stays_home |= asked.route.backend.profile().side == Side::Local;
    }

    fn put_aside(&mut self, asked: &Asked<'_>, told: Told, again: bool) -> Weighed {
        self.tried.servers.push(Arc::clone(&asked.route.backend.upstream));
        self.note(told);
        match self.told.take() {
            Some(told) if !again => Weighed::Tell(told),
            told => {
                self.told = told;
                Weighed::Again
            }
        }
    }

    /// Tells whether another backend is asked rather than a response passed on; takes an attempt of the budget.
    fn moves_on(&mut self, asked: &Asked<'_>, status: StatusCode) -> bool {
        let call = asked.call;
        let free = match status {
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
                false
            }
            // A path that not every server has, on no model in particular: the next one may have it. No server
            // has done anything for it.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
                if call.model.is_none() && call.dialect != Dialect::Ollama =>
            {
                true
            }
            // A 504 is the end of a wait that was long enough, with the model perhaps still at work.
            _ => return false,
        };
        self.keep_side(asked);
        asked.again && self.has_other_but(asked) && (free || asked.takes_attempt())
    }

    /// Tells whether a backend is left that could be asked.
    fn has_other(&self, asked: &Asked<'_>) -> bool {
        let Asked { shared, call, spread, .. } = *asked;
        can_take(shared.table.load().route(&wanted(call, spread, &self.tried)))
    }

    /// The same before the backend that was asked is among those that were tried.
    fn has_other_but(&self, asked: &Asked<'_>) -> bool {
        let Asked { shared, call, spread, route, .. } = *asked;
        let tried = with(&self.tried, &route.backend.upstream);
        can_take(shared.table.load().route(&wanted(call, spread, &tried)))
    }

    /// Tells whether one of those that are left would take the request now, without a wait.
    fn has_free_other(&self, asked: &Asked<'_>) -> bool {
        let Asked { shared, call, spread, route, .. } = *asked;
        let tried = with(&self.tried, &route.backend.upstream);
        shared.table.load().route(&wanted(call, spread, &tried)).is_ok()
    }

    /// Keeps what the caller gets in the end. A server's own answer says more than we can, and the first is that of
    /// the server that was the best choice; of our own words the last are the news.
    fn note(&mut self, told: Told) {
        if !matches!(self.told, Some(Told::Answered(_))) {
            self.told = Some(told);
        }
    }
}

/// How often a request asks for an attempt whose backend has died under it. It has no answer that it could pass on
/// instead, and when a server dies with many requests on it their turn comes within a few seconds.
const ASKS: u32 = 4;

impl Asked<'_> {
    async fn waits_for_attempt(&self) -> bool {
        for _ in 1..ASKS {
            if self.takes_attempt() {
                return true;
            }
            self.call.meter.track().enter(RequestState::Waiting);
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.takes_attempt()
    }

    fn takes_attempt(&self) -> bool {
        self.shared.budget.take(Instant::now())
    }
}

impl Told {
    /// Makes the caller's response of it.
    pub(crate) fn answer(self, shared: &Shared, mut call: Box<Call>) -> Response<Body> {
        match self {
            Self::Answered(kept) => pass_kept(call, *kept),
            Self::Refused(failure) => {
                let table = shared.table.load();
                let known = call.model.as_deref().and_then(|model| table.catalog.find(model).first());
                if let Some(served) = known {
                    call.meter.meant(&served.name);
                }
                refuse(&mut call, failure)
            }
        }
    }
}

/// Tells whether there is a backend that takes the request, now or when it is its turn.
fn can_take(route: Result<Route, NoRoute>) -> bool {
    matches!(route, Ok(_) | Err(NoRoute::Full(_)))
}

/// Tells whether a backend in good health could be asked instead of `upstream`.
pub(crate) fn has_healthy_other(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &Tried,
    upstream: &Arc<Upstream>,
) -> bool {
    let tried = with(tried, upstream);
    let route = shared.table.load().route(&wanted(call, spread, &tried));
    route.is_ok_and(|route| {
        let backend = &route.backend;
        backend.upstream.standing(&backend.report, Instant::now()) == Standing::Healthy
    })
}

fn with(tried: &Tried, upstream: &Arc<Upstream>) -> Tried {
    let mut tried = tried.clone();
    tried.servers.push(Arc::clone(upstream));
    tried
}
