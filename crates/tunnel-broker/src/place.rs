//! A backend for a request, and the right to use it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::{Key, Ticket};
use crate::call::Call;
use crate::decide::{decide, wanted};
use crate::error::Failure;
use crate::permit::Permit;
use crate::queue::{Crowd, Queued};
use crate::route::{NoRoute, Spread};
use crate::shared::Shared;
use crate::status::BackendStatus;
use crate::table::{Route, Table, Tried};
use crate::upstream::Upstream;
use crate::wait::Wait;

/// Where a request goes, with a slot that is its own.
pub(crate) struct Place {
    pub(crate) route: Route,
    pub(crate) permit: Permit,
}

/// Finds a backend that has a free slot. Waits for one where all that would do have none, or load their model.
pub(crate) async fn place(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &Tried,
) -> Result<Place, Failure> {
    match look(shared, call, spread, tried).await? {
        Found::Place(place) => Ok(place),
        Found::Full | Found::Warming(_) => Box::pin(Waiter::new(shared, call, spread, tried).wait()).await,
    }
}

/// When to come again if as many as may already wait for a model to be loaded.
const LOADING_RETRY: Duration = Duration::from_secs(10);

enum Found {
    Place(Place),
    /// All that would take it are full.
    Full,
    /// The only one that would take it loads its model.
    Warming(Arc<Upstream>),
}

async fn look(shared: &Shared, call: &Call, spread: Spread, tried: &Tried) -> Result<Found, Failure> {
    let failure = match decide(shared, call, spread, tried).await {
        Ok(route) => {
            let keep = shared.settings().pool_size;
            if !call.asks() {
                let permit = Permit::beside(&route.backend, keep);
                return Ok(Found::Place(Place { route, permit }));
            }
            return Ok(match Permit::acquire(&route.backend, keep) {
                Some(permit) => Found::Place(Place { route, permit }),
                // Somebody else was quicker.
                None => Found::Full,
            });
        }
        Err(failure) => failure,
    };
    let table = shared.table.load();
    match table.route(&wanted(call, spread, tried)) {
        // A slot became free in this moment: whoever waits has been told, and the queue knows whose turn it is.
        Ok(_) | Err(NoRoute::Full(_)) => Ok(Found::Full),
        Err(NoRoute::Warming(index)) => Ok(Found::Warming(Arc::clone(&table.backends[index].upstream))),
        Err(
            NoRoute::Nobody
            | NoRoute::WrongDialect(_)
            | NoRoute::LocalOnly(_)
            | NoRoute::Pending
            | NoRoute::Unauthorised(_)
            | NoRoute::Down(_),
        ) => Err(failure),
    }
}

/// One request that waits. Dropping it, at any time, leaves nothing behind.
struct Waiter<'a> {
    shared: &'a Shared,
    call: &'a Call,
    spread: Spread,
    tried: &'a Tried,
    queued: Option<Queued>,
    /// Its ticket, kept while it waits for a model and when it has lost its place: it stays as old as it is.
    ticket: Option<Ticket>,
    /// When it has waited too long for a slot; known once it has begun to.
    slot_by: Option<Instant>,
    /// The same for a model that is loaded.
    model_by: Option<Instant>,
    wait: Wait<'a>,
}

impl<'a> Waiter<'a> {
    fn new(shared: &'a Shared, call: &'a Call, spread: Spread, tried: &'a Tried) -> Self {
        let wait = Wait::begin(call.meter.track());
        Self { shared, call, spread, tried, queued: None, ticket: None, slot_by: None, model_by: None, wait }
    }

    async fn wait(mut self) -> Result<Place, Failure> {
        let mut changes = self.shared.status.subscribe();
        loop {
            // What changes from here on is seen below, at once.
            changes.mark_unchanged();
            match self.look().await? {
                Found::Place(place) => return Ok(place),
                Found::Full => {
                    self.line_up()?;
                    if self.queued.is_none() {
                        // All has changed since it looked.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    self.serve();
                    let next_trial = self.table().next_trial(&wanted(self.call, self.spread, self.tried));
                    // Until things change; a slot that is granted, and the deadline, are looked at there.
                    let change = async {
                        match next_trial {
                            // At most one ends as expected: in both cases it looks again.
                            Some(at) => drop(tokio::time::timeout_at(at, changes.changed()).await),
                            None => drop(changes.changed().await),
                        }
                    };
                    if let Some(place) = self.unless_granted(change).await?.1 {
                        return Ok(place);
                    }
                }
                Found::Warming(upstream) => {
                    self.await_model(&upstream, &mut changes).await?;
                    self.stand_by().await;
                }
            }
        }
    }

    /// Looks where the request could go now. A slot that is granted meanwhile is not kept waiting.
    async fn look(&mut self) -> Result<Found, Failure> {
        let (shared, call, spread, tried) = (self.shared, self.call, self.spread, self.tried);
        loop {
            match self.unless_granted(look(shared, call, spread, tried)).await? {
                (_, Some(place)) => return Ok(Found::Place(place)),
                (Some(found), None) => return found,
                // It has lost its place.
                (None, None) => {}
            }
        }
    }

    /// Awaits `other`, or the end of the wait for a slot. Neither: it no longer waits for one.
    async fn unless_granted<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<(Option<T>, Option<Place>), Failure> {
        let Some(queued) = &mut self.queued else { return Ok((Some(other.await), None)) };
        let slot_by = *self.slot_by.get_or_insert_with(Instant::now);
        let permit = tokio::select! {
            // A slot that is there is taken, however late it is.
            biased;
            permit = queued.slot() => permit,
            other = other => return Ok((Some(other), None)),
            () = tokio::time::sleep_until(slot_by) => return Err(self.timed_out()),
        };
        self.queued = None;
        Ok((None, permit.and_then(|permit| self.claim(permit))))
    }

    /// Waits for a change while the only backend that would do loads its model.
    async fn await_model(
        &mut self,
        upstream: &Arc<Upstream>,
        changes: &mut watch::Receiver<Arc<Vec<BackendStatus>>>,
    ) -> Result<(), Failure> {
        self.queued = None;
        self.ticket.get_or_insert_with(|| self.shared.queue.ticket());
        // The wait for a slot, if there is to be one, begins when the model is there.
        self.slot_by = None;
        self.wait.end_slot();
        let settings = self.shared.settings();
        let limit = settings.first_byte_timeout;
        let model_by = *self.model_by.get_or_insert_with(|| Instant::now() + limit);
        let Some(_place) = upstream.slots.await_model(settings.queue.max_waiting) else {
            // Its slots are not what it lacks.
            let crowd =
                Crowd { waiting: upstream.slots.n_queued(), slots: usize::MAX, wait: Some(LOADING_RETRY) };
            return Err(Failure::QueueFull { at: vec![self.label(upstream).to_string()], crowd });
        };
        let id = self.label(upstream);
        self.wait.show(None, vec![Arc::clone(&id)]);
        match tokio::time::timeout_at(model_by, changes.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::StillLoading { id: id.to_string(), after: limit }),
        }
    }

    /// Takes a place in line after the wait for a model, before any slot is taken: all that waited are woken at once, and
    /// get the slots in the order in which they came, not in that in which they wake.
    async fn stand_by(&mut self) {
        // Without room it looks as a newcomer does.
        if self.line_up().is_ok() && self.queued.is_some() {
            tokio::task::yield_now().await;
            self.serve();
        }
    }

    fn serve(&self) {
        if let Some(queued) = &self.queued {
            self.shared.queue.serve(queued.upstreams());
        }
    }

    /// Gets into the lines of the backends that would do now. What is free there is for [`Self::serve`] to hand out.
    ///
    /// One that waits already stays on its side; a newcomer waits on the first side that has room. Where none would do
    /// any more it waits nowhere.
    fn line_up(&mut self) -> Result<(), Failure> {
        let settings = self.shared.settings();
        let room = settings.queue.max_waiting;
        let upstreams = |side: Vec<Route>| -> Vec<Arc<Upstream>> {
            side.iter().map(|route| Arc::clone(&route.backend.upstream)).collect()
        };
        let sides: Vec<Vec<Arc<Upstream>>> = self.sides().into_iter().map(upstreams).collect();
        if sides.is_empty() {
            self.queued = None;
            return Ok(());
        }
        let stays = self.queued.as_mut().is_some_and(|queued| {
            let own = sides.iter().find(|side| queued.wants_one_of(side));
            own.is_some_and(|side| queued.change(side.clone(), room).is_ok())
        });
        if !stays {
            self.queued = None;
            let key = Key { ingress: self.call.ingress, caller: self.call.meter.caller() };
            let queue = &self.shared.queue;
            let ticket = self.ticket;
            let entered = sides.iter().find_map(|side| queue.enter(ticket, &key, side.clone(), room).ok());
            let Some(queued) = entered else { return Err(self.crowded(&sides.concat())) };
            self.wait.note_position(queued.position);
            self.ticket = Some(queued.ticket);
            self.queued = Some(queued);
        }
        if let Some(queued) = &self.queued {
            let ids = queued.upstreams().iter().map(|upstream| self.label(upstream)).collect();
            self.wait.show(Some(queued.ticket), ids);
        }
        if self.slot_by.is_none() {
            // What it has waited before, for the slot of another backend that failed it then, counts.
            let left = settings.queue.max_wait.saturating_sub(self.wait.begin_slot());
            self.slot_by = Some(Instant::now() + left);
        }
        Ok(())
    }

    fn crowded(&self, upstreams: &[Arc<Upstream>]) -> Failure {
        let crowd = self.shared.queue.crowd(upstreams);
        Failure::QueueFull { at: self.names(upstreams), crowd }
    }

    fn timed_out(&self) -> Failure {
        let upstreams = self.queued.as_ref().map(|queued| queued.upstreams()).unwrap_or_default();
        let crowd = self.shared.queue.crowd(upstreams);
        Failure::QueueTimeout {
            at: self.names(upstreams),
            after: self.shared.settings().queue.max_wait,
            crowd,
        }
    }

    /// Uses a slot that was granted, if it still is one that the request would choose. If not, the next one gets it.
    fn claim(&self, permit: Permit) -> Option<Place> {
        let is_its = |route: &Route| Arc::ptr_eq(&route.backend.upstream, permit.upstream());
        let route = self.sides().into_iter().flatten().find(is_its)?;
        Some(Place { route, permit: permit.keeping(self.shared.settings().pool_size) })
    }

    /// Returns the backends that would take the request, a list for each side, in the order of preference.
    fn sides(&self) -> Vec<Vec<Route>> {
        let routes = self.table().waiting_candidates(&wanted(self.call, self.spread, self.tried));
        let side = |route: &Route| route.backend.config.profile.side;
        routes.chunk_by(|a, b| side(a) == side(b)).map(<[Route]>::to_vec).collect()
    }

    fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
    }

    fn names(&self, upstreams: &[Arc<Upstream>]) -> Vec<String> {
        upstreams.iter().map(|upstream| self.label(upstream).to_string()).collect()
    }

    /// Returns a backend's id; empty for one that has just been removed.
    fn label(&self, upstream: &Arc<Upstream>) -> Arc<str> {
        let table = self.table();
        let backend = table.backends.iter().find(|backend| Arc::ptr_eq(&backend.upstream, upstream));
        backend.map_or_else(|| "".into(), |backend| Arc::clone(&backend.label))
    }
}
