//! Asking a server to load or to unload a model.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{LoadOrder, MoveError, Moved};
use crate::alias::Meaning;
use crate::backend::Backend;
use crate::broker::Ingress;
use crate::catalog::ModelName;
use crate::config::RoutingPolicy;
use crate::dialect::Listed;
use crate::dialect::memory::{Ask, LOOK_AGAIN, Way, Wish, has_failed, instead, is_loading, way};
use crate::exchange::{ExchangeError, document, exchange};
use crate::headers::new_request_id;
use crate::health::Phase;
use crate::meter::Meter;
use crate::route::preferred;
use crate::shared::Shared;
use crate::table::{Route, Table};
use crate::track::Track;
use crate::upload::Upload;

/// A model on a backend.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) backend: Arc<Backend>,
    pub(super) name: Arc<ModelName>,
    pub(super) loaded: bool,
}

impl Seat {
    /// Tells whether it is not on the side that is asked first.
    pub(super) fn is_elsewhere(&self, policy: RoutingPolicy) -> bool {
        self.backend.profile().side != preferred(policy)
    }

    fn listed(&self) -> Option<&Listed> {
        let names = self.backend.names();
        let mut listed = self.backend.report.listing.iter().flat_map(|listing| &listing.models);
        listed.find(|model| model.is_called(names, &self.name.text))
    }

    fn way(&self, wish: Wish<'_>) -> Way {
        let listed = self.listed();
        // By its own name: a configured one may leave out the tag.
        let name = listed.map_or(&*self.name.text, |listed| &listed.name);
        way(self.backend.profile(), listed, name, wish)
    }
}

/// Loads a model on the backend that would be asked first of those that can.
pub(crate) async fn load(shared: &Arc<Shared>, order: &LoadOrder) -> Result<Moved, MoveError> {
    let table = shared.table.load_full();
    let seats = able(seats(&table, &order.model, order.connection.as_deref())?, Wish::Load(None));
    let policy = table.settings.routing_policy;
    let up = seats.iter().filter(|seat| seat.backend.is_up());
    let first = up.min_by_key(|seat| (seat.is_elsewhere(policy), seat.backend.config.priority, !seat.loaded));
    fulfil(shared, first.ok_or_else(|| down(&seats))?, Wish::Load(order.keep_alive.as_ref())).await
}

/// Unloads a model wherever it is in memory.
pub(crate) async fn unload(
    shared: &Arc<Shared>,
    model: &str,
    connection: Option<&str>,
) -> Result<Vec<Moved>, MoveError> {
    // It may have been loaded since the last probe.
    shared.refresh(|backend| connection.is_none_or(|id| backend.config.id == id)).await;
    let seats = seats(&shared.table.load(), model, connection)?;
    if !seats.iter().any(|seat| seat.backend.is_up()) {
        return Err(down(&seats));
    }
    let loaded = seats.into_iter().filter(|seat| seat.backend.is_up() && seat.loaded).collect();
    let mut moved = Vec::new();
    for seat in &able(loaded, Wish::Unload) {
        moved.push(fulfil(shared, seat, Wish::Unload).await?);
    }
    Ok(moved)
}

/// Leaves out those whose server has no way to grant a wish. If none has one, all are left, to say so.
pub(super) fn able(mut seats: Vec<Seat>, wish: Wish<'_>) -> Vec<Seat> {
    let can = |seat: &Seat| !matches!(seat.way(wish), Way::No(_));
    if seats.iter().any(can) {
        seats.retain(can);
    }
    seats
}

/// Finds the backends that have a model, in the order of the configuration; not empty.
pub(super) fn seats(table: &Table, name: &str, pin: Option<&str>) -> Result<Vec<Seat>, MoveError> {
    if let Some(id) = pin.filter(|id| table.backend(id).is_none()) {
        return Err(MoveError::UnknownConnection(id.to_owned()));
    }
    let meaning = Meaning::of(table, name, pin);
    let served = table.catalog.find(meaning.model).iter();
    let seats: Vec<Seat> = served
        .map(|served| Seat {
            backend: Arc::clone(&table.backends[served.backend]),
            name: Arc::clone(&served.name),
            loaded: served.loaded,
        })
        .filter(|seat| meaning.pin.is_none_or(|pin| pin == seat.backend.config.id))
        .collect();
    if seats.is_empty() { Err(MoveError::UnknownModel(name.to_owned())) } else { Ok(seats) }
}

fn down(seats: &[Seat]) -> MoveError {
    let backend = seats.first().map(|seat| &seat.backend);
    MoveError::Down {
        id: backend.map(|backend| backend.config.id.clone()).unwrap_or_default(),
        why: backend.and_then(|backend| backend.report.error.clone()),
    }
}

/// Has a wish granted by the backend, and its report brought up to date.
pub(super) async fn fulfil(shared: &Arc<Shared>, seat: &Seat, wish: Wish<'_>) -> Result<Moved, MoveError> {
    let begun = Instant::now();
    let loaded = matches!(wish, Wish::Load(_));
    let backend = &seat.backend;
    let id = || backend.config.id.clone();
    let moved = |changed| Moved {
        model: seat.name.text.to_string(),
        connection: id(),
        loaded,
        changed,
        took: begun.elapsed(),
    };
    let ask = match seat.way(wish) {
        Way::Ask(ask) => ask,
        Way::Already => return Ok(moved(false)),
        Way::No(why) => return Err(MoveError::Unable { id: id(), why }),
    };
    let limit = shared.settings().first_byte_timeout;
    let late = || MoveError::Late { id: id(), after: limit };
    // Listed with the requests, so that it is seen and can be cancelled; measured it is not: nobody asks the model.
    let path = if loaded { "/api/models/load" } else { "/api/models/unload" };
    let track = Track::new(new_request_id(), Ingress::Local, None, PathAndQuery::from_static(path), None);
    let meter = Meter::begin(&shared.books, track, None, None);
    meter.attempt(&Route { backend: Arc::clone(backend), model: Some(Arc::clone(&seat.name)) });
    meter.connected();
    let track = Arc::clone(meter.track());
    let granting = granted(shared, backend, &seat.name, ask, loaded);
    let unless_removed = async {
        let granted = backend.upstream.stop.run_until_cancelled(granting).await;
        granted.unwrap_or_else(|| Err(MoveError::Broken(id())))
    };
    let mut granted = pin!(tokio::time::timeout(limit, unless_removed));
    let granted = poll_fn(|cx| track.poll_unless_cancelled(granted.as_mut(), cx)).await;
    let outcome = match granted {
        Some(Ok(outcome)) => outcome,
        Some(Err(_elapsed)) => Err(late()),
        None => Err(MoveError::Cancelled),
    };
    // Whatever came of it, what is in memory may be other models than before.
    let probed = backend.upstream.probed(backend.upstream.order_probe());
    drop(tokio::time::timeout(crate::shared::REFRESH_WAIT, probed).await);
    let took_ms = begun.elapsed().as_millis();
    match &outcome {
        Ok(()) => {
            info!(backend = %backend.config.id, model = &*seat.name.text, loaded, took_ms, "model moved")
        }
        Err(error) => {
            let error = error.code();
            debug!(backend = %backend.config.id, model = &*seat.name.text, error, took_ms, "model not moved");
        }
    }
    outcome.map(|()| moved(seat.loaded != loaded))
}

/// Asks, and waits until the server has done what it was asked.
async fn granted(
    shared: &Shared,
    backend: &Backend,
    name: &ModelName,
    ask: Ask,
    loaded: bool,
) -> Result<(), MoveError> {
    let mut ask = ask;
    loop {
        let (status, answer) = post(shared, backend, &ask).await?;
        if status.is_success() {
            break;
        }
        match instead(&ask, status, &answer) {
            Some(other) => ask = other,
            None => {
                let message = serde_json::from_slice::<serde_json::Value>(&answer).ok();
                let message = message.as_ref().and_then(|answer| {
                    let error = answer.get("error")?;
                    error.as_str().or_else(|| error.get("message")?.as_str())
                });
                let id = backend.config.id.clone();
                return Err(MoveError::Refused { id, status, message: message.map(one_line) });
            }
        }
    }
    if ask.answers_when_done {
        return Ok(());
    }
    let mut begun = false;
    loop {
        let probed = backend.upstream.probed(backend.upstream.order_probe());
        probed.await;
        let report = backend.upstream.report();
        if matches!(report.phase, Phase::Down(_) | Phase::Unauthorised) {
            // Its list is from before.
            return Err(MoveError::Down { id: backend.config.id.clone(), why: report.error.clone() });
        }
        let mut listed = report.listing.iter().flat_map(|listing| &listing.models);
        let listed = listed.find(|model| model.name == *name.text);
        if listed.is_some_and(|model| model.loaded == loaded) {
            return Ok(());
        }
        // The note of an earlier attempt is gone once it has begun this one, which it has when it answers.
        if loaded && listed.is_some_and(|model| has_failed(model, begun)) {
            return Err(MoveError::Failed(backend.config.id.clone()));
        }
        begun |= listed.is_some_and(is_loading);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Keeps of a server's words what a sentence can hold.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 300;
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Posts a small document on a connection of its own, which ends with it.
async fn post(shared: &Shared, backend: &Backend, ask: &Ask) -> Result<(StatusCode, Bytes), MoveError> {
    let settings = shared.settings();
    let upstream = &backend.upstream;
    let id = || backend.config.id.clone();
    let connecting = upstream.connect(settings.connect_timeout);
    let mut conn =
        connecting.await.map_err(|error| MoveError::Unreachable { id: id(), why: error.to_string() })?;
    let target = PathAndQuery::try_from(&*ask.path).ok().and_then(|path| upstream.origin.target(&path));
    let target = target.ok_or_else(|| MoveError::Broken(id()))?;
    let body = Bytes::from(ask.body.clone());
    let length = body.len();
    let mut request = Request::new(Upload::Whole(body, None));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = target.into();
    let headers = request.headers_mut();
    headers.insert(HOST, upstream.origin.authority.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length.into());
    let authorization = upstream.authorization();
    let authorization =
        authorization.map_err(|why| MoveError::Unreachable { id: id(), why: why.to_string() })?;
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization);
    }
    let limit = settings.first_byte_timeout;
    let response = exchange(&mut conn, request, None, limit, None).await.map_err(|error| match error {
        ExchangeError::Silent | ExchangeError::Hangs => MoveError::Late { id: id(), after: limit },
        ExchangeError::Lost
        | ExchangeError::NotHttp
        | ExchangeError::UploadStalled
        | ExchangeError::UploadFailed => MoveError::Broken(id()),
    })?;
    let (head, body) = response.into_parts();
    let body = document(&mut conn, body).await.map_err(|_| MoveError::Broken(id()))?;
    Ok((head.status, body))
}

impl MoveError {
    /// The machine-readable reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel(_) => "model_not_found",
            Self::UnknownConnection(_) => "unknown_connection",
            Self::Down { .. } => "backend_down",
            Self::Unable { .. } => "not_supported",
            Self::Unreachable { .. } => "backend_unreachable",
            Self::Refused { .. } => "backend_rejected",
            Self::Failed(_) => "backend_rejected",
            Self::Broken(_) => "backend_lost",
            Self::Late { .. } => "first_byte_timeout",
            Self::Cancelled => "cancelled",
        }
    }
}
