//! Medians over the rounds, their ratios, and the two forms in which they are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use crate::measure::{Against, Better, Column};
use crate::targets::{Peer, Scene};

/// All values of one scene.
#[derive(Debug)]
pub(crate) struct Table {
    scene: Scene,
    peers: Vec<Peer>,
    columns: Vec<Column>,
    /// By peer and column: one value a round; `None` where it failed.
    values: BTreeMap<(usize, &'static str), Vec<Option<f64>>>,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn new(scene: Scene, peers: Vec<Peer>, columns: Vec<Column>) -> Self {
        Self { scene, peers, columns, values: BTreeMap::new(), failures: Vec::new() }
    }

    pub(crate) fn add(&mut self, peer: Peer, column: Column, value: Option<f64>) {
        self.values.entry((self.place(peer), column.key)).or_default().push(value);
    }

    pub(crate) fn fail(&mut self, text: String) {
        if !self.failures.contains(&text) {
            self.failures.push(text);
        }
    }

    fn place(&self, peer: Peer) -> usize {
        self.peers.iter().position(|one| *one == peer).unwrap_or(usize::MAX)
    }

    fn rounds(&self, peer: Peer, column: Column) -> &[Option<f64>] {
        self.values.get(&(self.place(peer), column.key)).map_or(&[], Vec::as_slice)
    }

    fn median(&self, peer: Peer, column: Column) -> Option<f64> {
        median(self.rounds(peer, column).iter().copied().flatten().collect())
    }

    /// Returns the median of the rounds' ratios of `peer` to `other`: what moves both at once falls out.
    fn ratio(&self, peer: Peer, other: Peer, column: Column) -> Option<f64> {
        let pairs = self.rounds(peer, column).iter().zip(self.rounds(other, column));
        median(pairs.filter_map(|(one, other)| Some(one.as_ref()? / other.as_ref()?)).collect())
            .filter(|ratio| ratio.is_finite())
    }

    /// Returns the median of what `peer` adds to the reference of the same round.
    fn added(&self, peer: Peer, column: Column) -> Option<f64> {
        let pairs = self.rounds(peer, column).iter().zip(self.rounds(self.scene.reference(), column));
        median(pairs.filter_map(|(one, reference)| Some(one.as_ref()? - reference.as_ref()?)).collect())
    }

    /// Returns how far ours is ahead of `other`: above 1 is better, whichever way the column goes.
    fn lead(&self, other: Peer, column: Column) -> Option<f64> {
        let ratio = match column.against {
            Against::Nothing => return None,
            Against::Ratio => self.ratio(Peer::Ours, other, column)?,
            // Of the medians: what a single round adds may be next to nothing, and its ratio anything.
            Against::Added { .. } => {
                let (ours, other) = (self.added(Peer::Ours, column)?, self.added(other, column)?);
                (ours > 0.0 && other > 0.0).then(|| ours / other)?
            }
        };
        Some(match column.better {
            Better::More => ratio,
            Better::Less => 1.0 / ratio,
        })
    }

    fn best_rival(&self, column: Column) -> Option<(Peer, f64)> {
        let rivals = self.peers.iter().filter(|peer| peer.is_rival());
        rivals
            .filter_map(|peer| Some((*peer, self.lead(*peer, column)?)))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let name = match self.scene {
            Scene::Tunnel => "Tunnel: caller → public end → tunnel → desktop end → backend",
            Scene::Long => "Long path: 50 ms round trip, 12.5 MB/s between the two ends",
            Scene::Gateway => "Gateway: caller → local proxy → backend",
            Scene::GatewayLatency => "Gateway at a fixed rate: what it adds to each request",
            Scene::Relay => "The relay against the gateway of the same desktop",
        };
        let reference = match self.scene.reference() {
            Peer::OwnGateway => "the gateway",
            _ => "the backend",
        };
        let brackets = match self.scene {
            Scene::GatewayLatency => {
                "what is added to {reference} in the same round. Each latency is counted from when the \
                 request was due, not from when it was sent"
            }
            _ => "the ratio to {reference} in the same round",
        };
        let brackets = brackets.replace("{reference}", reference);
        writeln!(text, "\n## {name}\n\nMedians of the rounds; in brackets {brackets}.\n")
            .expect("a String takes all");
        let mut line = |cells: Vec<String>| {
            writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes all");
        };
        let heads = self.columns.iter().map(|column| column.title.to_owned());
        line(std::iter::once(String::new()).chain(heads).collect());
        line(
            std::iter::once("---".to_owned()).chain(self.columns.iter().map(|_| "---:".to_owned())).collect(),
        );
        for peer in &self.peers {
            let cells = self.columns.iter().map(|column| {
                let Some(value) = self.median(*peer, *column) else { return "–".to_owned() };
                let reference = self.scene.reference();
                if *peer == reference {
                    return number(value);
                }
                let beside = match column.against {
                    Against::Nothing => None,
                    Against::Ratio => {
                        self.ratio(*peer, reference, *column).map(|ratio| format!("{ratio:.2}"))
                    }
                    Against::Added { .. } => self.added(*peer, *column).map(|added| format!("{added:+.3}")),
                };
                beside.map_or_else(|| number(value), |beside| format!("{} ({beside})", number(value)))
            });
            line(std::iter::once(peer.title(self.scene).to_owned()).chain(cells).collect());
        }
        if self.peers.contains(&Peer::Ours) && self.peers.iter().any(|peer| peer.is_rival()) {
            let rivals = self.columns.iter().map(|column| match self.best_rival(*column) {
                Some((peer, lead)) => format!("{lead:.2} × {}", peer.title(self.scene)),
                None => "–".to_owned(),
            });
            line(
                std::iter::once("ours to the best peer, above 1 is ahead".to_owned()).chain(rivals).collect(),
            );
            if self.peers.contains(&Peer::Hyper) {
                let floor = self.columns.iter().map(|column| {
                    self.lead(Peer::Hyper, *column)
                        .map_or_else(|| "–".to_owned(), |lead| format!("{lead:.2}"))
                });
                line(
                    std::iter::once("ours to plain hyper, above 1 is ahead".to_owned())
                        .chain(floor)
                        .collect(),
                );
            }
        }
        for (column, bar, added) in self.bars() {
            let judged = match added {
                Some(added) if added <= bar => format!("ours adds {added:.3}, the bar is {bar}: held"),
                Some(added) => format!("ours adds {added:.3}, the bar is {bar}: missed"),
                None => format!("not measured, the bar is {bar}"),
            };
            writeln!(text, "\n- {}: {judged}", column.title).expect("a String takes all");
        }
        for failure in &self.failures {
            writeln!(text, "\n- {failure}").expect("a String takes all");
        }
        text
    }

    /// Returns the columns that have a bar, it, and what ours adds if that was measured.
    fn bars(&self) -> impl Iterator<Item = (Column, f64, Option<f64>)> {
        self.columns.iter().filter_map(|column| match column.against {
            Against::Added { bar } => Some((*column, bar, self.added(Peer::Ours, *column))),
            Against::Nothing | Against::Ratio => None,
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let rows = self.peers.iter().map(|peer| {
            let cells = self.columns.iter().map(|column| {
                let cell = json!({
                    "median": self.median(*peer, *column),
                    "rounds": self.rounds(*peer, *column),
                    "ratio_to_reference": self.ratio(*peer, self.scene.reference(), *column),
                    "added_to_reference": self.added(*peer, *column),
                });
                (column.key.to_owned(), cell)
            });
            let cells: serde_json::Map<_, _> = cells.collect();
            json!({ "target": format!("{peer:?}").to_lowercase(), "values": cells })
        });
        let leads: serde_json::Map<_, _> = self
            .columns
            .iter()
            .filter_map(|column| {
                let (peer, lead) = self.best_rival(*column)?;
                let value = json!({ "best_peer": format!("{peer:?}").to_lowercase(), "lead": lead,
                    "lead_to_hyper": self.lead(Peer::Hyper, *column) });
                Some((column.key.to_owned(), value))
            })
            .collect();
        json!({
            "scene": format!("{:?}", self.scene).to_lowercase(),
            "reference": format!("{:?}", self.scene.reference()).to_lowercase(),
            "columns": self.columns,
            "rows": rows.collect::<Vec<_>>(),
            "ours": leads,
            "failures": self.failures,
        })
    }
}

/// Returns the median of those that are numbers: a round that was disturbed from end to end has none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    })
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Column = Column { key: "r", title: "rate", better: Better::More, against: Against::Ratio };
    const DELAY: Column = Column { key: "d", title: "delay", better: Better::Less, against: Against::Ratio };

    #[test]
    fn numbers_read_easily() {
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12345.6), "12,346");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }

    #[test]
    fn the_best_peer_is_the_one_that_ours_is_least_ahead_of() {
        let peers = vec![Peer::Direct, Peer::Ours, Peer::Rathole, Peer::Bore];
        let mut table = Table::new(Scene::Tunnel, peers, vec![RATE, DELAY]);
        for round in 1..=3 {
            let scale = f64::from(round);
            for (peer, rate) in
                [(Peer::Direct, 100.0), (Peer::Ours, 50.0), (Peer::Rathole, 40.0), (Peer::Bore, 25.0)]
            {
                table.add(peer, RATE, Some(rate * scale));
                table.add(peer, DELAY, Some(1.0 / rate));
            }
        }
        assert_eq!(table.best_rival(RATE), Some((Peer::Rathole, 1.25)));
        let (peer, lead) = table.best_rival(DELAY).unwrap();
        assert!(peer == Peer::Rathole && (lead - 1.25).abs() < 1e-9);
        assert_eq!(table.ratio(Peer::Ours, Peer::Direct, RATE), Some(0.5));
        assert_eq!(table.median(Peer::Ours, RATE), Some(100.0));
    }

    #[test]
    fn what_is_added_is_counted_round_by_round_and_held_against_its_bar() {
        let late = Column { against: Against::Added { bar: 0.2 }, ..DELAY };
        let mut table =
            Table::new(Scene::GatewayLatency, vec![Peer::Direct, Peer::Ours, Peer::Nginx], vec![late]);
        for slower in [0.0, 1.0, 5.0] {
            table.add(Peer::Direct, late, Some(0.1 + slower));
            table.add(Peer::Ours, late, Some(0.4 + slower));
            table.add(Peer::Nginx, late, Some(0.25 + slower));
        }
        assert!((table.added(Peer::Ours, late).unwrap() - 0.3).abs() < 1e-9);
        assert!((table.lead(Peer::Nginx, late).unwrap() - 0.5).abs() < 1e-9);
        let text = table.markdown();
        assert!(text.contains("(+0.300)") && text.contains("the bar is 0.2: missed"), "{text}");
    }

    #[test]
    fn a_failed_round_leaves_the_others() {
        let mut table = Table::new(Scene::Tunnel, vec![Peer::Direct, Peer::Ours], vec![RATE]);
        table.add(Peer::Direct, RATE, Some(10.0));
        table.add(Peer::Direct, RATE, Some(10.0));
        table.add(Peer::Ours, RATE, None);
        table.add(Peer::Ours, RATE, Some(5.0));
        assert_eq!(table.ratio(Peer::Ours, Peer::Direct, RATE), Some(0.5));
    }
}
