//! Which of the kernel's messages is a gain: pure. Reads the fixed parts of messages and no attributes.

use std::collections::HashMap;

/// Bytes of `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// `RTM_*` of linux/rtnetlink.h.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;

/// `IFF_*` of linux/if.h.
const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;

/// `IFA_F_*` of linux/if_addr.h: being checked for duplicates, or found to be one.
const IFA_F_TENTATIVE: u8 = 0x40;
const IFA_F_DADFAILED: u8 = 0x08;
/// `RT_SCOPE_*` of linux/rtnetlink.h: from here on an address reaches this link only, or this machine.
const RT_SCOPE_LINK: u8 = 253;

const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
/// The kernel's own routes come with an address, which counts by itself.
const RTPROT_KERNEL: u8 = 2;
/// What the kernel has learnt of a path, not a way that somebody set.
const RTM_F_CLONED: u32 = 0x200;

/// Interfaces whose state is kept. A machine with more of them forgets and may see a gain where there was none.
const MAX_LINKS: usize = 256;

/// Looks for gains. Keeps which links run, for the kernel tells of each change of a link, not of what has changed.
#[derive(Debug, Default)]
pub(super) struct Gains {
    running: HashMap<u32, bool>,
}

impl Gains {
    /// Tells whether any of the messages in `bytes` is a gain. What is cut short or malformed is none.
    pub(super) fn in_messages(&mut self, mut bytes: &[u8]) -> bool {
        let mut gained = false;
        while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            // The last one may be longer than the buffer; its fixed part is there all the same.
            let message = bytes.get(..length).unwrap_or(bytes);
            let Some(body) = message.get(HEADER_BYTES..) else { break };
            gained |= self.is_gain(kind, body).unwrap_or(false);
            // Messages begin at multiples of four.
            let Some(rest) = bytes.get(length.next_multiple_of(4)..) else { break };
            bytes = rest;
        }
        gained
    }

    /// Notes that messages were lost.
    pub(super) fn forget(&mut self) {
        self.running.clear();
    }

    /// `None` where the fixed part is not whole.
    fn is_gain(&mut self, kind: u16, body: &[u8]) -> Option<bool> {
        match kind {
            NEWADDR => {
                // struct ifaddrmsg: family, prefix length, flags, scope.
                let (flags, scope) = (*body.get(2)?, *body.get(3)?);
                Some(flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0 && scope < RT_SCOPE_LINK)
            }
            NEWROUTE => {
                // struct rtmsg: family, two prefix lengths, TOS, table, protocol, scope, type, flags.
                let (table, protocol, route) = (*body.get(4)?, *body.get(5)?, *body.get(7)?);
                let cloned = u32_at(body, 8)? & RTM_F_CLONED != 0;
                Some(table == RT_TABLE_MAIN && route == RTN_UNICAST && protocol != RTPROT_KERNEL && !cloned)
            }
            NEWLINK => {
                // struct ifinfomsg: family, padding, type, index, flags.
                let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
                let runs = flags & IFF_RUNNING != 0 && flags & IFF_LOOPBACK == 0;
                if self.running.len() >= MAX_LINKS && !self.running.contains_key(&index) {
                    self.running.clear();
                }
                // One that was never heard of may have run all the time, or may just have got its cable.
                let ran = self.running.insert(index, runs);
                Some(runs && ran != Some(true))
            }
            DELLINK => {
                self.running.remove(&u32_at(body, 4)?);
                Some(false)
            }
            _ => Some(false),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = HEADER_BYTES + body.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn address(flags: u8, scope: u8) -> Vec<u8> {
        message(NEWADDR, &[2, 24, flags, scope, 2, 0, 0, 0])
    }

    fn route(table: u8, protocol: u8, kind: u8, flags: u32) -> Vec<u8> {
        message(NEWROUTE, &[&[2, 0, 0, 0, table, protocol, 0, kind][..], &flags.to_ne_bytes()].concat())
    }

    fn link(index: u32, flags: u32) -> Vec<u8> {
        message(NEWLINK, &[&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat())
    }

    fn is_gain(message: &[u8]) -> bool {
        Gains::default().in_messages(message)
    }

    #[test]
    fn address_counts_once_it_can_be_used_to_reach_a_relay() {
        assert!(is_gain(&address(0, 0)));
        assert!(!is_gain(&address(IFA_F_TENTATIVE, 0)));
        assert!(!is_gain(&address(IFA_F_TENTATIVE | IFA_F_DADFAILED, 0)));
        assert!(!is_gain(&address(0, RT_SCOPE_LINK)), "link-local");
        assert!(!is_gain(&address(0, 254)), "loopback");
    }

    #[test]
    fn route_counts_if_somebody_set_it_in_the_main_table() {
        let dhcp = 16;
        assert!(is_gain(&route(RT_TABLE_MAIN, dhcp, RTN_UNICAST, 0)));
        assert!(!is_gain(&route(255, dhcp, RTN_UNICAST, 0)), "the local table");
        assert!(!is_gain(&route(RT_TABLE_MAIN, RTPROT_KERNEL, RTN_UNICAST, 0)));
        assert!(!is_gain(&route(RT_TABLE_MAIN, dhcp, 6, 0)), "a black hole");
        assert!(!is_gain(&route(RT_TABLE_MAIN, dhcp, RTN_UNICAST, RTM_F_CLONED)));
    }

    #[test]
    fn link_counts_when_it_begins_to_run() {
        let mut gains = Gains::default();
        let mut hears = |flags| gains.in_messages(&link(7, flags));
        assert!(!hears(0));
        assert!(hears(IFF_RUNNING));
        assert!(!hears(IFF_RUNNING | 0x1000), "something else about it has changed");
        assert!(gains.in_messages(&link(8, IFF_RUNNING)), "the first that is heard of it");
        assert!(!gains.in_messages(&link(1, IFF_LOOPBACK)));
        assert!(!gains.in_messages(&link(1, IFF_LOOPBACK | IFF_RUNNING)));
    }

    #[test]
    fn losses_do_not_count() {
        for kind in [21, 25, DELLINK] {
            assert!(!is_gain(&message(kind, &[0; 16])), "{kind}");
        }
    }

    #[test]
    fn gain_is_found_behind_other_messages_and_in_one_that_was_cut() {
        let both = [link(1, 0), address(0, 0)].concat();
        assert!(is_gain(&both));
        let mut long = message(NEWADDR, &[2, 24, 0, 0, 2, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
        long.truncate(26);
        assert!(is_gain(&long));
    }

    #[test]
    fn memory_of_links_is_bounded() {
        let mut gains = Gains::default();
        for index in 0..10_000 {
            gains.in_messages(&link(index, 0));
            assert!(gains.running.len() <= MAX_LINKS);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Gains::default().in_messages(&bytes);
        }
    }
}
