//! Requests that can be read in two ways, and headers that are not the caller's to set: the backend sees what was meant,
//! once, or nothing at all.

mod http1;
mod http2;
mod requests;
mod requests_http2;
mod responses;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Daemon, DaemonOptions, Lab, RawBackend, Relay, RelayOptions, Scope, TokenRequest, measured, scenario,
};
use futures_util::{StreamExt as _, stream};

/// Relay and daemon before a backend that keeps each byte.
struct World {
    relay: Relay,
    _daemon: Daemon,
    backend: RawBackend,
    token: String,
}

impl World {
    async fn start(lab: &mut Lab, replies: Vec<Vec<u8>>, remote_paths: &str) -> Result<Self> {
        let backend = RawBackend::start(replies).await?;
        let relay = lab.relay(RelayOptions::default()).await?;
        let token = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
        let options = DaemonOptions {
            ollama: Some(backend.addr()),
            relay: Some(relay.url()),
            token: Some(relay.token(&TokenRequest::new("alice", Scope::Tunnel))?),
            ..DaemonOptions::default()
        }
        .with("remotePaths", remote_paths);
        let daemon = lab.daemon(options).await?;
        daemon.wait_for_tunnel("connected", Duration::from_secs(15)).await?;
        daemon.wait_for_backend("ollama", Duration::from_secs(15)).await?;
        Ok(Self { relay, _daemon: daemon, backend, token })
    }
}

/// What came back for a case, in whichever version of HTTP.
#[derive(Debug)]
struct Told {
    /// The status of each final response.
    statuses: Vec<u16>,
    /// Whether nothing more can come: the relay closed the connection, or each of its streams has ended.
    over: bool,
    /// Whether the first response is complete by its own framing.
    whole: bool,
    /// The first response's body, out of its chunks.
    body: String,
    /// All that can be read of it.
    text: String,
}

/// What is read of an answer in all.
const MOST_BYTES: usize = 1 << 20;
/// Nothing more is expected of an answer after so long a silence.
const QUIET: Duration = Duration::from_millis(700);
/// Longest wait for the first byte.
const FIRST: Duration = Duration::from_secs(8);

/// Cases that run at a time.
const AT_ONCE: usize = 8;

#[test]
fn the_backend_sees_what_was_meant_or_nothing() -> Result<()> {
    scenario(async |lab| {
        let world = World::start(lab, Vec::new(), "inference").await?;
        let cases: Vec<_> = requests::cases().into_iter().chain(requests_http2::cases()).collect();
        let faults: Vec<String> = stream::iter(cases.iter().enumerate())
            .map(async |(number, case)| {
                let outcome = case.check(&world, &format!("c{number:05}")).await;
                outcome.err().map(|error| format!("{}: {error:#}", case.name))
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(async |fault| fault)
            .collect()
            .await;
        for (version, is_http2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
            let of = cases.iter().filter(|case| case.is_http2() == is_http2);
            let refused = of.clone().filter(|case| case.is_refused()).count();
            measured(
                &format!("ambiguous requests and header injection to the relay, raw {version}"),
                format!("{} cases ({refused} to be refused)", of.count()),
            );
        }
        measured("of these, not as specified", faults.len());
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        // None of it has harmed the tunnel.
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Case: after\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
            world.token,
            requests::BODY.len(),
            requests::BODY,
        );
        let told = http1::exchange(world.relay.listen(), request.as_bytes()).await?;
        ensure!(told.statuses == [200], "{}", told.text);
        // Nor has any of what was refused arrived late.
        for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.is_refused()) {
            let seen = world.backend.seen(&format!("c{number:05}"));
            ensure!(seen.is_empty(), "{}: the backend saw {seen:?} after all", case.name);
        }
        Ok(())
    })
}

#[test]
fn a_broken_response_is_never_taken_for_a_whole_one() -> Result<()> {
    scenario(async |lab| {
        let cases = responses::cases();
        let replies = cases.iter().map(|case| case.reply.clone()).collect();
        // Those that HEAD may ask for by default the daemon answers itself.
        let world = World::start(lab, replies, "all").await?;
        let mut faults = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            for (version, told) in case.ask(&world, number).await.context(case.name)? {
                if let Err(error) = case.check(&told) {
                    faults.push(format!("{}, {version}: {error:#}\n{}", case.name, told.text));
                }
            }
        }
        measured(
            "malformed responses of the backend, each to callers over HTTP/1.1 and HTTP/2",
            format!("{} cases, {} not as specified", cases.len(), faults.len()),
        );
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}
