//! The link without its socket: frames in, frames out, time as an argument.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use crate::closed::Closed;
use crate::frame::{Frame, Kind, Malformed, Token};
use crate::frame_meter::Budget;
use crate::pace::{Pace, Sample};
use crate::replay::{Mark, OutOfRange, Replay};
use crate::ws::{Message, Next, Opcode, Reader, Role, WsError};

/// Time between two pings of one end.
const PING_EVERY: Duration = Duration::from_secs(10);
/// With nothing heard for so long, the socket is dead.
const SILENCE: Duration = Duration::from_secs(25);
/// The same while bytes of ours wait for an acknowledgement: a live peer answers within 100 ms and a round trip.
const SILENCE_WHEN_OWED: Duration = Duration::from_secs(12);
/// The same while a probe waits for its pong. Who probes has a reason to doubt the path, and being wrong costs a
/// resume; a second of round trip and a lost packet still fit.
const SILENCE_WHEN_PROBED: Duration = Duration::from_secs(3);
/// An acknowledgement goes out after so many bytes …
const ACK_BYTES: u64 = 64 * 1024;
/// … or after so long, whichever is first.
const ACK_AFTER: Duration = Duration::from_millis(100);
/// The most bytes that wait below HTTP/2 for the socket. What waits above takes turns.
const UNSENT: u64 = 128 * 1024;
/// The most bytes of answers to pings that may wait for a peer that does not read them.
const CONTROL_BACKLOG: usize = 64 * 1024;
/// Messages of the stream up to this size cost something: a small HTTP/2 frame has more.
const SMALL_MESSAGE: usize = 16;
/// What a fragment of a message costs that is smaller still.
const CRUMB_POINTS: u64 = 10;
/// Bytes sent that give the other end a point back: an ACK for each 64 KiB costs it nothing.
const SENT_A_POINT: usize = 4 * 1024;
/// What one read of the socket asks for: this at first, doubling up to the other while reads come back full.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = 256 * 1024;

/// One end of a resumable byte stream.
#[derive(Debug)]
pub(crate) struct Core {
    role: Role,
    window: u64,
    replay: Replay,
    pace: Pace,
    /// When the other end last acknowledged something.
    base_at: Instant,
    /// The last offset at which the sender had more than was let through.
    limited_at: u64,
    reader: Reader,
    input: BytesMut,
    read_size: usize,
    /// Bytes that have arrived and not been read.
    ready: VecDeque<Bytes>,
    ready_len: usize,
    taken: u64,
    /// What the last ACK said.
    acked: u64,
    ack_due: Option<Instant>,
    /// Bytes to drop: they arrived over the old socket after the resume had named an offset.
    skip: u64,
    socket: Option<Socket>,
    last_pong: Option<Pong>,
    /// Whether no bytes of the stream have come since the last ping went out.
    quiet: bool,
    /// What the other end may spend on messages that carry next to nothing.
    budget: Budget,
}

#[derive(Debug)]
struct Socket {
    heard: Instant,
    ping_at: Instant,
    ping: Option<(u64, Instant)>,
    pings: u64,
    /// Since when bytes of ours have waited for an acknowledgement.
    owed_since: Option<Instant>,
    /// Since when a probe has waited for its pong.
    probed_since: Option<Instant>,
}

/// A ping that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pong {
    /// Counts them, over all sockets.
    pub(crate) number: u64,
    /// The round trip.
    pub(crate) took: Duration,
}

/// What a peer says beside the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Token(Token),
    Close(Closed),
    /// The peer closed the WebSocket and not the session: a proxy between may do that.
    Hangup,
}

/// A peer that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Frame(#[from] Malformed),
    #[error(transparent)]
    WebSocket(#[from] WsError),
    #[error("acknowledgement of bytes that were never sent")]
    Ack,
    #[error("more bytes than the window holds")]
    Window,
    #[error("pings without end")]
    Pings,
    #[error("flood of messages that carry nothing")]
    Flood,
}

/// What time has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    Quiet,
    /// Nothing was heard for too long.
    Dead,
}

impl Core {
    pub(crate) fn new(role: Role, window: u64, now: Instant) -> Self {
        Self {
            role,
            window,
            replay: Replay::new(role),
            pace: Pace::new(),
            base_at: now,
            limited_at: 0,
            reader: Reader::new(role),
            input: BytesMut::new(),
            read_size: READ_MIN,
            ready: VecDeque::new(),
            ready_len: 0,
            taken: 0,
            acked: 0,
            ack_due: None,
            skip: 0,
            socket: None,
            last_pong: None,
            quiet: false,
            budget: Budget::new(now),
        }
    }

    /// Returns how many bytes of the other end's stream have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.taken + self.ready_len as u64
    }

    /// Returns what the other end may resume from: the oldest offset that is kept, and the end.
    pub(crate) fn resumable(&self) -> (u64, u64) {
        (self.replay.base(), self.replay.end())
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.pace.rtt()
    }

    /// Returns the newest ping that has come back.
    pub(crate) fn pong(&self) -> Option<Pong> {
        self.last_pong
    }

    /// Goes on over a new socket. `told` is what this end said it had received, `received` what the other did.
    pub(crate) fn attach(&mut self, told: u64, received: u64, now: Instant) -> Result<(), OutOfRange> {
        let skip = self.received().checked_sub(told).ok_or(OutOfRange)?;
        self.replay.rewind(received)?;
        self.skip = skip;
        self.acked = told.min(self.taken);
        self.ack_due = (self.acked < self.taken).then_some(now + ACK_AFTER);
        self.reader = Reader::new(self.role);
        self.input = BytesMut::new();
        self.base_at = now;
        self.pace = Pace::new();
        self.socket = Some(Socket {
            heard: now,
            ping_at: now,
            ping: None,
            pings: 0,
            owed_since: None,
            probed_since: None,
        });
        self.on_time(now);
        Ok(())
    }

    /// Doubts the socket: pings now, and takes silence for its death much sooner until the pong is there.
    ///
    /// Bytes that are heard meanwhile put that off, for the pong may stand behind them, but they do not end the
    /// doubt: they may have arrived before what made the caller ask. A probe that runs is not begun anew, or a
    /// storm of them would keep a dead socket alive.
    pub(crate) fn probe(&mut self, now: Instant) {
        let Some(socket) = &mut self.socket else { return };
        if socket.probed_since.is_none() {
            socket.probed_since = Some(now);
            socket.ping_at = now;
        }
    }

    /// Goes on without a socket.
    pub(crate) fn detach(&mut self) {
        self.socket = None;
        self.ack_due = None;
        self.input = BytesMut::new();
    }

    /// Tells whether more bytes may be taken in.
    pub(crate) fn has_room(&self) -> bool {
        let flying = self.replay.end() - self.replay.base();
        flying < self.window.min(self.pace.window()) && self.replay.unsent() < UNSENT
    }

    /// Notes that there is more to send than [`Self::has_room`] lets through.
    pub(crate) fn held_back(&mut self) {
        if self.socket.is_some() {
            self.limited_at = self.replay.end();
        }
    }

    /// Takes bytes of the stream in.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.replay.append(bytes);
    }

    pub(crate) fn unsent(&self) -> u64 {
        self.replay.unsent()
    }

    pub(crate) fn has_output(&self) -> bool {
        self.replay.has_output()
    }

    pub(crate) fn output<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.replay.output(slices)
    }

    /// Notes that `n` bytes of the output have gone out.
    pub(crate) fn sent(&mut self, n: usize, now: Instant) {
        let mark = Mark { sent_at: now, acked_then: self.replay.base(), acked_then_at: self.base_at };
        self.replay.advance(n, mark);
        self.budget.earn((n / SENT_A_POINT) as u64);
        if let Some(socket) = &mut self.socket
            && self.replay.sent_max() > self.replay.base()
        {
            socket.owed_since.get_or_insert(now);
        }
    }

    /// Tells whether the other end has all that was taken in.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.replay.base() == self.replay.end()
    }

    /// Queues a frame outside the numbered stream.
    pub(crate) fn say(&mut self, frame: &Frame) {
        let mut message = Vec::new();
        frame.encode(&mut message);
        self.replay.control(Opcode::Binary, &message);
    }

    /// Queues the end of the WebSocket.
    pub(crate) fn say_goodbye(&mut self) {
        // 1000: the session's own reason is in the CLOSE frame before it.
        self.replay.control(Opcode::Close, &1000u16.to_be_bytes());
    }

    /// Returns what must still go out for the other end to understand the end: the rest of the frame that has begun,
    /// and what was queued beside the stream.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        self.replay.last_words()
    }

    /// Returns the buffer that the socket is read into, with room.
    pub(crate) fn input(&mut self) -> &mut BytesMut {
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
        &mut self.input
    }

    /// Gives back the buffer that a socket without news was to be read into. A link over which bytes flow keeps it.
    pub(crate) fn nothing_came(&mut self) {
        if self.quiet && self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Takes what the socket gave: `n` bytes at the end of [`Self::input`].
    pub(crate) fn arrived(&mut self, n: usize, now: Instant) -> Result<Option<Event>, Fault> {
        if n >= self.read_size {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        if let Some(socket) = &mut self.socket {
            socket.heard = now;
        }
        loop {
            let next = self.reader.next(&mut self.input)?;
            if !self.budget.spend(self.reader.take_crumbs() * CRUMB_POINTS, now) {
                return Err(Fault::Flood);
            }
            let message = match next {
                Next::Message(message) => message,
                Next::Need(whole) => {
                    self.input.reserve(whole.saturating_sub(self.input.len()));
                    return Ok(None);
                }
            };
            if !self.budget.spend(cost(&message), now) {
                return Err(Fault::Flood);
            }
            let event = match message {
                Message::Binary(message) => self.frame(Frame::decode(message)?, now)?,
                Message::Ping(payload) => {
                    if self.replay.control_backlog() > CONTROL_BACKLOG {
                        return Err(Fault::Pings);
                    }
                    self.replay.control(Opcode::Pong, &payload);
                    None
                }
                Message::Pong(payload) => {
                    self.on_pong(&payload, now);
                    None
                }
                Message::Close => Some(Event::Hangup),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn frame(&mut self, frame: Frame, now: Instant) -> Result<Option<Event>, Fault> {
        match frame {
            Frame::Data(mut bytes) => {
                self.quiet = false;
                let dropped = self.skip.min(bytes.len() as u64);
                self.skip -= dropped;
                bytes.advance(dropped as usize);
                if !bytes.is_empty() {
                    self.ready_len += bytes.len();
                    self.ready.push_back(bytes);
                }
                // The other end may overshoot by the frame that filled its window.
                if self.ready_len as u64 > self.window + crate::frame::MAX_DATA as u64 {
                    return Err(Fault::Window);
                }
                Ok(None)
            }
            Frame::Ack(offset) => {
                let mark = self.replay.acknowledge(offset).map_err(|OutOfRange| Fault::Ack)?;
                self.base_at = now;
                if let Some(socket) = &mut self.socket {
                    let owed = self.replay.sent_max() > self.replay.base();
                    socket.owed_since = owed.then_some(now);
                }
                if let Some(mark) = mark {
                    let acked = self.replay.base();
                    self.pace.on_ack(
                        Sample {
                            sent_at: mark.sent_at,
                            acked_then: mark.acked_then,
                            acked_then_at: mark.acked_then_at,
                            acked,
                            sent: self.replay.sent_max(),
                            limited: acked <= self.limited_at,
                        },
                        now,
                    );
                }
                Ok(None)
            }
            Frame::Token(token) => Ok(Some(Event::Token(token))),
            Frame::Close(closed) => Ok(Some(Event::Close(closed))),
        }
    }

    fn on_pong(&mut self, payload: &[u8], now: Instant) {
        let Some(socket) = &mut self.socket else { return };
        if let Some((number, at)) = socket.ping
            && payload == number.to_be_bytes()
        {
            socket.ping = None;
            socket.probed_since = None;
            let took = now.duration_since(at);
            self.last_pong = Some(Pong { number: self.last_pong.map_or(1, |last| last.number + 1), took });
            self.pace.on_rtt(took, now);
        }
    }

    /// Tells how many bytes can be read.
    pub(crate) fn readable(&self) -> usize {
        self.ready_len
    }

    /// Hands the next bytes of the stream, at most `max`, to `take`; returns how many.
    pub(crate) fn read(&mut self, max: usize, now: Instant, mut take: impl FnMut(&[u8])) -> usize {
        let mut left = max;
        while left > 0
            && let Some(front) = self.ready.front_mut()
        {
            let n = front.len().min(left);
            take(&front[..n]);
            front.advance(n);
            if front.is_empty() {
                self.ready.pop_front();
            }
            left -= n;
        }
        let n = max - left;
        self.ready_len -= n;
        self.taken += n as u64;
        if self.socket.is_some() && self.taken > self.acked {
            if self.taken - self.acked >= ACK_BYTES {
                self.acknowledge();
            } else {
                self.ack_due.get_or_insert(now + ACK_AFTER);
            }
        }
        n
    }

    fn acknowledge(&mut self) {
        self.say(&Frame::Ack(self.taken));
        self.acked = self.taken;
        self.ack_due = None;
    }

    /// Does what is due; to be called at [`Self::deadline`].
    pub(crate) fn on_time(&mut self, now: Instant) -> Alarm {
        let Some(socket) = &mut self.socket else { return Alarm::Quiet };
        if now >= socket.dead_at() {
            return Alarm::Dead;
        }
        if now >= socket.ping_at {
            socket.pings += 1;
            socket.ping = Some((socket.pings, now));
            socket.ping_at = now + PING_EVERY;
            let payload = socket.pings.to_be_bytes();
            self.replay.control(Opcode::Ping, &payload);
            self.quiet = true;
            self.rest();
        }
        if self.ack_due.is_some_and(|due| now >= due) {
            self.acknowledge();
        }
        Alarm::Quiet
    }

    /// Gives back memory between two bursts.
    fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.read_size = READ_MIN;
        }
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
        self.replay.shrink();
    }

    /// Returns when [`Self::on_time`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let socket = self.socket.as_ref()?;
        let next = socket.dead_at().min(socket.ping_at);
        Some(self.ack_due.map_or(next, |due| due.min(next)))
    }
}

/// What a message costs of the other end's [`Budget`].
///
/// A desktop sends an ACK for each 64 KiB or ten a second, a ping each ten seconds and a token now and then; each
/// refreshed token means a signature to check here, of which twenty at once and four a second are plenty.
fn cost(message: &Message) -> u64 {
    match message {
        Message::Binary(message) => match Frame::kind(message) {
            Some(Kind::Data) if message.len() > SMALL_MESSAGE => 0,
            Some(Kind::Data | Kind::Ack) | None => 10,
            Some(Kind::Token) => 5_000,
            Some(Kind::Close) => 0,
        },
        Message::Ping(_) | Message::Pong(_) => 100,
        Message::Close => 0,
    }
}

impl Socket {
    /// Returns when it counts as dead if nothing more is heard.
    fn dead_at(&self) -> Instant {
        let owed = self.owed_since.map(|since| since.max(self.heard) + SILENCE_WHEN_OWED);
        let probed = self.probed_since.map(|since| since.max(self.heard) + SILENCE_WHEN_PROBED);
        [owed, probed].into_iter().flatten().fold(self.heard + SILENCE, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 4 * 1024 * 1024;

    /// Two ends and what is on its way between them; cuts lose it, or lose a part.
    struct Path {
        ends: [Core; 2],
        flying: [Vec<u8>; 2],
        written: [Vec<u8>; 2],
        read: [Vec<u8>; 2],
        up: bool,
        now: Instant,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::now();
            let mut ends = [Core::new(Role::Client, WINDOW, now), Core::new(Role::Server, WINDOW, now)];
            for end in &mut ends {
                end.attach(0, 0, now).unwrap();
            }
            Self {
                ends,
                flying: Default::default(),
                written: Default::default(),
                read: Default::default(),
                up: true,
                now,
            }
        }

        fn step(&mut self, op: &Op) {
            self.now += Duration::from_millis(7);
            match *op {
                Op::Write { end, len } if self.ends[end].has_room() => {
                    let from = self.written[end].len();
                    let bytes: Vec<u8> =
                        (from..from + len).map(|i| (i as u8) ^ (i >> 8) as u8 ^ (end as u8)).collect();
                    self.ends[end].write(&bytes);
                    self.written[end].extend(bytes);
                }
                Op::Send { end, most } if self.up => self.send(end, most),
                Op::Deliver { end, most } if self.up => self.deliver(end, most),
                Op::Cut { keep } if self.up => {
                    for flying in &mut self.flying {
                        flying.truncate(keep);
                    }
                    // What had already left the network may still be read by the end it was for.
                    self.deliver(0, keep);
                    self.deliver(1, keep);
                    self.up = false;
                    self.ends.iter_mut().for_each(Core::detach);
                }
                Op::Resume if !self.up => {
                    let told = [self.ends[0].received(), self.ends[1].received()];
                    self.flying = Default::default();
                    let (a, b) = (told[0], told[1]);
                    self.ends[0].attach(a, b, self.now).unwrap();
                    self.ends[1].attach(b, a, self.now).unwrap();
                    self.up = true;
                }
                Op::Takeover if self.up => {
                    // A resume that displaces a socket that still delivers: the offsets are named first.
                    let told = [self.ends[0].received(), self.ends[1].received()];
                    self.deliver(0, usize::MAX);
                    self.deliver(1, usize::MAX);
                    self.flying = Default::default();
                    self.ends[0].attach(told[0], told[1], self.now).unwrap();
                    self.ends[1].attach(told[1], told[0], self.now).unwrap();
                }
                Op::Read { end, most } => {
                    let out = &mut self.read[end];
                    self.ends[end].read(most, self.now, |bytes| out.extend_from_slice(bytes));
                }
                Op::Time => {
                    self.now += Duration::from_millis(120);
                    for end in &mut self.ends {
                        end.on_time(self.now);
                    }
                }
                _ => {}
            }
        }

        fn send(&mut self, end: usize, most: usize) {
            let mut out = Vec::new();
            let mut slices = [IoSlice::new(&[]); 8];
            let n = self.ends[end].output(&mut slices);
            for slice in &slices[..n] {
                out.extend_from_slice(slice);
            }
            out.truncate(most);
            self.ends[end].sent(out.len(), self.now);
            self.flying[end].extend(out);
        }

        fn deliver(&mut self, end: usize, most: usize) {
            let from = 1 - end;
            let n = most.min(self.flying[from].len());
            let bytes: Vec<u8> = self.flying[from].drain(..n).collect();
            self.ends[end].input().extend_from_slice(&bytes);
            assert_eq!(self.ends[end].arrived(n, self.now), Ok(None));
        }

        fn finish(&mut self) {
            self.step(&Op::Resume);
            for _ in 0..20_000 {
                for end in 0..2 {
                    self.step(&Op::Send { end, most: usize::MAX });
                    self.step(&Op::Deliver { end, most: usize::MAX });
                    self.step(&Op::Read { end, most: usize::MAX });
                }
                self.step(&Op::Time);
                if (0..2).all(|end| self.read[end].len() == self.written[1 - end].len()) {
                    break;
                }
            }
            for end in 0..2 {
                assert!(
                    self.read[end] == self.written[1 - end],
                    "end {end} read something else than was written"
                );
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write { end: usize, len: usize },
        Send { end: usize, most: usize },
        Deliver { end: usize, most: usize },
        Read { end: usize, most: usize },
        Cut { keep: usize },
        Resume,
        Takeover,
        Time,
    }

    fn ops() -> impl Strategy<Value = Op> {
        let end = 0..2usize;
        prop_oneof![
            6 => (end.clone(), prop_oneof![1..300usize, 1..90_000usize]).prop_map(|(end, len)| Op::Write { end, len }),
            6 => (end.clone(), 1..200_000usize).prop_map(|(end, most)| Op::Send { end, most }),
            6 => (end.clone(), 1..200_000usize).prop_map(|(end, most)| Op::Deliver { end, most }),
            4 => (end, 1..100_000usize).prop_map(|(end, most)| Op::Read { end, most }),
            1 => (0..100_000usize).prop_map(|keep| Op::Cut { keep }),
            1 => Just(Op::Resume),
            1 => Just(Op::Takeover),
            1 => Just(Op::Time),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn every_byte_arrives_once_and_in_order_whatever_happens(ops in proptest::collection::vec(ops(), 1..250)) {
            let mut path = Path::new();
            for op in &ops {
                path.step(op);
            }
            path.finish();
        }
    }

    #[test]
    fn a_silent_peer_is_dead_after_25_seconds_and_sooner_if_it_owes_an_acknowledgement() {
        let start = Instant::now();
        let mut core = Core::new(Role::Client, WINDOW, start);
        core.attach(0, 0, start).unwrap();
        assert_eq!(core.on_time(start + Duration::from_secs(24)), Alarm::Quiet);
        assert_eq!(core.on_time(start + Duration::from_secs(25)), Alarm::Dead);

        core.attach(0, 0, start).unwrap();
        core.write(b"tokens");
        let mut slices = [IoSlice::new(&[]); 4];
        let n = core.output(&mut slices);
        let len = slices[..n].iter().map(|s| s.len()).sum();
        core.sent(len, start + Duration::from_secs(1));
        assert_eq!(core.on_time(start + Duration::from_secs(12)), Alarm::Quiet);
        assert_eq!(core.on_time(start + Duration::from_secs(13)), Alarm::Dead);
    }

    /// Takes what `from` has to say to `to`.
    fn carry(from: &mut Core, to: &mut Core, now: Instant) {
        let mut wire = Vec::new();
        while from.has_output() {
            let mut slices = [IoSlice::new(&[]); 8];
            let n = from.output(&mut slices);
            let bytes: Vec<u8> = slices[..n].iter().flat_map(|slice| slice.iter().copied()).collect();
            from.sent(bytes.len(), now);
            wire.extend(bytes);
        }
        to.input().extend_from_slice(&wire);
        assert_eq!(to.arrived(wire.len(), now), Ok(None));
    }

    #[test]
    fn a_probe_that_is_answered_ends_the_doubt() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut near, mut far) =
            (Core::new(Role::Client, WINDOW, start), Core::new(Role::Server, WINDOW, start));
        near.attach(0, 0, start).unwrap();
        far.attach(0, 0, start).unwrap();
        carry(&mut near, &mut far, at(1));
        carry(&mut far, &mut near, at(2));

        near.probe(at(5000));
        assert_eq!(near.deadline(), Some(at(5000)), "the ping is due at once, not with the next round");
        assert_eq!(near.on_time(at(5000)), Alarm::Quiet);
        carry(&mut near, &mut far, at(5010));
        carry(&mut far, &mut near, at(5020));
        assert_eq!(near.on_time(at(15_000)), Alarm::Quiet);
        assert_eq!(near.deadline(), Some(at(25_000)), "the next ping, in the usual rhythm");
    }

    #[test]
    fn a_probe_without_an_answer_is_death_after_three_seconds_however_often_it_is_repeated() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut core = Core::new(Role::Client, WINDOW, start);
        core.attach(0, 0, start).unwrap();
        for ms in [1000, 1500, 2900, 3900] {
            core.probe(at(ms));
            assert_eq!(core.on_time(at(ms)), Alarm::Quiet);
        }
        assert_eq!(core.deadline(), Some(at(4000)));
        assert_eq!(core.on_time(at(4000)), Alarm::Dead);
    }

    #[test]
    fn bytes_that_are_no_pong_put_the_end_of_a_probe_off_and_do_not_cancel_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut near, mut far) =
            (Core::new(Role::Client, WINDOW, start), Core::new(Role::Server, WINDOW, start));
        near.attach(0, 0, start).unwrap();
        far.attach(0, 0, start).unwrap();
        near.probe(at(1000));
        assert_eq!(near.on_time(at(1000)), Alarm::Quiet);
        far.write(b"was on its way already");
        carry(&mut far, &mut near, at(1100));
        assert_eq!(near.on_time(at(4099)), Alarm::Quiet);
        assert_eq!(near.on_time(at(4100)), Alarm::Dead);
    }

    #[test]
    fn a_link_without_a_socket_has_nothing_to_probe() {
        let now = Instant::now();
        let mut core = Core::new(Role::Client, WINDOW, now);
        core.probe(now);
        core.attach(0, 0, now).unwrap();
        assert_eq!(core.on_time(now + Duration::from_secs(24)), Alarm::Quiet);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_a_fault() {
        let now = Instant::now();
        let mut core = Core::new(Role::Client, WINDOW, now);
        core.attach(0, 0, now).unwrap();
        core.write(b"not sent yet");
        let mut wire = Vec::new();
        let mut message = Vec::new();
        Frame::Ack(5).encode(&mut message);
        crate::ws::encode(Role::Server, Opcode::Binary, &message, &mut wire);
        core.input().extend_from_slice(&wire);
        assert_eq!(core.arrived(wire.len(), now), Err(Fault::Ack));
    }

    #[test]
    fn a_resume_from_an_offset_that_is_gone_or_was_never_sent_is_refused() {
        let now = Instant::now();
        let mut core = Core::new(Role::Client, WINDOW, now);
        core.attach(0, 0, now).unwrap();
        assert_eq!(core.attach(0, 1, now), Err(OutOfRange));
        assert_eq!(core.attach(1, 0, now), Err(OutOfRange));
    }

    #[test]
    fn messages_that_carry_nothing_are_taken_so_often_and_no_more() {
        let binary = |payload: &[u8]| {
            let mut message = Vec::new();
            crate::ws::encode(Role::Client, Opcode::Binary, payload, &mut message);
            message
        };
        let encoded = |frame: &Frame| {
            let mut payload = Vec::new();
            frame.encode(&mut payload);
            binary(&payload)
        };
        let mut pong = Vec::new();
        crate::ws::encode(Role::Client, Opcode::Pong, b"unasked", &mut pong);
        let cases = [
            ("ACK", encoded(&Frame::Ack(0)), 10_000),
            ("TOKEN", encoded(&Frame::Token(Token("t".to_owned()))), 20),
            ("pong", pong, 1_000),
            ("tiny DATA", encoded(&Frame::Data(Bytes::from_static(b"x"))), 10_000),
            ("fragment", vec![0x00, 0x80, 0, 0, 0, 0], 10_000),
        ];
        for (name, message, most) in cases {
            let now = Instant::now();
            let mut end = Core::new(Role::Server, WINDOW, now);
            end.attach(0, 0, now).unwrap();
            if name == "fragment" {
                // The first of a message, and large enough to be free.
                let begun = [&[0x02, 0x80 | 100, 0, 0, 0, 0][..], &[0; 100]].concat();
                end.input().extend_from_slice(&begun);
                assert_eq!(end.arrived(begun.len(), now), Ok(None));
            }
            for number in 0..=most {
                end.input().extend_from_slice(&message);
                let arrived = end.arrived(message.len(), now);
                assert_eq!(arrived == Err(Fault::Flood), number == most, "{name} {number}: {arrived:?}");
                end.read(usize::MAX, now, |_| {});
            }
        }
        // What carries something costs nothing.
        let now = Instant::now();
        let mut end = Core::new(Role::Server, WINDOW, now);
        end.attach(0, 0, now).unwrap();
        let message = encoded(&Frame::Data(vec![7; 64].into()));
        for _ in 0..200_000 {
            end.input().extend_from_slice(&message);
            assert_eq!(end.arrived(message.len(), now), Ok(None));
            end.read(usize::MAX, now, |_| {});
        }
    }

    #[test]
    fn a_window_that_is_full_takes_no_more() {
        let now = Instant::now();
        let mut core = Core::new(Role::Server, WINDOW, now);
        core.attach(0, 0, now).unwrap();
        let mut taken = 0;
        while core.has_room() {
            core.write(&[0; 10_000]);
            taken += 10_000;
        }
        assert!((UNSENT..UNSENT + 10_000).contains(&taken));
    }
}
