//! Where a request would go, and why. The decision is [`pick`]'s own; this puts it into words.

#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::time::Instant;

use crate::admission::Key;
use crate::affinity::{Affinity, Recall, Trail};
use crate::alias::Meaning;
use crate::backend::Backend;
use crate::broker::Ingress;
use crate::class::EndpointClass;
use crate::config::BackendConfig;
use crate::decide::{failure, shorten};
use crate::error::Failure;
use crate::load::Tick;
use crate::path::{Dialect, Endpoint, is_about_a_model};
use crate::profile::Side;
use crate::route::{Candidate, Choice, Draw, NoRoute, Spread, Standing, obstacle, pick};
use crate::table::{Table, Tried, Wanted};
use crate::upstream::Upstream;

/// A request that might be sent.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The path it is posted to: it tells the API, and whether a model is asked.
    pub path: String,
    /// The model, as a caller names it. None: a request that names none.
    pub model: Option<String>,
    /// The connection, as in the header `X-Tunnel-Connection`.
    pub connection: Option<String>,
    /// The session, as in the header `X-Session-Id`.
    pub session: Option<String>,
}

/// Where a request would go as things stand, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The id of the backend that it would be sent to at once. None: see `waits_for` and `refusal`.
    pub connection: Option<String>,
    /// The model's name in the catalogue.
    pub model: Option<String>,
    /// How the model's name was understood. None for a request that names none.
    pub resolved_by: Option<ResolvedBy>,
    /// The backends that it would wait for: for a slot, for the model, or for the end of a first probe; empty when it
    /// would not wait.
    pub waits_for: Vec<String>,
    /// What its caller would be told, unless the servers say other than now: where nobody has the model, or who has it
    /// is down, they are asked anew before.
    pub refusal: Option<Refusal>,
    /// How many requests would be answered before it, where it would wait for a free slot. None where it would not.
    pub queue_position: Option<usize>,
    /// Every configured backend: first those that would take the request, in the order in which they would be asked.
    pub candidates: Vec<Considered>,
}

/// How a model's name was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedBy {
    /// As a model's name.
    Exact,
    /// As a name that the user has given a model.
    Alias,
    /// As a name `<connection>/<model>`, or with a connection named in the header.
    Pinned,
}

/// What a caller would be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Stable machine name.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// One backend, and why it would get the request or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// The configured id.
    pub connection: String,
    /// What would become of it.
    pub verdict: Verdict,
    /// Stable machine name of the reason.
    pub code: &'static str,
    /// One sentence without a full stop.
    pub reason: String,
    /// `healthy`, `doubtful`, `warming`, `ejected`, `unknown`, `unauthorised`, `down`; `off` for one that is not enabled.
    pub health: &'static str,
    /// Where it is.
    pub side: Side,
    /// Lower is asked first.
    pub priority: u32,
    /// Share of the load among its equals.
    pub weight: u32,
    /// How much of its weight counts now, in percent.
    pub share: u32,
    /// Whether it has the model in memory. None where it is not asked, or no model is named.
    pub loaded: Option<bool>,
    /// Requests that run on it.
    pub in_flight: usize,
    /// Requests that wait for one of its slots.
    pub queued: usize,
    /// How long it takes to begin an answer, as the last ones tell. None while it has given none.
    pub latency: Option<Duration>,
}

/// What would become of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It gets the request.
    Chosen,
    /// It gets the request if the chosen one fails before it answers.
    Next,
    /// It could take the request, and others come first.
    Later,
    /// It would take the request, and as many run as may.
    Full,
    /// It does not get the request.
    Excluded,
}

impl Verdict {
    /// The name in documents: `chosen`, `next`, `later`, `full`, `excluded`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Next => "next",
            Self::Later => "later",
            Self::Full => "full",
            Self::Excluded => "excluded",
        }
    }
}

impl ResolvedBy {
    /// The name in documents: `exact`, `alias`, `pinned`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Alias => "alias",
            Self::Pinned => "pinned",
        }
    }
}

impl Standing {
    fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Doubtful => "doubtful",
            Self::Warming => "warming",
            Self::Ejected => "ejected",
            Self::Unknown => "unknown",
            Self::Unauthorised => "unauthorised",
            Self::Down => "down",
        }
    }
}

/// What an explanation depends on besides the table.
pub(crate) struct Chance<'a> {
    pub(crate) affinity: &'a Arc<Affinity>,
    pub(crate) seed: u64,
    pub(crate) now: Instant,
}

/// Explains where a request would go.
pub(crate) fn explain(table: &Table, query: &Query, chance: &Chance<'_>) -> Explanation {
    let asked = Asked::new(table, query);
    let trail = Trail::new(Arc::clone(chance.affinity), bytes::Bytes::new(), 0..0);
    let headers = session(query);
    let now = Tick::of(chance.now);
    let spread = match asked.model {
        Some(_) => Spread::Load(Draw { seed: chance.seed, now }),
        None => Spread::First,
    };
    let recall = asked.model.map(|model| Recall { trail: &trail, headers: &headers, model, now });
    let Asked { dialect, pin, model, .. } = asked;
    let wanted = Wanted {
        ingress: Ingress::Local,
        dialect,
        pin,
        model,
        spread,
        takes_slot: asked.takes_slot,
        recall,
        tried: Tried::NONE,
    };
    // Counts change while this is read: all that follows looks at the same candidates.
    let served = table.served(&wanted);
    let candidates: Vec<Candidate> = table.candidates(&wanted, served).collect();
    let rules = table.rules(&wanted);
    let decision = pick(candidates.iter().copied(), &rules);
    let no_route = decision.as_ref().err().map(|no_route| table.reason(&wanted, *no_route));
    let lines = no_route.map_or_else(Vec::new, |no_route| lines(table, &wanted, no_route));
    let is_full = matches!(no_route, Some(NoRoute::Full(_)));
    let upstreams: Vec<Arc<Upstream>> = lines.iter().map(|line| Arc::clone(&line.upstream)).collect();
    let key = Key { ingress: Ingress::Local, caller: None };
    let queue_position = upstreams.first().filter(|_| is_full).map(|one| one.queue.ahead(&key, &upstreams));
    let waits_for: Vec<String> = lines.iter().map(|line| line.config.id.clone()).collect();
    let refused = asked.refused.as_ref();
    let chosen = decision.ok().filter(|_| refused.is_none()).map(|choice| choice.winner.backend);
    let no_way = || no_route.filter(|_| lines.is_empty()).map(|no_route| refusal(table, &asked, no_route));
    let refusal = refused.map(shown).or_else(no_way);
    let name = served.iter().find(|served| chosen.is_none_or(|chosen| chosen == served.backend));
    let mut all: Vec<Considered> = Vec::with_capacity(table.settings.backends.len());
    let order = crate::route::order(candidates.iter().copied(), &rules);
    for (place, choice) in order.iter().enumerate() {
        let verdict = match (&chosen, place) {
            (Some(chosen), _) if *chosen == choice.winner.backend => Verdict::Chosen,
            _ if choice.winner.full => Verdict::Full,
            (Some(_), 1) => Verdict::Next,
            _ => Verdict::Later,
        };
        let (code, reason) = words::place(table, &order, place, &rules);
        all.push(considered(table, choice.winner, model.is_some(), verdict, (code, reason)));
    }
    for candidate in &candidates {
        if let Some(obstacle) = obstacle(candidate, rules.policy) {
            let why = words::obstacle(table, &asked, obstacle, candidate);
            all.push(considered(table, *candidate, model.is_some(), Verdict::Excluded, why));
        }
    }
    let mut enabled = 0;
    for config in &table.settings.backends {
        let at = enabled;
        enabled += usize::from(config.enabled);
        let backend = table.backends.get(at).filter(|_| config.enabled);
        if candidates.iter().any(|candidate| backend.is_some() && candidate.backend == at) {
            continue;
        }
        all.push(match backend {
            None => switched_off(config),
            Some(backend) => {
                let candidate = backend.candidate(at, dialect, false);
                considered(table, candidate, false, Verdict::Excluded, words::outside(&asked, backend))
            }
        });
    }
    Explanation {
        connection: chosen.map(|chosen| table.backends[chosen].config.id.clone()),
        model: name.map(|served| served.name.text.to_string()),
        resolved_by: query.model.as_ref().filter(|_| model.is_some()).map(|_| match pin {
            _ if asked.is_alias => ResolvedBy::Alias,
            Some(_) => ResolvedBy::Pinned,
            None => ResolvedBy::Exact,
        }),
        waits_for,
        refusal,
        queue_position,
        candidates: all,
    }
}

/// Returns the backends that the request would wait for; none when none has room.
fn lines(table: &Table, wanted: &Wanted<'_>, no_route: NoRoute) -> Vec<Arc<Backend>> {
    // Who waits for a slot and who waits for the model do not take each other's room.
    let room = table.settings.queue.max_waiting;
    let has_room = |backend: &Arc<Backend>| backend.upstream.slots.n_waiting() < room;
    let may_wait = |backend: &&Arc<Backend>| backend.upstream.slots.n_awaiting_model() < room;
    match no_route {
        NoRoute::Full(_) => {
            let mut all: Vec<_> = table
                .waiting_candidates(wanted)
                .into_iter()
                .map(|route| route.backend)
                .filter(has_room)
                .collect();
            // On one side: on the first that has room.
            let side = all.first().map(|backend| backend.profile().side);
            all.retain(|backend| Some(backend.profile().side) == side);
            all
        }
        NoRoute::Warming(index) => table.backends.get(index).filter(may_wait).cloned().into_iter().collect(),
        // Whoever says first what it has: the request waits for that, no longer than for a connection.
        NoRoute::Pending => {
            let could = |b: &&Arc<Backend>| b.is_new() && b.speaks(wanted.dialect) && wanted.accepts(b);
            table.backends.iter().filter(could).cloned().collect()
        }
        NoRoute::Nobody
        | NoRoute::WrongDialect(_)
        | NoRoute::LocalOnly(_)
        | NoRoute::Unauthorised(_)
        | NoRoute::Down(_) => Vec::new(),
    }
}

/// A query as the data plane understands it.
struct Asked<'a> {
    dialect: Dialect,
    pin: Option<&'a str>,
    model: Option<&'a str>,
    is_alias: bool,
    manages: bool,
    takes_slot: bool,
    /// What its caller is told whichever connection there is.
    refused: Option<Failure>,
}

impl<'a> Asked<'a> {
    fn new(table: &'a Table, query: &'a Query) -> Self {
        let dialect = Dialect::of(&query.path);
        let pin = query.connection.as_deref();
        let name = query.model.as_deref().filter(|name| !name.is_empty());
        let class = EndpointClass::of(&Method::POST, &query.path);
        if Endpoint::of(&Method::POST, &query.path) == Endpoint::Management {
            // It goes to one connection alone; the body may name a model that is not there yet.
            let name = name.filter(|_| is_about_a_model(&query.path));
            let meaning = name.map(|name| Meaning::managed(table, name, pin));
            let (meaning, refused) = match meaning.transpose() {
                Ok(meaning) => (meaning, None),
                Err(failure) => (None, Some(failure)),
            };
            let pin = meaning.and_then(|meaning| meaning.pin).or(pin);
            let model = meaning.map(|meaning| meaning.model);
            let pin = pin.or_else(|| table.manager(Ingress::Local, model));
            return Self {
                dialect,
                pin,
                model: None,
                is_alias: false,
                manages: true,
                takes_slot: false,
                refused,
            };
        }
        let takes_slot = EndpointClass::takes_slot(class, &query.path, name.is_some());
        let unnamed =
            Self { dialect, pin, model: None, is_alias: false, manages: false, takes_slot, refused: None };
        match name.map(|name| Meaning::of(table, name, pin)) {
            Some(Meaning { pin, model, alias }) => {
                Self { pin, model: Some(model), is_alias: alias.is_some(), ..unnamed }
            }
            None => unnamed,
        }
    }
}

fn session(query: &Query) -> HeaderMap {
    const NAME: HeaderName = HeaderName::from_static("x-session-id");
    let value = query.session.as_deref().and_then(|session| HeaderValue::from_str(session).ok());
    value.map(|value| (NAME, value)).into_iter().collect()
}

fn refusal(table: &Table, asked: &Asked<'_>, no_route: NoRoute) -> Refusal {
    let unknown = asked.pin.filter(|pin| table.backend(pin).is_none());
    let failure = match unknown {
        Some(pin) => Failure::UnknownConnection(shorten(pin)),
        None if table.backends.is_empty() => Failure::NoBackend,
        None => failure(table, asked.dialect, asked.model, no_route),
    };
    shown(&failure)
}

fn shown(failure: &Failure) -> Refusal {
    Refusal { status: failure.status().as_u16(), code: failure.code(), message: failure.to_string() }
}

fn considered(
    table: &Table,
    candidate: Candidate,
    has_model: bool,
    verdict: Verdict,
    (code, reason): (&'static str, String),
) -> Considered {
    let backend: &Backend = &table.backends[candidate.backend];
    Considered {
        connection: backend.config.id.clone(),
        verdict,
        code,
        reason,
        health: candidate.standing.as_str(),
        side: candidate.side,
        priority: candidate.priority,
        weight: candidate.weight,
        share: candidate.share,
        loaded: has_model.then_some(candidate.loaded),
        in_flight: candidate.in_flight,
        queued: backend.upstream.slots.n_queued(),
        latency: candidate.latency.known(),
    }
}

fn switched_off(config: &BackendConfig) -> Considered {
    Considered {
        connection: config.id.clone(),
        verdict: Verdict::Excluded,
        code: "disabled",
        reason: "it is switched off in the configuration".to_owned(),
        health: "off",
        side: config.profile.side,
        priority: config.priority,
        weight: config.weight.get(),
        share: 100,
        loaded: None,
        in_flight: 0,
        queued: 0,
        latency: None,
    }
}
