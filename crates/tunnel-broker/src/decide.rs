//! Which backend a request goes to, as things stand at this moment.

use http::StatusCode;
use tokio::time::Instant;

use crate::affinity::Recall;
use crate::call::Call;
use crate::error::Failure;
use crate::load::Tick;
use crate::path::Dialect;
use crate::route::{NoRoute, Spread};
use crate::shared::Shared;
use crate::table::{Route, Table, Tried, Wanted};
use crate::upstream::Upstream;

/// Finds a backend; waits for a first probe, or asks anew what there is, where that may help.
pub(crate) async fn decide(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &Tried,
) -> Result<Route, Failure> {
    let mut waited = false;
    let mut refreshed = !tried.servers.is_empty();
    let pin = call.pin.as_deref();
    let concerns = |id: &str| pin.is_none_or(|pin| pin == id);
    loop {
        let wanted = wanted(call, spread, tried);
        let table = shared.table.load();
        let no_route = match table.route(&wanted) {
            Ok(route) => return Ok(route),
            Err(no_route) => no_route,
        };
        // One that is closed to this door is none for it.
        if pin.is_some_and(|pin| table.backend(pin).is_none_or(|backend| !backend.takes_from(call.ingress))) {
            // Whoever asked for a model is told of it, and not which connections there are.
            return Err(match &call.pinned_as {
                Some(name) => Failure::UnknownModel(shorten(name)),
                None => Failure::UnknownConnection(shorten(pin.unwrap_or_default())),
            });
        }
        if table.backends.is_empty() {
            return Err(Failure::NoBackend);
        }
        match no_route {
            NoRoute::Pending if !waited => {
                waited = true;
                let limit = table.settings.connect_timeout;
                drop(table);
                let known = |table: &Table| !matches!(table.route(&wanted), Err(NoRoute::Pending));
                Box::pin(shared.wait_until(limit, known)).await;
            }
            // A model may just have been pulled, and a server may just have come back.
            NoRoute::Nobody | NoRoute::Down(_) if !refreshed => {
                refreshed = true;
                drop(table);
                Box::pin(shared.refresh(|backend| concerns(&backend.config.id))).await;
            }
            no_route => return Err(explain(&table, call, no_route)),
        }
    }
}

pub(crate) fn wanted<'a>(call: &'a Call, spread: Spread, tried: &'a Tried) -> Wanted<'a> {
    let model = call.model.as_deref();
    let recall = match (spread, model) {
        (Spread::Load(draw), Some(model)) => {
            Some(Recall { trail: &call.trail, headers: &call.headers, model, now: draw.now })
        }
        (Spread::Load(_), None) | (Spread::First, _) => None,
    };
    Wanted {
        ingress: call.ingress,
        dialect: call.dialect,
        pin: call.pin.as_deref(),
        model,
        spread,
        takes_slot: call.asks(),
        recall,
        tried,
    }
}

/// Notes that a backend has begun its answer: how long that took, and that it knows the conversation now.
pub(crate) fn answered(call: &Call, upstream: &Upstream, status: StatusCode, asked: Instant) {
    // An error comes quickly, and so does what asks no model: neither says how long an answer takes.
    if !status.is_success() || call.meter.track().class.is_none() || !call.asks() {
        return;
    }
    let now = Instant::now();
    upstream.load.answered(now.saturating_duration_since(asked), now);
    call.trail.served(upstream.id, Tick::of(now));
}

/// Says why a request has no backend.
pub(crate) fn explain(table: &Table, call: &Call, no_route: NoRoute) -> Failure {
    match (no_route, &call.model) {
        (NoRoute::Nobody, Some(model)) => Failure::UnknownModel(named(call, model)),
        (no_route, model) => failure(table, call.dialect, model.as_deref(), no_route),
    }
}

/// Says why a request for this model in this dialect has no backend.
pub(crate) fn failure(table: &Table, dialect: Dialect, model: Option<&str>, no_route: NoRoute) -> Failure {
    let id = |index: usize| table.backends[index].config.id.clone();
    match no_route {
        NoRoute::Nobody => match model {
            Some(model) => Failure::UnknownModel(shorten(model)),
            None => Failure::NoBackend,
        },
        NoRoute::WrongDialect(index) => Failure::WrongDialect {
            subject: match model {
                Some(model) => format!("model '{}' is on connection '{}', which", shorten(model), id(index)),
                None => format!("connection '{}'", id(index)),
            },
            instead: match dialect {
                Dialect::Ollama => "OpenAI's API at /v1, such as /v1/chat/completions",
                Dialect::OpenAi | Dialect::Other => "Ollama's API at /api, such as /api/chat",
            },
        },
        NoRoute::LocalOnly(index) => Failure::LocalOnly {
            subject: match model {
                Some(model) => format!("model '{}' is on connection '{}',", shorten(model), id(index)),
                None => format!("connection '{}' is", id(index)),
            },
        },
        NoRoute::Full(index) => Failure::Full(id(index)),
        NoRoute::Warming(index) => Failure::Warming(id(index)),
        NoRoute::Unauthorised(index) | NoRoute::Down(index) => {
            Failure::Down { id: id(index), why: table.backends[index].report.error.clone() }
        }
        NoRoute::Pending => {
            let id = table.backends.iter().find(|backend| backend.is_new()).map(|b| b.config.id.clone());
            Failure::Down { id: id.unwrap_or_default(), why: Some("it has not answered yet".to_owned()) }
        }
    }
}

/// Names a model as the caller did; without the quotation marks at both ends.
fn named(call: &Call, model: &str) -> String {
    match &call.alias {
        Some(alias) => format!("{}', an alias of '{}", shorten(alias), shorten(model)),
        None => shorten(model),
    }
}

/// Keeps what a caller sent at a length that an error message can hold.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().take(LONGEST).collect()
}
