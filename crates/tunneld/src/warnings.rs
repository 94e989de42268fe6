//! Warnings: what is wrong, shown once it has lasted, with its beginning and its end told once each.
//!
//! Parts of the daemon say which [`Condition`]s hold. The [`Board`] decides from when on they are shown, and the status
//! hub hands what was raised and cleared to [`Listener`]s: events, notifications.

mod board;
mod timing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::debug;
use tunnel_api::Warning;

pub(crate) use board::Board;

/// Something that is wrong at this moment.
///
/// Two of the same code and subject are one. Its sentence may change while it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// What it is about where a code can hold of several things, such as a connection's id; empty otherwise.
    pub(crate) subject: String,
    pub(crate) warning: Warning,
}

impl Condition {
    /// Returns a condition that can hold only once.
    pub(crate) fn new(warning: Warning) -> Self {
        Self { subject: String::new(), warning }
    }

    /// Returns a condition that is about one of several things.
    pub(crate) fn of(subject: impl Into<String>, warning: Warning) -> Self {
        Self { subject: subject.into(), warning }
    }
}

/// A warning that came or went. For each [`Turn::Raised`] there is one [`Turn::Cleared`], if the daemon lives so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) turn: Turn,
    pub(crate) subject: String,
    /// As it was last said.
    pub(crate) warning: Warning,
    pub(crate) at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Raised,
    Cleared,
}

/// Where the parts of the daemon say what is wrong with them. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reports(watch::Sender<Said>);

/// What each part has said.
pub(crate) type Said = BTreeMap<&'static str, Vec<Condition>>;

impl Reports {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }

    /// Says what is wrong with `part` now, in place of what it said before. Never waits.
    pub(crate) fn set(&self, part: &'static str, conditions: Vec<Condition>) {
        self.0.send_if_modified(|said| {
            let same = said.get(part).map_or(conditions.is_empty(), |before| *before == conditions);
            if !same {
                said.insert(part, conditions);
            }
            !same
        });
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Said> {
        self.0.subscribe()
    }
}

/// Where transitions go. The hub never waits for a listener: what finds no room is dropped and counted.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    queue: mpsc::Sender<Transition>,
    dropped: Arc<AtomicU64>,
}

impl Listener {
    /// Makes a listener with room for so many transitions.
    pub(crate) fn with_room(n: usize) -> (Self, mpsc::Receiver<Transition>) {
        let (queue, arriving) = mpsc::channel(n);
        (Self { queue, dropped: Arc::default() }, arriving)
    }

    pub(crate) fn tell(&self, transition: &Transition) {
        if self.queue.try_send(transition.clone()).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            debug!(code = transition.warning.code, dropped, "a listener does not keep up with the warnings");
        }
    }

    /// Tells whether all that was told has been taken.
    #[cfg(test)]
    pub(crate) fn is_heard(&self) -> bool {
        self.queue.capacity() == self.queue.max_capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_speak_for_themselves_and_only_news_wakes_the_hub() {
        let reports = Reports::new();
        let mut said = reports.follow();
        reports.set("store", Vec::new());
        assert!(!said.has_changed().unwrap(), "nothing was wrong before");
        let full = Condition::new(Warning::new("disk_full", "the disk is full", "make room"));
        reports.set("store", vec![full.clone()]);
        reports.set("alerts", vec![Condition::new(Warning::new("memory_high", "much", ""))]);
        assert_eq!(said.borrow_and_update().values().flatten().count(), 2);
        reports.set("store", vec![full]);
        assert!(!said.has_changed().unwrap(), "nothing has changed");
        reports.set("store", Vec::new());
        assert_eq!(said.borrow_and_update().values().flatten().count(), 1);
    }

    #[test]
    fn listener_that_does_not_listen_loses_the_newest_and_it_is_counted() {
        let (listener, mut arriving) = Listener::with_room(2);
        for code in ["one", "two", "three"] {
            listener.tell(&Transition {
                turn: Turn::Raised,
                subject: String::new(),
                warning: Warning::new(code, "", ""),
                at: Timestamp::UNIX_EPOCH,
            });
        }
        assert_eq!(listener.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(arriving.try_recv().unwrap().warning.code, "one");
    }
}
