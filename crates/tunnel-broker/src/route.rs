//! Which backend gets a request. Pure: `docs/routing.md` tells users the same in words.

#[cfg(test)]
mod tests;

use crate::affinity::{Recall, ServerId};
use crate::config::RoutingPolicy;
use crate::load::{Latency, Tick};
use crate::profile::Side;

/// One backend that might take the request, as it is at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the table.
    pub(crate) backend: usize,
    pub(crate) server: ServerId,
    pub(crate) standing: Standing,
    /// Whether it speaks the caller's API.
    pub(crate) speaks: bool,
    pub(crate) side: Side,
    /// Lower goes first.
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    /// How much of its weight counts, in percent: less than 100 while it comes back after a failure.
    pub(crate) share: u32,
    pub(crate) in_flight: usize,
    /// Whether as many requests run as may run.
    pub(crate) full: bool,
    /// Whether the model is in memory.
    pub(crate) loaded: bool,
    /// How long it takes to begin an answer.
    pub(crate) latency: Latency,
}

/// What its probes and its answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Healthy,
    /// It counts as up, but the last probe failed.
    Doubtful,
    /// It answers, and still loads its model: worth waiting for.
    Warming,
    /// Requests to it failed too often; it is asked when there is no other.
    Ejected,
    /// It has not been probed yet.
    Unknown,
    /// It does not accept our credential.
    Unauthorised,
    Down,
}

/// How to choose among equals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// Loaded ones first, then the one that knows the conversation, then the less loaded of two.
    Load(Draw),
    /// Always the first.
    First,
}

/// The random draw of one request, and the moment for which latencies are reckoned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) now: Tick,
}

/// What a choice follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) policy: RoutingPolicy,
    pub(crate) spread: Spread,
    /// Knows who served the conversation last.
    pub(crate) recall: Option<Recall<'a>>,
}

/// Why there is no backend for a request; the number is the backend that the answer should name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// No candidate at all.
    Nobody,
    /// The only ones that have it speak another API.
    WrongDialect(usize),
    /// The only ones that have it are in the cloud, where nothing may go.
    LocalOnly(usize),
    /// Not known yet: a first probe is under way.
    Pending,
    /// All are busy.
    Full(usize),
    /// The only one that is there still loads its model.
    Warming(usize),
    Unauthorised(usize),
    Down(usize),
}

/// The backend for a request, and what made it the one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) winner: Candidate,
    pub(crate) how: How,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It stands before all others, or there is no other.
    Rank,
    /// The first of the configuration among equals.
    Order,
    /// It knows the conversation.
    Session,
    /// It knows the conversation, but is much busier than this one, which the draw found.
    SessionTooBusy { last: usize },
    /// It is the less loaded of two that were drawn; the number is the other one.
    Draw { other: usize },
}

/// Where a candidate stands. Compared field by field, in this order; equals go on to the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tier {
    ejected: bool,
    other_side: bool,
    full: bool,
    doubtful: bool,
    priority: u32,
    unloaded: bool,
}

/// The first thing in which one candidate stands behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    Ejected,
    Side,
    Full,
    Doubtful,
    Priority,
    Unloaded,
    /// Nothing: they are equals.
    Nothing,
}

/// How much busier than the least busy of its equals a backend may be, and still get the conversations it knows.
const BUSIER: f32 = 2.0;

/// Picks the backend to try, or says why there is none.
///
/// Those that are full stand behind those that are not, and do not let the other side or an ejected backend in: their
/// queues come first. So [`NoRoute::Full`] names the one to wait for.
pub(crate) fn pick(
    candidates: impl Iterator<Item = Candidate>,
    rules: &Rules<'_>,
) -> Result<Choice, NoRoute> {
    match best(candidates, rules) {
        (Some(choice), refusal) if choice.winner.full => {
            Err(telling(refusal, NoRoute::Full(choice.winner.backend)))
        }
        (Some(choice), _) => Ok(choice),
        (None, refusal) => Err(refusal),
    }
}

/// Returns those that would take the request, free or full, in the order in which they would be picked one after the
/// other. Those in the way of which something stands are left out.
pub(crate) fn order(candidates: impl Iterator<Item = Candidate>, rules: &Rules<'_>) -> Vec<Choice> {
    let mut left: Vec<Candidate> = candidates.collect();
    let mut order = Vec::with_capacity(left.len());
    while let (Some(choice), _) = best(left.iter().copied(), rules) {
        left.retain(|candidate| candidate.backend != choice.winner.backend);
        order.push(choice);
    }
    order
}

/// Returns the best of those that would take the request, free or full, and the reason that the others give.
fn best(candidates: impl Iterator<Item = Candidate>, rules: &Rules<'_>) -> (Option<Choice>, NoRoute) {
    let mut best: Option<Equals> = None;
    let mut refusal = NoRoute::Nobody;
    for candidate in candidates {
        if let Some(obstacle) = obstacle(&candidate, rules.policy) {
            refusal = telling(refusal, obstacle);
            continue;
        }
        let tier = Tier::of(&candidate, rules);
        match &mut best {
            Some(equals) if tier > equals.tier => {}
            Some(equals) if tier == equals.tier => equals.add(candidate, rules),
            _ => best = Some(Equals::new(tier, candidate)),
        }
    }
    (best.map(|equals| equals.decide(&rules.spread)), refusal)
}

/// Says what keeps a candidate from taking the request, now or later. Being full does not.
pub(crate) fn obstacle(candidate: &Candidate, policy: RoutingPolicy) -> Option<NoRoute> {
    if !candidate.speaks {
        return Some(NoRoute::WrongDialect(candidate.backend));
    }
    if policy == RoutingPolicy::LocalOnly && candidate.side == Side::Cloud {
        return Some(NoRoute::LocalOnly(candidate.backend));
    }
    match candidate.standing {
        Standing::Unknown => Some(NoRoute::Pending),
        Standing::Warming => Some(NoRoute::Warming(candidate.backend)),
        Standing::Unauthorised => Some(NoRoute::Unauthorised(candidate.backend)),
        Standing::Down => Some(NoRoute::Down(candidate.backend)),
        Standing::Healthy | Standing::Doubtful | Standing::Ejected => None,
    }
}

/// Says in what `a` stands behind `b`.
pub(crate) fn behind(a: &Candidate, b: &Candidate, rules: &Rules<'_>) -> Behind {
    let (a, b) = (Tier::of(a, rules), Tier::of(b, rules));
    let steps = [
        (a.ejected != b.ejected, Behind::Ejected),
        (a.other_side != b.other_side, Behind::Side),
        (a.full != b.full, Behind::Full),
        (a.doubtful != b.doubtful, Behind::Doubtful),
        (a.priority != b.priority, Behind::Priority),
        (a.unloaded != b.unloaded, Behind::Unloaded),
    ];
    steps.into_iter().find(|(differs, _)| *differs).map_or(Behind::Nothing, |(_, behind)| behind)
}

/// Returns the side that is asked first.
pub(crate) fn preferred(policy: RoutingPolicy) -> Side {
    match policy {
        RoutingPolicy::PreferLocal | RoutingPolicy::LocalOnly => Side::Local,
        RoutingPolicy::PreferCloud => Side::Cloud,
    }
}

/// Of two reasons keeps the one that the caller can best act on; of equal ones the first.
fn telling(a: NoRoute, b: NoRoute) -> NoRoute {
    let rank = |reason: &NoRoute| match reason {
        // Who waits for these two sees what else becomes known meanwhile.
        NoRoute::Full(_) => 7,
        NoRoute::Warming(_) => 6,
        NoRoute::Pending => 5,
        NoRoute::Unauthorised(_) => 4,
        NoRoute::Down(_) => 3,
        NoRoute::LocalOnly(_) => 2,
        NoRoute::WrongDialect(_) => 1,
        NoRoute::Nobody => 0,
    };
    if rank(&b) > rank(&a) { b } else { a }
}

impl Spread {
    /// Says what one more request costs on a candidate; none where load does not count.
    pub(crate) fn cost(&self, candidate: &Candidate) -> Option<f32> {
        match self {
            Self::Load(draw) => Some(candidate.cost(draw.now)),
            Self::First => None,
        }
    }
}

impl Draw {
    /// Returns a candidate's ticket; the two lowest are drawn.
    ///
    /// It depends on the server and not on its place in the list. The times until the first event of processes whose
    /// rates are the weights: so the chance to be first is the weight's share of all.
    fn ticket(&self, candidate: &Candidate) -> f32 {
        // The finaliser of SplitMix64: each bit of the seed and of the id changes half of the result's.
        let mut z = self.seed ^ u64::from(candidate.server.0.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // In (0, 1]: 24 bits are what an `f32` holds.
        let uniform = ((z >> 40) as f32 + 1.0) / 16_777_216.0;
        -uniform.ln() / candidate.strength()
    }
}

impl Tier {
    fn of(candidate: &Candidate, rules: &Rules<'_>) -> Self {
        Self {
            ejected: candidate.standing == Standing::Ejected,
            other_side: candidate.side != preferred(rules.policy),
            full: candidate.full,
            doubtful: candidate.standing == Standing::Doubtful,
            priority: candidate.priority,
            unloaded: match rules.spread {
                Spread::Load(_) => !candidate.loaded,
                Spread::First => false,
            },
        }
    }
}

impl Candidate {
    /// What it can take, compared with others: its weight, or the part of it that counts now.
    fn strength(&self) -> f32 {
        self.weight.max(1) as f32 * self.share.clamp(1, 100) as f32 / 100.0
    }

    /// How busy it would be with one more request.
    fn busy(&self) -> f32 {
        (self.in_flight as f32 + 1.0) / self.strength()
    }

    /// What one more request would cost: how long it would wait, more or less.
    fn cost(&self, now: Tick) -> f32 {
        self.latency.expected(self.in_flight, now) * self.busy()
    }
}

/// Candidates of the same rank, as far as they are still in the running: at no time more than three.
struct Equals {
    tier: Tier,
    /// Those with the lowest tickets; the second once there is one.
    drawn: (Candidate, Option<Candidate>),
    tickets: (f32, f32),
    /// The one that knows the conversation.
    last: Option<Candidate>,
    /// What the least busy of all has to do.
    least_busy: f32,
}

impl Equals {
    fn new(tier: Tier, only: Candidate) -> Self {
        Self { tier, drawn: (only, None), tickets: (0.0, 0.0), last: None, least_busy: 0.0 }
    }

    fn add(&mut self, candidate: Candidate, rules: &Rules<'_>) {
        let (first, second) = &mut self.drawn;
        let Spread::Load(draw) = &rules.spread else {
            if candidate.backend < first.backend {
                *first = candidate;
            }
            *second = second.or(Some(candidate));
            return;
        };
        let last = rules.recall.as_ref().and_then(Recall::last);
        let ticket = draw.ticket(&candidate);
        if let Some(runner_up) = second {
            if ticket < self.tickets.0 {
                *runner_up = *first;
                *first = candidate;
                self.tickets = (ticket, self.tickets.0);
            } else if ticket < self.tickets.1 {
                *runner_up = candidate;
                self.tickets.1 = ticket;
            }
        } else {
            // Now that there are two, the first one takes part as well.
            let before = draw.ticket(first);
            self.least_busy = first.busy();
            self.last = Some(*first).filter(|first| last == Some(first.server));
            if ticket < before {
                self.drawn = (candidate, Some(*first));
                self.tickets = (ticket, before);
            } else {
                *second = Some(candidate);
                self.tickets = (before, ticket);
            }
        }
        if last == Some(candidate.server) {
            self.last = Some(candidate);
        }
        self.least_busy = self.least_busy.min(candidate.busy());
    }

    fn decide(self, spread: &Spread) -> Choice {
        let (first, Some(second)) = self.drawn else {
            return Choice { winner: self.drawn.0, how: How::Rank };
        };
        let Spread::Load(draw) = spread else { return Choice { winner: first, how: How::Order } };
        if let Some(winner) = self.last
            && (winner.in_flight == 0 || winner.busy() <= self.least_busy * BUSIER)
        {
            return Choice { winner, how: How::Session };
        }
        let (winner, other) =
            if second.cost(draw.now) < first.cost(draw.now) { (second, first) } else { (first, second) };
        let how = match self.last {
            Some(last) if last.backend != winner.backend => How::SessionTooBusy { last: last.backend },
            _ => How::Draw { other: other.backend },
        };
        Choice { winner, how }
    }
}
