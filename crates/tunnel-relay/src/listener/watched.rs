//! How long a connection may take for the head of a request.
//!
//! hyper has one limit for the wait between two requests and for a head that has begun. A caller that keeps its
//! connection may be silent for a minute; one that has begun a head has five seconds. So the socket notes when the first
//! byte of a head came, and the timer that hyper is given answers by that.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long the other end may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a head that has begun, and for the first one.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
}

/// What the socket and the timer of one connection share. Both belong to one task.
#[derive(Debug)]
pub(super) struct HeadClock {
    patience: Patience,
    opened: Instant,
    /// When the head began, in microseconds since `opened`; or one of the two below.
    begun_us: AtomicU64,
    /// The one timer on tokio's wheel: it is armed and left alone, and armed anew when it fires too early. Putting one on
    /// the wheel for each head would cost more than reading the head.
    alarm: Mutex<Option<Pin<Box<tokio::time::Sleep>>>>,
}

/// No head is waited for.
const BUSY: u64 = u64::MAX;
/// Nothing of the next head has come.
const SILENT: u64 = u64::MAX - 1;

impl HeadClock {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            patience,
            opened: Instant::now(),
            // The first head counts from the start.
            begun_us: AtomicU64::new(0),
            alarm: Mutex::new(None),
        })
    }

    fn heard(&self) {
        if self.begun_us.load(Ordering::Relaxed) == SILENT {
            let us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(0);
            self.begun_us.store(us, Ordering::Relaxed);
        }
    }

    fn due(&self, waiting_since: Instant) -> Instant {
        match self.begun_us.load(Ordering::Relaxed) {
            BUSY | SILENT => waiting_since + self.patience.idle,
            us => self.opened + Duration::from_micros(us) + self.patience.head,
        }
    }
}

/// The clock as hyper wants it.
#[derive(Debug)]
pub(super) struct HeadTimer(pub(super) Arc<HeadClock>);

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        // hyper waits for nothing else in HTTP/1, and how long is ours to say.
        self.0.begun_us.compare_exchange(BUSY, SILENT, Ordering::Relaxed, Ordering::Relaxed).ok();
        Box::pin(HeadWait { clock: Arc::clone(&self.0), since: Instant::now() })
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

/// The wait for one head.
struct HeadWait {
    clock: Arc<HeadClock>,
    since: Instant,
}

impl Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = &self.clock;
        let mut alarm = clock.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        // Never later than a head that begins now would be due, so it never has to be moved to an earlier time.
        let next = |due: Instant| due.min(Instant::now() + clock.patience.head);
        let alarm =
            alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next(clock.due(self.since)))));
        while alarm.as_mut().poll(cx).is_ready() {
            let due = clock.due(self.since);
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(next(due));
        }
        Poll::Pending
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.clock.begun_us.store(BUSY, Ordering::Relaxed);
    }
}

/// A socket that tells its [`HeadClock`] when something came.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    clock: Arc<HeadClock>,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, clock: Arc<HeadClock>) -> Self {
        Self { socket, clock }
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        self.clock.heard();
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(5);
    const IDLE: Duration = Duration::from_secs(75);

    fn clock() -> (Arc<HeadClock>, HeadTimer) {
        let clock = HeadClock::new(Patience { head: HEAD, idle: IDLE });
        (Arc::clone(&clock), HeadTimer(clock))
    }

    async fn waited(wait: Pin<Box<dyn Sleep>>) -> Duration {
        let before = Instant::now();
        wait.await;
        before.elapsed()
    }

    fn about(waited: Duration, expected: Duration) -> bool {
        // tokio's wheel turns in milliseconds.
        waited >= expected && waited <= expected + Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_counts_from_the_start() {
        let (_clock, timer) = clock();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let waited = waited(timer.sleep(HEAD)).await;
        assert!(about(waited, Duration::from_secs(3)), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_may_stay_longer_than_a_head_may_take() {
        let (clock, timer) = clock();
        drop(timer.sleep(HEAD));
        tokio::time::sleep(Duration::from_secs(100)).await;
        let idle = waited(timer.sleep(HEAD)).await;
        assert!(about(idle, IDLE), "{idle:?}");

        let wait = timer.sleep(HEAD);
        let begins = async {
            tokio::time::sleep(Duration::from_secs(31)).await;
            clock.heard();
            tokio::time::sleep(Duration::from_secs(4)).await;
            // More of the same head buys no time.
            clock.heard();
        };
        let (begun, ()) = tokio::join!(waited(wait), begins);
        assert!(about(begun, Duration::from_secs(36)), "{begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_a_body_begin_no_head() {
        let (clock, timer) = clock();
        drop(timer.sleep(HEAD));
        clock.heard();
        tokio::time::sleep(Duration::from_secs(20)).await;
        clock.heard();
        let idle = waited(timer.sleep(HEAD)).await;
        assert!(about(idle, IDLE), "{idle:?}");
    }
}
