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
    /// What was heard meanwhile of ids that are not known: they may be of those.
    early: VecDeque<Heard>,
}

impl Shown {
    /// Notes that one is sent, and returns the id of the one in whose place it is shown; 0 for none.
    pub(crate) fn send(&mut self, topic: &Topic) -> u32 {
        self.n_sent += 1;
        self.ids.get(topic).copied().unwrap_or(0)
    }

    /// Takes the answer to one that was sent: its id, or none if it is not shown. Returns the button of it that was
    /// clicked before that.
    pub(crate) fn answer(&mut self, topic: Topic, id: Option<u32>) -> Option<Button> {
        self.n_sent = self.n_sent.saturating_sub(1);
        if let Some(id) = id {
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
            Heard::Closed { id } if is_ours(id) => self.ids.retain(|_, shown| *shown != id),
            Heard::Gone => {
                self.ids.clear();
                self.early.clear();
            }
            Heard::Clicked { .. } | Heard::Closed { .. } if self.n_sent > 0 => {
                if self.early.len() >= MAX_EARLY {
                    self.early.pop_front();
                }
                self.early.push_back(heard);
            }
            Heard::Clicked { .. } | Heard::Closed { .. } => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLICK: Heard = Heard::Clicked { id: 7, button: Button::Details };
    const CLOSE: Heard = Heard::Closed { id: 7 };

    fn with_seven() -> Shown {
        let mut shown = Shown::default();
        assert_eq!(shown.send(&Topic::Tunnel), 0);
        assert_eq!(shown.answer(Topic::Tunnel, Some(7)), None);
        shown
    }

    #[test]
    fn clicks_on_ours_count_and_no_others() {
        let mut shown = with_seven();
        assert_eq!(shown.hear(CLICK), Some(Button::Details));
        assert_eq!(shown.hear(Heard::Clicked { id: 8, button: Button::Details }), None);
        assert_eq!((shown.send(&Topic::Tunnel), shown.send(&Topic::Login)), (7, 0));
    }

    #[test]
    fn what_was_closed_is_neither_replaced_nor_clicked() {
        for end in [CLOSE, Heard::Gone] {
            let mut shown = with_seven();
            assert_eq!(shown.hear(end), None);
            assert_eq!(shown.hear(CLICK), None);
            assert_eq!(shown.send(&Topic::Tunnel), 0);
        }
    }

    #[test]
    fn what_is_heard_before_the_answer_counts_once_it_is_there() {
        let mut shown = Shown::default();
        shown.send(&Topic::Login);
        shown.send(&Topic::Tunnel);
        assert_eq!(shown.hear(CLICK), None);
        assert_eq!(shown.hear(CLOSE), None);
        assert_eq!(shown.answer(Topic::Login, Some(6)), None);
        assert_eq!(shown.answer(Topic::Tunnel, Some(7)), Some(Button::Details));
        assert_eq!((shown.send(&Topic::Tunnel), shown.send(&Topic::Login)), (0, 6));
    }

    #[test]
    fn others_signals_are_kept_only_while_an_answer_is_awaited_and_not_without_end() {
        let mut shown = Shown::default();
        shown.send(&Topic::Tunnel);
        for id in 100..200 {
            shown.hear(Heard::Closed { id });
        }
        assert_eq!(shown.early.len(), MAX_EARLY);
        assert_eq!(shown.answer(Topic::Tunnel, None), None);
        assert!(shown.early.is_empty());
        shown.hear(CLICK);
        assert!(shown.early.is_empty());
    }
}
