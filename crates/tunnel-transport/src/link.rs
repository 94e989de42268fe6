//! The link with its socket: a byte stream for HTTP/2 that outlives the WebSocket under it.

pub(crate) mod core;
mod socket;

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use self::core::{Alarm, Core, Event};

use crate::closed::{CloseCode, Closed};
use crate::frame::{Frame, Token};
use crate::frame_meter::{FrameMeter, MeteredPeer};
use crate::session::{Attach, Shared};
use crate::ws::Role;

/// What a WebSocket runs on: TCP, or TLS over it.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// One end of a link, to be driven by the HTTP/2 connection on it.
///
/// There is no task of its own: whoever polls a read or a write drives the socket, the timers and the letters
/// from [`crate::Session`]. An HTTP/2 connection always has a read pending, so nothing waits for long, and a
/// request costs no hand-over between tasks.
pub(crate) struct Link {
    role: Role,
    core: Core,
    /// The relay's end looks at what desktops send; a desktop trusts its relay with its time.
    meter: Option<FrameMeter>,
    socket: Option<Box<dyn Socket>>,
    shared: Arc<Shared>,
    timer: Pin<Box<Sleep>>,
    detached_at: Instant,
    /// Bytes that HTTP/2 has written since its last flush.
    fresh: usize,
    /// Whether the socket holds bytes back (TLS records) that it could not write.
    unflushed: bool,
    /// The newest refreshed token: said again on each socket.
    token: Option<Token>,
    ended: bool,
}

/// What the caller of [`Link::drive`] waits for.
#[derive(Clone, Copy, Debug)]
enum Want {
    Bytes,
    Room,
    Acknowledgements,
}

/// A flush after a large frame waits for the next one while fewer bytes than this would leave.
const FULL_WRITE: u64 = 64 * 1024;
/// From this size on h2 writes and flushes a DATA frame by itself; smaller ones it gathers. It is h2's threshold for
/// streams that do not ask for vectored writes, as this one does not: here a write is a copy, and never a system call.
const LARGE: usize = 1024;
/// What the relay's end hands to HTTP/2 at once: after each piece others may have their turn. Four full DATA frames.
const READ_PIECE: usize = 64 * 1024;
/// Reads in one turn that bring nothing of what is waited for.
const READS: usize = 4;
/// Slices in one write to the socket.
const SLICES: usize = 32;

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("session", &self.shared.id()).finish_non_exhaustive()
    }
}

impl Link {
    /// Makes a link without a socket; [`crate::Session`] hands it one.
    pub(crate) fn new(role: Role, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            role,
            core: Core::new(role, shared.window(), now.into_std()),
            meter: (role == Role::Server).then(|| FrameMeter::new(MeteredPeer::Desktop, now.into_std())),
            socket: None,
            timer: Box::pin(tokio::time::sleep_until(now + shared.grace())),
            detached_at: now,
            fresh: 0,
            unflushed: false,
            token: None,
            ended: false,
            shared,
        }
    }

    /// Does everything that can be done now. `Err` once the session has ended.
    fn drive(&mut self, cx: &mut Context<'_>, want: Want) -> io::Result<()> {
        if self.ended {
            return Err(self.ending());
        }
        // Each time: being woken by a letter uses the registration up.
        self.shared.register(cx.waker());
        if self.shared.has_letters() {
            self.open_letters();
        }
        if !self.ended {
            self.keep_time(cx);
            self.receive(cx, want);
            self.transmit(cx);
        }
        if self.ended { Err(self.ending()) } else { Ok(()) }
    }

    fn open_letters(&mut self) {
        let letters = self.shared.take_letters();
        if let Some(attach) = letters.attach {
            self.attach(attach);
        }
        if let Some(token) = letters.token {
            self.token = Some(token.clone());
            if self.socket.is_some() {
                self.core.say(&Frame::Token(token));
            }
        }
        if letters.probe {
            self.core.probe(Instant::now().into_std());
        }
        if let Some(closed) = letters.close {
            self.close(closed);
        }
    }

    fn attach(&mut self, attach: Attach) {
        let Attach { socket, read_ahead, told, received } = attach;
        let now = Instant::now();
        if self.core.attach(told, received, now.into_std()).is_err() {
            // A dial that was held up on its way while a later one got through: the session goes on as it is, and
            // the other end sees this socket close.
            tracing::debug!(session = %self.shared.id(), "resume came too late");
            return;
        }
        self.socket = Some(socket);
        self.unflushed = false;
        // It lies outside the numbered stream, so the old socket may have taken it along.
        if let Some(token) = &self.token {
            self.core.say(&Frame::Token(token.clone()));
        }
        self.shared.attached(now);
        if !read_ahead.is_empty() {
            self.core.input().extend_from_slice(&read_ahead);
            self.arrived(read_ahead.len());
        }
    }

    fn detach(&mut self) {
        if self.socket.take().is_some() {
            self.core.detach();
            self.detached_at = Instant::now();
            self.shared.detached(self.detached_at);
        }
    }

    /// Ends, and leaves the socket with the last words to whoever waits for the end: [`Shared::linger`].
    fn close(&mut self, closed: Closed) {
        if let Some(socket) = self.socket.take() {
            self.core.say(&Frame::Close(closed.clone()));
            self.core.say_goodbye();
            self.shared.part_with(socket, self.core.last_words());
        }
        self.end(closed);
    }

    fn end(&mut self, closed: Closed) {
        self.ended = true;
        self.socket = None;
        self.shared.publish(&self.core);
        self.shared.closed(closed);
    }

    fn ending(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel session has ended")
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) {
        loop {
            let now = Instant::now();
            let deadline = match self.core.deadline() {
                Some(deadline) if self.socket.is_some() => {
                    if self.core.on_time(now.into_std()) == Alarm::Dead {
                        tracing::debug!(session = %self.shared.id(), "socket went silent");
                        self.detach();
                        continue;
                    }
                    self.core.deadline().unwrap_or(deadline).into()
                }
                _ => {
                    let deadline = self.detached_at + self.shared.grace();
                    if now >= deadline {
                        return self.end(Closed::new(
                            CloseCode::GraceOver,
                            format!("the link was down for more than {} s", self.shared.grace().as_secs()),
                        ));
                    }
                    deadline
                }
            };
            // Moving a timer costs; a deadline that went to a later time is found out when it fires.
            if self.timer.deadline() > deadline || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>, want: Want) {
        let mut reads = 0;
        while let Some(socket) = &mut self.socket {
            match poll_read_buf(Pin::new(socket), cx, self.core.input()) {
                Poll::Pending => return self.core.nothing_came(),
                Poll::Ready(Ok(0) | Err(_)) => return self.detach(),
                Poll::Ready(Ok(n)) => self.arrived(n),
            }
            // HTTP/2 works on that first and comes back; a writer needs the acknowledgements behind it.
            let enough = match want {
                Want::Bytes => self.core.readable() > 0,
                Want::Room => self.core.has_room(),
                Want::Acknowledgements => false,
            };
            if enough {
                return;
            }
            reads += 1;
            if reads == READS {
                // Nothing but frames beside the stream: other tunnels are on this thread, too.
                cx.waker().wake_by_ref();
                return;
            }
        }
    }

    fn arrived(&mut self, n: usize) {
        let now = Instant::now().into_std();
        let mut outcome = self.core.arrived(n, now);
        loop {
            match outcome {
                Ok(None) => return,
                Ok(Some(Event::Token(token))) => self.shared.token_arrived(token),
                Ok(Some(Event::Close(closed))) => return self.end(closed.printable()),
                Ok(Some(Event::Hangup)) => return self.detach(),
                Err(fault) => return self.close(Closed::new(CloseCode::Protocol, fault.to_string())),
            }
            outcome = self.core.arrived(0, now);
        }
    }

    fn transmit(&mut self, cx: &mut Context<'_>) {
        // Before the bytes leave: a resume may follow at once and name them.
        self.shared.publish(&self.core);
        let Some(socket) = &mut self.socket else { return };
        if !self.core.has_output() && !self.unflushed {
            return;
        }
        match write_out(&mut self.core, &mut **socket, cx) {
            Ok(unflushed) => self.unflushed = unflushed,
            Err(_) => self.detach(),
        }
    }
}

/// Writes until nothing is left or the socket takes no more; tells whether the socket still holds some of it.
fn write_out(core: &mut Core, socket: &mut dyn Socket, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut socket = Pin::new(socket);
    while core.has_output() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = core.output(&mut slices);
        match socket.as_mut().poll_write_vectored(cx, &slices[..n]) {
            Poll::Pending => return Ok(true),
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => core.sent(n, Instant::now().into_std()),
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    match socket.poll_flush(cx) {
        Poll::Pending => Ok(true),
        Poll::Ready(outcome) => outcome.map(|()| false),
    }
}

impl hyper::rt::Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.meter.as_mut().is_some_and(FrameMeter::takes_turns) {
            // Other tunnels are on this thread, too.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.core.readable() == 0 {
            this.drive(cx, Want::Bytes)?;
        }
        if this.core.readable() == 0 {
            return Poll::Pending;
        }
        let now = Instant::now().into_std();
        let (meter, mut flood) = (&mut this.meter, None);
        let most = if meter.is_some() { buf.remaining().min(READ_PIECE) } else { buf.remaining() };
        this.core.read(most, now, |bytes| {
            buf.put_slice(bytes);
            if let Some(meter) = meter
                && let Err(error) = meter.read(bytes, now)
            {
                flood = Some(error);
            }
        });
        if let Some(flood) = flood {
            this.close(Closed::new(CloseCode::Protocol, flood.to_string()));
            return Poll::Ready(Err(this.ending()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Link {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Err(self.ending()));
        }
        if !self.core.has_room() {
            self.drive(cx, Want::Room)?;
            if !self.core.has_room() {
                self.core.held_back();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_room(cx))?;
        self.core.write(buf);
        if let Some(meter) = &mut self.meter {
            meter.wrote(buf.len());
        }
        self.fresh += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    /// Sends what is there. The link itself counts as "written": it never loses what it took.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(Err(this.ending()));
        }
        let fresh = std::mem::take(&mut this.fresh);
        if fresh >= LARGE && this.core.unsent() < FULL_WRITE {
            // HTTP/2 flushes after each large frame and once more at the end of its turn. The wake-up is for the
            // case that the turn ended with this one.
            cx.waker().wake_by_ref();
        } else {
            this.transmit(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// The HTTP/2 connection is done: all its streams have ended.
    ///
    /// It is the desktop that drains, so the desktop says CLOSE, once the relay has every byte; the relay waits.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Nobody reads these any more, and the other end waits for them to be acknowledged.
        this.core.read(usize::MAX, Instant::now().into_std(), |_| {});
        if this.ended || this.drive(cx, Want::Acknowledgements).is_err() {
            return Poll::Ready(Ok(()));
        }
        if this.role == Role::Server || !this.core.is_acknowledged() {
            return Poll::Pending;
        }
        let closed = this.shared.parting();
        this.close(closed);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.ended {
            let closed = self.shared.parting();
            self.close(closed);
        }
    }
}
