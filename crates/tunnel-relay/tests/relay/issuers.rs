//! Tokens of other issuers, through the whole relay: dialled with, called with, rotated under load.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::json;
use tunnel_relay::auth::Scopes;
use tunnel_relay::{IssuerSettings, KeySource, LoginSettings, Settings};
use tunnel_transport::CloseCode;

use crate::harness::{Desk, TestRelay, eventually, json_of, now};
use crate::identity::{IdentityProvider, SigningKey};

const AUDIENCE: &str = "https://relay.example";

fn settings(provider: &IdentityProvider) -> Settings {
    let issuer = IssuerSettings {
        name: "idp".into(),
        issuer: provider.issuer(),
        keys: KeySource::Discovery,
        algorithms: Vec::new(),
        audiences: vec![AUDIENCE.into()],
        tenant_claim: "sub".into(),
        tier_claim: None,
        scope_claim: None,
        scopes: Scopes::parse("tunnel inference account"),
        leeway: Duration::ZERO,
    };
    let login = LoginSettings {
        issuer: "idp".into(),
        client_id: "tunneld".into(),
        scope: "openid offline_access".into(),
        audience: Some(AUDIENCE.into()),
        resource: None,
    };
    Settings { issuers: vec![issuer], login: Some(login), ..Settings::default() }
}

fn token(provider: &IdentityProvider, key: &SigningKey, jti: &str, ttl: u64) -> String {
    let now = now();
    key.token(&json!({
        "iss": provider.issuer(), "sub": "ann", "aud": AUDIENCE, "iat": now, "exp": now + ttl, "jti": jti,
    }))
}

async fn status(relay: &TestRelay, token: &str) -> u16 {
    let request = Request::get("/v1/models").header("authorization", format!("Bearer {token}"));
    relay.send(request, Bytes::new()).await.status().as_u16()
}

#[tokio::test]
async fn a_login_token_dials_calls_and_makes_keys_of_its_own_tenant() {
    let key = SigningKey::rsa("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    let relay = TestRelay::with(settings(&provider), Duration::from_secs(20)).await;
    let login = json_of(relay.send(Request::get("/_tunnel/v1/login"), Bytes::new()).await).await;
    assert_eq!(
        login,
        json!({"issuer": provider.issuer(), "client_id": "tunneld", "scope": "openid offline_access", "audience": AUDIENCE})
    );

    let token = token(&provider, &key, "login", 600);
    let _desk = Desk::new(&relay, relay.connector(&token, "desk").dial().await.unwrap()).await;
    assert_eq!(status(&relay, &token).await, 200);
    let request = Request::post("/_tunnel/v1/tokens").header("authorization", format!("Bearer {token}"));
    let app = json_of(relay.send(request, Bytes::from_static(b"{}")).await).await;
    assert_eq!(app["subject"], "idp:ann");
    assert_eq!(status(&relay, app["token"].as_str().unwrap()).await, 200);
    // The same name at another issuer is another tenant.
    assert_eq!(status(&relay, &relay.token("ann", "inference")).await, 404);
}

#[tokio::test]
async fn a_key_whose_tier_an_issuer_names_lasts_no_longer_than_such_keys_may() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    let mut settings = settings(&provider);
    settings.max_tiered_key_ttl = Duration::from_secs(1_000);
    let login = token(&provider, &key, "login", 600);
    for (tier_claim, expires_in, status) in [
        (None, Some(1_001), 201),
        (Some("tier"), Some(1_001), 400),
        (Some("tier"), Some(1_000), 201),
        (Some("tier"), None, 201),
    ] {
        settings.issuers[0].tier_claim = tier_claim.map(str::to_owned);
        let relay = TestRelay::with(settings.clone(), Duration::from_secs(20)).await;
        let request = Request::post("/_tunnel/v1/tokens").header("authorization", format!("Bearer {login}"));
        let response = relay.send(request, Bytes::from(json!({"expires_in": expires_in}).to_string())).await;
        assert_eq!(response.status(), status, "{tier_claim:?} {expires_in:?}");
        // What the operator hands out has the tier that the operator says.
        let own = relay.token("ann", "account inference");
        let request = Request::post("/_tunnel/v1/tokens").header("authorization", format!("Bearer {own}"));
        assert_eq!(relay.send(request, Bytes::from_static(b"{\"expires_in\":1001}")).await.status(), 201);
    }
}

#[tokio::test]
async fn an_open_session_ends_with_its_token_or_lives_on_with_a_refreshed_one() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    let relay = TestRelay::with(settings(&provider), Duration::from_secs(20)).await;
    let mut short = {
        let token = token(&provider, &key, "short", 2);
        Desk::new(&relay, relay.connector(&token, "short").dial().await.unwrap()).await
    };
    let refreshed = {
        let token = token(&provider, &key, "first", 2);
        Desk::new(&relay, relay.connector(&token, "long").dial().await.unwrap()).await
    };
    refreshed.session.refresh_token(&token(&provider, &key, "second", 600).into());
    let closed = short.closed().await;
    assert_eq!((closed.code, closed.reason.as_ref()), (CloseCode::Token, "the token has expired"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    eventually("one session is left", async || relay.relay().sessions() == 1).await;
}

#[tokio::test]
async fn an_issuer_that_is_away_is_told_apart_from_a_bad_token() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    provider.change(|behaviour| behaviour.status = Some(503));
    let relay = TestRelay::with(settings(&provider), Duration::from_secs(20)).await;
    let token = token(&provider, &key, "t", 600);
    let request = Request::get("/v1/models").header("authorization", format!("Bearer {token}"));
    let response = relay.send(request, Bytes::new()).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["tunnel-error"], "issuer_unavailable");
    assert!(response.headers().contains_key("retry-after"));
}
