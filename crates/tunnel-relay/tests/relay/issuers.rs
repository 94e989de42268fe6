//! Tokens of other issuers, through the whole relay: dialled with, called with, rotated under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
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

/// Rotates at once, as Keycloak does: the new key signs in the moment in which it is published. Random key ids come all
/// the while, from callers that do not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute; the same in small is in the unit tests"]
async fn keys_rotate_under_load_and_a_flood_of_key_ids() {
    const SECONDS: u64 = 32;
    let keys: Vec<_> = (0..3).map(|n| SigningKey::p256(&format!("k{n}"))).collect();
    let keys: Arc<Vec<_>> = Arc::new(keys);
    let provider = Arc::new(IdentityProvider::start(&[&keys[0]]).await);
    let mut settings = settings(&provider);
    // All of them come from one address, and so many are refused.
    settings.address.max_connections = 100_000;
    settings.address.refused_tokens_per_minute = None;
    let relay = Arc::new(TestRelay::with(settings, Duration::from_secs(20)).await);
    let first = token(&provider, &keys[0], "desk", 600);
    let _desk = Desk::new(&relay, relay.connector(&first, "desk").dial().await.unwrap()).await;

    let (n_random, n_let_in) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut flood = JoinSet::new();
    for _ in 0..16 {
        let (relay, provider, keys) = (Arc::clone(&relay), Arc::clone(&provider), Arc::clone(&keys));
        let (n_random, n_let_in) = (Arc::clone(&n_random), Arc::clone(&n_let_in));
        flood.spawn(async move {
            let mut calls = JoinSet::new();
            let mut ticks = interval(Duration::from_millis(45));
            while n_random.fetch_add(1, Ordering::Relaxed) < 10_000 {
                ticks.tick().await;
                let kid = format!("{:032x}", rand::random::<u128>());
                let claims =
                    json!({"iss": provider.issuer(), "sub": "ann", "aud": AUDIENCE, "exp": now() + 600});
                let token = keys[0].token_with(&json!({"alg": "ES256", "kid": kid}), &claims);
                let (relay, n_let_in) = (Arc::clone(&relay), Arc::clone(&n_let_in));
                calls.spawn(async move {
                    if let Ok(status) = timeout(Duration::from_millis(500), status(&relay, &token)).await
                        && !matches!(status, 401 | 503)
                    {
                        n_let_in.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while calls.try_join_next().is_some() {}
            }
            while calls.join_next().await.is_some() {}
        });
    }

    let started = Instant::now();
    let mut calls = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut published = 1;
    for n in 0..SECONDS * 200 {
        ticks.tick().await;
        let current = usize::try_from(n / 200 / 11).unwrap().min(2);
        if current >= published {
            provider.publish(&[&keys[current - 1], &keys[current]]);
            published = current + 1;
        }
        let token = token(&provider, &keys[current], &format!("t{n}"), 600);
        let relay = Arc::clone(&relay);
        calls.spawn(async move {
            let asked = Instant::now();
            (status(&relay, &token).await, asked, Instant::now())
        });
    }
    let took = started.elapsed();
    let mut failed = Vec::new();
    let mut n_calls = 0;
    let mut waits = Vec::new();
    while let Some(called) = calls.join_next().await {
        let (status, asked, answered) = called.unwrap();
        n_calls += 1;
        failed.extend(Some(status).filter(|status| *status != 200));
        waits.push((asked, answered));
    }
    while flood.join_next().await.is_some() {}
    let fetches = provider.fetches();
    let longest = waits.iter().map(|(asked, answered)| *answered - *asked).max().unwrap_or_default();
    // What a call may wait for is a fetch that began after it came. From there on it is only work.
    let after_fetch = waits.iter().filter_map(|(asked, answered)| {
        let began = fetches.iter().find(|fetch| *fetch > asked)?;
        answered.checked_duration_since(*began)
    });
    let after_fetch = after_fetch.max().unwrap_or_default();
    let least = fetches.windows(2).map(|pair| pair[1] - pair[0]).min();
    println!(
        "measured: {n_calls} calls in {took:?}, {} failed, {} random key ids, {} let in, {} fetches, least time \
         between two {least:?}, longest wait for a key that was published between two {longest:?}, from the fetch on {after_fetch:?}",
        failed.len(),
        n_random.load(Ordering::Relaxed).min(10_000),
        n_let_in.load(Ordering::Relaxed),
        fetches.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(n_let_in.load(Ordering::Relaxed), 0);
    assert!(least.is_none_or(|least| least >= Duration::from_millis(9_900)), "{least:?}");
    assert!(after_fetch < Duration::from_secs(8), "{after_fetch:?} after the fetch that brought the key");
}
