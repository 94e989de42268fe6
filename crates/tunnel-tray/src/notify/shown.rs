//! Which notifications are shown, by their ids. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::{Button, Topic};

/// Notifications that can be replaced: a handful of topics, and one a model server.
const MAX_KEPT: usize = 32;
/// Signals that wait for the answers to notifications under way; the oldest is forgotten.
const MAX_EARLY: usize = 16;

/// What the notification service says. Most of it is about other programs' notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Clicked {
        id: u32,
        button: Button,
    },
    /// It is no longer shown, and its id may soon be another's.
    Closed {
        id: u32,
    },
    /// The service has gone, and all ids with it.
    Gone,
}

/// The ids under which notifications are shown.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    ids: BTreeMap<Topic, u32>,
    /// How many were sent whose ids are not known yet.
    n_sent: usize,
    /// What was heard meanwhile: it may be about those.
    early: VecDeque<Heard>,
    /// How many services have gone.
    n_gone: u64,
}

/// A notification on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The id of the one in whose place it is shown; 0 for none.
    pub(crate) replaces: u32,
    /// How many services had gone by then.
    n_gone: u64,
}

impl Shown {
    /// Notes that one is sent.
    pub(crate) fn send(&mut self, topic: &Topic) -> Sent {
        self.n_sent += 1;
        Sent { replaces: self.ids.get(topic).copied().unwrap_or(0), n_gone: self.n_gone }
    }

    /// Takes the answer to one that was sent: its id, or none if it is not shown. Returns the button of it that was
    /// clicked before that.
    ///
    /// Answers and signals are heard in any order. Where it is not certain that a notification is still there it is
    /// forgotten: the next one then stands beside it, and never in the place of another program's.
    pub(crate) fn answer(&mut self, topic: Topic, sent: Sent, id: Option<u32>) -> Option<Button> {
        self.n_sent = self.n_sent.saturating_sub(1);
        // The answer of a service that has gone since names nothing.
        if let Some(id) = id.filter(|_| sent.n_gone == self.n_gone) {
            if self.ids.len() >= MAX_KEPT && !self.ids.contains_key(&topic) {
                // What is forgotten stays where it is; the next one stands beside it.
                self.ids.clear();
            }
            self.ids.insert(topic, id);
        }
        let mut clicked = None;
        for heard in std::mem::take(&mut self.early) {
            clicked = clicked.or(self.hear(heard));
        }
        clicked
    }

    /// Takes a signal. Returns the button if it is a click on one of ours.
    pub(crate) fn hear(&mut self, heard: Heard) -> Option<Button> {
        let is_ours = |id| self.ids.values().any(|shown| *shown == id);
        match heard {
            Heard::Clicked { id, button } if is_ours(id) => return Some(button),
            Heard::Closed { id } => {
                self.ids.retain(|_, shown| *shown != id);
                // The one in its place has the same id, and may be the one that was closed.
                self.keep(heard);
            }
            Heard::Gone => {
                self.ids.clear();
                self.early.clear();
                self.n_gone += 1;
            }
            Heard::Clicked { .. } => self.keep(heard),
        }
        None
    }

    /// Keeps a signal for the answers that are awaited.
    fn keep(&mut self, heard: Heard) {
        if self.n_sent == 0 {
            return;
        }
        if self.early.len() >= MAX_EARLY {
            self.early.pop_front();
        }
        self.early.push_back(heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLICK: Heard = Heard::Clicked { id: 7, button: Button::Details };
    const CLOSE: Heard = Heard::Closed { id: 7 };

    fn with_seven() -> Shown {
        let mut shown = Shown::default();
        let sent = shown.send(&Topic::Tunnel);
        assert_eq!(sent.replaces, 0);
        assert_eq!(shown.answer(Topic::Tunnel, sent, Some(7)), None);
        shown
    }

    fn replaced_by_next(shown: &mut Shown, topic: Topic) -> u32 {
        let sent = shown.send(&topic);
        shown.answer(topic, sent, None);
        sent.replaces
    }

    #[test]
    fn clicks_on_ours_count_and_no_others() {
        let mut shown = with_seven();
        assert_eq!(shown.hear(CLICK), Some(Button::Details));
        assert_eq!(shown.hear(Heard::Clicked { id: 8, button: Button::Details }), None);
        assert_eq!(replaced_by_next(&mut shown, Topic::Tunnel), 7);
        assert_eq!(replaced_by_next(&mut shown, Topic::Login), 0);
    }

    #[test]
    fn what_was_closed_is_neither_replaced_nor_clicked() {
        for end in [CLOSE, Heard::Gone] {
            let mut shown = with_seven();
            assert_eq!(shown.hear(end), None);
            assert_eq!(shown.hear(CLICK), None);
            assert_eq!(replaced_by_next(&mut shown, Topic::Tunnel), 0);
        }
    }

    #[test]
    fn answer_that_is_heard_after_the_end_of_what_it_names_counts_no_more() {
        for end in [CLOSE, Heard::Gone] {
            let mut shown = with_seven();
            let sent = shown.send(&Topic::Tunnel);
            assert_eq!(sent.replaces, 7);
            assert_eq!(shown.hear(end), None);
            assert_eq!(shown.answer(Topic::Tunnel, sent, Some(7)), None);
            assert_eq!(shown.hear(CLICK), None);
            assert_eq!(replaced_by_next(&mut shown, Topic::Tunnel), 0);
        }
    }

    #[test]
    fn what_is_heard_before_the_answer_counts_once_it_is_there() {
        let mut shown = Shown::default();
        let (login, tunnel) = (shown.send(&Topic::Login), shown.send(&Topic::Tunnel));
        assert_eq!(shown.hear(CLICK), None);
        assert_eq!(shown.hear(CLOSE), None);
        assert_eq!(shown.answer(Topic::Login, login, Some(6)), None);
        assert_eq!(shown.answer(Topic::Tunnel, tunnel, Some(7)), Some(Button::Details));
        assert_eq!(replaced_by_next(&mut shown, Topic::Tunnel), 0);
        assert_eq!(replaced_by_next(&mut shown, Topic::Login), 6);
    }

    #[test]
    fn others_signals_are_kept_only_while_an_answer_is_awaited_and_not_without_end() {
        let mut shown = Shown::default();
        let sent = shown.send(&Topic::Tunnel);
        for id in 100..200 {
            shown.hear(Heard::Closed { id });
        }
        assert_eq!(shown.early.len(), MAX_EARLY);
        assert_eq!(shown.answer(Topic::Tunnel, sent, None), None);
        assert!(shown.early.is_empty());
        shown.hear(CLICK);
        assert!(shown.early.is_empty());
    }
}
