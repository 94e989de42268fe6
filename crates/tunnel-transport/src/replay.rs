//! What this end has sent and the other end has not acknowledged yet.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;

use crate::frame::DATA;
use crate::ws::{self, Key, Opcode, Role};

/// The outgoing half of a link: encoded frames, kept until they are acknowledged.
///
/// Bytes are copied once, on their way in, into the very frame that goes to the socket; a frame stays as it is
/// until the other end has it, so sending it again after a resume costs nothing.
#[derive(Debug)]
pub(crate) struct Replay {
    role: Role,
    segments: VecDeque<Segment>,
    /// The first segment that has not gone out whole on the present socket.
    next: usize,
    /// How much of its encoded form has gone out.
    next_done: usize,
    /// All before this offset is acknowledged.
    base: u64,
    /// The offset behind the last byte that was taken in.
    end: u64,
    /// The offset behind the last frame that ever began to go out.
    sent_max: u64,
    /// Control frames, which go out between two segments; the front one may be half gone.
    control: Vec<u8>,
    control_done: usize,
    spare: Vec<Vec<u8>>,
}

/// One DATA frame.
#[derive(Debug)]
struct Segment {
    start: u64,
    len: usize,
    /// Room for the header, then the type byte and the bytes, masked where this end masks.
    buf: Vec<u8>,
    /// Where the encoded frame begins; `None` while it may still grow.
    begin: Option<usize>,
    key: Option<Key>,
    mark: Option<Mark>,
}

/// What was known when a frame went out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) sent_at: Instant,
    pub(crate) acked_then: u64,
    pub(crate) acked_then_at: Instant,
}

/// An offset outside what was sent and is still kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

impl Segment {
    /// The most bytes in a frame: with the type byte, what a 16-bit length can say.
    const MAX: usize = 65_534;

    fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(Self::MAX - self.len);
        let at = self.buf.len();
        if self.buf.capacity() - at < taken && self.len.max(taken) >= Replay::BULK {
            // Often one large frame is all that a turn brings. Where another follows, there are more.
            let more = if self.len < Replay::BULK { taken } else { Self::MAX - self.len };
            self.buf.reserve_exact(more);
        }
        self.buf.extend_from_slice(&bytes[..taken]);
        if let Some(key) = self.key {
            key.apply(&mut self.buf[at..], 1 + self.len);
        }
        self.len += taken;
        taken
    }

    /// Tells whether it can grow by so many bytes, or by a part of them that is worth it.
    fn takes(&self, n: usize) -> bool {
        let left = Self::MAX - self.len;
        self.begin.is_none() && left > 0 && (n <= left || left > Self::MAX / 2)
    }

    /// Writes the header; the frame is whole from now on.
    fn seal(&mut self, room: usize) -> usize {
        *self
            .begin
            .get_or_insert_with(|| ws::header(&mut self.buf[..room], Opcode::Binary, 1 + self.len, self.key))
    }

    /// Returns the bytes as they were written.
    fn plain(&self, room: usize) -> Vec<u8> {
        let mut bytes = self.buf[room + 1..].to_vec();
        if let Some(key) = self.key {
            key.apply(&mut bytes, 1);
        }
        bytes
    }
}

impl Replay {
    /// Buffers of whole frames that are kept for the next ones.
    const SPARE: usize = 4;
    /// Writes from this size on get a whole frame's room at once.
    const BULK: usize = 8 * 1024;

    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            segments: VecDeque::new(),
            next: 0,
            next_done: 0,
            base: 0,
            end: 0,
            sent_max: 0,
            control: Vec::new(),
            control_done: 0,
            spare: Vec::new(),
        }
    }

    /// Returns the offset before which all is acknowledged.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Returns the offset behind all that was taken in.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the offset behind all that ever went out.
    pub(crate) fn sent_max(&self) -> u64 {
        self.sent_max
    }

    /// Returns how many bytes of the stream have not gone out on the present socket.
    pub(crate) fn unsent(&self) -> u64 {
        self.segments.get(self.next).map_or(0, |segment| self.end - segment.start)
    }

    /// Tells whether anything is left to go out.
    pub(crate) fn has_output(&self) -> bool {
        self.next < self.segments.len() || self.control_done < self.control.len()
    }

    /// Takes bytes in. All of them: the caller has asked whether there is room.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let open = self.segments.back_mut().filter(|segment| segment.takes(bytes.len()));
            let taken = match open {
                Some(segment) => segment.append(bytes),
                None => {
                    if let Some(full) = self.segments.back_mut() {
                        full.seal(self.role.max_header());
                    }
                    let mut segment = self.open(bytes.len());
                    let taken = segment.append(bytes);
                    self.segments.push_back(segment);
                    taken
                }
            };
            self.end += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    fn open(&mut self, hint: usize) -> Segment {
        let room = self.role.max_header();
        let mut buf = self.spare.pop().unwrap_or_default();
        buf.clear();
        let want = if hint >= Self::BULK { Segment::MAX } else { hint };
        buf.reserve(room + 1 + want);
        buf.resize(room, 0);
        buf.push(DATA);
        let key = self.role.key();
        if let Some(key) = key {
            key.apply(&mut buf[room..], 0);
        }
        Segment { start: self.end, len: 0, buf, begin: None, key, mark: None }
    }

    /// Queues a control frame.
    pub(crate) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        ws::encode(self.role, opcode, payload, &mut self.control);
    }

    /// Returns how many bytes of control frames wait: a peer that asks for answers without reading them.
    pub(crate) fn control_backlog(&self) -> usize {
        self.control.len() - self.control_done
    }

    /// Fills `slices` with what goes out next; returns how many of them.
    pub(crate) fn output<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        let room = self.role.max_header();
        if let Some(last) = self.segments.back_mut() {
            last.seal(room);
        }
        let mut n = 0;
        let mut pending = self.segments.range(self.next..);
        // A frame that has begun must end before anything else goes out.
        if self.next_done > 0
            && let Some(begun) = pending.next()
        {
            let begin = begun.begin.unwrap_or_default();
            slices[n] = IoSlice::new(&begun.buf[begin + self.next_done..]);
            n += 1;
        }
        if self.control_done < self.control.len() {
            slices[n] = IoSlice::new(&self.control[self.control_done..]);
            n += 1;
        }
        for (slot, segment) in slices[n..].iter_mut().zip(pending) {
            *slot = IoSlice::new(&segment.buf[segment.begin.unwrap_or_default()..]);
            n += 1;
        }
        n
    }

    /// Returns the rest of the frame that has begun and the control frames: what closes a socket in good order.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        let mut words = Vec::new();
        if self.next_done > 0
            && let Some(begun) = self.segments.get(self.next)
        {
            words.extend_from_slice(&begun.buf[begun.begin.unwrap_or_default() + self.next_done..]);
        }
        words.extend_from_slice(&self.control[self.control_done..]);
        words
    }

    /// Notes that `n` bytes of [`Self::output`] have gone out.
    pub(crate) fn advance(&mut self, mut n: usize, mark: Mark) {
        if self.next_done > 0 {
            n = self.advance_segment(n, mark);
        }
        let control = n.min(self.control.len() - self.control_done);
        self.control_done += control;
        n -= control;
        if self.control_done == self.control.len() {
            self.control.clear();
            self.control_done = 0;
        }
        while n > 0 {
            n = self.advance_segment(n, mark);
        }
    }

    fn advance_segment(&mut self, n: usize, mark: Mark) -> usize {
        let Some(segment) = self.segments.get_mut(self.next) else { return 0 };
        let left = segment.buf.len() - segment.begin.unwrap_or_default() - self.next_done;
        segment.mark.get_or_insert(mark);
        self.sent_max = self.sent_max.max(segment.end());
        if n < left {
            self.next_done += n;
            return 0;
        }
        self.next += 1;
        self.next_done = 0;
        n - left
    }

    /// Drops what the other end has; returns what was known when the newest frame of it went out.
    pub(crate) fn acknowledge(&mut self, offset: u64) -> Result<Option<Mark>, OutOfRange> {
        if offset > self.sent_max {
            return Err(OutOfRange);
        }
        // An older one than the last: it was on its way when a resume told more.
        if offset <= self.base {
            return Ok(None);
        }
        self.base = offset;
        let mut mark = None;
        while self.next > 0 && self.segments.front().is_some_and(|segment| segment.end() <= offset) {
            if let Some(segment) = self.segments.pop_front() {
                self.next -= 1;
                mark = segment.mark;
                self.keep(segment.buf);
            }
        }
        Ok(mark)
    }

    fn keep(&mut self, buf: Vec<u8>) {
        if self.spare.len() < Self::SPARE && buf.capacity() > Self::BULK {
            self.spare.push(buf);
        }
    }

    /// Gives back memory that an idle link has no use for.
    pub(crate) fn shrink(&mut self) {
        self.spare = Vec::new();
        if self.segments.is_empty() {
            self.segments = VecDeque::new();
        }
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    /// Starts over on a new socket, from what the other end has received.
    pub(crate) fn rewind(&mut self, received: u64) -> Result<(), OutOfRange> {
        if received < self.base || received > self.sent_max {
            return Err(OutOfRange);
        }
        self.control.clear();
        self.control_done = 0;
        self.next_done = 0;
        self.base = received;
        while self.segments.front().is_some_and(|segment| segment.end() <= received) {
            self.segments.pop_front();
        }
        self.next = 0;
        // A frame arrives whole or not at all, but another implementation may have cut it elsewhere.
        if let Some(first) = self.segments.front()
            && first.start < received
        {
            let plain = first.plain(self.role.max_header());
            let tail = &plain[(received - first.start) as usize..];
            let mut segment = self.open(tail.len());
            segment.start = received;
            segment.append(tail);
            self.segments[0] = segment;
        }
        for segment in &mut self.segments {
            // Its round trip would include the time without a socket.
            segment.mark = None;
            segment.seal(self.role.max_header());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What HTTP/2 writes for a DATA frame: the head, then the bytes.
    const HEAD: usize = 9;
    const BODY: usize = 16 * 1024;

    #[test]
    fn a_run_of_large_frames_leaves_no_crumbs() {
        let mut replay = Replay::new(Role::Client);
        for _ in 0..10 {
            replay.append(&[1; HEAD]);
            replay.append(&[2; BODY]);
        }
        assert_eq!(replay.end(), 10 * (HEAD + BODY) as u64);
        let lens: Vec<usize> = replay.segments.iter().map(|segment| segment.len).collect();
        assert!(lens.iter().all(|len| *len >= BODY), "{lens:?}");
        assert_eq!(lens.iter().sum::<usize>(), 10 * (HEAD + BODY));
    }

    #[test]
    fn a_lone_large_frame_takes_no_more_room_than_it_needs() {
        let mut replay = Replay::new(Role::Client);
        replay.append(&[1; HEAD]);
        replay.append(&[2; BODY]);
        assert!(replay.segments[0].buf.capacity() < 2 * BODY, "{}", replay.segments[0].buf.capacity());
    }
}
