//! Counters by one word out of few that the program knows.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry as Page;

/// A counter for each value of one label. The values are words of the program, never a caller's.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    label: &'static str,
    counters: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Words {
    /// Registers it. `known` have a sample from the start, so that a rate has something to begin with.
    pub(super) fn register(
        page: &mut Page,
        name: &str,
        help: &str,
        label: &'static str,
        known: &[&'static str],
    ) -> Self {
        let words = Self { label, counters: Family::default() };
        page.register(name, help, words.counters.clone());
        for word in known {
            words.counters.get_or_create_owned(&[(label, *word)]);
        }
        words
    }

    pub(crate) fn inc(&self, word: &'static str) {
        self.counters.get_or_create(&[(self.label, word)]).inc();
    }
}
