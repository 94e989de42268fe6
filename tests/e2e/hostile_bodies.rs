//! Bodies that are made to hurt: each is served or refused, and the daemon's memory stays bounded.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::{Caller, Daemon, WorldOptions, measured, poll_until, scenario};
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const MIB: u64 = 1 << 20;
/// What the daemon may grow by at any of these: its buffers of a request are a few megabytes, whatever is sent.
const MOST_GROWTH: u64 = 32 * MIB;
const DEEP: usize = 100_000;

/// A model server that answers what it is asked for in the worst way. Dropping it closes everything.
struct Hostile {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

/// How it answers `GET /api/tags`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lists {
    Well,
    Deep,
    Huge,
    /// Few bytes that take much memory once they are taken apart.
    Dense,
    Gzip,
}

impl Hostile {
    async fn start(model: &'static str, lists: Lists) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        let bomb = Arc::new(gzip_bomb()?);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let bomb = Arc::clone(&bomb);
                connections.spawn(async move {
                    // The daemon closes when it has had enough.
                    drop(serve(stream, model, lists, &bomb).await);
                });
            }
        });
        Ok(Self { addr, _tasks: tasks })
    }
}

/// Answers one request, and closes.
async fn serve(mut stream: TcpStream, model: &str, lists: Lists, bomb: &[u8]) -> Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(stream.read_buf(&mut head).await? > 0, "it left");
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |name: &str| {
        let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let list = json!({"models": [{"name": model, "model": model}]}).to_string();
    match (path.as_str(), lists) {
        ("/api/version", _) => return document(&mut stream, "", br#"{"version":"0.12.0"}"#).await,
        ("/api/ps", _) => return document(&mut stream, "", br#"{"models":[]}"#).await,
        ("/api/tags", Lists::Well) => return document(&mut stream, "", list.as_bytes()).await,
        ("/api/tags", Lists::Deep) => {
            let deep = format!("{{\"models\":{}{}}}", "[".repeat(DEEP), "]".repeat(DEEP));
            return document(&mut stream, "", deep.as_bytes()).await;
        }
        ("/api/tags", Lists::Huge) => {
            let huge = format!("{{\"models\":[{{\"name\":\"{}\"}}]}}", "x".repeat(50 << 20));
            return document(&mut stream, "", huge.as_bytes()).await;
        }
        ("/api/tags", Lists::Dense) => {
            let dense = format!("{{\"models\":[{}{{}}]}}", "{\"a\":0},".repeat(900_000));
            return document(&mut stream, "", dense.as_bytes()).await;
        }
        ("/api/tags", Lists::Gzip) => return document(&mut stream, "content-encoding: gzip\r\n", bomb).await,
        _ => {}
    }
    // Takes the body without keeping it.
    let mut received = (head.len() - end) as u64;
    let length: Option<u64> = header("content-length").and_then(|length| length.parse().ok());
    let mut piece = vec![0; 256 << 10];
    let mut tail = head[end..].to_vec();
    while length.map_or(!tail.ends_with(b"0\r\n\r\n"), |length| received < length) {
        let n = stream.read(&mut piece).await?;
        ensure!(n > 0, "it left");
        received += n as u64;
        tail.extend_from_slice(&piece[..n]);
        tail.drain(..tail.len().saturating_sub(16));
    }
    match header("x-reply").as_deref() {
        Some("line") => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n{\"x\":\"";
            stream.write_all(head.as_bytes()).await?;
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..100 {
                stream.write_all(&piece).await?;
            }
            stream.write_all(b"\",\"done\":true,\"prompt_eval_count\":5,\"eval_count\":7}\n").await?;
            Ok(stream.shutdown().await?)
        }
        Some("deep") => {
            let deep = "[".repeat(DEEP) + &"]".repeat(DEEP);
            document(&mut stream, "", deep.as_bytes()).await
        }
        Some("gzip") => document(&mut stream, "content-encoding: gzip\r\n", bomb).await,
        _ => {
            let encoding = header("content-encoding");
            let answer = json!({"received": received, "encoding": encoding, "done": true});
            document(&mut stream, "", answer.to_string().as_bytes()).await
        }
    }
}

async fn document(stream: &mut TcpStream, headers: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    Ok(stream.shutdown().await?)
}

/// Returns what `gzip` makes of 512 MiB of zeros: some 500 KiB.
fn gzip_bomb() -> Result<Vec<u8>> {
    let script = "head -c 536870912 /dev/zero | gzip -1";
    let output = std::process::Command::new("sh").args(["-c", script]).output().context("gzip")?;
    ensure!(output.status.success() && output.stdout.len() > 100_000, "gzip made no bomb");
    Ok(output.stdout)
}

/// Runs a case, and returns how much more memory than before the daemon had at its peak.
async fn growth<T>(daemon: &Daemon, pid: u32, case: impl Future<Output = Result<T>>) -> Result<(T, u64)> {
    // Sets the peak back. Where that is not allowed, the peak since the start is an upper bound.
    drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
    let before = daemon.memory()?.rss;
    let value = tokio::time::timeout(Duration::from_secs(60), case).await.context("it hangs")??;
    Ok((value, daemon.memory()?.peak.saturating_sub(before)))
}

fn note(what: &str, door: &str, result: &str, grown: u64) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mib = grown as f64 / MIB as f64;
    measured("hostile bodies", format!("{what}, {door}: {result}, daemon grew by {mib:.1} MiB at most"));
    ensure!(grown <= MOST_GROWTH, "{what}, {door}: the daemon grew by {mib:.1} MiB");
    Ok(())
}

/// Sends a body in pieces of 64 KiB, and reads the answer.
async fn post(caller: &Caller, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
    let body = Bytes::from(body);
    let pieces =
        (0..body.len()).step_by(64 << 10).map(move |at| body.slice(at..body.len().min(at + (64 << 10))));
    let mut call = caller.post("/api/chat").header("content-type", "application/json");
    for (name, value) in headers {
        call = call.header(name, value);
    }
    let reply = call.stream(stream::iter(pieces)).send().await?;
    Ok((reply.status(), reply.bytes().await?))
}

fn around_prompt(prompt: &str) -> Vec<u8> {
    format!("{{\"model\":\"hostile:1b\",\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]}}")
        .into_bytes()
}

#[test]
fn each_body_is_served_or_refused_and_memory_is_bounded() -> Result<()> {
    scenario(async |lab| {
        let hostile = Hostile::start("hostile:1b", Lists::Well).await?;
        let url = format!("http://{}", hostile.addr);
        let connections = json!([{"id": "hostile", "type": "ollama", "url": url}]);
        let mut world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
        world.daemon.wait_for_backend("hostile", Duration::from_secs(20)).await?;
        let pid = world.daemon.process().pid();
        let daemon = &world.daemon;
        let deep = "[".repeat(DEEP) + &"]".repeat(DEEP);
        let bomb = gzip_bomb()?;
        let requests: [(&str, Vec<u8>); 4] = [
            ("prompt of 20 MiB", around_prompt(&"word ".repeat(4 << 20))),
            (
                "request 10^5 deep, model first",
                format!("{{\"model\":\"hostile:1b\",\"x\":{deep}}}").into_bytes(),
            ),
            (
                "request 10^5 deep, model last",
                format!("{{\"x\":{deep},\"model\":\"hostile:1b\"}}").into_bytes(),
            ),
            // The model is behind more than is looked at: it goes to the first server that speaks the API.
            (
                "model behind 20 MiB",
                format!("{{\"x\":\"{}\",\"model\":\"hostile:1b\"}}", "y".repeat(20 << 20)).into_bytes(),
            ),
        ];
        for (door, caller) in world.doors() {
            let pinned = caller.header("x-tunnel-connection", "hostile");
            for (what, body) in &requests {
                let sent = body.len() as u64;
                let ((status, answer), grown) = growth(daemon, pid, post(&pinned, &[], body.clone())).await?;
                ensure!(status == 200, "{what}, {door}: {status} {answer:?}");
                let answer: Value = serde_json::from_slice(&answer)?;
                ensure!(answer["received"].as_u64() >= Some(sent), "{what}, {door}: {answer}");
                note(what, door, "served", grown)?;
            }
            let gzip = [("content-encoding", "gzip")];
            let ((status, answer), grown) = growth(daemon, pid, post(&pinned, &gzip, bomb.clone())).await?;
            // Of what is compressed no model can be read; it is passed on as it is to the server that is named.
            ensure!(status == 200 && answer.ends_with(b"}"), "gzip bomb, {door}: {status} {answer:?}");
            let answer: Value = serde_json::from_slice(&answer)?;
            ensure!(
                answer["encoding"] == "gzip" && answer["received"].as_u64() >= Some(bomb.len() as u64),
                "{answer}"
            );
            note("gzip bomb as a request", door, "passed on, not unpacked", grown)?;

            for (reply, what, least) in [
                ("deep", "answer 10^5 deep", 2 * DEEP),
                ("gzip", "gzip bomb as an answer", bomb.len()),
                ("line", "answer line of 100 MiB", 100 << 20),
            ] {
                let begun = Instant::now();
                let case = async {
                    let call = pinned
                        .post("/api/chat")
                        .header("x-reply", reply)
                        .json(&json!({"model": "hostile:1b"}));
                    let mut answer = call.send().await?;
                    let mut received = 0;
                    while let Some(chunk) = answer.chunk().await? {
                        received += chunk.bytes.len();
                    }
                    Ok(received)
                };
                let (received, grown) = growth(daemon, pid, case).await?;
                ensure!(received >= least, "{what}, {door}: {received} bytes came");
                note(what, door, &format!("served in {:.2} s", begun.elapsed().as_secs_f64()), grown)?;
            }
        }
        // The figures at the end of the line of 100 MiB were read all the same.
        let figures = async || {
            let usage =
                daemon.control().get("/api/usage?by=connection").send().await.ok()?.json().await.ok()?;
            let rows = usage["usage"].as_array().cloned()?;
            let row = rows.into_iter().find(|row| row["connection"] == "hostile")?;
            (row["prompt_tokens"] == 10 && row["completion_tokens"] == 14).then_some(())
        };
        poll_until("the long line is counted", Duration::from_secs(10), figures).await?;
        Ok(())
    })
}

#[test]
fn a_list_that_is_made_to_hurt_makes_its_server_unusable_and_nothing_else() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let pid = world.daemon.process().pid();
        let daemon = &world.daemon;
        for (lists, word) in [
            (Lists::Deep, "not as Ollama does"),
            (Lists::Huge, "more than any list of models has"),
            (Lists::Dense, "more than any list of models has"),
            (Lists::Gzip, "not as Ollama does"),
        ] {
            let hostile = Hostile::start("bad:1b", lists).await?;
            let entry = json!({"id": "bad", "type": "ollama", "url": format!("http://{}", hostile.addr)});
            let case = async {
                let call = daemon.control().call(http::Method::PATCH, "/api/config");
                let reply = call.json(&json!({ "connections": [entry] })).send().await?;
                ensure!(reply.status() == 200, "{:?}", reply.text().await);
                let refused = async || {
                    let status = daemon.status().await.ok()?;
                    status["connections"]["bad"]["error"]
                        .as_str()
                        .filter(|error| error.contains(word))
                        .map(str::to_owned)
                };
                poll_until("the list is refused with a reason", Duration::from_secs(20), refused).await
            };
            let (why, grown) = growth(daemon, pid, case).await?;
            note(&format!("list, {lists:?}"), "probe", &format!("refused ({why})"), grown)?;
            let reply = world.local().get("/api/tags").send().await?;
            ensure!(reply.status() == 200, "the other server's models are listed: {}", reply.status());
        }
        Ok(())
    })
}
