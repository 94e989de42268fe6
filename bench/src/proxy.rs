//! A plain hyper proxy on one thread: the least that any HTTP-aware hop can cost. Two in a row are the floor of
//! a tunnel, one is the floor of a gateway.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

type Forward = Client<HttpConnector, Incoming>;

/// Forwards what comes to `listener` to `target`, until the process ends.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Forward = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(2048)
        .build(connector);
    let host = HeaderValue::from_str(&target.to_string()).map_err(io::Error::other)?;
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, host) = (client.clone(), host.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| forward(client.clone(), target, host.clone(), request));
            // A connection that breaks concerns only its caller.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn forward(
    client: Forward,
    target: SocketAddr,
    host: HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = format!("http://{target}{path}").parse::<Uri>();
    let answer = match uri {
        Ok(uri) => {
            *request.uri_mut() = uri;
            request.headers_mut().remove(CONNECTION);
            request.headers_mut().insert(HOST, host);
            client.request(request).await.ok()
        }
        Err(_) => None,
    };
    Ok(match answer {
        Some(mut response) => {
            response.headers_mut().remove(CONNECTION);
            response.map(Either::Left)
        }
        None => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}
