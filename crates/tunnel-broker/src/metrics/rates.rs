//! How much there was lately. Pure: times are those since the start.

use std::time::Duration;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flow {
    pub(super) requests: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) tokens: f64,
}

/// What went through lately, a second: the average of the last 28 to 30 seconds, or of less after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// LLM requests that ended.
    pub requests_per_s: f64,
    /// Bytes of request bodies.
    pub bytes_in_per_s: f64,
    /// Bytes of answers.
    pub bytes_out_per_s: f64,
    /// Tokens of answers.
    pub tokens_per_s: f64,
}

/// The recent past in slots. There is no tick: a slot is emptied when its number comes round again.
///
/// What a long answer brought is spread evenly over the time that it took, so that it does not appear as one
/// burst at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    slots: [Slot; N_SLOTS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u64,
    flow: Flow,
}

const N_SLOTS: u64 = 15;
const SLOT: Duration = Duration::from_secs(2);
/// Shortest time that is divided by, right after the start.
const SHORTEST: Duration = Duration::from_secs(1);

impl Window {
    /// Adds what came between `from` and `to` if that is one slot's time; tells whether it is.
    pub(super) fn add_short(&mut self, flow: Flow, from: Duration, to: Duration) -> bool {
        let short = number(from) == number(to);
        if short {
            self.slot(number(to)).add(flow, 1.0);
        }
        short
    }

    /// Adds what came between `from` and `to`, which is now or a moment ago.
    pub(super) fn add(&mut self, flow: Flow, from: Duration, to: Duration) {
        let (first, last) = (number(from), number(to));
        if first >= last {
            self.slot(last).add(flow, 1.0);
            return;
        }
        let whole = (to - from).as_secs_f64();
        for number in first.max((last + 1).saturating_sub(N_SLOTS))..=last {
            let overlap = end(number).min(to).saturating_sub(start(number).max(from));
            self.slot(number).add(flow, overlap.as_secs_f64() / whole);
        }
    }

    pub(super) fn rates(&self, now: Duration) -> Rates {
        let oldest = (number(now) + 1).saturating_sub(N_SLOTS);
        let mut sum = Flow::default();
        for slot in self.slots.iter().filter(|slot| (oldest..=number(now)).contains(&slot.number)) {
            sum.add(slot.flow, 1.0);
        }
        let seconds = now.saturating_sub(start(oldest)).max(SHORTEST).as_secs_f64();
        Rates {
            requests_per_s: sum.requests / seconds,
            bytes_in_per_s: sum.bytes_in / seconds,
            bytes_out_per_s: sum.bytes_out / seconds,
            tokens_per_s: sum.tokens / seconds,
        }
    }

    fn slot(&mut self, number: u64) -> &mut Flow {
        let slot = &mut self.slots[(number % N_SLOTS) as usize];
        if slot.number < number {
            *slot = Slot { number, flow: Flow::default() };
        }
        &mut slot.flow
    }
}

impl Flow {
    fn add(&mut self, other: Self, share: f64) {
        self.requests += other.requests * share;
        self.bytes_in += other.bytes_in * share;
        self.bytes_out += other.bytes_out * share;
        self.tokens += other.tokens * share;
    }
}

fn number(at: Duration) -> u64 {
    at.as_secs() / SLOT.as_secs()
}

fn start(number: u64) -> Duration {
    Duration::from_secs(number * SLOT.as_secs())
}

fn end(number: u64) -> Duration {
    start(number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const BYTES: Flow = Flow { requests: 0.0, bytes_in: 0.0, bytes_out: 6000.0, tokens: 0.0 };
    const REQUEST: Flow = Flow { requests: 1.0, bytes_in: 0.0, bytes_out: 0.0, tokens: 0.0 };

    #[test]
    fn a_steady_flow_has_its_rate_at_any_time() {
        let mut window = Window::default();
        for second in 0..200 {
            for _ in 0..5 {
                window.add(REQUEST, s(second), s(second));
            }
            // The second that has begun is counted and has not passed: at most one too many.
            let rate = window.rates(s(second) + Duration::from_millis(999)).requests_per_s;
            assert!((rate - 5.0).abs() < 0.2, "{second}: {rate}");
        }
    }

    #[test]
    fn what_was_is_forgotten_without_a_tick() {
        let mut window = Window::default();
        window.add(REQUEST, s(100), s(100));
        assert!(window.rates(s(127)).requests_per_s > 0.03);
        assert_eq!(window.rates(s(131)), Rates::default());
        assert_eq!(window.rates(s(10_000)), Rates::default());
        // The slot's next turn.
        window.add(REQUEST, s(130), s(130));
        assert!(window.rates(s(131)).requests_per_s < 0.04);
    }

    #[test]
    fn a_long_answer_is_no_burst() {
        let mut window = Window::default();
        // 100 bytes a second for a minute.
        window.add(BYTES, s(100), s(160));
        let rate = window.rates(s(160)).bytes_out_per_s;
        assert!((rate - 100.0).abs() < 1.0, "{rate}");
        let later = window.rates(s(175)).bytes_out_per_s;
        assert!((40.0..60.0).contains(&later), "{later}");
    }

    #[test]
    fn the_first_moment_is_not_divided_by_nothing() {
        let mut window = Window::default();
        window.add(REQUEST, Duration::ZERO, Duration::from_millis(1));
        assert_eq!(window.rates(Duration::from_millis(1)).requests_per_s, 1.0);
    }
}
