//! What a peer may spend on HTTP/2 frames that cost it nothing and the other end work.
//!
//! HTTP/2 bounds what a peer can make us *keep*: windows, streams, header lists. It does not bound what it can make us
//! *do*: a PING is answered, a SETTINGS is acknowledged, a stream is opened and reset at once, an empty DATA frame is
//! looked at, as often as they come. A [`FrameMeter`] reads along and charges such frames to a budget that fills up with
//! time and with what is sent to the peer; who overdraws it is cut off.

use std::time::Instant;

/// The text with which a caller of HTTP/2 begins.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who is measured: what is a flood from one end is a busy day from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeteredPeer {
    /// A caller, with at most some hundred streams. Its bytes begin with the preface.
    Caller,
    /// A desktop, which answers the requests of many callers and may lose all of them at once.
    Desktop,
}

/// More frames than a peer with something to say would send. The word is the frame that was one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flood of {0} frames")]
pub struct Flood(pub &'static str);

/// Points that fill up with time.
///
/// The clock is looked at only when they have run out, so spending costs a subtraction.
#[derive(Debug)]
pub(crate) struct Budget {
    points: u64,
    filled_at: Instant,
}

impl Budget {
    /// The most that is there at once.
    pub(crate) const FULL: u64 = 100_000;
    const PER_SECOND: u64 = 20_000;

    pub(crate) fn new(now: Instant) -> Self {
        Self { points: Self::FULL, filled_at: now }
    }

    /// Takes points; tells whether they were there.
    pub(crate) fn spend(&mut self, points: u64, now: Instant) -> bool {
        if self.points < points {
            let micros = now.saturating_duration_since(self.filled_at).as_micros();
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.earn(micros.saturating_mul(Self::PER_SECOND) / 1_000_000);
            self.filled_at = now;
        }
        let left = self.points.checked_sub(points);
        self.points = left.unwrap_or(0);
        left.is_some()
    }

    pub(crate) fn earn(&mut self, points: u64) {
        self.points = self.points.saturating_add(points).min(Self::FULL);
    }
}

/// Reads along what a peer sends on one HTTP/2 connection.
#[derive(Debug)]
pub struct FrameMeter {
    peer: MeteredPeer,
    budget: Budget,
    /// Bytes of the preface that are still to come.
    preface: usize,
    /// The frame head that is being read.
    head: [u8; HEAD],
    head_len: usize,
    /// Bytes of the payload that are still to come.
    payload: usize,
    /// Whether that is the payload of a DATA frame.
    is_data: bool,
    /// Since when a frame other than DATA, or a block of headers, has been incomplete.
    open_since: Option<Instant>,
    /// Whether the last HEADERS or CONTINUATION said that more will come.
    in_block: bool,
    /// Frames that cost something since the last [`Self::takes_turns`].
    charged: u32,
}

/// RFC 9113 §4.1.
const HEAD: usize = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// DATA frames below this size cost something: it is less than the head of a token's event.
const SMALL: usize = 64;
/// Frames that cost something in one turn: about a millisecond's work.
const TURN: u32 = 256;
/// Bytes sent to the peer that give it a point back: who is sent much has much to acknowledge.
const BYTES_A_POINT: usize = 16;

impl FrameMeter {
    /// Begins at the first byte of a connection.
    pub fn new(peer: MeteredPeer, now: Instant) -> Self {
        Self {
            peer,
            budget: Budget::new(now),
            preface: match peer {
                MeteredPeer::Caller => PREFACE.len(),
                MeteredPeer::Desktop => 0,
            },
            head: [0; HEAD],
            head_len: 0,
            payload: 0,
            is_data: false,
            open_since: (peer == MeteredPeer::Caller).then_some(now),
            in_block: false,
            charged: 0,
        }
    }

    /// Takes note of bytes from the peer. After a flood there is nothing more to be read.
    pub fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.payload > 0 {
                let n = self.payload.min(bytes.len());
                self.payload -= n;
                bytes = &bytes[n..];
            } else {
                let n = (HEAD - self.head_len).min(bytes.len());
                self.head[self.head_len..self.head_len + n].copy_from_slice(&bytes[..n]);
                self.head_len += n;
                bytes = &bytes[n..];
                if self.head_len == HEAD {
                    self.head_len = 0;
                    self.frame(now)?;
                }
            }
        }
        let in_frame = self.head_len > 0 || (self.payload > 0 && !self.is_data);
        if in_frame || self.in_block || self.preface > 0 {
            self.open_since.get_or_insert(now);
        } else {
            self.open_since = None;
        }
        Ok(())
    }

    /// Takes note of bytes to the peer.
    pub fn wrote(&mut self, n: usize) {
        self.budget.earn((n / BYTES_A_POINT) as u64);
    }

    /// Tells whether others should have their turn before more is read: HTTP/2 works on all that is there at once, and a
    /// thousand frames that carry nothing may be in one packet. Bodies are not meant.
    pub fn takes_turns(&mut self) -> bool {
        let full = self.charged >= TURN;
        if full {
            self.charged = 0;
        }
        full
    }

    /// Since when the peer has owed the rest of something that it began: the preface, a frame, a block of headers. The
    /// rest of a DATA frame is not meant: that is a body.
    pub fn open_since(&self) -> Option<Instant> {
        self.open_since
    }

    fn frame(&mut self, now: Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.payload = len;
        self.is_data = kind == 0x0;
        if matches!(kind, 0x1 | 0x9) {
            self.in_block = flags & END_HEADERS == 0;
        }
        // What was open is complete; the time of the next one begins now.
        self.open_since = self.in_block.then(|| self.open_since.unwrap_or(now));
        let (name, points) = match kind {
            0x0 if len >= SMALL || flags & END_STREAM != 0 => return Ok(()),
            0x0 if len == 0 => ("empty DATA", 50),
            0x0 => ("small DATA", 1),
            0x1 => ("HEADERS", 1),
            0x2 => ("PRIORITY", 10),
            0x3 => match self.peer {
                // 2,000 at once and 400 a second: more than people who stop their answers.
                MeteredPeer::Caller => ("RST_STREAM", 50),
                MeteredPeer::Desktop => ("RST_STREAM", 10),
            },
            0x4 => ("SETTINGS", 100),
            0x6 => ("PING", 100),
            0x7 => ("GOAWAY", 100),
            0x8 => ("WINDOW_UPDATE", 1),
            // A header list of 64 KiB needs four.
            0x9 => ("CONTINUATION", 100),
            _ => ("unknown", 50),
        };
        self.charged += 1;
        if self.budget.spend(points, now) { Ok(()) } else { Err(Flood(name)) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How long it takes until a budget that was overdrawn is full again.
    const RECOVERY: Duration = Duration::from_secs(Budget::FULL / Budget::PER_SECOND);

    fn frame(len: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![(len >> 16) as u8, (len >> 8) as u8, len as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + len, 7);
        frame
    }

    fn meter(peer: MeteredPeer) -> (FrameMeter, Instant) {
        let now = Instant::now();
        let mut meter = FrameMeter::new(peer, now);
        if peer == MeteredPeer::Caller {
            meter.read(PREFACE, now).unwrap();
        }
        (meter, now)
    }

    fn until_flood(meter: &mut FrameMeter, now: Instant, frame: &[u8]) -> (usize, Flood) {
        (1..2_000_000)
            .find_map(|n| meter.read(frame, now).err().map(|flood| (n, flood)))
            .expect("a flood without end")
    }

    #[test]
    fn each_kind_of_flood_is_cut_off() {
        let kinds = [
            ("PING", frame(8, 6, 0), 1_001),
            ("PING", frame(8, 6, 1), 1_001),
            ("SETTINGS", frame(6, 4, 0), 1_001),
            ("RST_STREAM", frame(4, 3, 0), 2_001),
            ("empty DATA", frame(0, 0, 0), 2_001),
            ("small DATA", frame(1, 0, 0), 100_001),
            ("CONTINUATION", frame(10, 9, 0), 1_001),
            ("PRIORITY", frame(5, 2, 0), 10_001),
            ("WINDOW_UPDATE", frame(4, 8, 0), 100_001),
            ("unknown", frame(3, 0xbb, 0), 2_001),
        ];
        for (name, frame, at) in kinds {
            let (mut meter, now) = meter(MeteredPeer::Caller);
            assert_eq!(until_flood(&mut meter, now, &frame), (at, Flood(name)), "{name}");
        }
    }

    #[test]
    fn bodies_and_requests_are_no_flood() {
        let (mut meter, now) = meter(MeteredPeer::Caller);
        for _ in 0..500_000 {
            meter.read(&frame(SMALL, 0, 0), now).unwrap();
            meter.read(&frame(0, 0, END_STREAM), now).unwrap();
        }
        // Each request is answered, with an acknowledgement of its own.
        for _ in 0..500_000 {
            meter.read(&frame(40, 1, END_STREAM | END_HEADERS), now).unwrap();
            meter.wrote(200);
            meter.read(&frame(4, 8, 0), now).unwrap();
        }
    }

    #[test]
    fn what_was_spent_comes_back_with_time() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert!(budget.spend(Budget::FULL, now) && !budget.spend(1, now));
        assert!(budget.spend(Budget::FULL, now + RECOVERY) && !budget.spend(1, now + RECOVERY));
        assert!(budget.spend(Budget::FULL / 2, now + RECOVERY * 3 / 2));

        let (mut meter, mut now) = meter(MeteredPeer::Caller);
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            meter.read(&frame(8, 6, 0), now).unwrap();
        }
    }

    #[test]
    fn frames_that_carry_nothing_take_turns_and_bodies_do_not() {
        let (mut meter, now) = meter(MeteredPeer::Caller);
        for _ in 0..TURN {
            assert!(!meter.takes_turns());
            meter.read(&frame(8, 6, 0), now).unwrap();
        }
        assert!(meter.takes_turns());
        assert!(!meter.takes_turns(), "once");
        for _ in 0..10 * TURN {
            meter.read(&frame(SMALL, 0, 0), now).unwrap();
        }
        assert!(!meter.takes_turns());
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = PREFACE.to_vec();
        for _ in 0..1_001 {
            bytes.extend(frame(100, 0, 0));
            bytes.extend(frame(8, 6, 0));
        }
        for piece in [1, 2, 8, 9, 10, 113, 5_000] {
            let now = Instant::now();
            let mut meter = FrameMeter::new(MeteredPeer::Caller, now);
            let (good, last) = bytes.split_at(bytes.len() - frame(8, 6, 0).len());
            assert_eq!(good.chunks(piece).find_map(|piece| meter.read(piece, now).err()), None);
            let flood = last.chunks(piece).find_map(|piece| meter.read(piece, now).err());
            assert_eq!(flood, Some(Flood("PING")), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_begun_has_a_clock() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(MeteredPeer::Caller, start);
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(meter.open_since(), Some(start), "the preface is owed");
        meter.read(PREFACE, at(1)).unwrap();
        assert_eq!(meter.open_since(), None);
        // HEADERS that announce more: each CONTINUATION leaves the clock where it was.
        meter.read(&frame(10, 1, 0), at(2)).unwrap();
        meter.read(&frame(10, 9, 0), at(3)).unwrap();
        assert_eq!(meter.open_since(), Some(at(2)));
        meter.read(&frame(10, 9, END_HEADERS), at(4)).unwrap();
        assert_eq!(meter.open_since(), None);
        // A frame whose bytes dribble.
        let headers = frame(10, 1, END_HEADERS);
        meter.read(&headers[..3], at(5)).unwrap();
        meter.read(&headers[3..12], at(6)).unwrap();
        assert!(meter.open_since().is_some_and(|since| since <= at(6)));
        meter.read(&headers[12..], at(7)).unwrap();
        assert_eq!(meter.open_since(), None);
        // A body may take its time here; it has limits of its own.
        meter.read(&frame(100, 0, 0)[..50], at(8)).unwrap();
        assert_eq!(meter.open_since(), None);
    }
}
