//! The reasons, as sentences.

use super::{Asked, Candidate, Choice, NoRoute};
use crate::backend::Backend;
use crate::config::RoutingPolicy;
use crate::path::Dialect;
use crate::profile::Side;
use crate::route::{Behind, How, Rules, Spread, behind};
use crate::table::Table;

/// Says why a backend that could take the request stands where it stands: against the first one, or, if it is the
/// first itself, against the second.
pub(super) fn place(
    table: &Table,
    order: &[Choice],
    place: usize,
    rules: &Rules<'_>,
) -> (&'static str, String) {
    let (this, first) = (&order[place], &order[0]);
    if place == 0 {
        let (code, why) = first_place(table, order, rules);
        return match this.winner.full {
            true => ("full", format!("{}; the request would wait for it first: {why}", runs(&this.winner))),
            false => (code, why),
        };
    }
    let (candidate, winner) = (&this.winner, &first.winner);
    let other = id(table, winner);
    if candidate.full {
        return ("full", runs(candidate));
    }
    match behind(candidate, winner, rules) {
        Behind::Ejected => (
            "ejected",
            "too many requests to it failed lately: it is asked when no other can take the request"
                .to_owned(),
        ),
        Behind::Side => ("other_side", other_side(candidate, rules.policy)),
        Behind::Full => ("full", runs(candidate)),
        Behind::Doubtful => ("doubtful", format!("its last probe failed, that of '{other}' did not")),
        Behind::Priority => (
            "priority",
            format!("its priority is {}; '{other}' with {} comes first", candidate.priority, winner.priority),
        ),
        Behind::Unloaded => ("not_loaded", format!("'{other}' has the model in memory, it has not")),
        Behind::Nothing => equal(table, candidate, first, &rules.spread),
    }
}

/// Says why the first is the first.
fn first_place(table: &Table, order: &[Choice], rules: &Rules<'_>) -> (&'static str, String) {
    let Choice { winner, how } = &order[0];
    let Some(second) = order.get(1).map(|choice| &choice.winner) else {
        return ("only", "it is the only one that can take the request".to_owned());
    };
    let other = id(table, second);
    let ranked = match behind(second, winner, rules) {
        Behind::Ejected => {
            ("healthy", "the others are asked only when it cannot take the request".to_owned())
        }
        Behind::Side => ("side", format!("routingPolicy {} puts its side first", rules.policy.as_str())),
        Behind::Full => ("free", format!("it has a free slot, '{other}' has none")),
        Behind::Doubtful => ("healthy", format!("its last probe went well, that of '{other}' did not")),
        Behind::Priority => (
            "priority",
            format!("its priority {} comes before {} of '{other}'", winner.priority, second.priority),
        ),
        Behind::Unloaded => ("loaded", "it has the model in memory".to_owned()),
        Behind::Nothing => ("first", "it comes first in the configuration".to_owned()),
    };
    match how {
        How::Rank | How::Order => ranked,
        How::Session => {
            ("session", "it served this session last, and is not much busier than its equals".to_owned())
        }
        How::Draw { other } => {
            let other = &table.backends[*other].config.id;
            ("drawn", format!("{}, less than '{other}'; these two were drawn", load(winner)))
        }
        How::SessionTooBusy { last } => {
            let last = &table.backends[*last].config.id;
            (
                "drawn",
                format!("{}, and '{last}', which served this session last, is much busier", load(winner)),
            )
        }
    }
}

/// Says why one of two equals is not the first.
fn equal(table: &Table, candidate: &Candidate, first: &Choice, spread: &Spread) -> (&'static str, String) {
    let winner = id(table, &first.winner);
    match first.how {
        How::Session => ("session", format!("'{winner}' served this session last")),
        How::SessionTooBusy { last } if last == candidate.backend => (
            "busier",
            format!("{}: it served this session last, and is much busier than others", load(candidate)),
        ),
        How::Draw { other } if other == candidate.backend => {
            let same = spread.cost(candidate) == spread.cost(&first.winner);
            let than = if same { "as much as" } else { "more than" };
            ("busier", format!("{}, {than} '{winner}'", load(candidate)))
        }
        How::Order => ("order", format!("'{winner}' comes first in the configuration")),
        How::Draw { .. } | How::SessionTooBusy { .. } | How::Rank => {
            ("not_drawn", format!("{}; the draw was between others this time", load(candidate)))
        }
    }
}

/// Says what keeps a backend from taking the request.
pub(super) fn obstacle(
    table: &Table,
    asked: &Asked<'_>,
    no_route: NoRoute,
    candidate: &Candidate,
) -> (&'static str, String) {
    let error = || table.backends[candidate.backend].report.error.clone();
    let with = |text: &str| error().map_or_else(|| text.to_owned(), |error| format!("{text}: {error}"));
    match no_route {
        NoRoute::WrongDialect(_) => {
            let (speaks, asked) = match asked.dialect {
                Dialect::Ollama => ("OpenAI's", "Ollama's"),
                Dialect::OpenAi | Dialect::Other => ("Ollama's", "OpenAI's"),
            };
            ("wrong_api", format!("it speaks {speaks} API, and the path is of {asked}"))
        }
        NoRoute::LocalOnly(_) => {
            ("local_only", "it is in the cloud, and routingPolicy is localOnly".to_owned())
        }
        NoRoute::Pending => ("unknown", "its first probe has not ended yet".to_owned()),
        NoRoute::Warming(_) => ("warming", with("it still loads its model")),
        NoRoute::Unauthorised(_) => ("unauthorised", with("it does not accept our credential")),
        NoRoute::Down(_) => ("down", with("it is down")),
        // No obstacles: `route::obstacle` returns neither.
        NoRoute::Nobody | NoRoute::Full(_) => ("full", runs(candidate)),
    }
}

/// Says why a backend is no candidate at all.
pub(super) fn outside(asked: &Asked<'_>, backend: &Backend) -> (&'static str, String) {
    if let Some(pin) = asked.pin.filter(|pin| backend.config.id != **pin) {
        let pin = crate::decide::shorten(pin);
        let why = match asked.manages {
            true => format!("what manages models goes to connection '{pin}' alone"),
            false => format!("the request names connection '{pin}'"),
        };
        return ("other_connection", why);
    }
    match &backend.report.listing {
        _ if !backend.config.models.is_empty() => {
            ("no_model", "the models configured for it do not include this one".to_owned())
        }
        Some(_) => ("no_model", "it does not list this model".to_owned()),
        None => ("models_unknown", "it has not said yet which models it has".to_owned()),
    }
}

fn other_side(candidate: &Candidate, policy: RoutingPolicy) -> String {
    let (place, others) = match candidate.side {
        Side::Local => ("local", "in the cloud"),
        Side::Cloud => ("in the cloud", "local"),
    };
    format!(
        "it is {place}, and routingPolicy {} asks those that are {others} while one is up",
        policy.as_str()
    )
}

fn runs(candidate: &Candidate) -> String {
    match candidate.in_flight {
        1 => "1 request runs on it, as many as may run".to_owned(),
        n => format!("{n} requests run on it, as many as may run"),
    }
}

/// Says how busy a backend is.
fn load(candidate: &Candidate) -> String {
    let running = match candidate.in_flight {
        0 => "it is idle".to_owned(),
        1 => "1 request runs on it".to_owned(),
        n => format!("{n} requests run on it"),
    };
    match candidate.latency.known() {
        Some(latency) => {
            let ms = latency.as_secs_f64() * 1e3;
            let ms = if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
            format!("{running} and answers begin after {ms} ms")
        }
        None => format!("{running} and has not answered yet"),
    }
}

fn id<'a>(table: &'a Table, candidate: &Candidate) -> &'a str {
    &table.backends[candidate.backend].config.id
}
