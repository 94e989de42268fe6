//! Requests that can be read in two ways, and headers that are not the caller's to set: the backend sees what was meant,
//! once, or nothing at all.

mod requests;
mod responses;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Daemon, DaemonOptions, Lab, RawBackend, Relay, RelayOptions, Scope, TokenRequest, measured, scenario,
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Relay and daemon before a backend that keeps each byte.
struct World {
    relay: Relay,
    _daemon: Daemon,
    backend: RawBackend,
    token: String,
}

impl World {
    async fn start(lab: &mut Lab, replies: Vec<Vec<u8>>) -> Result<Self> {
        let backend = RawBackend::start(replies).await?;
        let relay = lab.relay(RelayOptions::default()).await?;
        let token = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
        let options = DaemonOptions {
            ollama: Some(backend.addr()),
            relay: Some(relay.url()),
            token: Some(relay.token(&TokenRequest::new("alice", Scope::Tunnel))?),
            ..DaemonOptions::default()
        };
        let daemon = lab.daemon(options).await?;
        daemon.wait_for_tunnel("connected", Duration::from_secs(15)).await?;
        daemon.wait_for_backend("ollama", Duration::from_secs(15)).await?;
        Ok(Self { relay, _daemon: daemon, backend, token })
    }
}

/// What came back on a connection.
#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    /// Whether the relay closed the connection by itself.
    closed: bool,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status of each final response; no body of these tests has such a line.
    fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let heads = text.split("HTTP/1.").skip(1);
        heads.filter_map(|head| head.get(2..5)?.parse().ok()).filter(|status| *status >= 200).collect()
    }
}

/// What is read of an answer in all.
const MOST_BYTES: usize = 1 << 20;
/// Nothing more is expected of an answer after so long a silence.
const QUIET: Duration = Duration::from_millis(700);
/// Longest wait for the first byte.
const FIRST: Duration = Duration::from_secs(8);

/// Sends these bytes as they are, and reads until the relay closes or is silent.
async fn exchange(addr: SocketAddr, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(addr).await?;
    // The relay may have answered and closed before it has read all.
    drop(stream.write_all(request).await);
    let mut answer = Answer { bytes: Vec::new(), closed: false };
    while answer.bytes.len() < MOST_BYTES {
        let patience = if answer.bytes.is_empty() { FIRST } else { QUIET };
        match tokio::time::timeout(patience, stream.read_buf(&mut answer.bytes)).await {
            Ok(Ok(0) | Err(_)) => {
                answer.closed = true;
                break;
            }
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    Ok(answer)
}

/// Cases that run at a time.
const AT_ONCE: usize = 8;

#[test]
fn the_backend_sees_what_was_meant_or_nothing() -> Result<()> {
    scenario(async |lab| {
        let world = World::start(lab, Vec::new()).await?;
        let cases = requests::cases();
        ensure!(cases.len() >= 80, "only {} cases", cases.len());
        let faults: Vec<String> = stream::iter(cases.iter().enumerate())
            .map(async |(number, case)| {
                let outcome = case.check(&world, &format!("c{number:05}")).await;
                outcome.err().map(|error| format!("{}: {error:#}", case.name))
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(async |fault| fault)
            .collect()
            .await;
        let refused = cases.iter().filter(|case| case.is_refused()).count();
        measured(
            "ambiguous requests and header injection, raw bytes to the relay",
            format!("{} cases ({refused} to be refused), {} not as specified", cases.len(), faults.len()),
        );
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        // None of it has harmed the tunnel.
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Case: after\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
            world.token,
            requests::BODY.len(),
            requests::BODY,
        );
        let answer = exchange(world.relay.listen(), request.as_bytes()).await?;
        ensure!(answer.statuses() == [200], "{}", answer.text());
        Ok(())
    })
}

#[test]
fn a_broken_response_is_never_taken_for_a_whole_one() -> Result<()> {
    scenario(async |lab| {
        let cases = responses::cases();
        let world = World::start(lab, cases.iter().map(|case| case.reply.clone()).collect()).await?;
        let mut faults = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let request = format!(
                "POST /api/chat HTTP/1.1\r\nContent-Length: {}\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Case: r{number}\r\nX-Reply: {number}\r\nConnection: \
                 close\r\n\r\n{}",
                requests::BODY.len(),
                world.token,
                requests::BODY
            );
            let answer = exchange(world.relay.listen(), request.as_bytes()).await.context(case.name)?;
            if let Err(error) = case.check(&answer) {
                faults.push(format!("{}: {error:#}\n{}", case.name, answer.text()));
            }
        }
        measured(
            "malformed responses of the backend",
            format!("{} cases, {} not as specified", cases.len(), faults.len()),
        );
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}
