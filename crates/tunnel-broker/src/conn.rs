use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use crate::connect::Io;
use crate::upload::Upload;

/// One HTTP/1.1 connection to a backend, driven by whoever holds it.
///
/// There is no task behind it: the request's own future and then the response's body poll the socket. So a
/// request costs no hand-over between tasks, and a connection whose holder is dropped is closed at that moment.
pub(crate) struct Conn {
    sender: SendRequest<Upload>,
    driver: Arc<Slot>,
    bell: Arc<Bell>,
    waker: Waker,
    /// Goes off for the one limit that is being watched; kept from one request to the next.
    alarm: Option<Pin<Box<Sleep>>>,
    /// When it was last put into the pool.
    pub(crate) idle_since: Instant,
}

impl Conn {
    pub(crate) async fn handshake(io: Io) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let idle_since = Instant::now();
        let driver = Arc::new(Slot(Mutex::new(Some(Box::pin(driver)))));
        Ok(Self { sender, driver, bell, waker, alarm: None, idle_since })
    }

    /// Returns what can close the connection while somebody else holds it.
    pub(crate) fn cutter(&self) -> Cutter {
        Cutter(Arc::clone(&self.driver))
    }

    /// Queues the request; the returned future makes progress only inside of [`Conn::poll_while`].
    pub(crate) fn send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = hyper::Result<http::Response<Incoming>>> + Send + use<> {
        self.sender.send_request(request)
    }

    /// Polls `f`, which waits for something that this connection brings, and moves the connection on.
    ///
    /// The two wake each other a lot. Such a wake-up is answered in here, not by scheduling the task again.
    pub(crate) fn poll_while<T>(
        &mut self,
        cx: &Context<'_>,
        mut f: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // hyper and tokio yield by waking and returning; after this many rounds the task really yields.
        const ROUNDS: usize = 8;
        let Self { driver, bell, waker, .. } = self;
        bell.task.register(cx.waker());
        bell.quiet.store(true, Ordering::SeqCst);
        bell.rung.store(false, Ordering::SeqCst);
        let mut inner = Context::from_waker(waker);
        for _ in 0..ROUNDS {
            if let Poll::Ready(value) = f(&mut inner) {
                return Poll::Ready(value);
            }
            driver.drive(&mut inner);
            if let Poll::Ready(value) = f(&mut inner) {
                return Poll::Ready(value);
            }
            bell.quiet.store(false, Ordering::SeqCst);
            if !bell.rung.swap(false, Ordering::SeqCst) {
                return Poll::Pending;
            }
            bell.quiet.store(true, Ordering::SeqCst);
        }
        bell.quiet.store(false, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells whether `deadline` has passed; if not, the task that last called [`Conn::poll_while`] is woken then.
    ///
    /// The timer is not set anew for each request and each chunk. It may go off too early, and then looks what
    /// the deadline is by now: an entry in the runtime's timer wheel a minute, and not one a token.
    pub(crate) fn poll_past(&mut self, deadline: Instant) -> bool {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        let mut cx = Context::from_waker(&self.waker);
        while alarm.as_mut().poll(&mut cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            alarm.as_mut().reset(deadline);
        }
        false
    }

    /// Tells whether the last exchange is over, so that another request can be sent.
    pub(crate) fn is_at_rest(&self) -> bool {
        // A connection at rest must not wake, or keep in memory, the task that used it last.
        drop(self.bell.task.take());
        (self.driver.is_there() && self.sender.is_ready()) || self.is_usable()
    }

    /// Tells whether another request can be sent and the peer, as far as is known here, has not closed.
    pub(crate) fn is_usable(&self) -> bool {
        self.driver.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_there() && self.sender.is_ready()
    }
}

type Driver = Pin<Box<Connection<TokioIo<Io>, Upload>>>;

/// The part that owns the socket. Locked by its holder for each poll, and once by whoever closes it: a lock that
/// is free costs two atomic operations.
///
/// None once it has ended. It must be gone then: a request that it had not taken yet fails by that.
struct Slot(Mutex<Option<Driver>>);

impl Slot {
    fn drive(&self, cx: &mut Context<'_>) {
        let mut driver = self.lock();
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            *driver = None;
        }
    }

    fn is_there(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Driver>> {
        // A driver that panicked is polled no more: its holder is unwound, and closes it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection that somebody else holds. Keeps it open no longer than that holder does, if it is dropped
/// with it.
pub(crate) struct Cutter(Arc<Slot>);

impl Cutter {
    /// Closes the connection. What waits for something from it fails.
    pub(crate) fn cut(self) {
        let driver = self.0.lock().take();
        // Not under the lock: it closes the socket and drops the caller's upload.
        drop(driver);
    }
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cutter")
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("open", &self.driver.is_there()).finish_non_exhaustive()
    }
}

/// Wakes the task that holds a connection, unless that task is polling the connection right now.
#[derive(Debug, Default)]
struct Bell {
    task: AtomicWaker,
    /// Set while the holder polls: it looks at `rung` before it goes to sleep.
    quiet: AtomicBool,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.quiet.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}
