//! Which transitions become notifications, and when: pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tunnel_api::warning::{CONFIG_INVALID, CONNECTION_DOWN, LOGIN_EXPIRED};
use tunnel_api::{Severity, Status, TunnelState};

use crate::warnings::{Transition, Turn};

/// Decides what is worth a notification.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Raised, and waiting whether it passes by itself.
    waiting: Vec<Waiting>,
    /// Raised, and left to a client. Ours again when the client goes before it can have told them.
    left: Vec<Waiting>,
    shown: BTreeMap<Key, Shown>,
    /// When the newest of a code was shown.
    by_code: BTreeMap<String, Instant>,
    /// When the newest of all were shown.
    recent: VecDeque<Instant>,
}

#[derive(Debug)]
struct Waiting {
    raised: Instant,
    due: Instant,
    transition: Transition,
}

/// What a notification is about: a code and its subject.
pub(super) type Key = (String, String);

/// A notification that is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) key: Key,
    /// The id of the one in whose place it is shown; 0 for none.
    pub(super) replaces: u32,
    pub(super) summary: String,
    pub(super) body: String,
    pub(super) urgency: Urgency,
}

/// Who tells of the tunnel, the login and the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    Daemon,
    /// A client that shows them itself, with buttons that the daemon has not.
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Good news.
    Low,
    Normal,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    id: u32,
    /// Whether it tells of a trouble that is not over.
    open: bool,
}

impl Plan {
    /// What mends itself within this time after it was raised disturbs nobody: a laptop that wakes, a server that is
    /// updated. Errors need a person, so they are told at once.
    pub(super) const PATIENCE: Duration = Duration::from_secs(25);
    /// Least time between two of one code.
    pub(super) const PER_CODE: Duration = Duration::from_secs(30);
    /// Most of all codes together …
    pub(super) const MOST: usize = 5;
    /// … within this time.
    pub(super) const WITHIN: Duration = Duration::from_secs(3600);
    /// A client may take so long before it tells of a trouble: the tray does, of the only server of a model.
    pub(super) const CLIENTS_PATIENCE: Duration = Duration::from_secs(120);
    /// Raised warnings that wait, those that are left to a client, and notifications that can be replaced. There are about twenty codes.
    const MAX_KEPT: usize = 32;
    /// Longest text of a notification, in characters; the rest is in the status.
    const MAX_TEXT: usize = 300;

    /// Takes a transition. Returns good news at once; bad news come from [`Self::take`].
    pub(super) fn hear(&mut self, transition: Transition, status: &Status, now: Instant) -> Option<Note> {
        match transition.turn {
            Turn::Raised => {
                let patience = match transition.warning.severity {
                    Severity::Error => Duration::ZERO,
                    Severity::Warning => Self::PATIENCE,
                    Severity::Info | Severity::Unknown => return None,
                };
                if self.waiting.len() < Self::MAX_KEPT {
                    self.waiting.push(Waiting { raised: now, due: now + patience, transition });
                }
                None
            }
            Turn::Cleared => {
                let key = key(&transition);
                self.waiting.retain(|waiting| self::key(&waiting.transition) != key);
                self.left.retain(|left| self::key(&left.transition) != key);
                // Whoever else tells by now: it is our notification that is to be replaced.
                let shown = self.shown.get_mut(&key).filter(|shown| shown.open)?;
                shown.open = false;
                // Not limited: there is at most one for each that was let through.
                let summary = good_news(&transition, status)?;
                let replaces = shown.id;
                Some(Note { key, replaces, summary, body: String::new(), urgency: Urgency::Low })
            }
        }
    }

    /// Returns when [`Self::take`] has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// Takes one that is due, if the limits let it through and `teller` leaves it to us.
    pub(super) fn take(&mut self, teller: Teller, now: Instant) -> Option<Note> {
        let at = self.waiting.iter().position(|waiting| waiting.due <= now)?;
        let waiting = self.waiting.remove(at);
        if teller.has(&waiting.transition) {
            if self.left.len() < Self::MAX_KEPT {
                self.left.push(waiting);
            }
            return None;
        }
        let transition = waiting.transition;
        let code = &transition.warning.code;
        self.recent.retain(|shown| now.saturating_duration_since(*shown) < Self::WITHIN);
        self.by_code.retain(|_, shown| now.saturating_duration_since(*shown) < Self::PER_CODE);
        if self.recent.len() >= Self::MOST || self.by_code.contains_key(code) {
            tracing::debug!(code, "too many notifications, this one is not shown");
            return None;
        }
        self.recent.push_back(now);
        self.by_code.insert(code.clone(), now);
        let key = key(&transition);
        Some(Note {
            replaces: self.shown.get(&key).map_or(0, |shown| shown.id),
            summary: bad_news(&transition),
            body: body(&transition),
            urgency: Urgency::Normal,
            key,
        })
    }

    /// Takes back what was left to the clients, of whom the last one has gone: what it cannot have told yet is told by
    /// us, unless it passes or a client comes again within the usual patience.
    pub(super) fn clients_gone(&mut self, now: Instant) {
        for left in std::mem::take(&mut self.left) {
            let told = now.saturating_duration_since(left.raised) >= Self::CLIENTS_PATIENCE;
            if !told && self.waiting.len() < Self::MAX_KEPT {
                self.waiting.push(Waiting { due: now + Self::PATIENCE, ..left });
            }
        }
    }

    /// Notes that a note was shown under this id.
    pub(super) fn shown(&mut self, key: Key, urgency: Urgency, id: u32) {
        if self.shown.len() >= Self::MAX_KEPT && !self.shown.contains_key(&key) {
            // What is forgotten stays where it is on the desktop; the next one stands beside it.
            self.shown.clear();
        }
        self.shown.insert(key, Shown { id, open: urgency != Urgency::Low });
    }
}

impl Teller {
    /// Tells whether a client tells this, so that it is told once.
    fn has(self, transition: &Transition) -> bool {
        let warning = &transition.warning;
        let clients =
            warning.is_about_tunnel() || [LOGIN_EXPIRED, CONNECTION_DOWN].contains(&warning.code.as_str());
        self == Self::Client && clients
    }
}

fn key(transition: &Transition) -> Key {
    (transition.warning.code.clone(), transition.subject.clone())
}

fn bad_news(transition: &Transition) -> String {
    match transition.warning.code.as_str() {
        _ if transition.warning.is_about_tunnel() => "The tunnel is down".to_owned(),
        CONNECTION_DOWN => format!("{} is not available", transition.subject),
        CONFIG_INVALID => "The configuration has faults".to_owned(),
        _ => "tunneld needs a look".to_owned(),
    }
}

/// Says that a trouble is over only if what it was about works again: it may as well have been switched off.
fn good_news(transition: &Transition, status: &Status) -> Option<String> {
    let subject = &transition.subject;
    if transition.warning.is_about_tunnel() {
        (status.tunnel.state == TunnelState::Connected).then(|| "The tunnel is back".to_owned())
    } else if transition.warning.code == CONNECTION_DOWN {
        let back = status.connections.get(subject).is_some_and(|connection| connection.connected);
        back.then(|| format!("{subject} is back"))
    } else {
        None
    }
}

/// The sentence and what to do. Faults of a configuration are many lines; the first says where they are.
fn body(transition: &Transition) -> String {
    let warning = &transition.warning;
    let sentence = warning.message.lines().next().unwrap_or_default();
    let short = |text: &str| text.chars().take(Plan::MAX_TEXT).collect::<String>();
    match warning.next_step.as_str() {
        "" => short(sentence),
        step => format!("{}\n{}", short(sentence), short(step)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tunnel_api::warning::{MEMORY_HIGH, NO_TOKEN, RELAY_UNREACHABLE, REPLACED, TOKEN_EXPIRED};
    use tunnel_api::{Connection, Tunnel, Warning};

    use super::*;

    fn transition(turn: Turn, code: &str, severity: Severity) -> Transition {
        let warning = Warning::new(code, "a sentence\nand more", "do this").with_severity(severity);
        Transition { turn, subject: String::new(), warning, at: Timestamp::UNIX_EPOCH }
    }

    fn raised(code: &str) -> Transition {
        transition(Turn::Raised, code, Severity::Warning)
    }

    fn cleared(code: &str) -> Transition {
        transition(Turn::Cleared, code, Severity::Warning)
    }

    fn connected() -> Status {
        let tunnel = Tunnel { state: TunnelState::Connected, ..Tunnel::default() };
        Status { tunnel, ..Status::default() }
    }

    /// Raises a warning at `s` seconds and returns what is shown once patience is over.
    fn raise(plan: &mut Plan, start: Instant, s: u64, code: &str) -> Option<Note> {
        let now = start + Duration::from_secs(s);
        assert_eq!(plan.hear(raised(code), &Status::default(), now), None);
        assert_eq!(plan.take(Teller::Daemon, now), None, "patience");
        let note = plan.take(Teller::Daemon, plan.due().unwrap());
        if let Some(note) = &note {
            plan.shown(note.key.clone(), note.urgency, 7);
        }
        note
    }

    #[test]
    fn trouble_that_stays_is_told_with_what_to_do_and_its_end_takes_its_place() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let note = raise(&mut plan, start, 0, RELAY_UNREACHABLE).unwrap();
        assert_eq!(
            (note.summary.as_str(), note.body.as_str()),
            ("The tunnel is down", "a sentence\ndo this")
        );
        assert_eq!((note.replaces, note.urgency), (0, Urgency::Normal));
        let note = plan.hear(cleared(RELAY_UNREACHABLE), &connected(), start).unwrap();
        assert_eq!((note.summary.as_str(), note.replaces), ("The tunnel is back", 7));
        plan.shown(note.key, note.urgency, 7);
        assert_eq!(plan.hear(cleared(RELAY_UNREACHABLE), &connected(), start), None, "told once");
        let again = raise(&mut plan, start, 100, RELAY_UNREACHABLE).unwrap();
        assert_eq!(again.replaces, 7);
        assert!(plan.hear(cleared(RELAY_UNREACHABLE), &connected(), start).is_some(), "and once more");
    }

    #[test]
    fn trouble_that_passes_by_itself_disturbs_nobody_and_an_error_does_at_once() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        plan.hear(raised(RELAY_UNREACHABLE), &Status::default(), start);
        assert_eq!(plan.hear(cleared(RELAY_UNREACHABLE), &connected(), start), None);
        assert_eq!(plan.due(), None);
        plan.hear(transition(Turn::Raised, NO_TOKEN, Severity::Info), &Status::default(), start);
        assert_eq!(plan.due(), None);
        plan.hear(transition(Turn::Raised, TOKEN_EXPIRED, Severity::Error), &Status::default(), start);
        assert!(plan.take(Teller::Daemon, start).is_some());
    }

    #[test]
    fn what_a_client_tells_is_not_told_twice_and_all_else_is_ours() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        for code in [RELAY_UNREACHABLE, REPLACED, LOGIN_EXPIRED, CONNECTION_DOWN] {
            let error = transition(Turn::Raised, code, Severity::Error);
            plan.hear(error, &Status::default(), start);
            assert_eq!(plan.take(Teller::Client, start), None, "{code}");
            assert_eq!(plan.hear(cleared(code), &connected(), start), None, "good news about {code}");
            plan.clients_gone(start);
            assert_eq!(plan.due(), None, "{code} is over");
        }
        for code in [MEMORY_HIGH, CONFIG_INVALID] {
            plan.recent.clear();
            let error = transition(Turn::Raised, code, Severity::Error);
            plan.hear(error, &Status::default(), start);
            assert!(plan.take(Teller::Client, start).is_some(), "{code}");
        }
    }

    #[test]
    fn trouble_that_the_last_client_left_untold_is_ours_after_the_usual_patience() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        plan.hear(raised(RELAY_UNREACHABLE), &Status::default(), start);
        assert_eq!(plan.take(Teller::Client, plan.due().unwrap()), None);
        plan.clients_gone(at(40));
        assert_eq!(plan.due(), Some(at(65)));
        // One that comes again has it again.
        assert_eq!(plan.take(Teller::Client, at(65)), None);
        plan.clients_gone(at(70));
        let note = plan.take(Teller::Daemon, at(95)).unwrap();
        assert_eq!(note.summary, "The tunnel is down");

        plan.hear(raised(REPLACED), &Status::default(), start);
        assert_eq!(plan.take(Teller::Client, at(25)), None);
        plan.clients_gone(at(120));
        assert_eq!(plan.due(), None, "the client has told it");
    }

    #[test]
    fn end_of_what_we_told_before_a_client_came_is_ours() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        raise(&mut plan, start, 0, RELAY_UNREACHABLE).unwrap();
        let note = plan.hear(cleared(RELAY_UNREACHABLE), &connected(), start).unwrap();
        assert_eq!((note.summary.as_str(), note.replaces), ("The tunnel is back", 7));
    }

    #[test]
    fn tunnel_that_was_stopped_is_not_back() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        raise(&mut plan, start, 0, RELAY_UNREACHABLE).unwrap();
        assert_eq!(plan.hear(cleared(RELAY_UNREACHABLE), &Status::default(), start), None);
    }

    #[test]
    fn connection_is_back_when_it_is_connected_and_an_alert_just_ends() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let of_lab = |turn| Transition {
            subject: "lab".to_owned(),
            ..transition(turn, CONNECTION_DOWN, Severity::Warning)
        };
        plan.hear(of_lab(Turn::Raised), &Status::default(), start);
        let note = plan.take(Teller::Daemon, plan.due().unwrap()).unwrap();
        assert_eq!(note.summary, "lab is not available");
        plan.shown(note.key, note.urgency, 1);
        let mut status = Status::default();
        status.connections.insert("lab".to_owned(), Connection { connected: true, ..Connection::default() });
        let note = plan.hear(of_lab(Turn::Cleared), &status, start).unwrap();
        assert_eq!(note.summary, "lab is back");
        raise(&mut plan, start, 100, MEMORY_HIGH).unwrap();
        assert_eq!(plan.hear(cleared(MEMORY_HIGH), &status, start), None);
    }

    #[test]
    fn one_code_is_told_once_in_thirty_seconds_and_five_in_an_hour() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        assert!(raise(&mut plan, start, 0, "a").is_some());
        assert!(raise(&mut plan, start, 29, "a").is_none());
        assert!(raise(&mut plan, start, 29, "b").is_some());
        assert!(raise(&mut plan, start, 60, "a").is_some());
        assert!(raise(&mut plan, start, 100, "c").is_some());
        assert!(raise(&mut plan, start, 200, "d").is_some());
        assert!(raise(&mut plan, start, 300, "e").is_none(), "the sixth");
        assert!(raise(&mut plan, start, 3601, "e").is_some());
        assert!(raise(&mut plan, start, 3602, "f").is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        for n in 0..1000 {
            plan.hear(raised(&format!("code-{n}")), &Status::default(), now);
            plan.shown((format!("code-{n}"), String::new()), Urgency::Normal, n);
        }
        assert!(plan.waiting.len() <= Plan::MAX_KEPT && plan.shown.len() <= Plan::MAX_KEPT);
    }
}
