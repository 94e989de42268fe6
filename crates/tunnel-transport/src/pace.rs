//! How much may be on its way at once.

use std::time::{Duration, Instant};

/// Bounds the bytes between this end and the other one, from how fast acknowledgements come back.
///
/// What waits should wait in HTTP/2, where streams take turns; what is already below it delays every token
/// behind it. So the link keeps just the path's own capacity in flight (bandwidth × round trip) and lets at most
/// [`Pace::QUEUE`] worth of it queue up on the way. A constant would do for one path only: small ones starve a
/// long path, large ones put seconds of queue before a slow one.
///
/// The estimate follows BBR's idea: the highest delivery rate of the last [`Pace::ROUNDS`] rounds, the smallest
/// round trip of the last [`Pace::RTT_MEMORY`], doubling at the start until the rate stops growing.
#[derive(Debug)]
pub(crate) struct Pace {
    rtt_min: Option<(Duration, Instant)>,
    rtt_last: Option<Duration>,
    /// Highest rate of each recent round, bytes a second; the newest last.
    rates: [f64; Self::ROUNDS],
    round: usize,
    round_ends_at: u64,
    starting: bool,
    plateau: Plateau,
}

#[derive(Debug, Default)]
struct Plateau {
    rate: f64,
    rounds: u8,
}

/// What an acknowledgement says about the newest frame that it covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// When that frame was sent, and what had been acknowledged by then (offset, and when).
    pub(crate) sent_at: Instant,
    pub(crate) acked_then: u64,
    pub(crate) acked_then_at: Instant,
    /// What is acknowledged now, and what has been sent.
    pub(crate) acked: u64,
    pub(crate) sent: u64,
    /// Whether the pace held the sender back: a rate of a sender with nothing to send says nothing.
    pub(crate) limited: bool,
}

impl Pace {
    /// The queue that one may build up on the path.
    const QUEUE: Duration = Duration::from_millis(8);
    /// Room that is always there, for acknowledgements come each 64 KiB.
    const FLOOR: u64 = 96 * 1024;
    /// What may go out before anything is known: ten round trips of it fill a path of 1 s × 2.5 MB/s.
    const START: u64 = 256 * 1024;
    const ROUNDS: usize = 10;
    const RTT_MEMORY: Duration = Duration::from_secs(30);

    pub(crate) fn new() -> Self {
        Self {
            rtt_min: None,
            rtt_last: None,
            rates: [0.0; Self::ROUNDS],
            round: 0,
            round_ends_at: 0,
            starting: true,
            plateau: Plateau::default(),
        }
    }

    /// Returns the most bytes that may be sent and not acknowledged.
    pub(crate) fn window(&self) -> u64 {
        let rate = self.rate();
        let Some((rtt_min, _)) = self.rtt_min.filter(|_| rate > 0.0) else { return Self::START };
        let gain = if self.starting { 2.0 } else { 1.0 };
        let fitting = rate * gain * (rtt_min + Self::QUEUE).as_secs_f64();
        let window = Self::FLOOR.saturating_add(fitting as u64);
        if self.starting { window.max(Self::START) } else { window }
    }

    /// Returns the newest round-trip time.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt_last
    }

    /// Takes a round trip that was measured with a ping.
    pub(crate) fn on_rtt(&mut self, rtt: Duration, now: Instant) {
        self.rtt_last = Some(rtt);
        match self.rtt_min {
            Some((min, at)) if min < rtt && now.duration_since(at) < Self::RTT_MEMORY => {}
            _ => self.rtt_min = Some((rtt, now)),
        }
    }

    /// Takes an acknowledgement.
    pub(crate) fn on_ack(&mut self, sample: Sample, now: Instant) {
        let rtt = now.duration_since(sample.sent_at);
        // An acknowledgement may have waited for its 100 ms, so it only ever lowers the minimum.
        if self.rtt_min.is_some_and(|(min, _)| rtt < min) {
            self.on_rtt(rtt, now);
        }
        let interval = now.duration_since(sample.acked_then_at).max(rtt).as_secs_f64();
        let rate = (sample.acked - sample.acked_then) as f64 / interval.max(1e-6);
        let slot = self.round % Self::ROUNDS;
        if sample.limited || rate > self.rate() {
            self.rates[slot] = self.rates[slot].max(rate);
        }
        if sample.acked >= self.round_ends_at {
            self.round_ends_at = sample.sent;
            if sample.limited {
                self.next_round();
            }
        }
    }

    fn next_round(&mut self) {
        let rate = self.rate();
        if self.starting {
            if rate > self.plateau.rate * 1.25 {
                self.plateau = Plateau { rate, rounds: 0 };
            } else {
                self.plateau.rounds += 1;
                self.starting = self.plateau.rounds < 3;
            }
        }
        self.round += 1;
        self.rates[self.round % Self::ROUNDS] = 0.0;
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A path with a bottleneck and a queue before it; returns the rate reached and the worst queue of the
    /// second half, after `seconds` of a sender that always has more.
    fn run(bandwidth: f64, rtt: Duration, seconds: f64) -> (f64, Duration) {
        const FRAME: u64 = 64 * 1024;
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.on_rtt(rtt, start);
        let (mut now, mut sent, mut acked, mut acked_at) = (start, 0u64, 0u64, start);
        let mut free_at = start;
        let mut flying: VecDeque<(u64, Instant, Instant, u64, Instant)> = VecDeque::new();
        let (mut worst, mut half) = (Duration::ZERO, 0);
        let end = start + Duration::from_secs_f64(seconds);
        while now < end {
            while sent - acked < pace.window() {
                let begins = free_at.max(now);
                free_at = begins + Duration::from_secs_f64(FRAME as f64 / bandwidth);
                sent += FRAME;
                flying.push_back((sent, now, free_at + rtt, acked, acked_at));
                if now > start + Duration::from_secs_f64(seconds / 2.0) {
                    worst = worst.max(begins - now);
                    half = half.max(sent.min(1));
                }
            }
            let (offset, sent_at, ack_at, acked_then, acked_then_at) = flying.pop_front().unwrap();
            now = ack_at;
            acked = offset;
            acked_at = now;
            pace.on_ack(Sample { sent_at, acked_then, acked_then_at, acked, sent, limited: true }, now);
        }
        assert_eq!(half, 1);
        (acked as f64 / seconds, worst)
    }

    #[test]
    fn a_long_path_is_filled_and_its_queue_stays_short() {
        for (bandwidth, rtt_ms) in [(12.5e6, 50), (12.5e6, 200), (1.25e6, 20), (100e6, 10), (3e6, 100)] {
            let (rate, queue) = run(bandwidth, Duration::from_millis(rtt_ms), 10.0);
            assert!(rate > 0.88 * bandwidth, "{bandwidth} B/s, {rtt_ms} ms: {rate}");
            let slack = Duration::from_secs_f64((Pace::FLOOR + 2 * 65536) as f64 / bandwidth);
            assert!(queue < Pace::QUEUE * 2 + slack, "{bandwidth} B/s, {rtt_ms} ms: {queue:?}");
        }
    }

    #[test]
    fn an_idle_sender_does_not_forget_what_the_path_can_do() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.on_rtt(Duration::from_millis(50), start);
        let sample = |acked_then, acked, limited| Sample {
            sent_at: start,
            acked_then,
            acked_then_at: start,
            acked,
            sent: acked,
            limited,
        };
        pace.on_ack(sample(0, 10_000_000, true), start + Duration::from_secs(1));
        let before = pace.window();
        for _ in 0..100 {
            pace.on_ack(sample(0, 100, false), start + Duration::from_secs(1));
        }
        assert_eq!(pace.window(), before);
    }
}
