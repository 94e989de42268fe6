//! The supervisor against a small relay made of `tunnel-transport`'s own other end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tunnel_api::TunnelState;
use tunnel_api::tunnel::Target;
use tunnel_api::warning;
use tunnel_broker::{Broker, BrokerConfig};
use tunnel_transport::{
    Acceptor, AcceptorConfig, CloseCode, Closed, DialKind, DialRequest, RelaySession, RelayUrl,
};

use super::*;
use crate::secrets::{self, Places, SessionBus, TokenError};
use crate::store::Store;
use crate::world::Cause;

mod moving;
mod presence;
mod wake;

const LIMIT: Duration = Duration::from_secs(10);

/// What the relay answers to the next dial instead of a session.
type Refusal = fn() -> Response<Full<Bytes>>;

#[derive(Default)]
struct Book {
    refusals: VecDeque<Refusal>,
    dials: Vec<(Instant, DialRequest, String)>,
    sessions: Vec<RelaySession>,
    sockets: Vec<std::net::TcpStream>,
}

#[derive(Clone)]
struct Relay {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    /// While it is set, dials wait for their answer.
    holds: Arc<watch::Sender<bool>>,
    tracker: TaskTracker,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            book: Arc::default(),
            holds: Arc::new(watch::Sender::new(false)),
            tracker: TaskTracker::new(),
        };
        relay.tracker.spawn(relay.clone().accept(listener));
        relay
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = stream.into_std().unwrap();
            self.book.lock().unwrap().sockets.push(stream.try_clone().unwrap());
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let relay = self.clone();
            self.tracker.spawn(async move {
                let service = hyper::service::service_fn(|request| async {
                    let mut holds = relay.holds.subscribe();
                    assert!(holds.wait_for(|holds| !holds).await.is_ok());
                    Ok::<_, Infallible>(relay.answer(request))
                });
                let _ended = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    }

    fn answer(&self, mut request: Request<Incoming>) -> Response<Either<Empty<Bytes>, Full<Bytes>>> {
        let dial = DialRequest::parse(request.headers()).unwrap();
        let token = request.headers()["authorization"].to_str().unwrap().to_owned();
        let mut book = self.book.lock().unwrap();
        book.dials.push((Instant::now(), dial.clone(), token));
        if let Some(refusal) = book.refusals.pop_front() {
            return refusal().map(Either::Right);
        }
        let acceptor = Acceptor::new(AcceptorConfig::default());
        match dial.kind {
            DialKind::Fresh | DialKind::Migrate { .. } => {
                let (response, session, driver) = acceptor.open(&mut request);
                self.tracker.spawn(driver.run());
                book.sessions.push(session);
                response.map(Either::Left)
            }
            DialKind::Resume { session, received } => {
                let known = book.sessions.iter().find(|known| known.id() == session);
                match known.map(|known| acceptor.resume(known, &mut request, received)) {
                    Some(Ok((response, resumption))) => {
                        self.tracker.spawn(resumption.run());
                        response.map(Either::Left)
                    }
                    Some(Err(_)) | None => problem(StatusCode::GONE, "session_gone").map(Either::Right),
                }
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        self.book.lock().unwrap().refusals.push_back(refusal);
    }

    fn dials(&self) -> Vec<(Instant, DialRequest, String)> {
        self.book.lock().unwrap().dials.clone()
    }

    fn session(&self, index: usize) -> RelaySession {
        self.book.lock().unwrap().sessions[index].clone()
    }

    fn n_sessions(&self) -> usize {
        self.book.lock().unwrap().sessions.len()
    }

    fn forget_sessions(&self) {
        self.book.lock().unwrap().sessions.clear();
    }

    fn cut(&self) {
        for socket in self.book.lock().unwrap().sockets.drain(..) {
            let _closed_already = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn problem(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let body =
        format!(r#"{{"status":{},"code":"{code}","detail":"the relay's own words"}}"#, status.as_u16());
    Response::builder()
        .status(status)
        .header("content-type", "application/problem+json")
        .body(Full::from(body))
        .unwrap()
}

struct Desktop {
    handle: TunnelHandle,
    settings: watch::Sender<Arc<Settings>>,
    wakes: watch::Sender<Wake>,
    token: TokenHandle,
    token_file: PathBuf,
    record: RecorderHandle,
    hard: CancellationToken,
    soft: CancellationToken,
    tracker: TaskTracker,
    _directory: tempfile::TempDir,
}

impl Desktop {
    fn start(relay: &Relay) -> Self {
        Self::start_with(relay.address, Some("first.token.x"))
    }

    fn start_with(relay: SocketAddr, token: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        if let Some(token) = token {
            std::fs::write(&token_file, token).unwrap();
        }
        Self::start_in(directory, relay, Some(token_file))
    }

    /// With an encrypted file as the only place for a token.
    fn start_without_token_file(relay: SocketAddr) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), relay, None)
    }

    fn start_in(directory: tempfile::TempDir, relay: SocketAddr, token_file: Option<PathBuf>) -> Self {
        let (settings, reader) = watch::channel(Arc::new(Settings {
            enabled: true,
            relay: RelayUrl::parse(&format!("http://{relay}")).unwrap(),
            device: "desk".parse().unwrap(),
            preferred: false,
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
            proxy: None,
            proxies: crate::config::Proxies::default(),
        }));
        let (wakes, woken) = watch::channel(Wake::default());
        let (tracker, hard) = (TaskTracker::new(), CancellationToken::new());
        let soft = hard.child_token();
        let places = Places {
            token_file: token_file.clone(),
            credentials_directory: None,
            state_dir: Some(directory.path().join("state")),
            bus: SessionBus::none(),
        };
        let tasks = CriticalTasks::new(tracker.clone(), soft.clone());
        let token = secrets::start(places, reader.clone(), soft.clone(), &tasks);
        let record = Store::open(None, Timestamp::now()).now_or_never().unwrap().handle;
        let deps = Deps {
            settings: reader,
            record: record.clone(),
            wanted: true,
            token: token.clone(),
            broker: Broker::start(BrokerConfig::default(), &tracker, hard.clone()),
            ring: KeyRing::default(),
            wakes: woken,
            soft: soft.clone(),
            hard: hard.clone(),
        };
        let handle = start(deps, &tasks);
        let token_file = token_file.unwrap_or_default();
        Self {
            handle,
            settings,
            wakes,
            token,
            token_file,
            record,
            hard,
            soft,
            tracker,
            _directory: directory,
        }
    }

    async fn until(&self, what: &str, condition: impl Fn(&TunnelReport) -> bool) -> TunnelReport {
        let mut reports = self.handle.reports();
        match tokio::time::timeout(LIMIT, reports.wait_for(|report| condition(report))).await {
            Ok(report) => report.unwrap().clone(),
            Err(_) => panic!("{what} did not come; it is {:?}", self.handle.report()),
        }
    }

    async fn until_state(&self, state: TunnelState) -> TunnelReport {
        self.until(&format!("state {state}"), |report| report.tunnel.state == state).await
    }

    fn token(&self) -> Result<secrets::Token, TokenError> {
        self.token.current(&self.settings.borrow().relay)
    }

    fn write_token(&self, token: &str) {
        let fresh = self.token_file.with_extension("new");
        std::fs::write(&fresh, token).unwrap();
        std::fs::rename(&fresh, &self.token_file).unwrap();
    }

    fn wake(&self, cause: Cause) {
        self.wakes.send_modify(|wake| *wake = Wake { count: wake.count + 1, cause });
    }

    fn change(&self, edit: impl FnOnce(&mut Settings)) {
        self.settings.send_modify(|settings| edit(Arc::make_mut(settings)));
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        self.hard.cancel();
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("{what} did not come"));
}

/// After the desktop's GOAWAY the two ends may close at the same time, each with its own code.
async fn said_goodbye(session: &RelaySession) {
    let closed = tokio::time::timeout(LIMIT, session.closed()).await.unwrap();
    assert!(matches!(closed.code, CloseCode::ShuttingDown | CloseCode::Restarting), "{closed:?}");
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://desk{path}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn round_trip_is_measured_while_the_tunnel_is_up_and_only_then() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    // The link takes its socket up a moment after the session is there.
    let measured = async {
        while desktop.handle.round_trip().await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, measured).await.expect("a round trip");
    desktop.handle.give(Order::Stop).await.unwrap();
    desktop.until_state(TunnelState::Disconnected).await;
    assert_eq!(desktop.handle.round_trip().await, None);
}

#[tokio::test]
async fn tunnel_comes_up_and_serves_the_broker() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    let report = desktop.until_state(TunnelState::Connected).await;
    assert_eq!((report.tunnel.target, report.tunnel.device.as_deref()), (Target::Up, Some("desk")));
    assert_eq!((report.tunnel.reconnects, report.warning), (0, None));
    let answer = relay.session(0).send(get("/api/version")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let (_, dial, token) = relay.dials().remove(0);
    assert_eq!((dial.kind, token.as_str()), (DialKind::Fresh, "Bearer first.token.x"));
    assert!(dial.agent.unwrap().starts_with("tunneld/"));
}

#[tokio::test]
async fn remote_policy_holds_and_own_paths_are_not_forwarded() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let session = relay.session(0);
    for (path, status) in [("/api/pull", 403), ("/_tunnel/v1/connect", 404), ("/_tunnel/v1/migrate", 405)] {
        assert_eq!(session.send(get(path)).await.unwrap().status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn cut_link_is_resumed_with_the_same_session() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    relay.cut();
    let report = desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
    assert_eq!(report.tunnel.reconnects, 0);
    desktop.until_state(TunnelState::Connected).await;
    assert_eq!(relay.n_sessions(), 1);
    assert!(relay.session(0).send(get("/api/version")).await.is_ok());
    // A second cut within ten seconds waits its back-off, and is resumed as well.
    relay.cut();
    desktop.until("another resume", |report| report.tunnel.resumes == 2).await;
}

#[tokio::test]
async fn token_file_that_is_empty_for_a_moment_does_not_cost_the_session() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.write_token("");
    eventually("a look at the file", || matches!(desktop.token(), Err(TokenError::Empty(_)))).await;
    relay.cut();
    let no_token =
        |report: &TunnelReport| report.warning.as_ref().is_some_and(|w| w.code == warning::NO_TOKEN);
    let report = desktop.until("no token", no_token).await;
    assert_ne!(report.tunnel.state, TunnelState::Disconnected);
    desktop.write_token("second.token.x");
    let report = desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
    assert_eq!((report.tunnel.reconnects, relay.n_sessions()), (0, 1));
}

#[tokio::test]
async fn new_token_is_told_to_the_open_session() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let mut tokens = relay.session(0).tokens().unwrap();
    desktop.write_token("second.token.x");
    let told = tokio::time::timeout(LIMIT, tokens.recv()).await.unwrap().unwrap();
    assert_eq!(told.expose_secret(), "second.token.x");
    assert_eq!((relay.dials().len(), desktop.handle.report().tunnel.state), (1, TunnelState::Connected));
}

#[tokio::test]
async fn token_that_the_relay_was_told_of_and_may_not_have_judged_is_shown_once_more() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let mut tokens = relay.session(0).tokens().unwrap();
    desktop.write_token("second.token.x");
    tokio::time::timeout(LIMIT, tokens.recv()).await.unwrap().unwrap();
    relay.session(0).close(Closed::new(CloseCode::Token, "the token has expired"));
    eventually("a second session", || relay.n_sessions() == 2).await;
    assert_eq!(relay.dials()[1].2, "Bearer second.token.x");
    desktop.until_state(TunnelState::Connected).await;
    // That one it has judged.
    relay.session(1).close(Closed::new(CloseCode::Token, "the token was revoked"));
    desktop.until_state(TunnelState::Refused).await;
    assert_eq!(relay.dials().len(), 2);
}

#[tokio::test]
async fn token_that_is_stored_opens_the_tunnel_and_removed_closes_it() {
    let relay = Relay::start().await;
    let desktop = Desktop::start_without_token_file(relay.address);
    desktop.until("no token", |report| report.warning.is_some()).await;
    for (n, token) in ["first", "second"].into_iter().enumerate() {
        desktop.token.set(secrets::Credentials::bare(token.to_owned().into(), 0)).await.unwrap();
        desktop.until_state(TunnelState::Connected).await;
        assert_eq!(relay.dials()[n].2, format!("Bearer {token}"));
        desktop.token.remove().await.unwrap();
        let report = desktop.until_state(TunnelState::Disconnected).await;
        assert_eq!(
            (report.tunnel.target, report.warning.unwrap().code.as_str()),
            (Target::Up, warning::NO_TOKEN)
        );
        said_goodbye(&relay.session(n)).await;
    }
}

#[tokio::test]
async fn token_opens_no_tunnel_that_is_switched_off() {
    let relay = Relay::start().await;
    let desktop = Desktop::start_without_token_file(relay.address);
    desktop.until("no token", |report| report.warning.is_some()).await;
    desktop.change(|settings| settings.enabled = false);
    desktop.until("no tunnel", |report| report.tunnel.relay.is_none() && report.warning.is_none()).await;
    desktop.token.set(secrets::Credentials::bare("first".to_owned().into(), 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(relay.dials().len(), 0);
    desktop.change(|settings| settings.enabled = true);
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn refused_token_that_is_removed_leaves_no_refusal_behind() {
    let relay = Relay::start().await;
    relay.refuse(|| problem(StatusCode::UNAUTHORIZED, "token_expired"));
    let desktop = Desktop::start_without_token_file(relay.address);
    desktop.token.set(secrets::Credentials::bare("first".to_owned().into(), 0)).await.unwrap();
    desktop.until_state(TunnelState::Refused).await;
    desktop.token.remove().await.unwrap();
    let report = desktop.until_state(TunnelState::Disconnected).await;
    assert_eq!(report.warning.unwrap().code, warning::NO_TOKEN);
}

#[tokio::test]
async fn session_that_is_gone_is_replaced_by_a_fresh_one() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    relay.forget_sessions();
    relay.cut();
    let report = desktop.until("a fresh session", |report| report.tunnel.reconnects == 1).await;
    assert_eq!(report.tunnel.resumes, 0);
    desktop.until_state(TunnelState::Connected).await;
    let kinds: Vec<DialKind> = relay.dials().into_iter().map(|(_, dial, _)| dial.kind).collect();
    assert!(matches!(kinds[..], [DialKind::Fresh, DialKind::Resume { .. }, DialKind::Fresh]), "{kinds:?}");
}

#[tokio::test]
async fn refused_token_is_not_shown_again_until_there_is_a_new_one() {
    let relay = Relay::start().await;
    relay.refuse(|| problem(StatusCode::UNAUTHORIZED, "token_expired"));
    let desktop = Desktop::start(&relay);
    let report = desktop.until_state(TunnelState::Refused).await;
    assert_eq!(report.warning.unwrap().code, warning::TOKEN_EXPIRED);
    assert_eq!(relay.dials().len(), 1);
    desktop.write_token("second.token.x");
    desktop.until_state(TunnelState::Connected).await;
    let tokens: Vec<String> = relay.dials().into_iter().map(|(_, _, token)| token).collect();
    assert_eq!(tokens, ["Bearer first.token.x", "Bearer second.token.x"]);
}

#[tokio::test]
async fn each_refusal_has_its_own_warning() {
    let cases: [(Refusal, &str, TunnelState); 4] = [
        (|| problem(StatusCode::UNAUTHORIZED, "token_invalid"), warning::TOKEN_INVALID, TunnelState::Refused),
        (|| problem(StatusCode::FORBIDDEN, "not_allowed"), warning::TOKEN_SCOPE, TunnelState::Refused),
        (
            || Response::builder().status(404).body(Full::default()).unwrap(),
            warning::NOT_A_RELAY,
            TunnelState::Backoff,
        ),
        (
            || {
                let mut busy = problem(StatusCode::SERVICE_UNAVAILABLE, "draining");
                busy.headers_mut().insert("retry-after", "60".parse().unwrap());
                busy
            },
            warning::RELAY_UNREACHABLE,
            TunnelState::Backoff,
        ),
    ];
    for (refusal, code, state) in cases {
        let relay = Relay::start().await;
        for _ in 0..20 {
            relay.refuse(refusal);
        }
        let desktop = Desktop::start(&relay);
        let report = desktop.until_state(state).await;
        assert_eq!(report.warning.as_ref().unwrap().code, code);
        assert_eq!(report.tunnel.last_error, Some(report.warning.unwrap().message));
    }
}

#[tokio::test]
async fn start_dials_at_once_out_of_a_long_wait() {
    let relay = Relay::start().await;
    relay.refuse(|| {
        let mut busy = problem(StatusCode::SERVICE_UNAVAILABLE, "draining");
        busy.headers_mut().insert("retry-after", "500".parse().unwrap());
        busy
    });
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Backoff).await;
    desktop.handle.give(Order::Start).await.unwrap();
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let relay = Relay::start().await;
    relay.refuse(|| {
        let mut busy = problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
        busy.headers_mut().insert("retry-after", "1".parse().unwrap());
        busy
    });
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let dials = relay.dials();
    assert!(dials[1].0 - dials[0].0 >= Duration::from_secs(1));
}

#[tokio::test]
async fn replaced_link_stays_down_until_start() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    relay.session(0).close(Closed::new(CloseCode::Replaced, "another desktop"));
    let report = desktop.until_state(TunnelState::Refused).await;
    assert_eq!(report.warning.unwrap().code, warning::REPLACED);
    // A token that a timer renews is no reason to take the device back.
    let before = desktop.token().unwrap().version;
    desktop.write_token("second.token.x");
    eventually("a look at the file", || desktop.token().is_ok_and(|token| token.version != before)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(relay.dials().len(), 1);
    desktop.handle.give(Order::Start).await.unwrap();
    let report = desktop.until_state(TunnelState::Connected).await;
    assert_eq!(report.tunnel.reconnects, 1);
}

#[tokio::test]
async fn replaced_link_dials_again_under_another_name() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    relay.session(0).close(Closed::new(CloseCode::Replaced, "another desktop"));
    desktop.until_state(TunnelState::Refused).await;
    desktop.change(|settings| settings.device = "other-desk".parse().unwrap());
    desktop.until_state(TunnelState::Connected).await;
    assert_eq!(relay.dials()[1].1.device.as_str(), "other-desk");
}

#[tokio::test]
async fn relay_that_restarts_is_dialled_after_the_delay_that_it_names() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let closed = Instant::now();
    relay.session(0).close(Closed::new(CloseCode::Restarting, "700"));
    desktop.until("a second session", |report| report.tunnel.reconnects == 1).await;
    assert!(relay.dials()[1].0 - closed >= Duration::from_millis(700));
}

#[tokio::test]
async fn stop_says_goodbye_and_start_comes_back() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.handle.give(Order::Stop).await.unwrap();
    let report = desktop.until_state(TunnelState::Disconnected).await;
    assert_eq!((report.tunnel.target, report.tunnel.last_error), (Target::Down, None));
    said_goodbye(&relay.session(0)).await;
    desktop.handle.give(Order::Start).await.unwrap();
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn restart_opens_a_new_session() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.handle.give(Order::Restart).await.unwrap();
    desktop
        .until("a second session", |report| {
            report.tunnel.reconnects == 1 && report.tunnel.state == TunnelState::Connected
        })
        .await;
    assert!(relay.session(1).send(get("/api/version")).await.is_ok());
}

#[tokio::test]
async fn token_that_appears_later_is_taken_up() {
    let relay = Relay::start().await;
    let desktop = Desktop::start_with(relay.address, None);
    let report = desktop.until("no token", |report| report.warning.is_some()).await;
    assert_eq!(
        (report.tunnel.state, report.warning.unwrap().code.as_str()),
        (TunnelState::Disconnected, warning::NO_TOKEN)
    );
    desktop.write_token("late.token.x");
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn relay_that_is_not_there_is_tried_again_and_again() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let desktop = Desktop::start_with(gone, Some("a.b.c"));
    // Before the token file was looked at there is no token, which is another warning.
    let told = |report: &TunnelReport| {
        report.warning.as_ref().is_some_and(|warning| warning.code == warning::RELAY_UNREACHABLE)
    };
    desktop.until("an error", told).await;
    desktop.until_state(TunnelState::Backoff).await;
    desktop.until_state(TunnelState::Connecting).await;
}

#[tokio::test]
async fn switching_the_tunnel_off_ends_it_and_on_again_brings_it_back() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.change(|settings| settings.enabled = false);
    let report = desktop.until_state(TunnelState::Disconnected).await;
    assert_eq!((report.tunnel.target, report.tunnel.relay), (Target::Down, None));
    assert_eq!(desktop.handle.give(Order::Start).await, Err(Rejected::Disabled));
    desktop.change(|settings| settings.enabled = true);
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn what_was_ordered_is_kept_also_if_its_giver_hangs_up() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    assert_eq!(desktop.record.last_target(), None, "nobody has said anything");
    // Sent, and dropped before the answer.
    assert_eq!(desktop.handle.give(Order::Stop).now_or_never(), None);
    desktop.until_state(TunnelState::Disconnected).await;
    assert_eq!(desktop.record.last_target(), Some(Target::Down));
    desktop.change(|settings| settings.enabled = false);
    desktop.until("the switch", |report| report.tunnel.relay.is_none()).await;
    assert_eq!(desktop.handle.give(Order::Start).await, Err(Rejected::Disabled));
    assert_eq!(desktop.record.last_target(), Some(Target::Down), "what is refused is not kept");
}

#[tokio::test]
async fn shutdown_tells_the_relay_and_ends() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.soft.cancel();
    said_goodbye(&relay.session(0)).await;
    eventually("the supervisor's end", || desktop.handle.reports().has_changed().is_err()).await;
    assert_eq!(desktop.handle.give(Order::Start).await, Err(Rejected::ShuttingDown));
    desktop.hard.cancel();
    desktop.tracker.close();
    tokio::time::timeout(LIMIT, desktop.tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_link_that_nobody_needs() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    for _ in 0..200 {
        relay.refuse(|| Response::builder().status(502).body(Full::default()).unwrap());
    }
    relay.cut();
    desktop.until("a wait", |report| report.tunnel.state == TunnelState::Backoff).await;
    let before = Instant::now();
    desktop.soft.cancel();
    eventually("the supervisor's end", || desktop.handle.reports().has_changed().is_err()).await;
    assert!(before.elapsed() < Duration::from_secs(3));
}
