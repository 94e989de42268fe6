//! Issuers that publish their keys: asked seldom, missed by nobody.

use futures_util::future::join_all;
use tunnel_runtime::metrics::Exposition;

use super::super::super::remote_keys::{Place, RemoteKeys, may_name};
use super::*;
use crate::registry::Counts;
use crate::tls::TlsStatus;

fn one(provider: &IdentityProvider) -> Vec<IssuerSettings> {
    vec![issuer("idp", &provider.issuer(), KeySource::Discovery)]
}

#[tokio::test]
async fn a_crowd_at_the_start_causes_one_fetch() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    provider.change(|behaviour| behaviour.delay = Duration::from_millis(200));
    let bench = Bench::new(one(&provider));
    let tokens: Vec<_> = (0..100)
        .map(|n| key.token(&with(&claims(&provider.issuer()), "jti", json!(format!("t{n}")))))
        .collect();
    let judged = join_all(tokens.iter().map(|token| bench.verify(token))).await;
    assert!(judged.iter().all(Result::is_ok));
    assert_eq!((provider.fetches().len(), provider.n_discoveries()), (1, 1));
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_token_stays_good() {
    let (old, new) = (SigningKey::p256("k1"), SigningKey::rsa("k2"));
    let provider = IdentityProvider::start(&[&old]).await;
    let bench = Bench::new(one(&provider));
    let before = old.token(&claims(&provider.issuer()));
    bench.verify(&before).await.unwrap();
    provider.publish(&[&new]);
    // At once, so that the last fetch is younger than the cool-down.
    bench.verify(&new.token(&claims(&provider.issuer()))).await.unwrap();
    bench.verify(&before).await.unwrap();
    assert_eq!(provider.n_discoveries(), 1, "the address is remembered");
    let forged = old.token(&with(&claims(&provider.issuer()), "sub", json!("eve")));
    assert_eq!(bench.verify(&forged).await.unwrap_err(), TokenError::Invalid, "the old key is gone");
}

#[tokio::test]
async fn unknown_keys_wait_for_one_fetch_together_and_their_crowd_is_bounded() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    let bench = Bench::with_cool_down(one(&provider), Duration::from_millis(500));
    bench.verify(&key.token(&claims(&provider.issuer()))).await.unwrap();
    let random: Vec<_> = (0..6_000)
        .map(|n| {
            key.token_with(&json!({"alg": "ES256", "kid": format!("x{n}")}), &claims(&provider.issuer()))
        })
        .collect();
    // No address asks for more keys than it may.
    let from = |n: usize| IpAddr::from([198, 51, (n / 250) as u8, (n % 250) as u8]);
    let sent = random.iter().enumerate().map(|(n, token)| bench.verify_from(token, from(n / 8)));
    let judged = join_all(sent).await;
    let n_invalid = judged.iter().filter(|judged| matches!(judged, Err(TokenError::Invalid))).count();
    let n_away = judged.iter().filter(|judged| matches!(judged, Err(TokenError::IssuerAway))).count();
    assert_eq!((n_invalid, n_away), (4_096, 6_000 - 4_096), "those that find no room may come again");
    let fetches = provider.fetches();
    assert!(fetches.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(490)), "{fetches:?}");
    assert!(fetches.len() <= 3, "{fetches:?}");
}

#[tokio::test]
async fn one_address_cannot_keep_others_from_waiting() {
    let (key, newer) = (SigningKey::p256("k1"), SigningKey::p256("k2"));
    let provider = IdentityProvider::start(&[&key]).await;
    let bench = Bench::with_cool_down(one(&provider), Duration::from_millis(500));
    bench.verify(&key.token(&claims(&provider.issuer()))).await.unwrap();
    provider.publish(&[&key, &newer]);
    let random: Vec<_> = (0..5_000)
        .map(|n| {
            key.token_with(&json!({"alg": "ES256", "kid": format!("x{n}")}), &claims(&provider.issuer()))
        })
        .collect();
    // Another has many users, all with the new key at once.
    let good: Vec<_> = (0..1_000)
        .map(|n| newer.token(&with(&claims(&provider.issuer()), "jti", json!(format!("t{n}")))))
        .collect();
    let flood = join_all(random.iter().map(|token| bench.verify(token)));
    let users = join_all(good.iter().map(|token| bench.verify_from(token, [198, 51, 100, 1].into())));
    let (judged, users) = tokio::join!(flood, users);
    assert!(users.iter().all(Result::is_ok));
    let n_crowded = judged.iter().filter(|judged| matches!(judged, Err(TokenError::Crowded))).count();
    assert_eq!(n_crowded, 5_000 - 8);
    assert!(!TokenError::Crowded.is_of_the_token(), "nothing is known of a token that was not looked at");
}

#[tokio::test]
async fn what_another_issuer_calls_itself_cannot_write_into_the_log() {
    let provider = IdentityProvider::start(&[&SigningKey::p256("k1")]).await;
    provider.change(|behaviour| behaviour.says_issuer = Some("https://a\nERROR \u{1b}[2J".into()));
    let bench = Bench::new(Vec::new());
    let place = Place::Discovery { issuer: provider.issuer() };
    let keys = RemoteKeys::new("idp", place, &bench.authority.means);
    let error = keys.discover(&provider.issuer()).await.unwrap_err().to_string();
    assert!(error.contains("https://aERROR [2J") && !error.contains(char::is_control), "{error:?}");
}

#[test]
fn keys_on_this_machine_are_named_by_an_issuer_on_this_machine_only() {
    let at = |text: &str| text.parse::<url::Url>().unwrap();
    let told = |by: &str, keys: &str| may_name(&at(by), &at(keys));
    assert!(told("https://id.example/.well-known/openid-configuration", "https://keys.example/jwks"));
    assert!(told("http://127.0.0.1:1/.well-known/openid-configuration", "http://localhost:2/jwks"));
    assert!(!told("https://id.example/.well-known/openid-configuration", "http://localhost:2/jwks"));
}

#[tokio::test]
async fn an_issuer_that_fails_is_served_stale_and_missed_only_where_its_keys_are_not_known() {
    let (key, newer) = (SigningKey::p256("k1"), SigningKey::p256("k2"));
    let provider = IdentityProvider::start(&[&key]).await;
    let bench = Bench::new(one(&provider));
    provider.change(|behaviour| behaviour.status = Some(500));
    let token =
        |key: &SigningKey, jti: &str| key.token(&with(&claims(&provider.issuer()), "jti", json!(jti)));
    assert_eq!(bench.verify(&token(&key, "a")).await.unwrap_err(), TokenError::IssuerAway);
    provider.change(|behaviour| behaviour.status = None);
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.verify(&token(&key, "b")).await.unwrap();

    for broken in [
        Some("{\"keys\":[]}".to_owned()),
        Some("[]".to_owned()),
        Some("not JSON".to_owned()),
        Some(format!("{{\"keys\":[{}]}}", "0,".repeat(1_000_000))),
        None,
    ] {
        let status = broken.is_none().then_some(302);
        provider.change(|behaviour| (behaviour.raw, behaviour.status) = (broken, status));
        assert_eq!(bench.verify(&token(&newer, "c")).await.unwrap_err(), TokenError::IssuerAway);
        bench.verify(&token(&key, "d")).await.unwrap();
    }
    provider.change(|behaviour| (behaviour.raw, behaviour.status) = (None, None));
    provider.publish(&[&key, &newer]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.verify(&token(&newer, "e")).await.unwrap();
    let page = bench.metrics.page(Counts::default(), &TlsStatus::default(), Exposition::Text);
    for line in ["{result=\"ok\"} 2", "{result=\"error\"} 6"] {
        assert!(page.contains(&format!("tunnel_relay_key_fetches_total{line}\n")), "{line}: {page}");
    }
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_not_believed() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    provider.change(|behaviour| behaviour.says_issuer = Some("https://evil.example".into()));
    let bench = Bench::new(one(&provider));
    let token = key.token(&claims(&provider.issuer()));
    assert_eq!(bench.verify(&token).await.unwrap_err(), TokenError::IssuerAway);
    assert!(provider.fetches().is_empty());
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_stop_the_fetch_that_it_caused() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    provider.change(|behaviour| behaviour.delay = Duration::from_millis(100));
    let bench = Bench::with_cool_down(one(&provider), Duration::from_secs(60));
    let token = key.token(&claims(&provider.issuer()));
    tokio::time::timeout(Duration::from_millis(20), bench.verify(&token)).await.unwrap_err();
    bench.verify(&token).await.unwrap();
    assert_eq!(provider.fetches().len(), 1);
}
