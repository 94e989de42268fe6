//! Least, mean and most of what was measured.

use serde_json::{Value, json};

use super::{Echo, Hop, milliseconds};
use crate::output::table::{Cell, Column, Table};

/// What was measured, a line a hop.
#[derive(Debug)]
pub(super) struct Summary(Vec<Line>);

#[derive(Debug, Default)]
struct Line {
    name: String,
    kind: &'static str,
    sent: u32,
    answered: u32,
    /// In milliseconds. Fewer than were answered where the daemon does not tell.
    times: Vec<f64>,
}

impl Summary {
    pub(super) fn new(hops: &[Hop]) -> Self {
        let line = |hop: &Hop| Line { name: hop.name(), kind: hop.kind(), ..Line::default() };
        Self(hops.iter().map(line).collect())
    }

    /// Adds a round, its hops in the same order.
    pub(super) fn add(&mut self, round: Vec<Echo>) {
        for (line, echo) in self.0.iter_mut().zip(round) {
            line.sent += 1;
            if let Echo::Back(ms) = echo {
                line.answered += 1;
                line.times.extend(ms);
            }
        }
    }

    /// Returns how often a hop failed.
    pub(super) fn lost(&self) -> u32 {
        self.0.iter().map(|line| line.sent - line.answered).sum()
    }

    pub(super) fn json(&self) -> Value {
        let line = |line: &Line| {
            let times = line.spread();
            json!({
                "hop": line.name, "kind": line.kind, "sent": line.sent, "answered": line.answered,
                "min_ms": times.map(|times| times.0), "avg_ms": times.map(|times| times.1),
                "max_ms": times.map(|times| times.2),
            })
        };
        json!({ "summary": self.0.iter().map(line).collect::<Vec<_>>() })
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(vec![
            Column::text("HOP"),
            Column::number("ANSWERED"),
            Column::number("MIN"),
            Column::number("AVG"),
            Column::number("MAX"),
        ]);
        for line in &self.0 {
            let times = line.spread();
            let time = |pick: fn((f64, f64, f64)) -> f64| {
                Cell::new(times.map_or_else(|| "-".to_owned(), |times| milliseconds(pick(times))))
            };
            table.row(vec![
                Cell::new(&line.name),
                Cell::new(format!("{} of {}", line.answered, line.sent)),
                time(|times| times.0),
                time(|times| times.1),
                time(|times| times.2),
            ]);
        }
        table
    }
}

impl Line {
    /// Returns the least, the mean and the most.
    fn spread(&self) -> Option<(f64, f64, f64)> {
        let least = self.times.iter().copied().reduce(f64::min)?;
        let most = self.times.iter().copied().reduce(f64::max)?;
        Some((least, self.times.iter().sum::<f64>() / self.times.len() as f64, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Look;

    #[test]
    fn lost_rounds_count_in_no_mean() {
        let mut summary = Summary::new(&[Hop::Daemon, Hop::Relay]);
        let lost = || Echo::Lost("x".to_owned());
        summary.add(vec![Echo::Back(Some(1.0)), lost()]);
        summary.add(vec![Echo::Back(Some(3.0)), lost()]);
        summary.add(vec![Echo::Back(None), Echo::Back(Some(20.0))]);
        assert_eq!(summary.lost(), 2);
        let table = summary.table().text(&Look::plain(), None);
        let words: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(words.join(" "), "daemon 3 of 3 1.0 ms 2.0 ms 3.0 ms");
        assert_eq!(summary.json()["summary"][1]["answered"], 1);
    }
}
