//! What tenants and strangers can cause must not fill the log: how often such an event is written.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::mem::discriminant;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::audit::Event;
use crate::audit::line::Record;

/// Time in which an address gets one line for refused tokens, and all addresses together [`REFUSED_MAX`].
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
const REFUSED_MAX: usize = 50;

/// A line a minute for each subject, or address, and limit.
const LIMIT: Often = Often { burst: 1, every: Duration::from_secs(60) };
/// What a subject does: all desktops of a large tenant can come and go at once, and nobody alone turns the log over: five
/// kinds of events make 50 lines a minute, which takes a month.
const DEED: Often = Often { burst: 300, every: Duration::from_secs(6) };

/// Most pairs of subject and event that are remembered, as many of subject and weighty event, and as many of address and
/// limit; events of those beyond are lost, which the log says.
const KNOWN_MAX: usize = 20_000;
/// Time between two searches for those that need not be remembered any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Decides which events get a line. Pure, with the time as an argument.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// The lines of the last second, the oldest first; at most [`REFUSED_MAX`].
    refused: VecDeque<(Instant, IpAddr)>,
    /// Refused tokens since the last line that have none.
    more: u64,
    subjects: Lines,
    /// What subjects seldom do, and what matters afterwards: by itself, so that all the coming and going takes no room of
    /// it.
    weighty: Lines,
    /// By themselves, so that strangers take no room of subjects.
    addresses: Lines,
    hasher: RandomState,
}

/// What is to be done with an event.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "handed on at once, and a box would be an allocation for each event"
)]
pub(super) enum Verdict {
    /// Written. It says how many like it before were not.
    Write(Record),
    /// A later line counts it.
    Later,
    /// No line will.
    Lost,
}

/// So many lines at once, and in the long run one in each of these times.
#[derive(Clone, Copy, Debug)]
struct Often {
    burst: u32,
    every: Duration,
}

/// What was written lately, by a hash of whose and what.
#[derive(Debug, Default)]
struct Lines {
    known: HashMap<u64, Lately>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Lately {
    often: Often,
    /// When the whole burst is there again.
    full_at: Instant,
    /// Events since the last line that have none: how many, and the newest of them.
    held: Option<Box<(u64, Record)>>,
}

impl Throttle {
    /// Returns whether an event gets its line now.
    pub(super) fn pass(&mut self, event: &Event<'_>, mut record: Record, now: Instant) -> Verdict {
        let kind = discriminant(event);
        match *event {
            // Not for others to cause.
            Event::Started | Event::Stopped | Event::Admin { .. } => Verdict::Write(record),
            Event::TokenRefused { client, .. } => match self.token_refused(client, now) {
                Some(more) => {
                    record.more = (more > 0).then_some(more);
                    Verdict::Write(record)
                }
                None => Verdict::Later,
            },
            Event::LimitHit { subject: Some(subject), code, .. } => {
                let whose = self.hasher.hash_one((kind, code, subject));
                self.subjects.pass(whose, LIMIT, record, now)
            }
            // Nobody is known by name.
            Event::LimitHit { subject: None, client, code } => {
                let whose = self.hasher.hash_one((kind, code, network(client)));
                self.addresses.pass(whose, LIMIT, record, now)
            }
            Event::TunnelUp { subject, .. } | Event::TunnelDown { subject, .. } => {
                let whose = self.hasher.hash_one((kind, subject));
                self.subjects.pass(whose, DEED, record, now)
            }
            Event::KeyCreated { subject, .. }
            | Event::TokenRevoked { subject, .. }
            | Event::Takeover { subject, .. } => {
                let whose = self.hasher.hash_one((kind, subject));
                self.weighty.pass(whose, DEED, record, now)
            }
        }
    }

    /// Returns lines for events that none has told of: where one is due, or `all` at the end.
    pub(super) fn take_held(&mut self, all: bool, now: Instant) -> Vec<Record> {
        let more = std::mem::take(&mut self.more);
        let mut lines = Vec::from_iter((more > 0).then(|| Record::more_refused(more, Timestamp::now())));
        for known in [&mut self.subjects, &mut self.weighty, &mut self.addresses] {
            known.take_held(all, now, &mut lines);
        }
        lines
    }

    /// Returns whether a refused token gets a line, and how many before it got none.
    fn token_refused(&mut self, client: IpAddr, now: Instant) -> Option<u64> {
        let client = network(client);
        while self.refused.front().is_some_and(|(at, _)| now.duration_since(*at) >= REFUSED_WITHIN) {
            self.refused.pop_front();
        }
        if self.refused.len() >= REFUSED_MAX || self.refused.iter().any(|(_, known)| *known == client) {
            self.more += 1;
            return None;
        }
        self.refused.push_back((now, client));
        Some(std::mem::take(&mut self.more))
    }
}

impl Lines {
    fn pass(&mut self, whose: u64, often: Often, mut record: Record, now: Instant) -> Verdict {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&whose) {
            self.sweep(now);
            if self.known.len() >= KNOWN_MAX {
                return Verdict::Lost;
            }
        }
        let lately = self.known.entry(whose).or_insert(Lately { often, full_at: now, held: None });
        let n_held = lately.held.as_ref().map_or(0, |held| held.0);
        if !lately.take(now) {
            lately.held = Some(Box::new((n_held + 1, record)));
            return Verdict::Later;
        }
        lately.held = None;
        record.more = (n_held > 0).then_some(n_held);
        Verdict::Write(record)
    }

    fn take_held(&mut self, all: bool, now: Instant, lines: &mut Vec<Record>) {
        for lately in self.known.values_mut() {
            if lately.held.is_some()
                && (lately.take(now) || all)
                && let Some((n_held, mut record)) = lately.held.take().map(|held| *held)
            {
                record.more = (n_held > 1).then_some(n_held - 1);
                lines.push(record);
            }
        }
        self.sweep(now);
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.known.retain(|_, lately| lately.full_at > now || lately.held.is_some());
    }
}

impl Lately {
    /// Takes a line, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let Often { burst, every } = self.often;
        let is_due = self.full_at.saturating_duration_since(now) <= every * burst.saturating_sub(1);
        if is_due {
            self.full_at = self.full_at.max(now) + every;
        }
        is_due
    }
}

/// Returns what one caller may have all of: an IPv4 address, or the /64 of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limit<'a>(subject: Option<&'a str>, code: &'static str) -> Event<'a> {
        Event::LimitHit { subject, client: address(1), code }
    }

    fn takeover(subject: &str) -> Event<'_> {
        Event::Takeover { subject, device: "desk" }
    }

    impl Throttle {
        /// Returns how many more the event's line tells of, if it has one.
        fn line(&mut self, event: &Event<'_>, now: Instant) -> Option<u64> {
            match self.pass(event, Record::of(event, Timestamp::now()), now) {
                Verdict::Write(record) => Some(record.more.unwrap_or(0)),
                Verdict::Later | Verdict::Lost => None,
            }
        }

        /// Returns how many more each of the lines tells of that are due.
        fn due(&mut self, all: bool, now: Instant) -> Vec<u64> {
            self.take_held(all, now).iter().map(|record| record.more.unwrap_or(0)).collect()
        }
    }

    #[test]
    fn an_address_gets_one_line_a_second_and_the_next_says_how_many_more() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.token_refused(address(1), start), Some(0));
        for ms in 1..=999 {
            assert_eq!(throttle.token_refused(address(1), start + Duration::from_millis(ms)), None);
        }
        assert_eq!(throttle.token_refused(address(1), start + REFUSED_WITHIN), Some(999));
        let (one, other): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        assert_eq!(throttle.token_refused(one, start + REFUSED_WITHIN), Some(0));
        assert_eq!(throttle.token_refused(other, start + REFUSED_WITHIN), None, "the same /64");
    }

    #[test]
    fn all_addresses_together_get_fifty_lines_a_second() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut lines = 0;
        for n in 0..10_000 {
            // Over ten seconds.
            let now = start + Duration::from_millis(u64::from(n));
            lines += usize::from(throttle.token_refused(address(n), now).is_some());
        }
        assert_eq!(lines, 10 * REFUSED_MAX);
        assert_eq!(throttle.due(false, start), [950], "what the last line did not say yet");
        assert!(throttle.refused.len() <= REFUSED_MAX);
    }

    #[test]
    fn a_limit_is_written_once_a_minute_for_each_subject() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut hit = |subject, code, at| throttle.line(&limit(subject, code), start + s(at)).is_some();
        assert!(hit(Some("alice"), "rate_limited", 0));
        assert!(!hit(Some("alice"), "rate_limited", 59));
        assert!(hit(Some("alice"), "too_many_streams", 59));
        assert!(hit(Some("bob"), "rate_limited", 59));
        assert!(hit(None, "rate_limited", 59));
        assert!(hit(Some("alice"), "rate_limited", 60));
    }

    #[test]
    fn one_account_cannot_turn_the_log_over_and_every_event_is_counted() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let (mut lines, mut told) = (0, 0);
        // Ten a second, for an hour.
        for n in 0..36_000_u64 {
            let now = start + Duration::from_millis(100 * n);
            if let Some(more) = throttle.line(&takeover("mallory"), now) {
                (lines, told) = (lines + 1, told + 1 + more);
            }
            if n % 600 == 0 {
                assert_eq!(
                    throttle.line(&takeover(&format!("other {n}")), now),
                    Some(0),
                    "others have their own"
                );
                for more in throttle.due(false, now) {
                    (lines, told) = (lines + 1, told + 1 + more);
                }
            }
        }
        for more in throttle.due(true, start + s(3_600)) {
            (lines, told) = (lines + 1, told + 1 + more);
        }
        assert_eq!(told, 36_000);
        assert!((600..=DEED.burst + 602).contains(&lines), "{lines} lines");
        assert!(throttle.due(true, start + s(3_600)).is_empty(), "told once");
    }

    #[test]
    fn the_last_of_a_flood_gets_its_line_when_one_is_due() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.line(&limit(Some("alice"), "rate_limited"), start), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.line(&limit(Some("alice"), "rate_limited"), start + s(1)), None);
        }
        assert!(throttle.due(false, start + s(59)).is_empty());
        assert_eq!(throttle.due(false, start + s(60)), [4], "itself, and four more");
        assert_eq!(throttle.line(&limit(Some("alice"), "rate_limited"), start + s(61)), None);
        assert_eq!(throttle.line(&limit(Some("alice"), "rate_limited"), start + s(120)), Some(1));
    }

    #[test]
    fn subjects_without_number_take_no_memory_without_bound_and_strangers_none_of_theirs() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for n in 0..2 * KNOWN_MAX {
            let client = address(u32::try_from(n).unwrap());
            let hit = Event::LimitHit { subject: None, client, code: "rate_limited" };
            assert_eq!(throttle.line(&hit, start).is_some(), n < KNOWN_MAX);
        }
        let mut hit = |n: usize, at| {
            throttle.line(&limit(Some(&n.to_string()), "rate_limited"), start + s(at)).is_some()
        };
        let lines = (0..2 * KNOWN_MAX).filter(|n| hit(*n, 0)).count();
        assert_eq!(lines, KNOWN_MAX);
        assert_eq!(throttle.line(&takeover("somebody new"), start), Some(0), "what matters has its own room");
        let mut hit = |n: usize, at| {
            throttle.line(&limit(Some(&n.to_string()), "rate_limited"), start + s(at)).is_some()
        };
        assert!(hit(4 * KNOWN_MAX, 61), "those of a minute ago make room");
    }
}
