//! How long a backend takes to begin an answer: the peak-EWMA of the times to its response's headers.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The estimate of one backend. Written after each answer, read for each request: one word, no lock.
///
/// A time above the estimate replaces it at once: a server that has begun to page should lose its next request, not
/// its tenth. Times below it count the more, the longer ago the last one was, so that one quick answer in a burst of
/// slow ones does not hide them.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// A [`Latency`]: its microseconds in the upper half.
    packed: AtomicU64,
    /// What its answers usually take, in microseconds: an `f32`, zero while nothing is known.
    usual: AtomicU32,
}

/// What [`Load`] knew at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latency {
    /// Zero while nothing is known.
    micros: f32,
    /// When the last answer came.
    at: Tick,
}

/// A moment, coarse and small. Wraps round after 497 days, and what is compared is far less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tick(u32);

/// Time after which an estimate has lost 63 % of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// Fine enough for a decay of seconds.
const TICK: Duration = Duration::from_millis(10);
/// What a backend is taken for that has requests and has not answered one yet: slow enough not to get the next ones
/// before those that are known, as prompts of a few thousand tokens take this long on a good machine.
const UNPROVEN_MICROS: f32 = 1e6;
/// By how much of the difference an answer moves what is usual: four times as much down as up, so that it is what the
/// quicker fifth takes, and a bad quarter of an hour does not become usual within a minute.
const DOWN: f32 = 1.0 / 8.0;
const UP: f32 = 1.0 / 32.0;
/// A backend that has answered within this time is known as it is now.
const LATELY: Duration = Duration::from_secs(1);
/// Below it nothing is compared: the noise of a machine.
const LEAST_MICROS: f32 = 1.0;

impl Load {
    /// Notes an answer whose headers came after `elapsed`.
    pub(crate) fn answered(&self, elapsed: Duration, now: Instant) {
        let (sample, now) = (micros(elapsed), Tick::of(now));
        let noted = |packed| {
            let before = Latency::unpack(packed);
            let estimate = if before.is_known() && sample < before.micros {
                let kept = kept(now.since(before.at));
                before.micros * kept + sample * (1.0 - kept)
            } else {
                sample
            };
            Some(Latency { micros: estimate, at: now }.pack())
        };
        // Cannot fail: `noted` always returns something.
        _ = self.packed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, noted);
        let moved = |bits| {
            let usual = f32::from_bits(bits);
            let step = if sample < usual { DOWN } else { UP };
            let moved = if usual > 0.0 { usual + (sample - usual) * step } else { sample };
            Some(moved.to_bits())
        };
        // Nor can this.
        _ = self.usual.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }

    /// Notes that a backend without requests has answered its probe: what is held against it beyond the usual goes.
    ///
    /// A server that was slow for a while gets no requests that could show that it is no longer. So one tries it after
    /// each probe, and if it still is slow its time counts at once.
    pub(crate) fn idle_and_well(&self, now: Instant) {
        let (usual, now) = (f32::from_bits(self.usual.load(Ordering::Relaxed)), Tick::of(now));
        let settled = |packed| {
            let before = Latency::unpack(packed);
            let peak = before.is_known() && before.micros > usual && now.since(before.at) >= LATELY;
            peak.then(|| Latency { micros: usual, ..before }.pack())
        };
        // Failing that, there was no peak.
        self.packed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, settled).ok();
    }

    /// Forgets all: the next request tries the backend, and only one does.
    pub(crate) fn forget(&self) {
        self.packed.store(0, Ordering::Relaxed);
        self.usual.store(0, Ordering::Relaxed);
    }

    /// Returns what is known.
    pub(crate) fn latency(&self) -> Latency {
        Latency::unpack(self.packed.load(Ordering::Relaxed))
    }
}

impl Tick {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn of(now: Instant) -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let ticks = now.saturating_duration_since(*START).as_millis() / TICK.as_millis();
        Self((ticks & u128::from(u32::MAX)) as u32)
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        TICK.saturating_mul(self.0.wrapping_sub(earlier.0))
    }
}

impl Latency {
    /// Returns the latency to reckon with for one more request, in microseconds.
    ///
    /// While a backend is idle its estimate fades, and nothing is held against one that has none: sooner or later
    /// it gets a request, however slow it once was. From then until its answer the whole estimate counts, or the one
    /// of a slow server: one request tries it, not all of them.
    pub(crate) fn expected(self, in_flight: usize, now: Tick) -> f32 {
        let expected = match (self.is_known(), in_flight) {
            (true, 0) => self.micros * kept(now.since(self.at)),
            (true, _) => self.micros,
            (false, 0) => LEAST_MICROS,
            (false, _) => UNPROVEN_MICROS,
        };
        expected.max(LEAST_MICROS)
    }

    /// The estimate as it stands, for people.
    pub(crate) fn known(self) -> Option<Duration> {
        self.is_known().then(|| Duration::from_secs_f64(f64::from(self.micros) / 1e6))
    }

    fn is_known(self) -> bool {
        self.micros > 0.0
    }

    fn pack(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at.0)
    }

    fn unpack(packed: u64) -> Self {
        Self { micros: f32::from_bits((packed >> 32) as u32), at: Tick(packed as u32) }
    }
}

#[cfg(test)]
impl Latency {
    pub(crate) const UNKNOWN: Self = Self { micros: 0.0, at: Tick::ZERO };

    pub(crate) fn new(latency: Duration, at: Tick) -> Self {
        Self { micros: micros(latency), at }
    }
}

#[cfg(test)]
impl Tick {
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.wrapping_add((time.as_millis() / TICK.as_millis()) as u32))
    }
}

fn micros(time: Duration) -> f32 {
    (time.as_secs_f32() * 1e6).max(LEAST_MICROS)
}

/// The weight that an estimate still has after a silence.
fn kept(silence: Duration) -> f32 {
    (-silence.as_secs_f32() / DECAY.as_secs_f32()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn known(load: &Load) -> f64 {
        load.latency().known().unwrap().as_secs_f64() * 1e3
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let (load, start) = (Load::default(), Instant::now());
        load.answered(10 * MS, start);
        load.answered(500 * MS, start);
        assert!((known(&load) - 500.0).abs() < 0.1);
        // A hundred quick answers within a tenth of a second are no reason to forget it.
        for n in 0..100 {
            load.answered(10 * MS, start + n * MS);
        }
        assert!(known(&load) > 490.0);
        load.answered(10 * MS, start + 10 * S);
        assert!((185.0..200.0).contains(&known(&load)), "{}", known(&load));
        load.answered(10 * MS, start + 70 * S);
        assert!(known(&load) < 11.0);
    }

    #[test]
    fn one_request_tries_a_backend_that_is_slow_or_unknown() {
        let then = Tick(u32::MAX - 5);
        let slow = Latency::new(2000 * MS, then);
        assert!(slow.expected(0, then) > 1.9e6);
        assert!(slow.expected(0, then.after(60 * S)) < 6e3, "idle for a minute: it may have become better");
        assert!(slow.expected(1, then.after(60 * S)) > 1.9e6, "until that is known it gets no second one");
        assert_eq!(Latency::UNKNOWN.expected(0, then), LEAST_MICROS);
        assert_eq!(Latency::UNKNOWN.expected(1, then), UNPROVEN_MICROS);
    }

    #[test]
    fn a_peak_goes_with_the_next_good_probe_and_what_is_usual_stays() {
        let (load, start) = (Load::default(), Instant::now());
        for n in 0..100 {
            load.answered(10 * MS, start + n * MS);
        }
        load.answered(3000 * MS, start + S);
        load.idle_and_well(start + S + LATELY / 2);
        assert!(known(&load) > 2900.0, "it has only just been seen to be slow");
        load.idle_and_well(start + S + LATELY);
        // One answer of three seconds has moved what is usual by a thirtieth of that.
        assert!((100.0..110.0).contains(&known(&load)), "{}", known(&load));
        let slow = Load::default();
        for n in 0..100 {
            slow.answered(3000 * MS, start + n * 5 * S);
        }
        slow.idle_and_well(start + 1000 * S);
        assert!(known(&slow) > 2900.0, "it always takes this long");
    }

    #[test]
    fn nothing_is_known_of_one_that_was_only_probed() {
        let load = Load::default();
        load.idle_and_well(Instant::now());
        assert_eq!(load.latency(), Latency { micros: 0.0, at: Tick::ZERO });
    }

    #[test]
    fn what_is_forgotten_is_tried_as_if_it_were_new() {
        let load = Load::default();
        load.answered(2000 * MS, Instant::now());
        load.forget();
        assert_eq!(load.latency(), Latency { micros: 0.0, at: Tick::ZERO });
        assert_eq!(load.latency().expected(0, Tick::ZERO), LEAST_MICROS);
    }

    #[test]
    fn no_time_does_any_harm() {
        let load = Load::default();
        let now = Instant::now();
        let year = 365 * 86_400 * S;
        for (elapsed, at) in
            [(10 * MS, now + 3 * year), (5 * MS, now), (Duration::ZERO, now), (Duration::MAX, now)]
        {
            load.answered(elapsed, at);
            let expected = load.latency().expected(0, Tick::of(now));
            assert!(expected.is_finite() && expected >= LEAST_MICROS, "{expected}");
        }
    }
}
