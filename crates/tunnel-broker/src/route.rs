//! Which backend gets a request. Pure.

/// One backend that might take the request, as it is at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the table.
    pub(crate) backend: usize,
    pub(crate) standing: Standing,
    /// Whether it speaks the caller's API.
    pub(crate) speaks: bool,
    /// Lower goes first.
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) in_flight: usize,
    /// Whether as many requests run as may run.
    pub(crate) full: bool,
    /// Whether the model is in memory.
    pub(crate) loaded: bool,
}

/// What its probes say.
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
    /// Loaded ones first, then by load; ties take turns, the number says whose turn it is.
    Load(usize),
    /// Always the first.
    First,
}

/// Why there is no backend for a request; the number is the backend that the answer should name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// No candidate at all.
    Nobody,
    /// The only ones that have it speak another API.
    WrongDialect(usize),
    /// Not known yet: a first probe is under way.
    Pending,
    /// All are busy.
    Full(usize),
    /// The only one that is there still loads its model.
    Warming(usize),
    Unauthorised(usize),
    Down(usize),
}

/// Picks the backend to try, or says why there is none.
pub(crate) fn pick(candidates: impl Iterator<Item = Candidate>, spread: Spread) -> Result<usize, NoRoute> {
    let mut best: Option<Candidate> = None;
    let mut refusal = NoRoute::Nobody;
    for candidate in candidates {
        match obstacle(&candidate) {
            Some(obstacle) => refusal = telling(refusal, obstacle),
            None => match &best {
                Some(other) if !goes_first(&candidate, other, spread) => {}
                _ => best = Some(candidate),
            },
        }
    }
    best.map(|candidate| candidate.backend).ok_or(refusal)
}

fn obstacle(candidate: &Candidate) -> Option<NoRoute> {
    if !candidate.speaks {
        return Some(NoRoute::WrongDialect(candidate.backend));
    }
    match candidate.standing {
        Standing::Unknown => Some(NoRoute::Pending),
        Standing::Warming => Some(NoRoute::Warming(candidate.backend)),
        Standing::Unauthorised => Some(NoRoute::Unauthorised(candidate.backend)),
        Standing::Down => Some(NoRoute::Down(candidate.backend)),
        Standing::Healthy | Standing::Doubtful | Standing::Ejected => {
            candidate.full.then_some(NoRoute::Full(candidate.backend))
        }
    }
}

/// Of two reasons keeps the one that the caller can best act on; of equal ones the first.
fn telling(a: NoRoute, b: NoRoute) -> NoRoute {
    let rank = |reason: &NoRoute| match reason {
        NoRoute::Pending => 6,
        NoRoute::Full(_) => 5,
        NoRoute::Warming(_) => 4,
        NoRoute::Unauthorised(_) => 3,
        NoRoute::Down(_) => 2,
        NoRoute::WrongDialect(_) => 1,
        NoRoute::Nobody => 0,
    };
    if rank(&b) > rank(&a) { b } else { a }
}

fn goes_first(a: &Candidate, b: &Candidate, spread: Spread) -> bool {
    let standing = |c: &Candidate| match c.standing {
        Standing::Doubtful => 1,
        Standing::Ejected => 2,
        Standing::Healthy
        | Standing::Warming
        | Standing::Unknown
        | Standing::Unauthorised
        | Standing::Down => 0,
    };
    let fixed = (standing(a), a.priority).cmp(&(standing(b), b.priority));
    let Spread::Load(turn) = spread else { return fixed.is_lt() };
    // in_flight / weight, compared without a division.
    let load =
        |c: &Candidate, other: &Candidate| (c.in_flight as u64 + 1).saturating_mul(u64::from(other.weight));
    // The backend whose turn it is comes first, then those after it, round the end.
    let place = |c: &Candidate| (c.backend < turn, c.backend);
    fixed
        .then(b.loaded.cmp(&a.loaded))
        .then(load(a, b).cmp(&load(b, a)))
        .then(place(a).cmp(&place(b)))
        .is_lt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Candidate = Candidate {
        backend: 0,
        standing: Standing::Healthy,
        speaks: true,
        priority: 0,
        weight: 1,
        in_flight: 0,
        full: false,
        loaded: false,
    };

    fn chosen(candidates: &[Candidate]) -> Result<usize, NoRoute> {
        pick(candidates.iter().copied(), Spread::Load(0))
    }

    #[test]
    fn healthy_then_priority_then_loaded_then_load_decide() {
        let doubtful = Candidate { standing: Standing::Doubtful, ..UP };
        let second = Candidate { backend: 1, priority: 1, in_flight: 9, ..UP };
        assert_eq!(chosen(&[doubtful, second]), Ok(1));
        assert_eq!(chosen(&[UP, second]), Ok(0));
        let busy = Candidate { in_flight: 3, ..UP };
        let idle = Candidate { backend: 1, ..UP };
        assert_eq!(chosen(&[busy, idle]), Ok(1));
        assert_eq!(chosen(&[Candidate { loaded: true, ..busy }, idle]), Ok(0));
        assert_eq!(chosen(&[Candidate { weight: 5, ..busy }, idle]), Ok(0));
    }

    #[test]
    fn equals_take_turns() {
        let all = [UP, Candidate { backend: 1, ..UP }, Candidate { backend: 2, ..UP }];
        let turns: Vec<_> = (0..3).map(|turn| pick(all.iter().copied(), Spread::Load(turn))).collect();
        assert_eq!(turns, [Ok(0), Ok(1), Ok(2)]);
        assert_eq!(pick(all.iter().copied(), Spread::First), Ok(0));
    }

    #[test]
    fn the_most_useful_reason_is_given() {
        let down = Candidate { backend: 1, standing: Standing::Down, ..UP };
        let deaf = Candidate { backend: 2, speaks: false, ..UP };
        let full = Candidate { backend: 3, full: true, ..UP };
        let new = Candidate { backend: 4, standing: Standing::Unknown, ..UP };
        assert_eq!(chosen(&[]), Err(NoRoute::Nobody));
        assert_eq!(chosen(&[deaf]), Err(NoRoute::WrongDialect(2)));
        assert_eq!(chosen(&[deaf, down]), Err(NoRoute::Down(1)));
        assert_eq!(chosen(&[down, full]), Err(NoRoute::Full(3)));
        assert_eq!(chosen(&[down, full, new]), Err(NoRoute::Pending));
        assert_eq!(chosen(&[down, full, new, UP]), Ok(0));
    }
}
