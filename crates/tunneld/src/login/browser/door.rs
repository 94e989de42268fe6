//! The port on loopback to which a browser comes back.
//!
//! Browsers are started with the address of a login on their command line, which any user of the machine can read. With
//! its `state` and challenge another user could bring a code of an account of theirs, and have this desktop log in
//! there. So only processes of the daemon's own user are heard.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use url::form_urlencoded;

use super::page::Page;
use crate::doors::peer::{Peer, PeerLookup};

/// Where the browser comes back to.
const PATH: &str = "/callback";
/// Connections at once; a browser opens some for nothing. Further ones wait.
const MAX_CONNECTIONS: usize = 16;
/// Longest wait for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Longest life of a connection: what it waits for is the exchange of a code for a token.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait at the end for the last page to be sent.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Wait after an accept that failed, as when there are no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Largest head of a request, in bytes: a code is some hundred.
const MAX_HEAD: usize = 16 * 1024;

/// An open port. Dropped, it is closed, with all its connections.
pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    peers: PeerLookup,
    refused: bool,
    connections: JoinSet<()>,
    tell: mpsc::Sender<Visit>,
    visits: mpsc::Receiver<Visit>,
}

/// A browser that has come back, and waits for its page.
#[derive(Debug)]
pub(super) struct Visit {
    /// `None` for a parameter that stands there twice: RFC 6749 §3.1 forbids it, so it is not taken for either.
    parameters: BTreeMap<String, Option<String>>,
    page: oneshot::Sender<Page>,
}

impl Door {
    /// Opens a free port of 127.0.0.1.
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (tell, visits) = mpsc::channel(MAX_CONNECTIONS);
        let peers = PeerLookup::open();
        Ok(Self { listener, address, peers, refused: false, connections: JoinSet::new(), tell, visits })
    }

    /// What the provider sends the browser back to: RFC 8252 §7.3.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Waits for a browser.
    pub(super) async fn visit(&mut self) -> Visit {
        loop {
            tokio::select! {
                Some(visit) = self.visits.recv() => return visit,
                Some(_ended) = self.connections.join_next() => {}
                accepted = self.listener.accept(), if self.connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, client)) => match self.peers.of(client, self.address) {
                        Peer::SameUser => {
                            self.connections.spawn(serve(stream, self.tell.clone()));
                        }
                        Peer::Stranger => self.refuse(),
                    }
                    Err(error) => {
                        debug!(%error, "no connection to the login's port");
                        sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        }
    }

    /// Tells once of other users, who may come as often as they like.
    fn refuse(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            warn!(
                next_step =
                    "if it was your own browser, in a container or under WSL: tunnelctl login --device-code",
                "another user of this machine came to the login's port, and was not heard"
            );
        }
    }

    /// Closes the port once the last page is sent.
    pub(super) async fn close(self) {
        let Self { listener, mut connections, visits, .. } = self;
        drop((listener, visits));
        let sent = async { while connections.join_next().await.is_some() {} };
        if timeout(CLOSE_LIMIT, sent).await.is_err() {
            debug!("a browser did not read its page");
        }
    }
}

impl Visit {
    fn new(query: &str, page: oneshot::Sender<Page>) -> Self {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters
                .entry(name.into_owned())
                .and_modify(|twice| *twice = None)
                .or_insert_with(|| Some(value.into_owned()));
        }
        Self { parameters, page }
    }

    /// Returns what the browser brought under this name.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)?.as_deref()
    }

    /// Shows the page. A browser that has gone does not need it.
    pub(super) fn show(self, page: Page) {
        let _gone = self.page.send(page);
    }
}

async fn serve(stream: TcpStream, tell: mpsc::Sender<Visit>) {
    let service = service_fn(|request| answer(request, tell.clone()));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the login's port broke"),
        Err(_) => debug!("a connection to the login's port took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    tell: mpsc::Sender<Visit>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let page = match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => {
            let (page, shown) = oneshot::channel();
            let visit = Visit::new(request.uri().query().unwrap_or_default(), page);
            // Both fail when the login has ended in between.
            match tell.send(visit).await {
                Ok(()) => shown.await.unwrap_or(Page::Stranger),
                Err(_) => Page::Stranger,
            }
        }
        (_, PATH) => Page::WrongMethod,
        _ => Page::Nothing,
    };
    Ok(page.response())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Comes to a door and returns what is answered, nothing if it hangs up.
    async fn come(door: &mut Door) -> String {
        let address = door.address;
        let coming = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let asked = format!("GET /elsewhere HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let mut answer = String::new();
            // Both fail where the door hangs up.
            if stream.write_all(asked.as_bytes()).await.is_ok() {
                let _cut = stream.read_to_string(&mut answer).await;
            }
            answer
        };
        tokio::select! {
            answer = coming => answer,
            _visit = door.visit() => panic!("nobody came to the right place"),
        }
    }

    #[tokio::test]
    async fn other_users_of_the_machine_are_not_heard() {
        let mut door = Door::open().await.unwrap();
        assert!(come(&mut door).await.starts_with("HTTP/1.1 404"));
        door.peers = PeerLookup::of_another_user();
        assert_eq!(come(&mut door).await, "");
        assert!(door.connections.len() <= 1, "it holds no place");
    }
}
