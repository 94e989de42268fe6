//! Callers inside the session: this very test program, run again as the session's user.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::UserSession;
use serde::{Deserialize, Serialize};

/// Longest wait for an answer: a caller who comes during a restart waits for its end.
const PATIENCE: Duration = Duration::from_secs(40);
const GATEWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 11435);
const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8765);
const BACKEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 11434);
/// A stream runs for two seconds, so that each restart meets some.
const CHUNKS: usize = 40;
const CHUNK_PAUSE: Duration = Duration::from_millis(50);

/// What the callers saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) connects: usize,
    pub(super) refused: usize,
    pub(super) failed: usize,
    pub(super) streams: usize,
    pub(super) cut: usize,
    /// How answers began that should not have come, the first few.
    pub(super) odd: Vec<String>,
    /// The longest that a caller waited for an answer, in ms.
    pub(super) longest_ms: u128,
}

/// Callers that go on until they are told to stop.
pub(super) struct Load {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    pub(super) fn begin(session: &UserSession) -> Result<Self> {
        let mut child = session
            .command("/srv/program")
            .args(["--exact", "service::load::callers", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("its input is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut load = Self { child, stdin, stdout };
        load.read("under way")?;
        Ok(load)
    }

    /// Lets a second of calls pass.
    pub(super) fn wait_for_more(&self) -> Result<()> {
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// Stops the callers and returns what they saw.
    pub(super) fn end(mut self) -> Result<Seen> {
        drop(self.stdin);
        let mut seen = None;
        let mut line = String::new();
        while self.stdout.read_line(&mut line)? > 0 {
            if let Some(json) = line.trim().strip_prefix("seen ") {
                seen = Some(serde_json::from_str(json)?);
            }
            line.clear();
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the callers: {status}");
        seen.context("the callers told what they saw")
    }

    fn read(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        while self.stdout.read_line(&mut line)? > 0 {
            if line.contains(wanted) {
                return Ok(());
            }
            line.clear();
        }
        anyhow::bail!("the callers ended early")
    }
}

/// Not a test: listens on the gateway's port and does nothing else.
#[test]
#[ignore = "run in a session by the scenarios"]
fn hold_port() -> Result<()> {
    let _held = TcpListener::bind(GATEWAY)?;
    loop {
        thread::park();
    }
}

/// Not a test: a model server and callers on all doors, until standard input ends.
#[test]
#[ignore = "run in a session by the scenarios"]
fn callers() -> Result<()> {
    let backend = TcpListener::bind(BACKEND)?;
    thread::spawn(move || serve_model(&backend));
    wait_for_model()?;
    let over = Arc::new(AtomicBool::new(false));
    let streams_done = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for door in [CONTROL, GATEWAY, CONTROL, GATEWAY] {
        let over = Arc::clone(&over);
        threads.push(thread::spawn(move || call(door, &over)));
    }
    let stream = {
        let (over, done) = (Arc::clone(&over), Arc::clone(&streams_done));
        thread::spawn(move || stream(&over, &done))
    };
    println!("under way");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    over.store(true, Ordering::SeqCst);
    let mut seen = Seen::default();
    for one in threads {
        let one = one.join().expect("a caller does not panic");
        seen.connects += one.connects;
        seen.refused += one.refused;
        seen.failed += one.failed;
        seen.longest_ms = seen.longest_ms.max(one.longest_ms);
        seen.odd.extend(one.odd);
    }
    let streams = stream.join().expect("a caller does not panic");
    seen.cut = streams.cut;
    seen.odd.extend(streams.odd);
    seen.streams = streams_done.load(Ordering::SeqCst);
    println!("\nseen {}", serde_json::to_string(&seen)?);
    Ok(())
}

/// Asks again and again, each time on a connection of its own.
fn call(door: SocketAddr, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let path = if door == CONTROL { "/livez" } else { "/api/version" };
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        seen.connects += 1;
        match TcpStream::connect_timeout(&door, PATIENCE) {
            Err(_) => seen.refused += 1,
            Ok(stream) => {
                let answer = ask(stream, &request(door, "GET", path, ""));
                if !answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")) {
                    seen.failed += 1;
                    note_odd(&mut seen.odd, &answer);
                }
            }
        }
        seen.longest_ms = seen.longest_ms.max(begun.elapsed().as_millis());
        thread::sleep(Duration::from_millis(10));
    }
    seen
}

/// Chats again and again with a model that is there all the time: whatever is no whole answer was cut.
fn stream(over: &AtomicBool, done: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    while !over.load(Ordering::SeqCst) {
        let chat = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;
        let answer = TcpStream::connect_timeout(&GATEWAY, PATIENCE)
            .and_then(|stream| ask(stream, &request(GATEWAY, "POST", "/api/chat", chat)));
        match answer {
            Ok(answer)
                if answer.matches("\"done\":false").count() == CHUNKS && answer.ends_with("0\r\n\r\n") =>
            {
                done.fetch_add(1, Ordering::SeqCst);
            }
            answer => {
                seen.cut += 1;
                note_odd(&mut seen.odd, &answer);
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
    seen
}

/// Keeps the first line and the end of an answer, for the report of a failure.
fn note_odd(odd: &mut Vec<String>, answer: &std::io::Result<String>) {
    const KEPT: usize = 3;
    if odd.len() < KEPT {
        odd.push(match answer {
            Ok(answer) => {
                let (first, rest) = answer.split_once("\r\n").unwrap_or((answer, ""));
                format!("{first} … {}", rest.lines().last().unwrap_or_default())
            }
            Err(error) => error.to_string(),
        });
    }
}

fn request(door: SocketAddr, method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {door}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn ask(mut stream: TcpStream, request: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn wait_for_model() -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = TcpStream::connect(CONTROL)
            .and_then(|stream| ask(stream, &request(CONTROL, "GET", "/readyz", "")))
            .unwrap_or_default();
        if status.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the daemon does not find the model server: {status}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A model server with one model, whose chats take two seconds.
fn serve_model(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            // Callers hang up as they like.
            let _gone = answer_as_model(stream);
        });
    }
}

fn answer_as_model(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut first, mut length, mut line) = (String::new(), 0, String::new());
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        if first.starts_with("POST /api/chat") {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            for done in (0..CHUNKS).map(|_| false).chain([true]) {
                let chunk = format!(
                    "{{\"model\":\"tiny\",\"message\":{{\"role\":\"assistant\",\"content\":\"x\"}},\"done\":{done}}}\n"
                );
                stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes())?;
                thread::sleep(CHUNK_PAUSE);
            }
            stream.write_all(b"0\r\n\r\n")?;
            continue;
        }
        let body = if first.starts_with("GET /api/version") {
            r#"{"version":"0.12.0"}"#
        } else {
            r#"{"models":[{"name":"tiny","model":"tiny","modified_at":"2025-01-01T00:00:00Z","size":1,"digest":"d"}]}"#
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes())?;
    }
}
