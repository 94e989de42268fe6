use std::time::Duration;

use hdrhistogram::Histogram;

/// How long things took: exact to 1 % and 1 ms, from 1 ms to 70 minutes; what is longer counts as 70 minutes.
///
/// 8 KiB once something has been recorded, nothing before: 2048 counters of 4 bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Option<Box<Histogram<u32>>>);

/// Percentiles of how long requests took, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Requests that were measured. Never 0.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 95 % of them took no longer.
    pub p95: Duration,
    /// 99 % of them took no longer.
    pub p99: Duration,
    /// Their average.
    pub mean: Duration,
}

/// In milliseconds: the most that 15 buckets hold.
const LONGEST: u64 = (1 << 22) - 1;
const SIGNIFICANT_DIGITS: u8 = 2;

impl Latencies {
    pub(super) fn record(&mut self, took: Duration) {
        let ms = u64::try_from((took + Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX);
        self.histogram().saturating_record(ms);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if let Some(other) = &other.0 {
            self.histogram().add(&**other).expect("all have the same bounds");
        }
    }

    /// Returns none when nothing was recorded.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_deref()?;
        let at = |quantile| Duration::from_millis(histogram.value_at_quantile(quantile));
        Some(Percentiles {
            count: histogram.len(),
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            mean: Duration::from_secs_f64(histogram.mean() / 1e3),
        })
    }

    fn histogram(&mut self) -> &mut Histogram<u32> {
        self.0.get_or_insert_with(|| {
            // Does not grow by itself: what lies beyond is recorded as the longest.
            let histogram = Histogram::new_with_bounds(1, LONGEST, SIGNIFICANT_DIGITS);
            Box::new(histogram.expect("the bounds are in order"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_costs_8_kib_and_its_bounds_hold() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        latencies.record(Duration::from_secs(1_000_000));
        let histogram = latencies.histogram();
        assert_eq!(histogram.distinct_values() * size_of::<u32>(), 8 << 10);
        let longest = latencies.percentiles().unwrap().p50;
        assert!(
            longest >= Duration::from_secs(69 * 60) && longest < Duration::from_secs(71 * 60),
            "{longest:?}"
        );
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_list(
            took in prop::collection::vec(0..600_000_u64, 1..400),
            split in any::<prop::sample::Index>(),
        ) {
            // Recorded in two parts, as for two connections.
            let (mut one, mut other) = (Latencies::default(), Latencies::default());
            let split = split.index(took.len());
            for (n, ms) in took.iter().enumerate() {
                if n < split { &mut one } else { &mut other }.record(Duration::from_millis(*ms));
            }
            one.merge(&other);
            let found = one.percentiles().unwrap();
            let mut sorted = took.clone();
            sorted.sort_unstable();
            prop_assert_eq!(found.count, took.len() as u64);
            for (share, found) in [(0.50, found.p50), (0.95, found.p95), (0.99, found.p99)] {
                let rank = ((share * took.len() as f64).ceil() as usize).max(1);
                let (exact, found) = (sorted[rank - 1] as f64, found.as_millis() as f64);
                prop_assert!((found - exact).abs() <= exact / 100.0 + 1.0, "{share}: {found} for {exact}");
            }
            let mean = took.iter().sum::<u64>() as f64 / took.len() as f64;
            prop_assert!((found.mean.as_secs_f64() * 1e3 - mean).abs() <= mean / 100.0 + 1.0);
        }
    }
}
