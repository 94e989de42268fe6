//! Walks to the relay step by step, on the way that the tunnel takes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, DATE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tunnel_api::Warning;
use tunnel_transport::{DialError, SUBPROTOCOL, Socket, TlsError, printable, steps};

use super::certificate::Certificate;
use crate::exchange::exchange;
use crate::secrets::TokenTimes;
use crate::tunnel::{self, Settings, advice};

/// Longest look-up of the relay's name.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a TCP connection, that to a proxy and its own included.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Longest wait for TLS.
const TLS_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes; a relay's has a few hundred.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// What a relay answers to anybody.
const HEALTH: &str = "/health";

/// How far the relay was reached.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) dns: Step<Vec<SocketAddr>>,
    pub(super) tcp: Step<()>,
    /// None where the certificate cannot be read; it was accepted all the same.
    pub(super) tls: Step<Option<Certificate>>,
    pub(super) http: Step<Answer>,
}

/// How one step went.
#[derive(Debug, Default)]
pub(super) enum Step<T> {
    Done {
        found: T,
        took: Duration,
    },
    Failed {
        why: Warning,
        took: Duration,
    },
    /// It is none of this way, for this reason.
    NotNeeded(&'static str),
    /// One before it failed.
    #[default]
    NotReached,
}

/// What was answered to `GET /health`.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// None when it is no relay that answers.
    pub(super) relay: Option<Relay>,
    /// How many seconds our clock is ahead of the one that wrote `Date`; negative when behind.
    pub(super) clock_off_s: Option<i64>,
}

/// What a relay says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Relay {
    protocol: String,
    pub(super) version: Option<String>,
    /// How it judges the token that was shown: `valid`, `invalid` or `expired`.
    token: Option<String>,
}

impl Walk {
    /// Returns what the relay thinks of the token.
    pub(super) fn token_word(&self) -> Option<&str> {
        match &self.http {
            Step::Done { found: Answer { relay: Some(relay), .. }, .. } => relay.token.as_deref(),
            _ => None,
        }
    }
}

/// Walks as far as it gets. The token is shown to the relay as each dial does.
pub(super) async fn walk(settings: &Settings, token: Option<&SecretString>) -> Walk {
    let mut walk = Walk::default();
    let pace = Pace { host: settings.relay.host() };
    walk.dns = match &settings.proxy {
        Some(_) => Step::NotNeeded("the proxy looks the name up"),
        None => {
            let look_up =
                async { Ok(steps::look_up(&settings.relay).await.map_err(|e| pace.unreachable(e))?) };
            pace.step(LOOK_UP_LIMIT, look_up).await
        }
    };
    if matches!(walk.dns, Step::Failed { .. }) {
        return walk;
    }
    let connected = pace.step(CONNECT_LIMIT, pace.connect(settings)).await;
    let Some(socket) = connected.part(&mut walk.tcp, |socket| ((), socket)) else {
        return walk;
    };
    let socket: Box<dyn Socket> = if settings.relay.is_tls() {
        let encrypting = async {
            let tls = |source| DialError::Tls { host: pace.host.to_owned(), source };
            // Within the limit: the file may be on a disk that hangs.
            let config = tunnel::tls(settings).await?;
            Ok(steps::encrypt(&settings.relay, &config, socket).await.map_err(tls)?)
        };
        let certificate = |stream: &tokio_rustls::client::TlsStream<Box<dyn Socket>>| {
            let chain = stream.get_ref().1.peer_certificates();
            chain.and_then(|chain| Certificate::read(chain.first()?))
        };
        let encrypted = pace.step(TLS_LIMIT, encrypting).await;
        match encrypted.part(&mut walk.tls, |stream| (certificate(&stream), stream)) {
            Some(stream) => Box::new(stream),
            None => return walk,
        }
    } else {
        walk.tls = Step::NotNeeded("not used on loopback");
        socket
    };
    walk.http = pace.step(ANSWER_LIMIT, ask(socket, settings, token)).await;
    walk
}

async fn ask(
    socket: Box<dyn Socket>,
    settings: &Settings,
    token: Option<&SecretString>,
) -> Result<Answer, Obstacle> {
    let relay = &settings.relay;
    let mut request = Request::get(relay.join(HEALTH))
        .header(HOST, relay.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        // Cannot fail: the parts of a parsed URL are fit for a request line and a header.
        .expect("a URL's parts");
    let bearer =
        token.and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok());
    if let Some(mut bearer) = bearer {
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let begun = Instant::now();
    let response = exchange(socket, request, MAX_ANSWER_BYTES).await.map_err(|_| DialError::NotARelay {
        host: relay.host().to_owned(),
        detail: "it does not speak HTTP, or has hung up".to_owned(),
    })?;
    let told: Option<Relay> = serde_json::from_slice(response.body()).ok();
    Ok(Answer {
        status: response.status(),
        relay: told.filter(|relay| relay.protocol == SUBPROTOCOL).map(Relay::fit_to_show),
        clock_off_s: clock_off(response.headers(), Timestamp::now(), begun.elapsed()),
    })
}

impl Relay {
    fn fit_to_show(self) -> Self {
        Self { version: self.version.as_deref().map(printable), ..self }
    }
}

/// Returns how many seconds the clock that says `now` is ahead of the one that wrote `Date`, half of `took` ago.
fn clock_off(headers: &HeaderMap, now: Timestamp, took: Duration) -> Option<i64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let written = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let then = now.checked_sub(took / 2).ok()?;
    Some(then.as_second().saturating_sub(written.as_second()))
}

/// Times the steps to one relay.
struct Pace<'a> {
    host: &'a str,
}

/// What a step fails at.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Obstacle {
    Dial(#[from] DialError),
    Settings(#[from] TlsError),
}

impl Obstacle {
    fn why(&self) -> Warning {
        match self {
            Self::Dial(error) => advice::dial(error, TokenTimes::default(), Timestamp::now()),
            Self::Settings(error) => advice::no_tls(error),
        }
    }
}

impl Pace<'_> {
    async fn step<T>(&self, limit: Duration, step: impl Future<Output = Result<T, Obstacle>>) -> Step<T> {
        let begun = Instant::now();
        let late = || Err(DialError::Timeout { host: self.host.to_owned(), after: limit }.into());
        let outcome = timeout(limit, step).await.unwrap_or_else(|_| late());
        let took = begun.elapsed();
        match outcome {
            Ok(found) => Step::Done { found, took },
            Err(obstacle) => Step::Failed { why: obstacle.why(), took },
        }
    }

    async fn connect(&self, settings: &Settings) -> Result<Box<dyn Socket>, Obstacle> {
        let relay = &settings.relay;
        let socket: io::Result<Box<dyn Socket>> = match &settings.proxy {
            Some(proxy) => {
                // TLS may be spoken to the proxy already.
                let tls = tunnel::tls(settings).await?;
                proxy.connect(relay.host(), relay.port(), &tls).await
            }
            None => steps::connect(relay).await.map(|socket| Box::new(socket) as _),
        };
        Ok(socket.map_err(|error| self.unreachable(error))?)
    }

    fn unreachable(&self, source: io::Error) -> DialError {
        DialError::Unreachable { host: self.host.to_owned(), source }
    }
}

impl<T> Step<T> {
    /// Leaves in `place` what is told of a step, and returns what the next one goes on with.
    fn part<Told, Rest>(self, place: &mut Step<Told>, split: impl FnOnce(T) -> (Told, Rest)) -> Option<Rest> {
        let (told, rest) = match self {
            Self::Done { found, took } => {
                let (found, rest) = split(found);
                (Step::Done { found, took }, Some(rest))
            }
            Self::Failed { why, took } => (Step::Failed { why, took }, None),
            Self::NotNeeded(why) => (Step::NotNeeded(why), None),
            Self::NotReached => (Step::NotReached, None),
        };
        *place = told;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_compared_with_the_middle_of_the_exchange() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let off = |date: &str, took| {
            let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_str(date).unwrap())]);
            clock_off(&headers, now, Duration::from_secs(took))
        };
        assert_eq!(off("Thu, 01 Jan 2026 00:09:00 GMT", 0), Some(60));
        assert_eq!(off("Thu, 01 Jan 2026 00:09:58 GMT", 4), Some(0));
        assert_eq!(off("Thu, 01 Jan 2026 00:20:00 GMT", 0), Some(-600));
        assert_eq!(off("yesterday", 0), None);
        assert_eq!(clock_off(&HeaderMap::new(), now, Duration::ZERO), None);
    }
}
