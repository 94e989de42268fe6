//! The load generator at a fixed rate: a request leaves when it is due, whether or not those before it are answered.
//!
//! Each latency is counted from when the request was *due*. Counted from when it was sent, a server that stalls would
//! be charged for one request and not for those that had to wait behind it (coordinated omission).

use std::io::{self, Read, Write};
use std::net::TcpStream;
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
    /// Those of the undisturbed windows.
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
    let mut windows = Windows::default();
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
                windows.look(due - counted_from, || Machine::now().stolen());
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
                let latency = due.elapsed().as_nanos() as u64;
                seen.latencies_ns.push(latency);
                windows.add(due - counted_from, latency);
            }
            caller.reader.reset();
            caller.due = None;
            idle.push(number);
            outstanding -= 1;
        }
    }
    ensure!(!seen.latencies_ns.is_empty(), "not one answer in {length:?}");
    seen.latencies_ns.sort_unstable();
    seen.late_ns.sort_unstable();
    seen.calm_ns = windows.calm();
    seen.calm_ns.sort_unstable();
    Ok(seen)
}

/// Latencies by when their requests were due, and what the machine had lost to others by then.
#[derive(Debug, Default)]
struct Windows {
    latencies_ns: Vec<Vec<u64>>,
    /// At the beginning of each.
    stolen: Vec<u64>,
}

impl Windows {
    /// Long enough for what is stolen to be counted: that is done in hundredths of a second.
    const LENGTH: Duration = Duration::from_millis(100);

    fn number(at: Duration) -> usize {
        // Cannot truncate: a measure does not last years.
        (at.as_millis() / Self::LENGTH.as_millis()) as usize
    }

    /// Takes note of what has been stolen if `at` is in a window that has just begun.
    fn look(&mut self, at: Duration, stolen: impl FnOnce() -> u64) {
        let missing = (Self::number(at) + 1).saturating_sub(self.stolen.len());
        if missing > 0 {
            self.stolen.extend(std::iter::repeat_n(stolen(), missing));
        }
    }

    fn add(&mut self, at: Duration, latency_ns: u64) {
        let number = Self::number(at);
        if self.latencies_ns.len() <= number {
            self.latencies_ns.resize_with(number + 1, Vec::new);
        }
        self.latencies_ns[number].push(latency_ns);
    }

    /// Returns the latencies of the windows in which nothing was stolen, nor in the one that followed: what is stolen
    /// is counted late.
    fn calm(self) -> Vec<u64> {
        let calm = |number: usize| self.stolen.get(number + 2) == Some(&self.stolen[number]);
        let windows = self.latencies_ns.into_iter().enumerate();
        windows.filter(|(number, _)| calm(*number)).flat_map(|(_, latencies)| latencies).collect()
    }
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
        std::thread::spawn(move || {
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
                        std::thread::sleep(by);
                    }
                    drop(stream.get_mut().write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
                }
                std::thread::sleep(Duration::from_micros(100));
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
    fn windows_from_which_something_was_stolen_do_not_count() {
        let mut windows = Windows::default();
        for (tenth, stolen) in [(0, 5), (1, 5), (2, 5), (3, 6), (4, 6), (5, 6)] {
            let at = Windows::LENGTH * tenth;
            windows.look(at, || stolen);
            windows.look(at, || unreachable!("it has looked"));
            windows.add(at, u64::from(tenth));
        }
        assert_eq!(windows.calm(), [0, 3]);
    }

    #[test]
    fn windows_in_which_no_request_was_sent_are_disturbed() {
        let mut windows = Windows::default();
        windows.look(Duration::ZERO, || 5);
        windows.add(Duration::ZERO, 1);
        windows.look(Windows::LENGTH * 4, || 6);
        assert!(windows.calm().is_empty());
    }
}
