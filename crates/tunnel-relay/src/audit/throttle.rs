//! What strangers can cause must not fill the log: how often such an event is written.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Time in which an address gets one line for refused tokens, and all addresses together [`REFUSED_MAX`].
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
const REFUSED_MAX: usize = 50;

/// Time in which a subject gets one line for one limit.
const LIMIT_WITHIN: Duration = Duration::from_secs(60);
/// Most pairs of subject and limit that are remembered; of more, the lines of those beyond are left out.
const LIMITS_MAX: usize = 10_000;
/// Time between two searches for those that need not be remembered any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Decides which events get a line. Pure, with the time as an argument.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// The lines of the last second, the oldest first; at most [`REFUSED_MAX`].
    refused: VecDeque<(Instant, IpAddr)>,
    /// Refused tokens since the last line that have none.
    more: u64,
    /// When a limit was last written, by a hash of whose and which.
    limits: HashMap<u64, Instant>,
    swept: Option<Instant>,
    hasher: RandomState,
}

impl Throttle {
    /// Returns whether a refused token gets a line, and how many before it got none.
    pub(super) fn token_refused(&mut self, client: IpAddr, now: Instant) -> Option<u64> {
        let client = network(client);
        while self.refused.front().is_some_and(|(at, _)| now.duration_since(*at) >= REFUSED_WITHIN) {
            self.refused.pop_front();
        }
        if self.refused.len() >= REFUSED_MAX || self.refused.iter().any(|(_, known)| *known == client) {
            self.more += 1;
            return None;
        }
        self.refused.push_back((now, client));
        Some(self.take_more())
    }

    /// Returns how many refused tokens no line tells of.
    pub(super) fn take_more(&mut self) -> u64 {
        std::mem::take(&mut self.more)
    }

    /// Returns whether a limit that was hit gets a line.
    pub(super) fn limit_hit(
        &mut self,
        subject: Option<&str>,
        client: IpAddr,
        code: &str,
        now: Instant,
    ) -> bool {
        // An address has a line of its own where nobody is known by name.
        let who = match subject {
            Some(subject) => self.hasher.hash_one((subject, code)),
            None => self.hasher.hash_one((network(client), code)),
        };
        if let Some(at) = self.limits.get_mut(&who) {
            let due = now.duration_since(*at) >= LIMIT_WITHIN;
            if due {
                *at = now;
            }
            return due;
        }
        if self.limits.len() >= LIMITS_MAX {
            self.sweep(now);
        }
        if self.limits.len() >= LIMITS_MAX {
            return false;
        }
        self.limits.insert(who, now);
        true
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.limits.retain(|_, at| now.duration_since(*at) < LIMIT_WITHIN);
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
        assert_eq!(throttle.take_more(), 950, "what the last line did not say yet");
        assert!(throttle.refused.len() <= REFUSED_MAX);
    }

    #[test]
    fn a_limit_is_written_once_a_minute_for_each_subject() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut hit =
            |subject, code, s| throttle.limit_hit(subject, address(1), code, start + Duration::from_secs(s));
        assert!(hit(Some("alice"), "rate_limited", 0));
        assert!(!hit(Some("alice"), "rate_limited", 59));
        assert!(hit(Some("alice"), "too_many_streams", 59));
        assert!(hit(Some("bob"), "rate_limited", 59));
        assert!(hit(None, "rate_limited", 59));
        assert!(hit(Some("alice"), "rate_limited", 60));
    }

    #[test]
    fn subjects_without_number_take_no_memory_without_bound() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut hit = |n: usize, s| {
            throttle.limit_hit(
                Some(&n.to_string()),
                address(1),
                "rate_limited",
                start + Duration::from_secs(s),
            )
        };
        let lines = (0..3 * LIMITS_MAX).filter(|n| hit(*n, 0)).count();
        assert_eq!(lines, LIMITS_MAX);
        assert!(hit(4 * LIMITS_MAX, 61), "those of a minute ago make room");
    }
}
