//! A long path: a TCP proxy that delays and paces what passes, since a kernel with netem cannot be counted on.
//!
//! Each direction is one bottleneck of fixed rate with one queue, first in, first out, shared by all
//! connections; a full queue holds its senders back. After it comes the delay. Socket buffers are kept small,
//! so that what waits, waits in the queue or in the sender's own buffers, as on a real path. A new
//! connection costs the round trip of its handshake.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What the path is like, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// Time from one end to the other, on an empty path.
    pub(crate) one_way: Duration,
    pub(crate) bytes_per_s: u32,
}

/// Bytes that may wait for the bottleneck: 16 ms at 12.5 MB/s, a modest home router.
const QUEUE: u32 = 192 * 1024;
/// Bytes of one connection that are on their way; only a receiver that does not read lets them grow this far.
const IN_FLIGHT: usize = 1024 * 1024;
/// Asked of the kernel, which doubles it, for each socket of the path.
const SOCKET_BUFFER: usize = 32 * 1024;
/// An Ethernet's segment: loopback's own of 64 KiB does not go with small buffers.
const SEGMENT: u32 = 1448;
/// How far the bottleneck may catch up when a thread woke up late.
const LATE: Duration = Duration::from_millis(2);

/// Carries connections from `listener` to `target` until the process ends.
pub(crate) fn serve(listener: &Socket, target: SocketAddr, path: Path) -> io::Result<()> {
    let (there, back) = (Arc::new(Bottleneck::new(path)), Arc::new(Bottleneck::new(path)));
    loop {
        let (stream, _) = listener.accept()?;
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            thread::sleep(path.one_way * 2);
            // A target that is away closes the connection, which is all that the dialler could see.
            drop(carry(stream.into(), target, there, back, path));
        })?;
    }
}

pub(crate) fn bind(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    shape(&socket)?;
    socket.bind(&listen.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

fn shape(socket: &Socket) -> io::Result<()> {
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_tcp_mss(SEGMENT)
}

fn carry(
    near: TcpStream,
    target: SocketAddr,
    there: Arc<Bottleneck>,
    back: Arc<Bottleneck>,
    path: Path,
) -> io::Result<()> {
    let far = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    shape(&far)?;
    far.connect(&target.into())?;
    let far = TcpStream::from(far);
    for stream in [&near, &far] {
        SockRef::from(stream).set_tcp_nodelay(true)?;
    }
    let back = one_direction(far.try_clone()?, near.try_clone()?, back, path)?;
    let there = one_direction(near, far, there, path)?;
    for direction in [there, back] {
        drop(direction.join());
    }
    Ok(())
}

/// Starts the two threads of one direction; the one returned ends when all bytes have been delivered.
fn one_direction(
    mut from: TcpStream,
    mut to: TcpStream,
    bottleneck: Arc<Bottleneck>,
    path: Path,
) -> io::Result<thread::JoinHandle<()>> {
    let line = Arc::new(Line::default());
    let sender = Arc::clone(&line);
    thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let n = from.read(&mut bytes).unwrap_or(0);
            bytes.truncate(n);
            if n == 0 {
                return sender.push(Instant::now() + path.one_way, bytes);
            }
            let through = bottleneck.pass(n);
            sender.push(through + path.one_way, bytes);
            if sender.is_broken() {
                drop(from.shutdown(Shutdown::Both));
                return;
            }
        }
    })?;
    thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        loop {
            let (due, bytes) = line.pop();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if bytes.is_empty() {
                drop(to.shutdown(Shutdown::Write));
                return;
            }
            if to.write_all(&bytes).is_err() {
                return line.break_off();
            }
        }
    })
}

struct Bottleneck {
    ns_per_byte: f64,
    queue: Duration,
    /// When all that was let in so far will have passed.
    free: Mutex<Instant>,
}

impl Bottleneck {
    fn new(path: Path) -> Self {
        let ns_per_byte = 1e9 / f64::from(path.bytes_per_s);
        Self {
            ns_per_byte,
            queue: Duration::from_secs_f64(f64::from(QUEUE) / f64::from(path.bytes_per_s)),
            free: Mutex::new(Instant::now()),
        }
    }

    /// Waits until the queue has room, and returns when the last of `n` bytes will have passed.
    fn pass(&self, n: usize) -> Instant {
        // Held while it waits for room: whoever comes later gets in later.
        let mut free = lock(&self.free);
        let now = Instant::now();
        thread::sleep(free.saturating_duration_since(now).saturating_sub(self.queue));
        let start = (*free).max(Instant::now() - LATE);
        // Exact enough: a chunk has at most 16 KiB.
        *free = start + Duration::from_nanos((n as f64 * self.ns_per_byte) as u64);
        *free
    }
}

/// What one connection has under way in one direction.
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    broken: bool,
}

impl Line {
    fn push(&self, due: Instant, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        while state.bytes > IN_FLIGHT && !state.broken {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += bytes.len();
        state.chunks.push_back((due, bytes));
        self.changed.notify_all();
    }

    fn pop(&self) -> (Instant, Vec<u8>) {
        let mut state = lock(&self.state);
        loop {
            if let Some((due, bytes)) = state.chunks.pop_front() {
                state.bytes -= bytes.len();
                self.changed.notify_all();
                return (due, bytes);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn break_off(&self) {
        lock(&self.state).broken = true;
        self.changed.notify_all();
    }

    fn is_broken(&self) -> bool {
        lock(&self.state).broken
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds a lock here can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the listener's address.
pub(crate) fn local_addr(listener: &Socket) -> io::Result<SocketAddr> {
    TcpListener::from(listener.try_clone()?).local_addr()
}
