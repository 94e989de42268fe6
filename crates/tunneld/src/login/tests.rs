//! Whole logins, against a relay and a provider that answer as they were told to.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tunnel_transport::RelayUrl;
use url::Url;

use super::*;
use crate::secrets::testing::issuer::{Form, Issuer};
use crate::secrets::testing::{PATIENCE, eventually, jwt};
use crate::secrets::{self, Places, SessionBus};
use crate::store::Store;

/// A desk, with one server that is relay and provider at once.
struct Bench {
    server: Issuer,
    login: LoginHandle,
    token: TokenHandle,
    relay: RelayUrl,
    store: Store,
    soft: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.soft.cancel();
    }
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(|_| {}, |_| {}).await
    }

    async fn start_with(places: impl FnOnce(&mut Places), settings: impl FnOnce(&mut Settings)) -> Self {
        let (server, directory) = (Issuer::start(), tempfile::tempdir().unwrap());
        let mut told = Places {
            token_file: None,
            credentials_directory: None,
            state_dir: Some(directory.path().to_owned()),
            bus: SessionBus::none(),
        };
        places(&mut told);
        let relay = RelayUrl::parse(&server.url("")).unwrap();
        let mut set = Settings {
            enabled: true,
            relay: relay.clone(),
            device: "desk".parse().unwrap(),
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
            proxy: None,
            proxies: crate::config::Proxies::default(),
            preferred: false,
        };
        settings(&mut set);
        let (_, reader) = watch::channel(Arc::new(set));
        let (soft, tracker) = (CancellationToken::new(), TaskTracker::new());
        let tasks = CriticalTasks::new(tracker.clone(), soft.clone());
        let token = secrets::start(told, reader.clone(), soft.clone(), &tasks);
        let opened = Store::open(None, Timestamp::now()).await;
        tracker.spawn(opened.recorder.run(soft.clone()));
        let login = start(reader, token.clone(), opened.handle, soft.clone(), &tasks);
        Self { server, login, token, relay, store: opened.store, soft, _directory: directory }
    }

    /// What relay and provider say before anything else.
    fn will_introduce(&self) {
        self.server.will_answer(200, &self.offer());
        self.server.will_answer(200, &self.metadata());
    }

    fn offer(&self) -> Value {
        json!({ "issuer": self.server.url(""), "client_id": "desk & co", "scope": "openid offline_access",
                "audience": null, "resource": "https://relay.test" })
    }

    fn metadata(&self) -> Value {
        let at = |path: &str| self.server.url(path);
        json!({ "issuer": at(""), "token_endpoint": at("/token"), "authorization_endpoint": at("/auth?tenant=a"),
                "device_authorization_endpoint": at("/device/auth"), "revocation_endpoint": at("/revoke"),
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": true })
    }

    fn will_grant(&self) {
        let granted = json!({ "device_code": "canary-device", "user_code": "ABCD-EFGH", "interval": 1, "expires_in": 60,
                              "verification_uri": self.server.url("/device"),
                              "verification_uri_complete": "http://elsewhere.example/device?user_code=ABCD-EFGH" });
        self.server.will_answer(200, &granted);
    }

    fn will_issue(&self) {
        let token = json!({ "access_token": jwt("alice", 0, 600), "token_type": "Bearer", "expires_in": 600,
                            "refresh_token": "canary-refresh", "id_token": "canary-id" });
        self.server.will_answer(200, &token);
    }

    async fn until(&self, state: LoginState) -> LoginStatus {
        let mut status = self.login.status.clone();
        let reached = status.wait_for(|status| status.state == state);
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("{state:?} did not come: {:?}", self.login.status()),
        }
    }

    async fn until_event(&self, kind: &str) -> tunnel_api::Event {
        eventually(kind, async || {
            self.store.events(None, 9).await.unwrap().iter().any(|event| event.kind == kind)
        })
        .await;
        self.store.events(None, 9).await.unwrap().pop().unwrap()
    }

    fn form(&self, path: &str) -> Form {
        let forms = self.server.forms();
        forms
            .into_iter()
            .rev()
            .find(|form| form["path"] == path)
            .unwrap_or_else(|| panic!("no form to {path}"))
    }

    async fn begin_browser(&self) -> Url {
        self.will_introduce();
        let begun = self.login.begin(Flow::Browser).await.unwrap();
        Url::parse(&begun.authorization_url.unwrap()).unwrap()
    }
}

fn parameter(url: &Url, name: &str) -> String {
    url.query_pairs().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name}")).1.into_owned()
}

/// Comes back from the provider as a browser does; returns the whole answer.
async fn come_back(url: &Url, method: &str, pairs: &[(&str, &str)]) -> String {
    let redirect = Url::parse_with_params(&parameter(url, "redirect_uri"), pairs).unwrap();
    let address = format!("127.0.0.1:{}", redirect.port().unwrap());
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let target = format!("{}?{}", redirect.path(), redirect.query().unwrap_or_default());
    stream
        .write_all(format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn token_of_a_code_that_was_typed_is_stored_with_what_renews_and_revokes_it() {
    let bench = Bench::start().await;
    bench.will_introduce();
    bench.will_grant();
    let begun = bench.login.begin(Flow::DeviceCode).await.unwrap();
    assert_eq!((begun.user_code.as_deref(), begun.interval_s), (Some("ABCD-EFGH"), Some(1)));
    assert_eq!(begun.verification_uri_complete, None, "a page that is not encrypted is not shown");
    assert!(!format!("{begun:?}").contains("ABCD"), "{begun:?}");
    assert_eq!(bench.login.status().expires_at, Some(begun.expires_at));
    bench.server.will_answer(400, &json!({ "error": "authorization_pending" }));
    // Trouble that passes ends nothing.
    bench.server.will_say("HTTP/1.1 502 Bad Gateway\r\n", "<html>");
    bench.will_issue();
    assert_eq!(bench.until(LoginState::Done).await.flow, Some(LoginFlow::DeviceCode));

    let asked = bench.form("/device/auth");
    assert_eq!(
        (asked["client_id"].as_str(), asked["scope"].as_str()),
        ("desk & co", "openid offline_access")
    );
    assert_eq!(asked["resource"], "https://relay.test");
    let polled = bench.form("/token");
    assert_eq!(
        (polled["device_code"].as_str(), polled["resource"].as_str()),
        ("canary-device", "https://relay.test")
    );
    let status = bench.token.status(Timestamp::now());
    assert_eq!((status.subject.as_deref(), status.refreshable), (Some("alice"), true));
    let event = bench.until_event("login_done").await;
    assert!(!format!("{event:?}").contains("canary") && event.data["flow"] == "device_code", "{event:?}");

    bench.server.will_answer(200, &json!({}));
    assert!(bench.token.logout().await.unwrap().unwrap(), "it is known where to revoke it");
    let revoked = bench.form("/revoke");
    assert_eq!((revoked["token"].as_str(), revoked["client_id"].as_str()), ("canary-refresh", "desk & co"));
}

#[tokio::test]
async fn login_that_is_denied_or_expires_says_so() {
    for (error, code) in [("access_denied", "access_denied"), ("expired_token", "login_timeout")] {
        let bench = Bench::start().await;
        bench.will_introduce();
        bench.will_grant();
        bench.login.begin(Flow::DeviceCode).await.unwrap();
        bench.server.will_answer(400, &json!({ "error": error, "error_description": "canary" }));
        let failed = bench.until(LoginState::Failed).await;
        assert_eq!(failed.code.as_deref(), Some(code));
        let sentence = failed.error.unwrap();
        assert!(sentence.contains("tunnelctl login") && !sentence.contains("canary"), "{sentence}");
        assert_eq!(bench.until_event("login_failed").await.data["code"], code);
    }
}

#[tokio::test]
async fn browser_brings_a_code_that_is_redeemed_with_its_proof() {
    let bench = Bench::start().await;
    let url = bench.begin_browser().await;
    assert_eq!((parameter(&url, "tenant"), parameter(&url, "response_type")), ("a".into(), "code".into()));
    assert_eq!(
        (parameter(&url, "code_challenge_method"), parameter(&url, "prompt")),
        ("S256".into(), "consent".into())
    );
    let (state, issuer) = (parameter(&url, "state"), bench.server.url(""));

    // Nothing that is not the answer to this login ends it.
    let strangers: [&[(&str, &str)]; 6] = [
        &[],
        &[("code", "x"), ("iss", &issuer)],
        &[("state", "other"), ("code", "x"), ("iss", &issuer)],
        &[("state", &state), ("code", "x"), ("iss", "https://evil.example")],
        &[("state", &state), ("code", "x")],
        &[("state", &state), ("state", "other"), ("code", "x"), ("iss", &issuer)],
    ];
    for pairs in strangers {
        let answer = come_back(&url, "GET", pairs).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{pairs:?}: {answer}");
    }
    assert!(come_back(&url, "POST", &[]).await.starts_with("HTTP/1.1 405"));
    assert_eq!(bench.login.status().state, LoginState::Pending);

    bench.will_issue();
    let answer =
        come_back(&url, "GET", &[("state", &state), ("code", "canary-code"), ("iss", &issuer)]).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("You are logged in"), "{answer}");
    assert!(answer.contains("default-src 'none'") && !answer.contains("canary"), "{answer}");
    bench.until(LoginState::Done).await;
    let form = bench.form("/token");
    assert_eq!((form["code"].as_str(), form["grant_type"].as_str()), ("canary-code", "authorization_code"));
    assert_eq!(form["redirect_uri"], parameter(&url, "redirect_uri"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(digest), parameter(&url, "code_challenge"));
    let token = bench.token.current(&bench.relay).unwrap();
    assert!(token.secret.expose_secret().starts_with("e30."));
    let gone =
        TcpStream::connect(("127.0.0.1", Url::parse(&form["redirect_uri"]).unwrap().port().unwrap())).await;
    assert!(gone.is_err(), "the port is closed");
}

#[tokio::test]
async fn browser_that_was_denied_or_whose_code_is_void_ends_the_login() {
    let bench = Bench::start().await;
    let url = bench.begin_browser().await;
    let (state, issuer) = (parameter(&url, "state"), bench.server.url(""));
    let pairs = [("state", state.as_str()), ("error", "access_denied"), ("iss", &issuer)];
    assert!(come_back(&url, "GET", &pairs).await.contains("denied"));
    assert_eq!(bench.until(LoginState::Failed).await.code.as_deref(), Some("access_denied"));

    let url = bench.begin_browser().await;
    let state = parameter(&url, "state");
    bench.server.will_answer(400, &json!({ "error": "invalid_grant" }));
    let pairs = [("state", state.as_str()), ("code", "used"), ("iss", &issuer)];
    assert!(come_back(&url, "GET", &pairs).await.contains("The login failed"));
    assert_eq!(bench.until(LoginState::Failed).await.code.as_deref(), Some("login_refused"));
}

#[tokio::test]
async fn second_login_replaces_the_first_and_cancelling_leaves_none() {
    let bench = Bench::start().await;
    let first = bench.begin_browser().await;
    let second = bench.begin_browser().await;
    let port = |url: &Url| Url::parse(&parameter(url, "redirect_uri")).unwrap().port().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port(&first))).await.is_err(), "the first one's port is closed");
    assert_eq!(bench.login.status().state, LoginState::Pending);
    bench.login.cancel().await.unwrap();
    assert_eq!(bench.login.status(), none());
    assert!(TcpStream::connect(("127.0.0.1", port(&second))).await.is_err());
    // One that has not begun yet: the relay keeps it waiting.
    let (begun, ()) = tokio::join!(bench.login.begin(Flow::Browser), async {
        eventually("the question", async || bench.server.forms().len() == 5).await;
        bench.login.cancel().await.unwrap();
    });
    assert!(matches!(begun, Err(LoginError::Superseded)), "{begun:?}");
}

#[tokio::test]
async fn what_offers_no_login_says_what_to_do_instead() {
    let bench = Bench::start().await;
    let begin = async |flow| bench.login.begin(flow).await.unwrap_err();
    bench.server.will_answer(404, &json!({ "code": "login_unavailable" }));
    let error = begin(Flow::Browser).await;
    assert_eq!((error.code(), bench.login.status()), ("login_unavailable", none()));
    assert!(error.to_string().contains("tunnelctl login --token-stdin"), "{error}");

    for (taken_away, flow) in
        [("device_authorization_endpoint", Flow::DeviceCode), ("authorization_endpoint", Flow::Browser)]
    {
        let mut metadata = bench.metadata();
        metadata.as_object_mut().unwrap().remove(taken_away);
        bench.server.will_answer(200, &bench.offer());
        bench.server.will_answer(200, &metadata);
        assert_eq!(begin(flow).await.code(), "login_unavailable", "{taken_away}");
    }
    let mut other = bench.metadata();
    other["issuer"] = "https://evil.example".into();
    bench.server.will_answer(200, &bench.offer());
    bench.server.will_answer(200, &other);
    assert_eq!(begin(Flow::DeviceCode).await.code(), "login_refused");
    bench.server.will_answer(503, &json!({}));
    assert_eq!(begin(Flow::DeviceCode).await.code(), "provider_unavailable");
}

#[tokio::test]
async fn nobody_is_sent_to_a_login_whose_token_could_not_be_used() {
    let file = Bench::start_with(|places| places.token_file = Some("/nowhere/token".into()), |_| {}).await;
    assert_eq!(file.login.begin(Flow::Browser).await.unwrap_err().code(), "token_file_in_use");
    let off = Bench::start_with(|_| {}, |settings| settings.enabled = false).await;
    assert_eq!(off.login.begin(Flow::DeviceCode).await.unwrap_err().code(), "cloud_proxy_disabled");
    assert!(file.server.forms().is_empty() && off.server.forms().is_empty());
}
