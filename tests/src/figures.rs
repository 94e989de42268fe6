//! What a scenario measured, and how many samples it takes.

use std::{env, fs::OpenOptions, io::Write as _, time::Duration};

use hdrhistogram::Histogram;

/// Prints one line `measured: <row>: <figure>` and appends it to the file that `E2E_FIGURES` names.
#[expect(clippy::print_stdout, reason = "the figures are what a soak run is for")]
pub fn measured(row: &str, figure: impl std::fmt::Display) {
    let line = format!("measured: {row}: {figure}");
    println!("{line}");
    let Some(path) = env::var_os("E2E_FIGURES") else { return };
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        // A figure that cannot be kept has still been printed.
        drop(writeln!(file, "{line}"));
    }
}

/// Prints why a scenario did not run; fails instead where `E2E_REQUIRE_REAL=1` demands that it runs.
#[expect(clippy::print_stderr, reason = "a scenario that is left out says so loudly")]
pub fn skipped(what: &str, why: &str) -> anyhow::Result<()> {
    anyhow::ensure!(env::var_os("E2E_REQUIRE_REAL").is_none_or(|value| value != "1"), "{what}: {why}");
    eprintln!("SKIPPED: {what}: {why}");
    Ok(())
}

/// Tells whether the full counts are asked for (`SOAK=1`).
pub fn soak() -> bool {
    env::var_os("SOAK").is_some_and(|value| value == "1")
}

/// Returns the number of samples: `few` by default, `full` in a soak.
pub fn soak_count(few: usize, full: usize) -> usize {
    if soak() { full } else { few }
}

/// Durations, with exact percentiles.
#[derive(Clone, Debug)]
pub struct Latencies {
    micros: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { micros: Histogram::new(3).expect("three digits are in range") }
    }
}

impl Latencies {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.record(micros).expect("the histogram resizes itself");
    }

    /// Adds all durations of another set.
    pub fn merge(&mut self, other: &Self) {
        self.micros.add(&other.micros).expect("both histograms resize themselves");
    }

    /// How many durations there are.
    pub fn len(&self) -> u64 {
        self.micros.len()
    }

    /// Tells whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// The duration that `percent` of all do not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.micros.value_at_percentile(percent))
    }

    /// The longest duration.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.micros.max())
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] =
            [self.percentile(50.0), self.percentile(99.0), self.max()].map(|value| value.as_secs_f64() * 1e3);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms of {}", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_durations_are_kept_apart() {
        let mut latencies = Latencies::default();
        for ms in [1, 2, 3, 60_000] {
            latencies.record(Duration::from_millis(ms));
        }
        assert!(latencies.max() >= Duration::from_secs(60));
        assert!((1.9..2.1).contains(&(latencies.percentile(50.0).as_secs_f64() * 1e3)), "{latencies}");
    }
}
