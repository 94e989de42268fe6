//! Streams over a path that misbehaves.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use tokio::task::JoinSet;
use tunnel_transport::{
    AcceptorConfig, BodyError, BoxError, CloseCode, Closed, LinkState, RelaySession, ResponseBody, SendError,
    Session,
};

use crate::path::{Mode, Path};
use crate::relay::Relay;
use crate::{Running, byte_at, connector, eventually, keep_attached, pattern, serve};

struct Setup {
    path: Path,
    at_relay: RelaySession,
    at_desktop: Session,
    running: Running,
    ended: tokio::sync::oneshot::Receiver<Closed>,
    _tasks: JoinSet<()>,
}

async fn setup(config: AcceptorConfig) -> Setup {
    let relay = Relay::start(config).await;
    let path = Path::to(relay.address).await;
    let connector = connector(&path.url());
    let desktop = connector.dial().await.unwrap();
    let running = Running::default();
    let mut tasks = JoinSet::new();
    let (end, ended) = tokio::sync::oneshot::channel();
    let in_service = running.clone();
    tasks.spawn(async move {
        let service = service_fn(move |request| serve(request, in_service.clone()));
        let _gone = end.send(desktop.server.serve(service).await);
    });
    tasks.spawn(keep_attached(connector, desktop.session.clone()));
    let at_relay = relay.session().unwrap();
    Setup { path, at_relay, at_desktop: desktop.session, running, ended, _tasks: tasks }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://desk{path}")).body(Empty::new()).unwrap()
}

async fn body_of(session: &RelaySession, path: &str) -> ResponseBody {
    session.send(get(path)).await.unwrap().into_body()
}

/// Reads a download to its end and checks each byte.
async fn read_exactly(mut body: ResponseBody, len: u64) {
    let mut at = 0;
    while let Some(frame) = body.frame().await {
        for byte in frame.unwrap().into_data().unwrap() {
            assert_eq!(byte, byte_at(at), "byte {at}");
            at += 1;
        }
    }
    assert_eq!(at, len);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_large_bodies_pass_both_ways() {
    let setup = setup(AcceptorConfig::default()).await;
    let hello = body_of(&setup.at_relay, "/").await.collect().await.unwrap().to_bytes();
    assert_eq!(hello, "hello");
    read_exactly(body_of(&setup.at_relay, "/bytes/20000000").await, 20_000_000).await;

    let sent = pattern(0, 3_000_000);
    let echo = Request::post("http://desk/echo").body(Full::new(sent.clone())).unwrap();
    let back = setup.at_relay.send(echo).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(back == sent);
    eventually("a round trip was measured", || {
        setup.at_desktop.rtt().is_some() && setup.at_relay.rtt().is_some()
    })
    .await;
}

fn body(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> UnsyncBoxBody<Bytes, BoxError> {
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn bodies_of_every_shape_arrive_as_they_were() {
    let setup = setup(AcceptorConfig::default()).await;
    let data = |bytes: &'static [u8]| Ok(Frame::data(Bytes::from_static(bytes)));
    let trailers =
        || Ok(Frame::trailers([("checksum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect()));
    let shapes = [
        ("nothing", vec![], "", false),
        ("one piece", vec![data(b"one")], "one", false),
        ("two pieces", vec![data(b"one"), data(b"two")], "onetwo", false),
        ("an empty piece first", vec![data(b""), data(b"two")], "two", false),
        ("an empty piece last", vec![data(b"one"), data(b"")], "one", false),
        ("trailers after a piece", vec![data(b"one"), trailers()], "one", true),
        ("trailers alone", vec![trailers()], "", true),
    ];
    for (name, frames, expected, with_trailers) in shapes {
        let echo = Request::post("http://desk/echo").body(body(frames)).unwrap();
        let back = setup.at_relay.send(echo).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(
            back.trailers().is_some_and(|trailers| trailers["checksum"] == "7"),
            with_trailers,
            "{name}"
        );
        assert_eq!(back.to_bytes(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_fails_is_never_taken_for_a_whole_one() {
    let setup = setup(AcceptorConfig::default()).await;
    let failure = || Err(BoxError::from("the caller hung up"));
    let request = |frames| Request::post("http://desk/echo").body(body(frames)).unwrap();

    let at_once = setup.at_relay.send(request(vec![failure()])).await;
    assert!(matches!(at_once, Err(SendError::Reset(_))), "{at_once:?}");
    assert_eq!(setup.running.count(), 0);

    let later = vec![Ok(Frame::data(Bytes::from_static(b"one"))), failure()];
    if let Ok(answer) = setup.at_relay.send(request(later)).await {
        let read = answer.into_body().collect().await;
        assert!(matches!(read, Err(BodyError::Reset(_))), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_both_directions_survive_cuts_to_the_byte() {
    let setup = setup(AcceptorConfig::default()).await;
    let mut readers = JoinSet::new();
    for path in ["/ticks/40000", "/bytes/30000000", "/bytes/30000000"] {
        let body = body_of(&setup.at_relay, path).await;
        readers.spawn(read_exactly(body, path.rsplit('/').next().unwrap().parse().unwrap()));
    }
    let upload = futures_util::stream::unfold(0u64, |at| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        (at < 8_000_000).then(|| (Ok::<_, BoxError>(Frame::data(pattern(at, 20_000))), at + 20_000))
    });
    let upload: UnsyncBoxBody<Bytes, BoxError> = StreamBody::new(upload).boxed_unsync();
    let echo = Request::post("http://desk/echo").body(upload).unwrap();
    let echoed = setup.at_relay.send(echo).await.unwrap().into_body();
    readers.spawn(read_exactly(echoed, 8_000_000));

    let mut cuts = 0;
    while !readers.is_empty() {
        tokio::select! {
            Some(done) = readers.join_next() => done.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(90)) => {
                setup.path.cut();
                cuts += 1;
            }
        }
    }
    assert!(cuts >= 5, "only {cuts} cuts while the streams ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_refuses_for_a_while_delays_and_loses_nothing() {
    let setup = setup(AcceptorConfig::default()).await;
    let reading = read_exactly(body_of(&setup.at_relay, "/ticks/20000").await, 20_000);
    let trouble = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        setup.path.set(Mode::Refuse);
        setup.path.cut();
        let mut link = setup.at_relay.link();
        link.wait_for(|state| matches!(state, LinkState::Detached { .. })).await.unwrap();
        // A request that comes meanwhile waits for the link.
        let waiting = setup.at_relay.send(get("/"));
        let mend = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            setup.path.set(Mode::Pass);
        };
        let (answer, ()) = tokio::join!(waiting, mend);
        assert_eq!(answer.unwrap().status(), 200);
    };
    tokio::join!(reading, trouble);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_resumes_ends_with_an_error_and_not_politely() {
    let setup = setup(AcceptorConfig { grace: Duration::from_secs(1), ..AcceptorConfig::default() }).await;
    let mut body = body_of(&setup.at_relay, "/ticks/1000000").await;
    body.frame().await.unwrap().unwrap();
    setup.path.set(Mode::Refuse);
    setup.path.cut();
    let error = loop {
        match body.frame().await.expect("the body must not end politely") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BodyError::Lost(_)), "{error:?}");
    assert_eq!(setup.at_relay.closed().await.code, CloseCode::GraceOver);
    assert!(matches!(setup.at_relay.send(get("/")).await, Err(SendError::Offline)));
    assert_eq!(setup.ended.await.unwrap().code, CloseCode::GraceOver);
    eventually("handlers are gone", || setup.running.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_breaks_resets_its_stream_alone() {
    let setup = setup(AcceptorConfig::default()).await;
    let other = body_of(&setup.at_relay, "/ticks/5000").await;
    let error = body_of(&setup.at_relay, "/break/5000").await.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Reset(_)), "{error:?}");
    read_exactly(other, 5000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_ends_the_handler_in_every_phase() {
    let setup = setup(AcceptorConfig::default()).await;
    for round in 0..20 {
        // Waiting for the head of the answer.
        {
            let waiting = setup.at_relay.send(get("/hang"));
            let _given_up =
                tokio::time::timeout(Duration::from_millis(20 + round), waiting).await.unwrap_err();
        }
        // Streaming.
        let mut body = body_of(&setup.at_relay, "/ticks/1000000").await;
        body.frame().await.unwrap().unwrap();
        drop(body);
        // Uploading.
        let upload = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let mut body = setup
            .at_relay
            .send(Request::post("http://desk/echo").body(upload.boxed_unsync()).unwrap())
            .await
            .unwrap()
            .into_body();
        assert!(tokio::time::timeout(Duration::from_millis(5), body.frame()).await.is_err());
        drop(body);
    }
    eventually("handlers are gone", || setup.running.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_who_hang_up_at_once_do_not_end_the_tunnel() {
    let setup = setup(AcceptorConfig::default()).await;
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let session = setup.at_relay.clone();
        callers.spawn(async move {
            let _dropped = tokio::time::timeout(Duration::from_millis(1), session.send(get("/hang"))).await;
        });
    }
    callers.join_all().await;
    let hello = body_of(&setup.at_relay, "/").await.collect().await.unwrap().to_bytes();
    assert_eq!(hello, "hello");
    eventually("handlers are gone", || setup.running.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_nothing_stalls_only_itself() {
    let setup = setup(AcceptorConfig::default()).await;
    let slow = body_of(&setup.at_relay, "/bytes/100000000").await;
    read_exactly(body_of(&setup.at_relay, "/bytes/20000000").await, 20_000_000).await;
    let (sent, _) = setup.at_desktop.bytes();
    assert!(sent < 20_000_000 + 3_000_000, "a stream that nobody reads has sent {} bytes", sent - 20_000_000);
    drop(slow);
    eventually("handlers are gone", || setup.running.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desktop_that_drains_finishes_what_runs_and_takes_nothing_new() {
    let setup = setup(AcceptorConfig::default()).await;
    let body = body_of(&setup.at_relay, "/ticks/10000").await;
    setup.at_desktop.drain();
    let refused = async {
        loop {
            if let Err(error) = setup.at_relay.send(get("/")).await {
                break error;
            }
        }
    };
    let (refused, ()) = tokio::join!(
        async { tokio::time::timeout(Duration::from_secs(3), refused).await },
        read_exactly(body, 10_000)
    );
    assert!(
        matches!(refused, Ok(SendError::Draining | SendError::Offline | SendError::Reset(_))),
        "{refused:?}"
    );
    assert_eq!(setup.at_relay.closed().await.code, CloseCode::ShuttingDown);
    assert_eq!(setup.ended.await.unwrap().code, CloseCode::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_taken_over_hears_why() {
    let setup = setup(AcceptorConfig::default()).await;
    let body = body_of(&setup.at_relay, "/ticks/100000").await;
    setup.at_relay.close(Closed::new(CloseCode::Replaced, "a newer dial took over"));
    assert_eq!(setup.ended.await.unwrap(), Closed::new(CloseCode::Replaced, "a newer dial took over"));
    assert!(body.collect().await.is_err());
    eventually("handlers are gone", || setup.running.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refreshed_token_reaches_the_relay_and_again_after_a_resume() {
    let setup = setup(AcceptorConfig::default()).await;
    let mut tokens = setup.at_relay.tokens().unwrap();
    setup.at_desktop.refresh_token(&"fresh".to_owned().into());
    for _ in 0..2 {
        let token = tokio::time::timeout(Duration::from_secs(5), tokens.recv()).await.unwrap().unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&token), "fresh");
        setup.path.cut();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_is_measured_anew_each_time_and_not_without_a_socket() {
    let setup = setup(AcceptorConfig::default()).await;
    // The session is there a moment before its link has taken the socket up.
    setup.at_desktop.link().wait_for(|state| matches!(state, LinkState::Attached { .. })).await.unwrap();
    let limit = Duration::from_secs(8);
    let measure = || tokio::time::timeout(limit, setup.at_desktop.round_trip());
    // Far below the ten seconds between two pings of the link's own.
    for _ in 0..5 {
        let took = measure().await.expect("measured in time").expect("there is a socket");
        assert!(took > Duration::ZERO && took < Duration::from_secs(2), "{took:?}");
    }
    setup.path.set(Mode::Stall);
    assert_eq!(measure().await.expect("given up in time"), None, "over a path that swallows all");
    assert_eq!(measure().await.expect("told at once"), None, "without a socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_finds_a_dead_path_long_before_the_heartbeat_does() {
    let setup = setup(AcceptorConfig::default()).await;
    let mut link = setup.at_desktop.link();
    eventually("the first ping has come back", || setup.at_desktop.rtt().is_some()).await;
    setup.path.set(Mode::Stall);
    let stalled = tokio::time::Instant::now();
    setup.at_desktop.probe();
    let detached = link.wait_for(|state| matches!(state, LinkState::Detached { .. }));
    tokio::time::timeout(Duration::from_secs(15), detached).await.expect("detached by the probe").unwrap();
    assert!(stalled.elapsed() >= Duration::from_secs(2), "a path is not given up without a wait");
    setup.path.set(Mode::Pass);
    link.wait_for(|state| matches!(state, LinkState::Attached { .. })).await.unwrap();
    let hello = body_of(&setup.at_relay, "/").await.collect().await.unwrap().to_bytes();
    assert_eq!(hello, "hello");
}
