//! One figure and its threshold: raised late, cleared later. Pure.

use std::time::{Duration, Instant};

/// How long a figure must be beyond a bound before that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// At or above the threshold.
    pub(super) raise: Duration,
    /// At or below [`Level::CALM`] of it.
    pub(super) clear: Duration,
}

/// Remembers whether a figure is high.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// The latest figure, while it counts as high.
    high: Option<f64>,
    /// Since when it has been beyond the bound that would change that.
    turning: Option<Instant>,
}

impl Level {
    /// Share of the threshold at which a high figure counts as calm. Between the two nothing changes, so a figure
    /// that swings around the threshold is one alert.
    pub(super) const CALM: f64 = 0.8;

    /// Takes a figure note and returns the latest one while it is high. No figure is a calm one.
    pub(super) fn observe(
        &mut self,
        figure: Option<f64>,
        threshold: f64,
        held: Held,
        now: Instant,
    ) -> Option<f64> {
        let value = figure.unwrap_or(0.0);
        let (beyond, lasting) = match self.high {
            // A threshold of zero means "any at all".
            None => (value >= threshold && value > 0.0, held.raise),
            Some(_) => (value <= threshold * Self::CALM, held.clear),
        };
        if !beyond {
            self.turning = None;
        } else if now.saturating_duration_since(*self.turning.get_or_insert(now)) >= lasting {
            self.turning = None;
            self.high = if self.high.is_none() { Some(value) } else { None };
            return self.high;
        }
        if self.high.is_some() && figure.is_some() {
            self.high = Some(value);
        }
        self.high
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELD: Held = Held { raise: Duration::from_secs(20), clear: Duration::from_secs(60) };

    /// Observes a row of (second, figure) and returns at which seconds the level was high.
    fn high_at(threshold: f64, row: &[(u64, Option<f64>)]) -> Vec<u64> {
        let (mut level, start) = (Level::default(), Instant::now());
        row.iter()
            .filter(|(s, figure)| {
                level.observe(*figure, threshold, HELD, start + Duration::from_secs(*s)).is_some()
            })
            .map(|(s, _)| *s)
            .collect()
    }

    #[test]
    fn high_is_what_stays_at_the_threshold_and_calm_what_stays_well_below() {
        let row = [
            (0, Some(100.0)),
            (10, Some(120.0)),
            (20, Some(100.0)),
            (30, Some(81.0)),
            (100, Some(99.0)),
            (110, Some(80.0)),
            (120, Some(50.0)),
            (169, Some(80.0)),
            (170, Some(0.0)),
            (180, Some(0.0)),
        ];
        assert_eq!(high_at(100.0, &row), [20, 30, 100, 110, 120, 169]);
    }

    #[test]
    fn peak_that_does_not_last_is_nothing_and_neither_is_a_dip() {
        let peaks: Vec<(u64, Option<f64>)> =
            (0..20).map(|i| (i * 10, Some(if i % 2 == 0 { 500.0 } else { 99.0 }))).collect();
        assert!(high_at(100.0, &peaks).is_empty());
        let mut dips = vec![(0, Some(200.0)), (20, Some(200.0))];
        dips.extend((0..20).map(|i| (30 + i * 30, Some(if i % 2 == 0 { 0.0 } else { 90.0 }))));
        assert_eq!(high_at(100.0, &dips).len(), dips.len() - 1);
    }

    #[test]
    fn no_figure_is_calm_and_zero_is_not_above_a_threshold_of_zero() {
        let mut row = vec![(0, Some(100.0)), (20, Some(100.0))];
        row.extend((0..8).map(|i| (30 + i * 10, None)));
        assert_eq!(high_at(100.0, &row), [20, 30, 40, 50, 60, 70, 80]);
        assert!(high_at(0.0, &[(0, Some(0.0)), (60, Some(0.0))]).is_empty());
        assert_eq!(high_at(0.0, &[(0, Some(0.1)), (60, Some(0.1))]), [60]);
    }

    proptest! {
        #[test]
        fn changes_are_never_closer_than_what_must_be_held(
            row in proptest::collection::vec((0..30u64, 0.0..200.0f64), 1..200),
        ) {
            let (mut level, mut now, mut was, mut changes) = (Level::default(), Instant::now(), false, Vec::new());
            for (pause, figure) in row {
                now += Duration::from_secs(pause);
                let is = level.observe(Some(figure), 100.0, HELD, now).is_some();
                if is != was {
                    changes.push((now, is));
                    prop_assert!(if is { figure >= 100.0 } else { figure <= 80.0 }, "{figure}");
                }
                was = is;
            }
            for pair in changes.windows(2) {
                let least = if pair[1].1 { HELD.raise } else { HELD.clear };
                prop_assert!(pair[1].0 - pair[0].0 >= least);
            }
        }
    }
}
