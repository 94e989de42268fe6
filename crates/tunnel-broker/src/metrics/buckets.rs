use std::time::Duration;

/// A histogram as Prometheus has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buckets {
    counts: [u64; BOUNDS.len() + 1],
    sum_s: f64,
}

/// Seconds: from an answer of a small model in memory to one for which a large model is loaded first.
const BOUNDS: [f64; 14] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

impl Buckets {
    pub(super) fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.sum_s += seconds;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum_s(&self) -> f64 {
        self.sum_s
    }

    /// Returns the upper bound of each bucket and how many lie in it alone.
    pub(super) fn each(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        std::array::from_fn(|n| (BOUNDS.get(n).copied().unwrap_or(f64::INFINITY), self.counts[n]))
    }
}
