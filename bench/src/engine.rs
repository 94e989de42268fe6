//! The load generator: one thread and one epoll for any number of callers, one blocking socket where a single
//! caller is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::Timespec;

use crate::backend::Script;
use crate::clock;
use crate::http1::Reader;

/// Longest wait for anything, so that no measure hangs on a peer that does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// What closes the JSON of an upload after its filling.
const UPLOAD_END: &[u8] = b"\"}";

/// Where a caller goes, and what it needs to get in.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) addr: SocketAddr,
    /// A bearer token; every target gets an `authorization` header, so that all requests are alike.
    pub(crate) token: String,
}

impl Door {
    /// Returns the request for `script`, without an upload's filling.
    pub(crate) fn request(&self, script: Script) -> Vec<u8> {
        let body = script.body();
        let length = match script.filling() {
            0 => body.len() as u64,
            filling => body.len() as u64 + filling + UPLOAD_END.len() as u64,
        };
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nuser-agent: bench\r\n\
             accept: */*\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            self.addr, self.token
        )
        .into_bytes()
    }

    /// Opens a connection with limits on every wait.
    pub(crate) fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.addr, PATIENCE)
            .with_context(|| format!("connecting to {}", self.addr))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Whether a caller keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    Kept,
    NewEach,
}

/// Callers that each send the next request as soon as the last is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) callers: usize,
    pub(crate) connections: Connections,
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// What was seen after the warm-up.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) elapsed: Duration,
    /// One for each complete answer, in nanoseconds, sorted.
    pub(crate) latencies_ns: Vec<u64>,
    /// Server-sent events.
    pub(crate) events: u64,
}

impl Seen {
    pub(crate) fn per_s(&self) -> f64 {
        self.latencies_ns.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn events_per_s(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the latency in µs below which `part` (0–1) of the answers were.
    pub(crate) fn quantile_us(&self, part: f64) -> f64 {
        quantile(&self.latencies_ns, part) / 1e3
    }
}

/// Returns the value below which `part` (0–1) of the `sorted` values are; NaN where there are none.
pub(crate) fn quantile(sorted: &[u64], part: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let at = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[at] as f64
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    sent: Instant,
    newline: bool,
}

/// Runs a closed loop of callers.
pub(crate) fn closed_loop(door: &Door, script: Script, load: Load) -> anyhow::Result<Seen> {
    let request = door.request(script);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let start = |number: usize| -> anyhow::Result<Caller> {
        let mut stream = door.connect()?;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        let sent = Instant::now();
        stream.write_all(&request)?;
        stream.set_nonblocking(true)?;
        Ok(Caller { stream, reader: Reader::new(), sent, newline: false })
    };
    let mut callers = (0..load.callers).map(start).collect::<anyhow::Result<Vec<_>>>()?;

    let mut seen = Seen { latencies_ns: Vec::with_capacity(1 << 18), ..Seen::default() };
    let mut begin = Instant::now() + load.warm_up;
    let end = begin + load.length;
    let mut last_answer = Instant::now();
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Vec::with_capacity(512);
    let mut reconnects = 0usize;
    let mut counted = false;
    loop {
        let now = Instant::now();
        if !counted && now >= begin {
            (counted, begin) = (true, now);
            seen.latencies_ns.clear();
            seen.events = 0;
        }
        if now >= end {
            seen.elapsed = now - begin;
            break;
        }
        ensure!(now - last_answer < PATIENCE, "no answer for {} s", PATIENCE.as_secs());
        let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&wait))?;
        for event in events.drain(..) {
            // Cannot truncate: it is an index of `callers`.
            let number = { event.data }.u64() as usize;
            let caller = &mut callers[number];
            let n = match caller.stream.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error.into()),
            };
            if n == 0 {
                // A server may close a connection between two requests, and this request crossed that.
                reconnects += 1;
                ensure!(
                    caller.reader.is_between_messages() && reconnects <= 16 + seen.latencies_ns.len() / 20,
                    "connections are closed on us ({reconnects} times)"
                );
                *caller = start(number)?;
                continue;
            }
            let Caller { reader, newline, .. } = caller;
            let mut found = 0;
            let progress = reader.read(&buffer[..n], |body| found += count_events(body, newline))?;
            seen.events += found;
            if !progress.complete {
                continue;
            }
            ensure!(progress.used == n, "more bytes than the answer has");
            check_status(&caller.reader, &buffer[..n])?;
            last_answer = Instant::now();
            // Cannot truncate: a measure does not last 500 years.
            seen.latencies_ns.push((last_answer - caller.sent).as_nanos() as u64);
            match load.connections {
                Connections::NewEach => *caller = start(number)?,
                Connections::Kept => {
                    caller.reader.reset();
                    caller.sent = last_answer;
                    match caller.stream.write(&request) {
                        Ok(written) => ensure!(written == request.len(), "the socket took half a request"),
                        Err(_) => *caller = start(number)?,
                    }
                }
            }
        }
    }
    seen.latencies_ns.sort_unstable();
    ensure!(!seen.latencies_ns.is_empty(), "not one answer in {:?}", load.length);
    Ok(seen)
}

/// Runs one caller on a blocking socket: nothing but its own two system calls is in the figure.
pub(crate) fn one_caller(door: &Door, warm_up: Duration, length: Duration) -> anyhow::Result<Seen> {
    one_after_another(door, Script::Small, Until::LastByte, warm_up, length)
}

/// Does the same with streams, each of which counts until its first token is there.
pub(crate) fn first_token(door: &Door, warm_up: Duration, length: Duration) -> anyhow::Result<Seen> {
    // The second token keeps the first from being the end of the stream.
    let script = Script::Stream { tokens: 2, interval: Duration::from_millis(1) };
    one_after_another(door, script, Until::FirstEvent, warm_up, length)
}

/// How much of an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    FirstEvent,
    LastByte,
}

fn one_after_another(
    door: &Door,
    script: Script,
    until: Until,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Seen> {
    let request = door.request(script);
    let mut stream = door.connect()?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = Seen { latencies_ns: Vec::with_capacity(1 << 16), ..Seen::default() };
    let begin = Instant::now() + warm_up;
    let end = begin + length;
    loop {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        stream.write_all(&request)?;
        let (mut events, mut newline, mut first_event) = (0, false, None);
        let complete = loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 && reader.is_between_messages() {
                stream = door.connect()?;
                stream.write_all(&request)?;
                continue;
            }
            ensure!(n > 0, "connection closed in the middle of an answer");
            let is_complete =
                reader.read(&buffer[..n], |body| events += count_events(body, &mut newline))?.complete;
            if events > 0 && first_event.is_none() {
                first_event = Some(sent.elapsed());
            }
            if is_complete {
                let complete = sent.elapsed();
                check_status(&reader, &buffer[..n])?;
                reader.reset();
                break complete;
            }
        };
        if sent >= begin {
            let time = match until {
                Until::FirstEvent => first_event.context("a stream without a token")?,
                Until::LastByte => complete,
            };
            // Cannot truncate: see above.
            seen.latencies_ns.push(time.as_nanos() as u64);
        }
    }
    seen.elapsed = length;
    seen.latencies_ns.sort_unstable();
    Ok(seen)
}

/// Opens `n` connections at once, sends a request on each, and returns the times from opening to answer, in
/// nanoseconds, sorted.
pub(crate) fn at_once(door: &Door, n: usize) -> anyhow::Result<Vec<u64>> {
    let request = door.request(Script::Small);
    let begin = Instant::now();
    let mut streams = Vec::with_capacity(n);
    for _ in 0..n {
        let mut stream = door.connect()?;
        stream.write_all(&request)?;
        streams.push(stream);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, stream) in streams.iter().enumerate() {
        epoll::add(&epoll, stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    }
    let mut readers: Vec<_> = (0..n).map(|_| Reader::new()).collect();
    let mut times = Vec::with_capacity(n);
    let mut buffer = vec![0; 16 * 1024];
    let mut events = Vec::with_capacity(64);
    while times.len() < n {
        ensure!(begin.elapsed() < PATIENCE, "{} of {n} were not answered", n - times.len());
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&wait))?;
        for event in events.drain(..) {
            // Cannot truncate: it is an index of `streams`.
            let number = { event.data }.u64() as usize;
            let read = (&streams[number]).read(&mut buffer)?;
            ensure!(read > 0, "connection closed before the answer");
            if readers[number].read(&buffer[..read], |_| {})?.complete {
                check_status(&readers[number], &buffer[..read])?;
                times.push(begin.elapsed().as_nanos() as u64);
                epoll::delete(&epoll, &streams[number])?;
            }
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Downloads on one connection for `length` and returns MB/s, counted from the first byte.
pub(crate) fn download(door: &Door, length: Duration) -> anyhow::Result<f64> {
    let stop = AtomicBool::new(false);
    let (bytes, elapsed) = download_until(door, Instant::now() + length, &stop)?;
    Ok(bytes as f64 / 1e6 / elapsed.as_secs_f64())
}

/// Downloads until `end` or until told to stop; returns the bytes and the time since the first of them.
fn download_until(door: &Door, end: Instant, stop: &AtomicBool) -> anyhow::Result<(u64, Duration)> {
    let mut stream = door.connect()?;
    stream.write_all(&door.request(Script::Download { bytes: 64 << 30 }))?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; 256 * 1024];
    let (mut bytes, mut first) = (0u64, None);
    loop {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "connection closed in the middle of a download");
        reader.read(&buffer[..n], |body| bytes += body.len() as u64)?;
        check_status(&reader, &buffer[..n])?;
        let now = Instant::now();
        let first = *first.get_or_insert_with(|| {
            bytes = 0;
            now
        });
        if now >= end || stop.load(Ordering::Relaxed) {
            return Ok((bytes, now - first));
        }
    }
}

/// Uploads again and again on one connection for about `length` and returns MB/s, counted with the answers.
pub(crate) fn upload(door: &Door, length: Duration) -> anyhow::Result<f64> {
    const EACH: u64 = 32 << 20;
    let script = Script::Upload { bytes: EACH };
    let request = door.request(script);
    let expected = format!("{{\"received\":{}}}", (script.body().len() + UPLOAD_END.len()) as u64 + EACH);
    let block = vec![b'u'; 256 * 1024];
    let mut stream = door.connect()?;
    let mut buffer = vec![0; 16 * 1024];
    let begin = Instant::now();
    let mut bytes = 0u64;
    while bytes == 0 || begin.elapsed() < length {
        stream.write_all(&request)?;
        for _ in 0..EACH / block.len() as u64 {
            stream.write_all(&block)?;
        }
        stream.write_all(UPLOAD_END)?;
        let (mut reader, mut answer) = (Reader::new(), Vec::new());
        loop {
            let n = stream.read(&mut buffer)?;
            ensure!(n > 0, "connection closed before the upload was answered");
            if reader.read(&buffer[..n], |body| answer.extend_from_slice(body))?.complete {
                break;
            }
        }
        check_status(&reader, &answer)?;
        ensure!(answer == expected.as_bytes(), "the upload arrived damaged");
        bytes += EACH;
    }
    Ok(bytes as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// Streams that are open while something else is measured.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl OpenStreams {
    /// Opens `n` streams of a token a second each, and returns when each has begun.
    pub(crate) fn start(door: &Door, n: usize) -> anyhow::Result<Self> {
        let script = Script::Stream { tokens: 3600, interval: Duration::from_secs(1) };
        let request = door.request(script);
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (door, stop, begun) = (door.clone(), Arc::clone(&stop), Arc::clone(&begun));
            std::thread::spawn(move || hold_open(&door, &request, n, &stop, &begun))
        };
        let streams = Self { stop, thread: Some(thread) };
        let begin = Instant::now();
        while begun.load(Ordering::Relaxed) < n {
            if streams.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
                streams.finish()?;
                bail!("the streams ended before they had begun");
            }
            ensure!(begin.elapsed() < PATIENCE, "{} of {n} streams began", begun.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(streams)
    }

    /// Ends the streams; fails if one of them had broken.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(std::thread::JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => bail!("the thread of the open streams panicked"),
        }
    }
}

impl Drop for OpenStreams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn hold_open(
    door: &Door,
    request: &[u8],
    n: usize,
    stop: &AtomicBool,
    begun: &AtomicUsize,
) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut streams = Vec::with_capacity(n);
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 64 * 1024];
    let poll = |streams: &mut [(TcpStream, Reader)], events: &mut Vec<_>, buffer: &mut [u8], wait_ms: i64| {
        let wait = Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
        epoll::wait(&epoll, spare_capacity(events), Some(&wait))?;
        for event in events.drain(..) {
            let event: epoll::Event = event;
            // Cannot truncate: it is an index of `streams`.
            let (stream, reader) = &mut streams[{ event.data }.u64() as usize];
            let read = stream.read(buffer)?;
            ensure!(read > 0, "a stream was closed");
            let had_begun = reader.status().is_some();
            ensure!(!reader.read(&buffer[..read], |_| {})?.complete, "a stream ended too early");
            check_status(reader, &buffer[..read])?;
            if !had_begun && reader.status().is_some() {
                begun.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    for number in 0..n {
        let mut stream = door.connect()?;
        stream.write_all(request)?;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        streams.push((stream, Reader::new()));
        // Some servers take only so many at a time: wait for a batch before the next.
        while number + 1 - begun.load(Ordering::Relaxed) > 64 && !stop.load(Ordering::Relaxed) {
            poll(&mut streams, &mut events, &mut buffer, 20)?;
        }
    }
    while !stop.load(Ordering::Relaxed) {
        poll(&mut streams, &mut events, &mut buffer, 20)?;
    }
    Ok(())
}

/// A token stream beside two downloads.
#[derive(Debug)]
pub(crate) struct Beside {
    /// From the backend's write to the caller's read, in nanoseconds, sorted.
    pub(crate) delays_ns: Vec<u64>,
    /// Both downloads together, MB/s.
    pub(crate) downloads: f64,
}

/// Measures a token's way while two downloads run on connections of their own.
pub(crate) fn token_beside_downloads(door: &Door, length: Duration) -> anyhow::Result<Beside> {
    let stop = AtomicBool::new(false);
    // The downloads fill the path before the first token counts.
    let settle = Duration::from_millis(1500);
    let end = Instant::now() + settle + length;
    std::thread::scope(|scope| {
        let downloads: Vec<_> = (0..2).map(|_| scope.spawn(|| download_until(door, end, &stop))).collect();
        std::thread::sleep(settle);
        let delays = token_delays(door, end);
        stop.store(true, Ordering::Relaxed);
        let mut sum = 0.0;
        for download in downloads {
            let Ok(result) = download.join() else { bail!("a download's thread panicked") };
            let (bytes, elapsed) = result.context("a download beside the tokens")?;
            sum += bytes as f64 / 1e6 / elapsed.as_secs_f64();
        }
        Ok(Beside { delays_ns: delays?, downloads: sum })
    })
}

fn token_delays(door: &Door, end: Instant) -> anyhow::Result<Vec<u64>> {
    let mut stream = door.connect()?;
    stream
        .write_all(&door.request(Script::Stream { tokens: 100_000, interval: Duration::from_millis(20) }))?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; 16 * 1024];
    let (mut text, mut delays) = (Vec::new(), Vec::new());
    while Instant::now() < end {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "the token stream was closed");
        let now = clock::now_ns();
        reader.read(&buffer[..n], |body| text.extend_from_slice(body))?;
        check_status(&reader, &buffer[..n])?;
        while let Some(at) = text.windows(2).position(|two| two == b"\n\n") {
            let event = String::from_utf8_lossy(&text[..at]);
            let sent = event.split_once("\"sent_ns\":").and_then(|(_, rest)| rest.strip_suffix('}'));
            let sent: u64 = sent.context("a token without its time")?.parse()?;
            delays.push(now.saturating_sub(sent));
            text.drain(..at + 2);
        }
    }
    delays.sort_unstable();
    ensure!(!delays.is_empty(), "not one token");
    Ok(delays)
}

/// Fails unless the answer is a 200 or has no head yet.
pub(crate) fn check_status(reader: &Reader, received: &[u8]) -> anyhow::Result<()> {
    match reader.status() {
        Some(200) | None => Ok(()),
        Some(status) => {
            let end = received.len().min(400);
            bail!("answered {status}: {}", String::from_utf8_lossy(&received[..end]))
        }
    }
}

/// Counts the empty lines that end an event; `newline` is whether the bytes before ended with a line's end.
fn count_events(body: &[u8], newline: &mut bool) -> u64 {
    let mut n = 0;
    for byte in body {
        if *byte == b'\n' {
            if *newline {
                n += 1;
            }
            *newline = !*newline;
        } else {
            *newline = false;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_across_cuts() {
        let wire = b"data: a\n\ndata: b\n\ndata: [DONE]\n\n";
        for cut in 0..wire.len() {
            let mut newline = false;
            let n = count_events(&wire[..cut], &mut newline) + count_events(&wire[cut..], &mut newline);
            assert_eq!(n, 3, "cut at {cut}");
        }
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&sorted, 0.5), 51.0);
        assert_eq!(quantile(&sorted, 0.99), 99.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
