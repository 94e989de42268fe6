//! Which backend a request goes to, as things stand at this moment.

use std::sync::Arc;

use crate::call::Call;
use crate::error::Failure;
use crate::path::Dialect;
use crate::route::{NoRoute, Spread};
use crate::shared::Shared;
use crate::table::{Route, Table, Wanted};
use crate::upstream::Upstream;

/// Finds a backend; waits for a first probe, or asks anew what there is, where that may help.
pub(crate) async fn decide(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &[Arc<Upstream>],
) -> Result<Route, Failure> {
    let mut waited = false;
    let mut refreshed = !tried.is_empty();
    let pin = call.pin.as_deref();
    let concerns = |id: &str| pin.is_none_or(|pin| pin == id);
    loop {
        let wanted = wanted(call, spread, tried);
        let table = shared.table.load();
        let no_route = match table.route(&wanted) {
            Ok(route) => return Ok(route),
            Err(no_route) => no_route,
        };
        if pin.is_some_and(|pin| table.backend(pin).is_none()) {
            return Err(Failure::UnknownConnection(shorten(pin.unwrap_or_default())));
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

pub(crate) fn wanted<'a>(call: &'a Call, spread: Spread, tried: &'a [Arc<Upstream>]) -> Wanted<'a> {
    Wanted { dialect: call.dialect, pin: call.pin.as_deref(), model: call.model.as_deref(), spread, tried }
}

/// Says why a request has no backend.
pub(crate) fn explain(table: &Table, call: &Call, no_route: NoRoute) -> Failure {
    let id = |index: usize| table.backends[index].config.id.clone();
    match no_route {
        NoRoute::Nobody => match &call.model {
            Some(model) => Failure::UnknownModel(named(call, model)),
            None => Failure::NoBackend,
        },
        NoRoute::WrongDialect(index) => Failure::WrongDialect {
            subject: match &call.model {
                Some(model) => format!("model '{}' is on connection '{}', which", shorten(model), id(index)),
                None => format!("connection '{}'", id(index)),
            },
            instead: match call.dialect {
                Dialect::Ollama => "OpenAI's API at /v1, such as /v1/chat/completions",
                Dialect::OpenAi | Dialect::Other => "Ollama's API at /api, such as /api/chat",
            },
        },
        NoRoute::Full(index) => Failure::Full(id(index)),
        NoRoute::Warming(index) | NoRoute::Unauthorised(index) | NoRoute::Down(index) => {
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
fn shorten(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().take(LONGEST).collect()
}
