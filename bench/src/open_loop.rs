//! The load generator at a fixed rate: a request leaves when it is due, whether or not those before it are answered.
//!
//! Each latency is counted from when the request was *due*. Counted from when it was sent, a server that stalls would
//! be charged for one request and not for those that had to wait behind it (coordinated omission).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::backend::Script;
use crate::engine::{Door, PATIENCE, check_status, quantile};
use crate::http1::Reader;
use crate::machine::Machine;

/// Connections that are open before the first request.
const CONNECTIONS_AT_START: usize = 16;
/// Who needs more connections than that does not keep up.
const MOST_CONNECTIONS: usize = 1024;
/// Marks the clock among the connections, which are numbered.
const CLOCK: u64 = u64::MAX;

/// What was seen after the warm-up, in nanoseconds, sorted.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From when each request was due to the last byte of its answer.
    latencies_ns: Vec<u64>,
    /// Those of the requests that were due while nothing was stolen.
    calm_ns: Vec<u64>,
    /// How late each request was sent: the generator's own share of the latencies, alike for all that are measured.
    late_ns: Vec<u64>,
}

impl Seen {
    /// Returns the latency in ms below which `part` (0–1) of the answers were.
    pub(crate) fn latency_ms(&self, part: f64) -> f64 {
        quantile(&self.latencies_ns, part) / 1e6
    }

    /// Returns the same of the requests that were due while the machine lost no time to others; NaN where there was
    /// no such time.
    ///
    /// A virtual machine loses its processors for milliseconds at once, a few times a second, and that alone is the
    /// 99th percentile of all, whoever is measured.
    pub(crate) fn calm_ms(&self, part: f64) -> f64 {
        quantile(&self.calm_ns, part) / 1e6
    }

    /// Returns how many of the requests those were, in percent.
    pub(crate) fn calm_percent(&self) -> f64 {
        self.calm_ns.len() as f64 * 100.0 / self.latencies_ns.len() as f64
    }

    /// Returns how late, in ms, this part (0–1) of the requests were sent at most.
    pub(crate) fn late_ms(&self, part: f64) -> f64 {
        quantile(&self.late_ns, part) / 1e6
    }
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    /// When its present request was due; none while it has none.
    due: Option<Instant>,
}

/// Sends small requests at this rate, each on a kept connection that is free, and a new one where none is.
pub(crate) fn run(door: &Door, per_s: u32, warm_up: Duration, length: Duration) -> anyhow::Result<Seen> {
    let request = door.request(Script::Small);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut callers = Vec::new();
    let connect = |number: usize| -> anyhow::Result<Caller> {
        let stream = door.connect()?;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        stream.set_nonblocking(true)?;
        Ok(Caller { stream, reader: Reader::new(), due: None })
    };
    for number in 0..CONNECTIONS_AT_START {
        callers.push(connect(number)?);
    }
    // The one that was free last is taken first, as pools of clients do.
    let mut idle: Vec<usize> = (0..callers.len()).rev().collect();
    let gap = Duration::from_secs(1) / per_s;
    let clock = clock(gap)?;
    epoll::add(&epoll, &clock, epoll::EventData::new_u64(CLOCK), epoll::EventFlags::IN)?;

    let begin = Instant::now();
    let (counted_from, end) = (begin + warm_up, begin + warm_up + length);
    let mut seen = Seen::default();
    let mut answered = Vec::new();
    let watch = Watch::start();
    let mut due = begin;
    let mut outstanding = 0usize;
    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(256);
    while due < end || outstanding > 0 {
        let mut now = Instant::now();
        ensure!(now < end + PATIENCE, "{outstanding} requests have no answer {} s later", PATIENCE.as_secs());
        while due < end && due <= now {
            let number = match idle.pop() {
                Some(number) => number,
                None => {
                    ensure!(
                        callers.len() < MOST_CONNECTIONS,
                        "{MOST_CONNECTIONS} requests wait for an answer"
                    );
                    callers.push(connect(callers.len())?);
                    callers.len() - 1
                }
            };
            let caller = &mut callers[number];
            caller.due = Some(due);
            now = Instant::now();
            let written = match caller.stream.write(&request) {
                Err(error) if is_closed(&error) => {
                    *caller = Caller { due: Some(due), ..connect(number)? };
                    caller.stream.write(&request)?
                }
                written => written?,
            };
            ensure!(written == request.len(), "the socket took half a request");
            if due >= counted_from {
                // Cannot truncate: a measure does not last 500 years.
                seen.late_ns.push((now - due).as_nanos() as u64);
            }
            outstanding += 1;
            due += gap;
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&wait))?;
        for event in events.drain(..) {
            let number = { event.data }.u64();
            if number == CLOCK {
                rustix::io::read(&clock, &mut [0; 8])?;
                continue;
            }
            // Cannot truncate: it is an index of `callers`.
            let number = number as usize;
            let caller = &mut callers[number];
            let n = match caller.stream.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if is_closed(&error) => 0,
                Err(error) => return Err(error.into()),
            };
            if n == 0 {
                ensure!(caller.due.is_none(), "a connection was closed on a request");
                // It was idle: whoever takes it next finds a new one.
                *caller = connect(number)?;
                continue;
            }
            let due = caller.due.context("an answer that nobody asked for")?;
            let progress = caller.reader.read(&buffer[..n], |_| {})?;
            if !progress.complete {
                continue;
            }
            ensure!(progress.used == n, "more bytes than the answer has");
            check_status(&caller.reader, &buffer[..n])?;
            if due >= counted_from {
                // Cannot truncate: see above.
                answered.push((due, due.elapsed().as_nanos() as u64));
            }
            caller.reader.reset();
            caller.due = None;
            idle.push(number);
            outstanding -= 1;
        }
    }
    thread::sleep(Watch::GAP * 3);
    let looks = watch.finish();
    ensure!(!answered.is_empty(), "not one answer in {length:?}");
    answered.sort_unstable();
    let calm = calm(&looks, answered.iter().map(|(due, _)| *due));
    seen.calm_ns = answered.iter().zip(calm).filter(|(_, calm)| *calm).map(|((_, ns), _)| *ns).collect();
    seen.latencies_ns = answered.into_iter().map(|(_, ns)| ns).collect();
    seen.latencies_ns.sort_unstable();
    seen.late_ns.sort_unstable();
    seen.calm_ns.sort_unstable();
    Ok(seen)
}

/// Watches from a thread of its own what the machine loses to others.
#[derive(Debug)]
struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Vec<Look>>,
}

/// What had been stolen by a moment, in hundredths of a second.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    stolen: u64,
}

impl Watch {
    /// Between two looks. What is stolen is counted in hundredths of a second.
    const GAP: Duration = Duration::from_millis(50);

    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = thread::spawn(move || {
            let mut looks = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                looks.push(Look { at: Instant::now(), stolen: Machine::now().stolen() });
                thread::sleep(Self::GAP);
            }
            looks
        });
        Self { stop, looking }
    }

    fn finish(self) -> Vec<Look> {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has seen nothing: then no time counts as undisturbed.
        self.looking.join().unwrap_or_default()
    }
}

/// Tells for moments in their order whether nothing was stolen around them: from the last look before to the second
/// look after, for what is stolen is counted late.
fn calm(looks: &[Look], moments: impl IntoIterator<Item = Instant>) -> impl Iterator<Item = bool> {
    let mut next = 0;
    moments.into_iter().map(move |moment| {
        while looks.get(next).is_some_and(|look| look.at <= moment) {
            next += 1;
        }
        let before = next.checked_sub(1).and_then(|last| looks.get(last));
        matches!((before, looks.get(next + 1)), (Some(a), Some(b)) if a.stolen == b.stolen)
    })
}

/// A clock that ticks each `gap`: epoll's own time-out is in whole milliseconds, which is the gap at 1,000 a second.
fn clock(gap: Duration) -> anyhow::Result<rustix::fd::OwnedFd> {
    let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let gap = Timespec { tv_sec: i64::try_from(gap.as_secs())?, tv_nsec: gap.subsec_nanos().into() };
    timerfd_settime(&clock, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: gap, it_value: gap })?;
    Ok(clock)
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::net::TcpListener;

    use super::*;

    /// Answers each request on the connection that came first, the `slow`th of them late.
    fn server(slow: u32, by: Duration) -> std::net::SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut n = 0;
            // One thread for all connections: a slow answer holds up the others, as a stall does.
            let mut streams = Vec::new();
            listener.set_nonblocking(true).unwrap();
            loop {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    streams.push(io::BufReader::new(stream));
                }
                for stream in &mut streams {
                    let Ok(bytes) = stream.fill_buf() else { continue };
                    let len = bytes.len();
                    if len == 0 {
                        continue;
                    }
                    stream.consume(len);
                    n += 1;
                    if n == slow {
                        thread::sleep(by);
                    }
                    drop(stream.get_mut().write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        addr
    }

    #[test]
    fn a_stall_is_charged_to_all_that_had_to_wait_for_it() {
        let door = Door { addr: server(100, Duration::from_millis(200)), token: "none".to_owned() };
        let seen = run(&door, 500, Duration::ZERO, Duration::from_secs(1)).unwrap();
        assert_eq!(seen.latencies_ns.len(), 500);
        // 200 ms are 100 of 500 requests; their waits go evenly from 200 ms to none.
        assert!(seen.latency_ms(0.5) < 50.0, "{}", seen.latency_ms(0.5));
        assert!(seen.latency_ms(0.9) > 50.0, "{}", seen.latency_ms(0.9));
    }

    #[test]
    fn moments_around_which_something_was_stolen_do_not_count() {
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        let looks = [(1, 5), (2, 5), (3, 5), (4, 6), (5, 6), (6, 6), (7, 6)];
        let looks = looks.map(|(tenths, stolen)| Look { at: at(tenths), stolen });
        let half = Duration::from_millis(50);
        let moments = (0..8).map(|tenths| at(tenths) + half);
        let seen: Vec<bool> = calm(&looks, moments).collect();
        // Before the first look and after the last but one nobody knows.
        assert_eq!(seen, [false, true, false, false, true, true, false, false]);
    }
}
