use std::sync::atomic::{AtomicU32, Ordering};

/// How the recent requests of one backend went.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    succeeded: AtomicU32,
    failed: AtomicU32,
}

impl Outcomes {
    pub(crate) fn succeeded(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the failed share, 0 to 1; 0 when there were no requests.
    pub(crate) fn error_rate(&self) -> f64 {
        let failed = f64::from(self.failed.load(Ordering::Relaxed));
        let all = failed + f64::from(self.succeeded.load(Ordering::Relaxed));
        if all == 0.0 { 0.0 } else { failed / all }
    }

    /// Halves the weight of all that happened so far. What is counted meanwhile is not lost.
    pub(crate) fn fade(&self) {
        for count in [&self.succeeded, &self.failed] {
            let half = count.load(Ordering::Relaxed).div_ceil(2);
            count.fetch_sub(half, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_fades() {
        let outcomes = Outcomes::default();
        outcomes.failed();
        for _ in 0..3 {
            outcomes.succeeded();
        }
        assert_eq!(outcomes.error_rate(), 0.25);
        for _ in 0..4 {
            outcomes.fade();
        }
        assert_eq!(outcomes.error_rate(), 0.0);
    }
}
