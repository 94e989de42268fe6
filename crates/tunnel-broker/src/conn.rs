use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::connect::Io;
use crate::upload::Upload;

/// One HTTP/1.1 connection to a backend, driven by whoever holds it.
///
/// There is no task behind it: the request's own future and then the response's body poll the socket. So a
/// request costs no hand-over between tasks, and a connection whose holder is dropped is closed at that moment.
pub(crate) struct Conn {
    sender: SendRequest<Upload>,
    driver: Driver,
    /// False once the driver has ended.
    open: bool,
    bell: Arc<Bell>,
    waker: Waker,
    /// When it was last put into the pool.
    pub(crate) idle_since: Instant,
}

impl Conn {
    pub(crate) async fn handshake(io: Io) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let idle_since = Instant::now();
        Ok(Self { sender, driver: Box::pin(driver), open: true, bell, waker, idle_since })
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
        let Self { driver, open, bell, waker, .. } = self;
        bell.task.register(cx.waker());
        bell.quiet.store(true, Ordering::SeqCst);
        bell.rung.store(false, Ordering::SeqCst);
        let mut inner = Context::from_waker(waker);
        for _ in 0..ROUNDS {
            if let Poll::Ready(value) = f(&mut inner) {
                return Poll::Ready(value);
            }
            drive(driver, open, &mut inner);
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

    /// Tells whether another request can be sent: the last exchange is over, and the peer has not closed.
    pub(crate) fn is_usable(&mut self) -> bool {
        // A connection at rest must not wake, or keep in memory, the task that used it last.
        drop(self.bell.task.take());
        drive(&mut self.driver, &mut self.open, &mut Context::from_waker(Waker::noop()));
        self.open && self.sender.is_ready()
    }
}

type Driver = Pin<Box<Connection<TokioIo<Io>, Upload>>>;

fn drive(driver: &mut Driver, open: &mut bool, cx: &mut Context<'_>) {
    if *open && driver.as_mut().poll(cx).is_ready() {
        *open = false;
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("open", &self.open).finish_non_exhaustive()
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
