//! A relay reduced to its sessions.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunnel_transport::{Acceptor, AcceptorConfig, DialKind, DialRequest, RelaySession};

#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    acceptor: Acceptor,
    sessions: Mutex<Vec<RelaySession>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Relay {
    pub(crate) async fn start(config: AcceptorConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(State {
            acceptor: Acceptor::new(config),
            sessions: Mutex::default(),
            tasks: Mutex::default(),
        });
        let relay = Self { address: listener.local_addr().unwrap(), state: state.clone() };
        let accepting = state.clone();
        state.tasks.lock().unwrap().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = accepting.clone();
                let service = service_fn(move |request| std::future::ready(answer(request, &state)));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                accepting.tasks.lock().unwrap().spawn(async move {
                    let _ended = connection.await;
                });
            }
        });
        relay
    }

    pub(crate) fn session(&self) -> Option<RelaySession> {
        self.state.sessions.lock().unwrap().last().cloned()
    }
}

fn answer(mut request: Request<Incoming>, state: &State) -> Result<Response<Empty<Bytes>>, Infallible> {
    let refuse = |status| Ok(Response::builder().status(status).body(Empty::new()).unwrap());
    let dial = match DialRequest::parse(request.headers()) {
        Ok(dial) => dial,
        Err(bad) => return refuse(bad.status()),
    };
    match dial.kind {
        DialKind::Fresh | DialKind::Migrate { .. } => {
            let (response, session, driver) = state.acceptor.open(&mut request);
            state.sessions.lock().unwrap().push(session);
            state.tasks.lock().unwrap().spawn(async move {
                driver.run().await;
            });
            Ok(response)
        }
        DialKind::Resume { session, received } => {
            let known = state.sessions.lock().unwrap().iter().find(|known| known.id() == session).cloned();
            match known.map(|known| state.acceptor.resume(&known, &mut request, received)) {
                Some(Ok((response, resumption))) => {
                    state.tasks.lock().unwrap().spawn(resumption.run());
                    Ok(response)
                }
                _ => refuse(StatusCode::GONE),
            }
        }
    }
}
