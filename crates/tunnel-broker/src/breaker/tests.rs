use proptest::prelude::*;

use super::*;

const LONGEST: Duration = Duration::from_secs(30);

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

/// A breaker that has just opened because requests failed.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(LONGEST);
    for _ in 0..FAILURES_IN_A_ROW {
        assert_eq!(breaker.position(now), Position::Closed);
        breaker.handle(Event::Failed, now, 0.5);
    }
    assert_eq!(breaker.position(now), Position::Open);
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_trial_that_goes_well_closes_it() {
    let start = Instant::now();
    let mut breaker = opened(start);
    let later = at(start, 1000);
    assert_eq!(breaker.position(at(start, 999)), Position::Open);
    assert_eq!(breaker.position(later), Position::HalfOpen);
    breaker.handle(Event::Tried, later, 0.5);
    assert_eq!(breaker.position(later), Position::Trying, "one at a time");
    assert_eq!(breaker.position(later + TRIAL_GAP), Position::HalfOpen, "its caller may have gone");
    breaker.handle(Event::Succeeded, later, 0.5);
    assert_eq!((breaker.position(later), breaker.share(later)), (Position::Returning, FIRST_SHARE));
    let back = later + RETURN_TIME;
    assert_eq!((breaker.position(back), breaker.share(back)), (Position::Closed, 100));
}

#[test]
fn a_success_in_between_keeps_it_closed() {
    let now = Instant::now();
    let mut breaker = Breaker::new(LONGEST);
    for _ in 0..9 {
        for event in [Event::Failed, Event::Failed, Event::Succeeded, Event::Succeeded, Event::Succeeded] {
            breaker.handle(event, now, 0.5);
        }
    }
    assert_eq!(breaker.position(now), Position::Closed);
}

#[test]
fn a_failing_half_of_enough_requests_opens_it() {
    let now = Instant::now();
    let mut breaker = Breaker::new(LONGEST);
    for n in 0..SAMPLE {
        assert_eq!(breaker.position(now), Position::Closed, "after {n}");
        breaker.handle(if n % 2 == 0 { Event::Succeeded } else { Event::Failed }, now, 0.5);
    }
    assert_eq!(breaker.position(now), Position::Open);
}

#[test]
fn failures_of_another_time_do_not_count() {
    let start = Instant::now();
    let mut breaker = Breaker::new(LONGEST);
    for n in 0..u64::from(SAMPLE) * 2 {
        let now = at(start, n * 2000);
        breaker.handle(if n % 2 == 0 { Event::Succeeded } else { Event::Failed }, now, 0.5);
        assert_eq!(breaker.position(now), Position::Closed);
    }
}

#[test]
fn failed_trials_double_the_time_up_to_the_longest() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    let mut times = Vec::new();
    for _ in 0..7 {
        let begun = now;
        while breaker.position(now) == Position::Open {
            now += Duration::from_millis(250);
        }
        times.push((now - begun).as_secs());
        breaker.handle(Event::Tried, now, 0.5);
        breaker.handle(Event::Failed, now, 0.5);
    }
    assert_eq!(times, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn luck_spreads_the_time_and_never_beyond_the_longest() {
    let start = Instant::now();
    let open_for = |luck: f64| {
        let mut breaker = Breaker::new(LONGEST);
        for _ in 0..FAILURES_IN_A_ROW {
            breaker.handle(Event::Failed, start, luck);
        }
        (0..).find(|ms| breaker.position(at(start, *ms)) != Position::Open).unwrap()
    };
    assert_eq!((open_for(0.0), open_for(1.0)), (750, 1250));
}

#[test]
fn no_connection_ejects_at_once_and_the_next_good_probe_brings_it_back() {
    let start = Instant::now();
    let mut breaker = Breaker::new(LONGEST);
    breaker.handle(Event::Unreachable, start, 0.5);
    assert_eq!(breaker.position(at(start, 29_999)), Position::Open, "no request is put at risk");
    breaker.handle(Event::ProbedWell, at(start, 300), 0.5);
    assert_eq!(breaker.position(at(start, 300)), Position::Returning);
}

#[test]
fn a_good_probe_does_not_overrule_requests_that_just_failed() {
    let start = Instant::now();
    let mut breaker = opened(start);
    breaker.handle(Event::ProbedWell, at(start, 500), 0.5);
    assert_eq!(breaker.position(at(start, 500)), Position::Open);
    for n in 1..30 {
        let now = at(start, n * 1000);
        breaker.handle(Event::ProbedWell, now, 0.5);
        assert_eq!(breaker.position(now), Position::HalfOpen, "it waits for a request");
    }
    let later = at(start, 1000) + LONGEST;
    breaker.handle(Event::ProbedWell, later, 0.5);
    assert_eq!(breaker.position(later), Position::Returning, "nobody asks: the probe must do");
}

#[test]
fn probes_do_not_close_it_while_each_trial_fails() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    for _ in 0..10 {
        while breaker.position(now) == Position::Open {
            now += Duration::from_millis(200);
            breaker.handle(Event::ProbedWell, now, 0.5);
        }
        assert_eq!(breaker.position(now), Position::HalfOpen);
        breaker.handle(Event::Tried, now, 0.5);
        breaker.handle(Event::ProbedWell, now, 0.5);
        breaker.handle(Event::Failed, now, 0.5);
        assert_eq!(breaker.position(now), Position::Open);
    }
}

#[test]
fn who_comes_back_is_given_up_sooner() {
    let start = Instant::now();
    let mut breaker = opened(start);
    let back = at(start, 1500);
    breaker.handle(Event::Succeeded, back, 0.5);
    for _ in 0..FAILURES_WHILE_RETURNING {
        assert_eq!(breaker.position(back), Position::Returning);
        breaker.handle(Event::Failed, back, 0.5);
    }
    assert_eq!(breaker.position(back), Position::Open);
    assert_eq!(breaker.position(at(start, 3499)), Position::Open, "and for longer");
}

#[test]
fn an_answer_while_it_is_open_earns_a_trial() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.handle(Event::Succeeded, now, 0.5);
    assert_eq!(breaker.position(now), Position::HalfOpen);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Succeeded),
        Just(Event::Failed),
        Just(Event::Failed),
        Just(Event::Unreachable),
        Just(Event::Tried),
        Just(Event::ProbedWell),
    ]
}

proptest! {
    /// Whatever happened: left alone it lets a request through after its longest time, and is closed by a good
    /// probe after as long again.
    #[test]
    fn it_never_stays_open(steps in prop::collection::vec((event(), 0u64..20_000, 0.0..1.0), 0..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        for (event, ms, luck) in steps {
            now = at(now, ms);
            breaker.handle(event, now, luck);
        }
        let later = now + LONGEST + TRIAL_GAP;
        prop_assert!(matches!(breaker.position(later), Position::HalfOpen | Position::Closed | Position::Returning));
        let later = later + LONGEST;
        breaker.handle(Event::ProbedWell, later, 0.5);
        prop_assert!(matches!(breaker.position(later), Position::Closed | Position::Returning));
    }

    /// Left alone its share never falls, and is whole in the end.
    #[test]
    fn its_share_grows(
        steps in prop::collection::vec((event(), 0u64..5_000, 0.0..1.0), 0..50),
        pauses in prop::collection::vec(0u64..2_000, 0..50),
    ) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        for (event, ms, luck) in steps {
            now = at(now, ms);
            breaker.handle(event, now, luck);
        }
        let mut share = breaker.share(now);
        for ms in pauses {
            now = at(now, ms);
            let next = breaker.share(now);
            prop_assert!((1..=100).contains(&next) && next >= share);
            share = next;
        }
        let later = now + LONGEST * 2;
        breaker.handle(Event::ProbedWell, later, 0.5);
        prop_assert_eq!(breaker.share(later + RETURN_TIME), 100);
    }

    /// Nothing but failures opens it.
    #[test]
    fn it_does_not_open_without_failures(steps in prop::collection::vec((event(), 0u64..5_000), 0..100)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        for (event, ms) in steps {
            now = at(now, ms);
            if !matches!(event, Event::Failed | Event::Unreachable) {
                breaker.handle(event, now, 0.5);
            }
            prop_assert_eq!(breaker.position(now), Position::Closed);
            prop_assert!(breaker.is_calm(now));
        }
    }
}
