use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tunnel_api::warning::{CONFIG_INVALID, CONNECTION_DOWN, NO_TOKEN, RELAY_UNREACHABLE, TOKEN_EXPIRED};

use super::*;

/// A board and a clock.
struct Bench {
    board: Board,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { board: Board::default(), start: Instant::now() }
    }

    fn at(&mut self, ms: u64, conditions: &[Condition]) -> Vec<(Turn, String)> {
        let now = self.start + Duration::from_millis(ms);
        let wall = Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
        let transitions = self.board.update(conditions.to_vec(), now, wall);
        transitions.into_iter().map(|transition| (transition.turn, transition.warning.code)).collect()
    }

    fn shown(&self) -> Vec<String> {
        self.board.shown().into_iter().map(|warning| warning.code).collect()
    }

    fn next_ms(&self) -> Option<u128> {
        self.board.next_change().map(|next| (next - self.start).as_millis())
    }
}

fn condition(code: &str) -> Condition {
    Condition::new(Warning::new(code, "sentence", ""))
}

fn down(id: &str) -> Condition {
    Condition::of(id, Warning::new(CONNECTION_DOWN, format!("{id} is down"), ""))
}

#[test]
fn trouble_is_shown_once_it_has_lasted_and_since_when_it_began() {
    let mut bench = Bench::new();
    let lost = [condition(RELAY_UNREACHABLE)];
    assert_eq!(bench.at(1000, &lost), []);
    assert_eq!((bench.shown().len(), bench.next_ms()), (0, Some(6000)));
    assert_eq!(bench.at(5999, &lost), []);
    assert_eq!(bench.at(6000, &lost), [(Turn::Raised, RELAY_UNREACHABLE.to_owned())]);
    assert_eq!(bench.board.shown()[0].since, Some(Timestamp::from_second(1).unwrap()));
    assert_eq!(bench.next_ms(), None, "nothing changes by time alone");
}

#[test]
fn trouble_that_comes_back_soon_is_the_same_trouble() {
    let mut bench = Bench::new();
    let lost = [condition(RELAY_UNREACHABLE)];
    bench.at(0, &lost);
    bench.at(5000, &lost);
    assert_eq!(bench.at(8000, &[]), []);
    assert!(bench.shown().is_empty(), "what does not hold is not shown");
    assert_eq!(bench.at(9000, &lost), []);
    assert_eq!(bench.shown(), [RELAY_UNREACHABLE], "at once: it has lasted long enough before");
    assert_eq!(bench.board.shown()[0].since, Some(Timestamp::UNIX_EPOCH));
    assert_eq!(bench.at(20_000, &[]), []);
    assert_eq!(bench.next_ms(), Some(30_000));
    assert_eq!(bench.at(30_000, &[]), [(Turn::Cleared, RELAY_UNREACHABLE.to_owned())]);
    assert_eq!(bench.next_ms(), None);
}

#[test]
fn trouble_that_was_over_unseen_is_cleared_before_it_is_new() {
    let mut bench = Bench::new();
    let lost = [condition(RELAY_UNREACHABLE)];
    bench.at(0, &lost);
    bench.at(5000, &lost);
    bench.at(6000, &[]);
    assert_eq!(bench.at(90_000, &lost), [(Turn::Cleared, RELAY_UNREACHABLE.to_owned())]);
    assert_eq!(bench.next_ms(), Some(95_000));
}

#[test]
fn what_a_person_must_do_is_shown_at_once_and_gone_at_once() {
    let mut bench = Bench::new();
    for code in [NO_TOKEN, TOKEN_EXPIRED, CONFIG_INVALID] {
        assert_eq!(bench.at(0, &[condition(code)]), [(Turn::Raised, code.to_owned())]);
        assert_eq!(bench.at(1, &[]), [(Turn::Cleared, code.to_owned())]);
    }
}

#[test]
fn connections_are_told_apart_and_sentences_may_change() {
    let mut bench = Bench::new();
    bench.at(0, &[down("a")]);
    bench.at(4000, &[down("a"), down("b")]);
    assert_eq!(bench.at(10_000, &[down("a"), down("b")]).len(), 1);
    let mut other = down("a");
    other.warning.message = "another sentence".to_owned();
    assert_eq!(bench.at(11_000, &[other, down("b")]), []);
    assert_eq!(bench.board.shown()[0].message, "another sentence");
    assert_eq!(bench.at(14_000, &[down("a"), down("b")]).len(), 1);
}

#[test]
fn most_severe_comes_first_then_the_oldest() {
    let mut bench = Bench::new();
    let severe = |code: &str, severity| {
        let mut condition = condition(code);
        condition.warning = condition.warning.with_severity(severity);
        condition
    };
    let (info, first) = (severe(NO_TOKEN, Severity::Info), severe("first", Severity::Warning));
    let (second, error) = (severe("second", Severity::Warning), severe(CONFIG_INVALID, Severity::Error));
    bench.at(0, &[info.clone(), first.clone()]);
    bench.at(1, &[error.clone(), second.clone(), first.clone(), info.clone()]);
    assert_eq!(bench.shown(), [CONFIG_INVALID, "first", "second", NO_TOKEN]);
    bench.at(2, &[second, first, info, error]);
    assert_eq!(
        bench.shown(),
        [CONFIG_INVALID, "first", "second", NO_TOKEN],
        "whatever the order they are said in"
    );
}

const CODES: [&str; 4] = [RELAY_UNREACHABLE, CONNECTION_DOWN, NO_TOKEN, "unheard_of"];

proptest! {
    #[test]
    fn flaps_are_silent_and_every_raise_has_one_clear(
        steps in proptest::collection::vec((0..20_000u64, 0..16u8), 1..80),
    ) {
        let mut bench = Bench::new();
        let (mut now, mut held): (u64, BTreeMap<&str, u64>) = (0, BTreeMap::new());
        let mut raised: BTreeMap<String, bool> = BTreeMap::new();
        // In the end nothing holds, for long enough.
        let steps = steps.into_iter().chain([(0, 0), (60_000, 0)]);
        let mut conditions = Vec::new();
        for (pause, set) in steps {
            let next = now + pause;
            let mut moments: Vec<(u64, bool)> = Vec::new();
            while let Some(due) = bench.next_ms().map(|due| due as u64).filter(|due| *due < next) {
                moments.push((due, false));
                check(&mut bench, due, &conditions, &held, &mut raised)?;
                prop_assert!(bench.next_ms() != Some(due.into()), "the hub would spin");
                prop_assert!(moments.len() < 20);
            }
            now = next;
            let holds = |at: usize| set & (1 << at) != 0;
            held.retain(|code, _| CODES.iter().position(|known| known == code).is_some_and(holds));
            for (_, code) in CODES.iter().enumerate().filter(|(at, _)| holds(*at)) {
                held.entry(code).or_insert(now);
            }
            conditions = held.keys().map(|code| condition(code)).collect();
            check(&mut bench, now, &conditions, &held, &mut raised)?;
        }
        prop_assert!(raised.values().all(|raised| !raised), "{raised:?}");
    }
}

fn check(
    bench: &mut Bench,
    now: u64,
    conditions: &[Condition],
    held: &BTreeMap<&str, u64>,
    raised: &mut BTreeMap<String, bool>,
) -> Result<(), TestCaseError> {
    for (turn, code) in bench.at(now, conditions) {
        let before = raised.insert(code.clone(), turn == Turn::Raised).unwrap_or(false);
        match turn {
            Turn::Raised => {
                prop_assert!(!before, "{code} was raised twice");
                let lasted = Duration::from_millis(now - held[code.as_str()]);
                prop_assert!(lasted >= Timing::of(&code).delay, "{code} was raised after {lasted:?}");
            }
            Turn::Cleared => prop_assert!(before, "{code} was cleared and never raised"),
        }
    }
    for code in bench.shown() {
        prop_assert!(held.contains_key(code.as_str()) && raised[&code], "{code} is shown");
    }
    Ok(())
}
