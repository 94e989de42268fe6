//! Both ends over real sockets, with a path between them that can be cut.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod interop;
mod path;
mod proxied;
mod relay;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tunnel_transport::{
    BoxError, Connector, ConnectorConfig, LinkState, Proxy, RelayUrl, Session, tls_config,
};

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Byte `i` of every download: position-dependent, so that a byte twice or missing shows.
fn byte_at(i: u64) -> u8 {
    (i ^ (i >> 8) ^ (i >> 16)) as u8
}

fn pattern(from: u64, len: usize) -> Bytes {
    (from..from + len as u64).map(byte_at).collect::<Vec<_>>().into()
}

/// Counts the requests that are in a handler or in a body: what a backend would see.
#[derive(Clone, Default)]
struct Running(Arc<AtomicUsize>);

struct Run(Running);

impl Running {
    fn start(&self) -> Run {
        self.0.fetch_add(1, Ordering::SeqCst);
        Run(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The desktop's service: `/bytes/N` in pieces, `/ticks/N` a piece each 5 ms, `/echo`, `/break` after a piece,
/// `/hang` for ever.
async fn serve(request: Request<Incoming>, running: Running) -> Result<Response<Body>, Infallible> {
    let run = running.start();
    let path = request.uri().path().to_owned();
    let (kind, n) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
    let n: u64 = n.parse().unwrap_or(0);
    let body = match kind {
        "bytes" | "ticks" | "break" => {
            let (tx, mut rx) = mpsc::channel::<Result<Frame<Bytes>, BoxError>>(1);
            let kind = kind.to_owned();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move {
                let _run = run;
                let (mut at, piece) = (0, if kind == "ticks" { 100 } else { 10_000 });
                while at < n {
                    let len = piece.min(n - at);
                    if kind == "ticks" {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    if tx.send(Ok(Frame::data(pattern(at, len as usize)))).await.is_err() {
                        return;
                    }
                    at += len;
                }
                if kind == "break" {
                    let _gone = tx.send(Err("the backend broke".into())).await;
                }
            });
            let stream = futures_util::stream::poll_fn(move |cx| {
                let _owned = &tasks;
                rx.poll_recv(cx)
            });
            StreamBody::new(stream).boxed_unsync()
        }
        "echo" => {
            let body = request.into_body().map_err(|error| Box::new(error) as BoxError);
            body.map_frame(move |frame| {
                let _held = &run;
                frame
            })
            .boxed_unsync()
        }
        "hang" => {
            let _run = run;
            std::future::pending::<Body>().await
        }
        _ => Full::new(Bytes::from_static(b"hello")).map_err(|never| match never {}).boxed_unsync(),
    };
    Ok(Response::new(body))
}

fn connector(relay: &str) -> Connector {
    connector_through(relay, None)
}

fn connector_through(relay: &str, proxy: Option<Proxy>) -> Connector {
    Connector::new(ConnectorConfig {
        relay: RelayUrl::parse(relay).unwrap(),
        device: "desk".parse().unwrap(),
        token: "token".to_owned().into(),
        agent: "test/1".to_owned(),
        connect_timeout: Duration::from_secs(2),
        tls: tls_config(None).unwrap(),
        proxy,
    })
}

/// Resumes whenever the link is down, as a supervisor would.
async fn keep_attached(connector: Connector, session: Session) {
    let mut link = session.link();
    loop {
        match link.wait_for(|state| !matches!(state, LinkState::Attached { .. })).await.as_deref() {
            Ok(LinkState::Detached { .. }) => {}
            _ => return,
        }
        if connector.resume(&session).await.is_ok() {
            let attached = link.wait_for(|state| matches!(state, LinkState::Attached { .. }));
            let _moved_on = tokio::time::timeout(Duration::from_secs(1), attached).await;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < limit, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
