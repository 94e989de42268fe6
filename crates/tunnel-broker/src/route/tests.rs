use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::affinity::{Affinity, Trail};

const UP: Candidate = Candidate {
    backend: 0,
    server: ServerId(NonZeroU32::MIN),
    standing: Standing::Healthy,
    speaks: true,
    side: Side::Local,
    priority: 0,
    weight: 1,
    share: 100,
    in_flight: 0,
    full: false,
    loaded: false,
    latency: Latency::UNKNOWN,
};

fn at(backend: usize) -> Candidate {
    Candidate { backend, server: ServerId(NonZeroU32::new(backend as u32 + 1).unwrap()), ..UP }
}

fn rules(policy: RoutingPolicy, seed: u64) -> Rules<'static> {
    Rules { policy, spread: Spread::Load(Draw { seed, now: now() }), recall: None }
}

fn now() -> Tick {
    Tick::of(Instant::now())
}

fn chosen_by(candidates: &[Candidate], policy: RoutingPolicy, seed: u64) -> Result<usize, NoRoute> {
    pick(candidates.iter().copied(), &rules(policy, seed)).map(|choice| choice.winner.backend)
}

fn chosen(candidates: &[Candidate]) -> Result<usize, NoRoute> {
    chosen_by(candidates, RoutingPolicy::PreferLocal, 1)
}

#[test]
fn healthy_then_priority_then_loaded_then_load_decide() {
    let doubtful = Candidate { standing: Standing::Doubtful, ..UP };
    let second = Candidate { priority: 1, in_flight: 9, ..at(1) };
    assert_eq!(chosen(&[doubtful, second]), Ok(1));
    assert_eq!(chosen(&[UP, second]), Ok(0));
    let busy = Candidate { in_flight: 3, ..UP };
    assert_eq!(chosen(&[busy, at(1)]), Ok(1));
    assert_eq!(chosen(&[Candidate { loaded: true, ..busy }, at(1)]), Ok(0));
    let one = Candidate { in_flight: 1, ..at(1) };
    assert_eq!(chosen(&[Candidate { weight: 5, ..busy }, one]), Ok(0));
    assert_eq!(chosen(&[Candidate { weight: 5, share: 10, ..busy }, one]), Ok(1));
}

#[test]
fn quicker_ones_are_preferred_and_unknown_ones_tried() {
    let known = |backend, ms| Candidate {
        latency: Latency::new(Duration::from_millis(ms), now()),
        in_flight: 1,
        ..at(backend)
    };
    assert_eq!(chosen(&[known(0, 300), known(1, 50)]), Ok(1));
    assert_eq!(chosen(&[known(0, 300), Candidate { in_flight: 12, ..known(1, 50) }]), Ok(0));
    assert_eq!(chosen(&[known(0, 50), at(2)]), Ok(2), "one request tries it");
    assert_eq!(chosen(&[known(0, 50), Candidate { in_flight: 1, ..at(2) }]), Ok(0), "not two at once");
}

#[test]
fn the_other_side_waits_until_nobody_of_this_one_is_up() {
    let cloud = Candidate { side: Side::Cloud, ..at(1) };
    let local = Candidate { standing: Standing::Doubtful, priority: 9, ..UP };
    let both = |policy| chosen_by(&[local, cloud], policy, 1);
    assert_eq!(both(RoutingPolicy::PreferLocal), Ok(0));
    assert_eq!(both(RoutingPolicy::PreferCloud), Ok(1));
    assert_eq!(both(RoutingPolicy::LocalOnly), Ok(0));
    let full = Candidate { full: true, ..local };
    assert_eq!(chosen(&[full, cloud]), Err(NoRoute::Full(0)), "its queue comes first");
    for standing in [Standing::Down, Standing::Ejected, Standing::Warming, Standing::Unauthorised] {
        assert_eq!(chosen(&[Candidate { standing, ..local }, cloud]), Ok(1), "{standing:?}");
    }
    let only = |candidates: &[Candidate]| chosen_by(candidates, RoutingPolicy::LocalOnly, 1);
    assert_eq!(only(&[cloud]), Err(NoRoute::LocalOnly(1)));
    assert_eq!(only(&[Candidate { standing: Standing::Down, ..local }, cloud]), Err(NoRoute::Down(0)));
}

#[test]
fn an_ejected_one_is_asked_when_there_is_no_other() {
    let ejected = Candidate { standing: Standing::Ejected, ..UP };
    assert_eq!(chosen(&[ejected, Candidate { standing: Standing::Doubtful, priority: 9, ..at(1) }]), Ok(1));
    assert_eq!(chosen(&[ejected, Candidate { standing: Standing::Down, ..at(1) }]), Ok(0));
    assert_eq!(chosen(&[ejected, Candidate { full: true, ..at(1) }]), Err(NoRoute::Full(1)));
}

#[test]
fn full_ones_let_the_next_tier_in() {
    let full = Candidate { full: true, loaded: true, ..UP };
    assert_eq!(chosen(&[full, Candidate { priority: 1, standing: Standing::Doubtful, ..at(1) }]), Ok(1));
    let second = Candidate { full: true, priority: 1, ..at(1) };
    assert_eq!(chosen(&[second, full]), Err(NoRoute::Full(0)), "the one to wait for stands first");
}

#[test]
fn without_a_model_the_first_is_asked() {
    let all = [Candidate { loaded: true, ..at(2) }, at(1), Candidate { in_flight: 7, ..at(0) }];
    let choice =
        pick(all.iter().copied(), &Rules { spread: Spread::First, ..rules(RoutingPolicy::PreferLocal, 0) })
            .unwrap();
    assert_eq!((choice.winner.backend, choice.how), (0, How::Order));
}

#[test]
fn the_most_useful_reason_is_given() {
    let down = Candidate { standing: Standing::Down, ..at(1) };
    let deaf = Candidate { speaks: false, ..at(2) };
    let full = Candidate { full: true, ..at(3) };
    let new = Candidate { standing: Standing::Unknown, ..at(4) };
    assert_eq!(chosen(&[]), Err(NoRoute::Nobody));
    assert_eq!(chosen(&[deaf]), Err(NoRoute::WrongDialect(2)));
    assert_eq!(chosen(&[deaf, down]), Err(NoRoute::Down(1)));
    assert_eq!(chosen(&[down, full]), Err(NoRoute::Full(3)));
    assert_eq!(chosen(&[down, new]), Err(NoRoute::Pending));
    let warming = Candidate { standing: Standing::Warming, ..at(5) };
    assert_eq!(
        chosen(&[down, new, warming]),
        Err(NoRoute::Warming(5)),
        "a wait that sees what else comes up"
    );
    assert_eq!(chosen(&[down, warming, full, new]), Err(NoRoute::Full(3)));
    assert_eq!(chosen(&[down, full, new, UP]), Ok(0));
}

#[test]
fn who_knows_the_conversation_gets_it_unless_it_is_much_busier() {
    let affinity = Arc::new(Affinity::new());
    let headers: HeaderMap =
        [(http::HeaderName::from_static("x-session-id"), "s".parse().unwrap())].into_iter().collect();
    let asked = |last: usize, candidates: &[Candidate], seed| {
        let trail = || Trail::new(Arc::clone(&affinity), Bytes::new(), 0..0);
        let (before, this) = (trail(), trail());
        let recall = Recall { trail: &before, headers: &headers, model: "m", now: now() };
        recall.last();
        before.served(at(last).server, now());
        let rules = Rules {
            recall: Some(Recall { trail: &this, ..recall }),
            ..rules(RoutingPolicy::PreferLocal, seed)
        };
        pick(candidates.iter().copied(), &rules).unwrap()
    };
    let busy = |backend, in_flight| Candidate { in_flight, ..at(backend) };
    for seed in 0..20 {
        let all = [busy(0, 0), busy(1, 1), busy(2, 0)];
        for last in 0..3 {
            let choice = asked(last, &all, seed);
            assert_eq!((choice.winner.backend, choice.how), (last, How::Session));
        }
        let choice = asked(1, &[busy(0, 0), busy(1, 2), busy(2, 0)], seed);
        assert_ne!(choice.winner.backend, 1);
        assert_eq!(choice.how, How::SessionTooBusy { last: 1 });
        // An idle one is never too busy, however little it can take.
        let choice = asked(1, &[Candidate { weight: 100, ..busy(0, 0) }, busy(1, 0)], seed);
        assert_eq!(choice.winner.backend, 1);
        // It stands behind in something that counts more.
        let choice = asked(1, &[Candidate { loaded: true, ..busy(0, 5) }, busy(1, 0)], seed);
        assert_eq!((choice.winner.backend, choice.how), (0, How::Rank));
    }
}

/// Serves requests that arrive faster than they leave, and returns what runs where when as many run as shall.
fn filled(all: &mut [Candidate], n_running: usize, n_more: usize) -> Vec<usize> {
    let mut running = std::collections::VecDeque::new();
    for seed in 0..(n_running + n_more) as u64 {
        if running.len() == n_running {
            let ended: usize = running.pop_front().unwrap();
            all[ended].in_flight -= 1;
        }
        let chosen =
            chosen_by(all, RoutingPolicy::PreferLocal, seed.wrapping_mul(0x2545_f491_4f6c_dd1d)).unwrap();
        all[chosen].in_flight += 1;
        running.push_back(chosen);
    }
    all.iter().map(|candidate| candidate.in_flight).collect()
}

#[test]
fn weights_share_the_load() {
    let known = Latency::new(Duration::from_millis(80), now());
    for weights in [&[1, 1][..], &[1, 3], &[1, 2, 5], &[1, 1, 1, 1, 12], &[4; 10]] {
        let weigh =
            |(backend, weight): (usize, &u32)| Candidate { weight: *weight, latency: known, ..at(backend) };
        let mut all: Vec<_> = weights.iter().enumerate().map(weigh).collect();
        let (sum, n_running) = (weights.iter().sum::<u32>() as f64, 400);
        for (runs, weight) in filled(&mut all, n_running, 2000).into_iter().zip(weights) {
            let due = f64::from(*weight) / sum * n_running as f64;
            assert!((runs as f64 - due).abs() <= due * 0.15 + 3.0, "{weights:?}: {runs} rather than {due}");
        }
    }
}

#[test]
fn one_that_comes_back_gets_its_share_of_its_weight() {
    let known = Latency::new(Duration::from_millis(80), now());
    let back = Candidate { share: 25, latency: known, ..at(1) };
    let runs = filled(&mut [Candidate { latency: known, ..at(0) }, back], 100, 500);
    assert!((17..=23).contains(&runs[1]), "{runs:?}");
}

/// Backends answer after times of their own, and are asked one after the other: nobody is forgotten for ever, and a
/// slow one gets little.
#[test]
fn slow_ones_are_tried_again_and_not_flooded() {
    let (load, start) = ([(); 3].map(|()| crate::load::Load::default()), Instant::now());
    let takes = [40, 60, 2000].map(Duration::from_millis);
    let (mut now, mut asked, mut busiest) = (start, [0; 3], 0);
    let mut running: Vec<(Instant, usize, Instant)> = Vec::new();
    for seed in 0..6000_u64 {
        now += Duration::from_millis(20);
        running.retain(|(end, backend, began)| {
            let over = *end <= now;
            if over {
                load[*backend].answered(*end - *began, *end);
            }
            !over
        });
        let in_flight = |backend| running.iter().filter(|(_, b, _)| *b == backend).count();
        busiest = busiest.max(in_flight(2));
        let all: Vec<_> = (0..3)
            .map(|b| Candidate { in_flight: in_flight(b), latency: load[b].latency(), ..at(b) })
            .collect();
        let spread = Spread::Load(Draw { seed, now: Tick::of(now) });
        let rules = Rules { policy: RoutingPolicy::PreferLocal, spread, recall: None };
        let b = pick(all.into_iter(), &rules).unwrap().winner.backend;
        asked[b] += 1;
        running.push((now + takes[b], b, now));
    }
    // Two minutes at 50 a second.
    assert!(asked[2] >= 2 && asked[2] < 150, "{asked:?}");
    assert!(busiest <= 3, "{busiest}");
    assert!(asked[0] > asked[1] && asked[1] > 500, "{asked:?}");
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        4 => Just(Standing::Healthy),
        2 => Just(Standing::Doubtful),
        1 => Just(Standing::Ejected),
        1 => Just(Standing::Warming),
        1 => Just(Standing::Unknown),
        1 => Just(Standing::Unauthorised),
        1 => Just(Standing::Down),
    ]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let flags = (prop::bool::weighted(0.85), prop::bool::ANY, prop::bool::weighted(0.3), prop::bool::ANY);
    let numbers = (0..3_u32, 1..5_u32, 1..=100_u32, 0..6_usize, prop::option::of(1..5000_u64));
    (standing(), flags, numbers).prop_map(|(standing, flags, numbers)| {
        let (speaks, cloud, full, loaded) = flags;
        let (priority, weight, share, in_flight, latency) = numbers;
        let latency = latency.map_or(Latency::UNKNOWN, |ms| Latency::new(Duration::from_millis(ms), now()));
        let side = if cloud { Side::Cloud } else { Side::Local };
        Candidate { standing, speaks, side, full, loaded, priority, weight, share, in_flight, latency, ..UP }
    })
}

fn policy() -> impl Strategy<Value = RoutingPolicy> {
    prop_oneof![
        Just(RoutingPolicy::PreferLocal),
        Just(RoutingPolicy::PreferCloud),
        Just(RoutingPolicy::LocalOnly)
    ]
}

fn table() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(), 0..8).prop_map(|all| {
        let numbered = |(n, candidate): (usize, Candidate)| {
            let Candidate { backend, server, .. } = at(n);
            Candidate { backend, server, ..candidate }
        };
        all.into_iter().enumerate().map(numbered).collect()
    })
}

proptest! {
    #[test]
    fn the_chosen_one_can_take_it_and_nobody_stands_before_it(all in table(), policy in policy(), seed: u64) {
        let rules = rules(policy, seed);
        let able = |c: &&Candidate| obstacle(c, policy).is_none();
        match pick(all.iter().copied(), &rules) {
            Ok(Choice { winner, how }) => {
                prop_assert!(winner.speaks && !winner.full);
                prop_assert!(matches!(winner.standing, Standing::Healthy | Standing::Doubtful | Standing::Ejected));
                prop_assert!(policy != RoutingPolicy::LocalOnly || winner.side == Side::Local);
                for other in all.iter().filter(able).filter(|other| other.backend != winner.backend) {
                    let (a, b) = (Tier::of(&winner, &rules), Tier::of(other, &rules));
                    prop_assert!(a <= b);
                    prop_assert_eq!(behind(other, &winner, &rules) == Behind::Nothing, a == b);
                    if winner.standing == Standing::Ejected {
                        prop_assert_eq!(other.standing, Standing::Ejected);
                    }
                    // Of the same health, side and room: priority is strict.
                    if (a.ejected, a.other_side, a.full, a.doubtful) == (b.ejected, b.other_side, b.full, b.doubtful) {
                        prop_assert!(winner.priority <= other.priority);
                    }
                }
                if let How::Draw { other } = how {
                    prop_assert!(rules.spread.cost(&winner) <= rules.spread.cost(&all[other]));
                    prop_assert!(other != winner.backend);
                }
            }
            Err(no_route) => {
                // One that is free has to wait for the queues of those that stand before it.
                let group = |c: &Candidate| (c.standing == Standing::Ejected, Tier::of(c, &rules).other_side);
                let first = all.iter().filter(able).map(group).min();
                prop_assert!(all.iter().filter(able).all(|c| c.full || Some(group(c)) > first));
                let is = |standing| move |c: &Candidate| c.speaks && c.standing == standing;
                let allowed = |c: &Candidate| policy != RoutingPolicy::LocalOnly || c.side == Side::Local;
                match no_route {
                    NoRoute::Nobody => prop_assert!(all.is_empty()),
                    NoRoute::WrongDialect(n) => prop_assert!(!all[n].speaks && all.iter().all(|c| !c.speaks)),
                    NoRoute::LocalOnly(n) => {
                        prop_assert!(!allowed(&all[n]) && all.iter().all(|c| !c.speaks || !allowed(c)));
                    }
                    NoRoute::Pending => prop_assert!(all.iter().any(is(Standing::Unknown))),
                    NoRoute::Full(n) => {
                        prop_assert!(all[n].full && obstacle(&all[n], policy).is_none());
                        prop_assert_eq!(Some(group(&all[n])), first);
                    }
                    NoRoute::Warming(n) => prop_assert!(is(Standing::Warming)(&all[n])),
                    NoRoute::Unauthorised(n) => prop_assert!(is(Standing::Unauthorised)(&all[n])),
                    NoRoute::Down(n) => prop_assert!(is(Standing::Down)(&all[n])),
                }
            }
        }
    }

    #[test]
    fn whoever_is_next_is_picked_when_those_before_are_gone(all in table(), policy in policy(), seed: u64) {
        let rules = rules(policy, seed);
        let order = order(all.iter().copied(), &rules);
        prop_assert_eq!(order.len(), all.iter().filter(|c| obstacle(c, policy).is_none()).count());
        let mut left = all;
        for choice in order {
            let next = match pick(left.iter().copied(), &rules) {
                Ok(choice) => choice.winner.backend,
                Err(NoRoute::Full(backend)) => backend,
                Err(no_route) => panic!("{no_route:?}"),
            };
            prop_assert_eq!(next, choice.winner.backend);
            left.retain(|c| c.backend != next);
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(all in table(), policy in policy(), seed: u64, turn in 0..8_usize) {
        let mut other = all.clone();
        other.reverse();
        let turn = turn % other.len().max(1);
        other.rotate_left(turn);
        let by_load = rules(policy, seed);
        for rules in [by_load, Rules { spread: Spread::First, ..by_load }] {
            let chosen = |list: &[Candidate]| {
                pick(list.iter().copied(), &rules).map(|choice| choice.winner.backend)
            };
            let (a, b) = (chosen(&all), chosen(&other));
            match (a, b) {
                // Reasons name the first of several.
                (Err(a), Err(b)) => prop_assert_eq!(std::mem::discriminant(&a), std::mem::discriminant(&b)),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
