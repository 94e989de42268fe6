//! One question to the relay itself, on the way that the tunnel takes and with its token.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use tunnel_api::Warning;
use tunnel_transport::{DialError, Socket, TlsError, steps};

use super::{Settings, advice, dialler};
use crate::exchange::exchange;
use crate::secrets::TokenTimes;

/// Longest time for all of it: somebody waits for the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes: 256 devices with a list of models each.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum AskError {
    Dial(#[from] DialError),
    Tls(#[from] TlsError),
}

impl AskError {
    /// Says it to people.
    pub(crate) fn advice(&self) -> Warning {
        match self {
            Self::Dial(error) => advice::dial(error, TokenTimes::default(), Timestamp::now()),
            Self::Tls(error) => advice::no_tls(error),
        }
    }
}

/// Sends `GET path` to the relay.
pub(crate) async fn ask(
    settings: &Settings,
    token: &SecretString,
    path: &str,
) -> Result<Response<Bytes>, AskError> {
    let late = |_| DialError::Timeout { host: settings.relay.host().to_owned(), after: LIMIT };
    timeout(LIMIT, exchanged(settings, token, path)).await.map_err(late)?
}

async fn exchanged(
    settings: &Settings,
    token: &SecretString,
    path: &str,
) -> Result<Response<Bytes>, AskError> {
    let relay = &settings.relay;
    let host = || relay.host().to_owned();
    let unreachable = |source: io::Error| DialError::Unreachable { host: host(), source };
    let tls = dialler::tls(settings).await?;
    let socket: Box<dyn Socket> = match &settings.proxy {
        Some(proxy) => proxy.connect(relay.host(), relay.port(), &tls).await.map_err(unreachable)?,
        None => Box::new(steps::connect(relay).await.map_err(unreachable)?),
    };
    let socket: Box<dyn Socket> = if relay.is_tls() {
        let refused = |source| DialError::Tls { host: host(), source };
        Box::new(steps::encrypt(relay, &tls, socket).await.map_err(refused)?)
    } else {
        socket
    };
    let mut request = Request::get(relay.join(path))
        .header(HOST, relay.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        // Cannot fail: the parts of a parsed URL are fit for a request line and a header.
        .expect("a URL's parts");
    if let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())) {
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let answer = exchange(socket, request, MAX_ANSWER_BYTES).await;
    Ok(answer.map_err(|_| DialError::NotARelay {
        host: host(),
        detail: "it does not speak HTTP, or has hung up".to_owned(),
    })?)
}
