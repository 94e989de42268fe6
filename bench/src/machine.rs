//! What the processors of this machine did meanwhile: a measure that left them idle waited for wake-ups, and one
//! whose time was stolen says little.

use std::fmt;

/// Time of all processors together since the machine started, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine {
    total: u64,
    idle: u64,
    /// Taken by the host of a virtual machine.
    stolen: u64,
}

impl Machine {
    /// Reads `/proc/stat`; all zero where the system does not say.
    pub(crate) fn now() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// What the host took, in hundredths of a second.
    pub(crate) fn stolen(self) -> u64 {
        self.stolen
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            total: self.total.saturating_sub(before.total),
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }

    /// The fields are user, nice, system, idle, iowait, irq, softirq, steal, …; those after are parts of others.
    fn parse(text: &str) -> Self {
        let fields: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        let field = |n: usize| fields.get(n).copied().unwrap_or_default();
        Self { total: fields.iter().sum(), idle: field(3) + field(4), stolen: field(7) }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: u64| part as f64 * 100.0 / self.total.max(1) as f64;
        write!(f, "{:.0} % idle, {:.0} % stolen", percent(self.idle), percent(self.stolen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let before = Machine::parse("cpu  10 0 10 100 0 0 0 5 0 0\ncpu0 1 2 3\n");
        let after = Machine::parse("cpu  40 0 30 130 10 0 0 15 0 0\n");
        assert_eq!(after.since(before).to_string(), "40 % idle, 10 % stolen");
    }
}
