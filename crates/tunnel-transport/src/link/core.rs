//! The link without its socket: frames in, frames out, time as an argument.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::socket::{PING_EVERY, Socket};
use crate::closed::Closed;
use crate::frame::{Frame, Kind, Malformed, Token};
use crate::frame_meter::Budget;
use crate::pace::{Pace, Sample};
use crate::replay::{Mark, OutOfRange, Replay};
use crate::ws::{Message, Next, Opcode, Reader, Role, WsError};

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
        self.socket = Some(Socket::new(now));
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

#[cfg(test)]
mod tests;
