//! Keys for apps: made, bound, revoked while they are in use.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tunnel_relay::auth::Scopes;
use tunnel_relay::{IssuerSettings, KeySource, Settings};
use tunnel_transport::CloseCode;

use crate::harness::{Desk, TestRelay, eventually, json_of, now, read, read_and};

const TOKENS: &str = "/_tunnel/v1/tokens";

async fn make(relay: &TestRelay, maker: &str, wanted: &Value) -> (u16, Value) {
    let request = Request::post(TOKENS)
        .header("authorization", format!("Bearer {maker}"))
        .header("content-type", "application/json");
    let response = relay.send(request, Bytes::from(wanted.to_string())).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    (response.status().as_u16(), json_of(response).await)
}

async fn revoke(relay: &TestRelay, owner: &str, id: &str) -> u16 {
    let request =
        Request::delete(format!("{TOKENS}/{id}")).header("authorization", format!("Bearer {owner}"));
    relay.send(request, Bytes::new()).await.status().as_u16()
}

async fn ask(relay: &TestRelay, token: &str, path: &str) -> http::Response<hyper::body::Incoming> {
    relay.send(Request::get(path).header("authorization", format!("Bearer {token}")), Bytes::new()).await
}

#[tokio::test]
async fn a_key_is_no_more_than_its_maker_and_works() {
    let settings = Settings { max_key_ttl: Duration::from_secs(1_000), ..Settings::default() };
    let relay = TestRelay::with(settings, Duration::from_secs(20)).await;
    let _desk = relay.desk("alice", "desk").await;
    let maker = relay.token("alice", "tunnel inference account");
    let (status, key) =
        make(&relay, &maker, &json!({"name": "notes", "device": "desk", "models": ["a*"]})).await;
    assert_eq!(status, 201, "{key}");
    assert_eq!((&key["subject"], &key["scopes"]), (&json!("alice"), &json!(["inference"])));
    assert_eq!((&key["device"], &key["models"]), (&json!("desk"), &json!(["a*"])));
    assert!(key["expires_at"].as_str().unwrap().ends_with('Z'), "{key}");
    let (status, plain) = make(&relay, &maker, &json!({})).await;
    assert_eq!((status, &plain["device"]), (201, &Value::Null));
    assert_eq!(ask(&relay, plain["token"].as_str().unwrap(), "/v1/models").await.status(), 200);

    // A key cannot make keys, nor can a token without the scope.
    let key = plain["token"].as_str().unwrap();
    assert_eq!(make(&relay, key, &json!({})).await.0, 403);
    assert_eq!(make(&relay, "garbage", &json!({})).await.0, 401);

    let bound = relay.token_for("alice", "inference account", Some("desk"), now(), 60);
    assert_eq!(make(&relay, &bound, &json!({})).await.1["device"], "desk", "its bounds go along");
    for (maker, wanted, code) in [
        (&bound, json!({"device": "other"}), "not_allowed"),
        (&bound, json!({"scopes": ["tunnel"]}), "not_allowed"),
        (&maker, json!({"scopes": ["account"]}), "bad_request"),
        (&maker, json!({"scopes": ["admin"]}), "bad_request"),
        (&maker, json!({"scopes": []}), "bad_request"),
        (&maker, json!({"expires_in": 1_001}), "bad_request"),
        (&maker, json!({"expires_in": 0}), "bad_request"),
        (&maker, json!({"expires_at": 5}), "bad_request"),
        (&maker, json!({"models": []}), "bad_request"),
        (&maker, json!({"device": "no good"}), "bad_request"),
        (&maker, json!({"name": "n".repeat(65)}), "bad_request"),
        (&maker, json!({"name": "n".repeat(17_000)}), "body_too_large"),
        (&maker, json!([1]), "bad_request"),
    ] {
        let (status, refusal) = make(&relay, maker, &wanted).await;
        assert!((400..500).contains(&status), "{wanted} {status}");
        assert_eq!(refusal["code"], code, "{wanted}");
    }
    let wrong_method = ask(&relay, &maker, TOKENS).await;
    assert_eq!(
        (wrong_method.status().as_u16(), &wrong_method.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_its_stream_breaks_off() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let owner = relay.token("alice", "account");
    let key = make(&relay, &relay.token("alice", "account inference"), &json!({})).await.1;
    let (token, id) = (key["token"].as_str().unwrap(), key["id"].as_str().unwrap());

    // Somebody else's word is worth nothing.
    assert_eq!(revoke(&relay, &relay.token("mallory", "account"), id).await, 400);
    assert_eq!(revoke(&relay, &relay.token("alice", "inference"), id).await, 403);
    let stream = ask(&relay, token, "/sse/hang").await;
    assert_eq!(stream.status(), 200);

    let mut revoked_at = None;
    let (told, ended) = tokio::join!(
        async {
            let status = revoke(&relay, &owner, id).await;
            revoked_at = Some(Instant::now());
            status
        },
        read_and(stream, || {}),
    );
    assert_eq!(told, 204);
    let cut = ended.unwrap_err();
    assert!(cut.contains("data: one") && cut.contains("token_invalid"), "{cut}");
    println!("measured: stream of a revoked key ended after {:?}", revoked_at.map(|at| at.elapsed()));
    let refused = ask(&relay, token, "/v1/models").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["tunnel-error"], "token_invalid");
    // One that waits for its response ends, too.
    let key = make(&relay, &relay.token("alice", "account inference"), &json!({})).await.1;
    let (token, id) = (key["token"].as_str().unwrap(), key["id"].as_str().unwrap());
    let (told, refused) = tokio::join!(revoke(&relay, &owner, id), ask(&relay, token, "/never"));
    assert_eq!((told, refused.status().as_u16()), (204, 401));
    assert_eq!(relay.metric("tunnel_relay_requests_total{outcome=\"revoked\"}").await, 1);
    assert!(read(ask(&relay, &relay.token("alice", "inference"), "/v1/models").await).await.is_ok());
}

#[tokio::test]
async fn the_list_of_what_is_revoked_takes_only_ids_of_ones_own_tokens() {
    let relay = TestRelay::start().await;
    let owner = relay.token("alice", "account inference");
    for made_up in
        ["made-up", "0123456789abcdef0123456789abcdef", "taaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    {
        let request =
            Request::delete(format!("{TOKENS}/{made_up}")).header("authorization", format!("Bearer {owner}"));
        let refused = json_of(relay.send(request, Bytes::new()).await).await;
        assert_eq!(refused["code"], "bad_request", "{made_up}");
        assert!(refused["detail"].as_str().unwrap().contains("tunnel-relay admin revoke"), "{refused}");
    }
    let list = relay.data_dir().join("revoked");
    assert!(!list.exists());

    let key = make(&relay, &owner, &json!({"expires_in": 600})).await.1;
    assert_eq!(revoke(&relay, &owner, key["id"].as_str().unwrap()).await, 204);
    let text = std::fs::read_to_string(&list).unwrap();
    let until: u64 = text.lines().last().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((now() + 500..=now() + 600).contains(&until), "as long as the key itself: {text}");

    // The token that asks may be given up, too.
    let principal = relay.issuer.verifier().verify(&owner, now()).unwrap();
    assert_eq!(revoke(&relay, &owner, &principal.token_id).await, 204);
    assert_eq!(revoke(&relay, &owner, &principal.token_id).await, 401);
}

#[tokio::test]
async fn a_session_whose_token_is_revoked_ends() {
    let relay = TestRelay::start().await;
    let owner = relay.token("alice", "account tunnel");
    let wanted = json!({"scopes": ["tunnel"]});
    let first = make(&relay, &owner, &wanted).await.1;
    let token = first["token"].as_str().unwrap();
    let mut desk = Desk::new(&relay, relay.connector(token, "desk").dial().await.unwrap()).await;
    assert_eq!(revoke(&relay, &owner, first["id"].as_str().unwrap()).await, 204);
    let closed = desk.closed().await;
    assert_eq!((closed.code, closed.reason.as_ref()), (CloseCode::Token, "the token was revoked"));
    assert!(relay.connector(token, "desk").dial().await.is_err());
}

#[tokio::test]
async fn a_session_stands_on_the_newest_token_even_where_that_ends_sooner() {
    let relay = TestRelay::start().await;
    let owner = relay.token("alice", "account tunnel");
    let wanted = json!({"scopes": ["tunnel"], "expires_in": 3_600});
    let pasted = make(&relay, &owner, &wanted).await.1;
    let connector = relay.connector(pasted["token"].as_str().unwrap(), "desk");
    let mut desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    let wanted = json!({"scopes": ["tunnel"], "expires_in": 60});
    let login = make(&relay, &owner, &wanted).await.1;
    desk.session.refresh_token(&login["token"].as_str().unwrap().into());
    eventually("the relay has taken it", async || lives_for(&relay).await <= 60).await;
    assert_eq!(revoke(&relay, &owner, pasted["id"].as_str().unwrap()).await, 204);
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);

    // Nor does another that ends later hide that the newest was revoked.
    assert_eq!(revoke(&relay, &owner, login["id"].as_str().unwrap()).await, 204);
    assert_eq!(&*desk.closed().await.reason, "the token was revoked");

    let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
    let mut desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    desk.session.refresh_token(&relay.token_for("alice", "tunnel", None, now(), 6).into());
    assert_eq!(&*desk.closed().await.reason, "the token has expired");
}

#[tokio::test]
async fn a_refreshed_token_that_cannot_be_judged_yet_is_judged_once_it_can() {
    const SECRET: &str = "a secret of the issuer that is long enough to sign";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let issuer = IssuerSettings {
        name: "idp".into(),
        issuer: "https://id.example".into(),
        keys: KeySource::SecretFile(file.clone()),
        algorithms: Vec::new(),
        audiences: vec!["relay".into()],
        tenant_claim: "sub".into(),
        tier_claim: None,
        scope_claim: None,
        scopes: Scopes::parse("tunnel"),
        leeway: Duration::ZERO,
    };
    let settings = Settings { issuers: vec![issuer], ..Settings::default() };
    let relay = TestRelay::with(settings, Duration::from_secs(20)).await;
    let connector = relay.connector(&relay.token_for("idp:ann", "tunnel", None, now(), 600), "desk");
    let desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    let claims = json!({"iss": "https://id.example", "sub": "ann", "aud": "relay", "exp": now() + 3_600});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    desk.session.refresh_token(&jsonwebtoken::encode(&header, &claims, &key).unwrap().into());
    // Only to have it tried once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lives_for(&relay).await <= 600);
    std::fs::write(&file, SECRET).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    eventually("it is taken", async || lives_for(&relay).await > 600).await;
}

/// Returns for how long the token of the only session is good, in seconds.
async fn lives_for(relay: &TestRelay) -> i64 {
    let sessions = super::admin::get(relay, "/admin/v1/sessions").await;
    let ends: jiff::Timestamp = sessions["sessions"][0]["expires_at"].as_str().unwrap().parse().unwrap();
    ends.as_second() - i64::try_from(now()).unwrap()
}

#[tokio::test]
async fn a_token_that_health_finds_bad_is_counted_and_noted_like_any_other() {
    let relay = TestRelay::start().await;
    assert_eq!(json_of(ask(&relay, "guessed", "/health").await).await["token"], "invalid");
    assert_eq!(relay.metric("tunnel_relay_refused_tokens_total{code=\"token_invalid\"}").await, 1);
    let log = relay.data_dir().join("audit.jsonl");
    eventually("it is noted", async || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("\"code\":\"token_invalid\""))
    })
    .await;
}

#[tokio::test]
async fn without_a_login_the_relay_says_so() {
    let relay = TestRelay::start().await;
    let response = relay.send(Request::get("/_tunnel/v1/login"), Bytes::new()).await;
    assert_eq!(response.status(), 404);
    assert_eq!(json_of(response).await["code"], "login_unavailable");
}
