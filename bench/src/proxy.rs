//! A plain hyper proxy on one thread: the least that any HTTP-aware hop can cost. Two in a row are the floor of
//! a tunnel, one is the floor of a gateway.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// Forwards what comes to `listener` to `target`, until the process ends.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let host = HeaderValue::from_str(&target.to_string()).map_err(io::Error::other)?;
    let tasks = TaskTracker::new();
    let upstream = Arc::new(Upstream { target, host, kept: Mutex::default(), tasks: tasks.clone() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let upstream = Arc::clone(&upstream);
        tasks.spawn(async move {
            let service = service_fn(move |request| forward(Arc::clone(&upstream), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A connection that breaks concerns only its caller.
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

struct Upstream {
    target: SocketAddr,
    host: HeaderValue,
    /// Connections that were used; those whose last response is still being read are not ready yet.
    kept: Mutex<Vec<SendRequest<Incoming>>>,
    tasks: TaskTracker,
}

impl Upstream {
    async fn send(&self, request: Request<Incoming>) -> Result<Response<Incoming>, ()> {
        let mut sender = match self.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(drop)?;
        self.lock().push(sender);
        Ok(response)
    }

    fn take(&self) -> Option<SendRequest<Incoming>> {
        let mut kept = self.lock();
        let place = kept.iter().rposition(SendRequest::is_ready)?;
        Some(kept.swap_remove(place))
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>, ()> {
        let stream = TcpStream::connect(self.target).await.map_err(drop)?;
        stream.set_nodelay(true).map_err(drop)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(drop)?;
        self.tasks.spawn(async move { drop(connection.await) });
        self.lock().retain(|sender| !sender.is_closed());
        Ok(sender)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Incoming>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn forward(
    upstream: Arc<Upstream>,
    mut request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().insert(HOST, upstream.host.clone());
    Ok(match upstream.send(request).await {
        Ok(mut response) => {
            response.headers_mut().remove(CONNECTION);
            response.map(Either::Left)
        }
        Err(()) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}
