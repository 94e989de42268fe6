//! A model server that answers like Ollama, and holds a stream open until it is told to go on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Ends when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    /// One permit lets one chunk of a chat go out.
    pub(crate) chunks: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

pub(crate) const MODEL: &str = "tiny:latest";
/// Chunks of a chat's answer, the last one included.
pub(crate) const CHUNKS: usize = 4;

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let chunks = Arc::new(Semaphore::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&chunks)));
        Self { address, chunks, _tasks: tasks }
    }

    pub(crate) fn let_all_go(&self) {
        self.chunks.add_permits(1000);
    }
}

async fn accept(listener: TcpListener, chunks: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let chunks = Arc::clone(&chunks);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&chunks)));
            let _ended = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, chunks: Arc<Semaphore>) -> Result<Response<Body>, Infallible> {
    let model = format!(r#"{{"name":"{MODEL}","model":"{MODEL}","size":1,"details":{{}}}}"#);
    let body = match request.uri().path() {
        "/api/version" => r#"{"version":"0.9.9"}"#.to_owned(),
        "/api/tags" | "/api/ps" => format!(r#"{{"models":[{model}]}}"#),
        "/api/chat" => {
            let _read = request.into_body().collect().await;
            return Ok(chat(chunks));
        }
        _ => r#"{"error":"not found"}"#.to_owned(),
    };
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::from(body).boxed_unsync()).unwrap())
}

fn chat(chunks: Arc<Semaphore>) -> Response<Body> {
    let (tx, mut rx) = mpsc::channel::<Bytes>(1);
    let feeding = async move {
        for n in 1..=CHUNKS {
            let Ok(permit) = chunks.acquire().await else { return };
            permit.forget();
            let done = n == CHUNKS;
            let line = format!(
                "{{\"model\":\"{MODEL}\",\"message\":{{\"role\":\"assistant\",\"content\":\"{n}\"}},\"done\":{done}}}\n"
            );
            if tx.send(line.into()).await.is_err() {
                return;
            }
        }
    };
    let mut feeding = JoinSet::from_iter([feeding]);
    let stream = futures_util::stream::poll_fn(move |cx| {
        let _running = feeding.poll_join_next(cx);
        rx.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    });
    let response = Response::builder().header("content-type", "application/x-ndjson");
    response.body(StreamBody::new(stream).boxed_unsync()).unwrap()
}
