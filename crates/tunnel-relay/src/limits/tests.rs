use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::auth::Scopes;
use crate::config::Tier;

fn principal(subject: &str, tier: Option<&str>) -> Principal {
    Principal {
        subject: subject.into(),
        scopes: Scopes::parse("inference"),
        device: None,
        models: None,
        tier: tier.map(str::to_owned),
        token_id: "t".into(),
        issued_at: 0,
        expires_at: u64::MAX,
        issuer: None,
        caller: HeaderValue::from_static("c"),
        origin: Arc::default(),
        checked: AtomicU64::new(0),
    }
}

fn client(address: &str) -> Client {
    Client { address: address.parse().unwrap(), forwarded: HeaderValue::from_static("f") }
}

fn limited(requests: u32) -> Settings {
    let tier = Tier { requests_per_minute: NonZeroU32::new(requests), ..Tier::default() };
    Settings { tiers: [("free".to_owned(), tier)].into(), ..Settings::default() }
}

fn refused(result: Result<Allowed, Refusal>) -> Box<HeaderMap> {
    match result {
        Err(Refusal::RateLimited { headers, retry_after, .. }) => {
            assert!(!retry_after.is_zero());
            headers
        }
        other => panic!("{other:?}"),
    }
}

fn with_token() -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer x"))])
}

#[test]
fn a_tier_counts_each_tenant_and_other_tiers_are_free() {
    let settings = limited(2);
    let limits = Limits::new(&settings);
    let allow = |subject, tier| limits.allow(&settings, &principal(subject, tier), &client("192.0.2.1"));
    assert_eq!(allow("alice", Some("free")).unwrap().headers["ratelimit"], "\"tenant\";r=1;t=30");
    assert!(allow("alice", Some("free")).is_ok());
    let headers = refused(allow("alice", Some("free")));
    assert_eq!(headers["ratelimit-policy"], "\"tenant\";q=2;w=60");
    assert!(allow("bob", Some("free")).is_ok());
    for _ in 0..10 {
        assert!(allow("alice", None).unwrap().headers.is_empty());
        assert!(allow("alice", Some("a tier that is not there")).unwrap().headers.is_empty());
    }
}

#[test]
fn a_reload_goes_on_counting_what_has_not_changed_and_holds_at_once_for_the_rest() {
    let mut settings = limited(2);
    let limits = Limits::new(&settings);
    let alice = principal("alice", Some("free"));
    let allow = |settings: &Settings| limits.allow(settings, &alice, &client("192.0.2.1"));
    while allow(&settings).is_ok() {}
    settings.idle_timeout = Duration::from_secs(7);
    limits.reload(&settings);
    refused(allow(&settings));
    settings.tiers = limited(3).tiers;
    limits.reload(&settings);
    assert!(allow(&settings).is_ok());
    settings.tiers.clear();
    limits.reload(&settings);
    for _ in 0..10 {
        assert!(allow(&settings).unwrap().headers.is_empty());
    }
}

#[test]
fn an_address_is_counted_whoever_calls_from_it() {
    let mut settings = Settings::default();
    settings.address.requests_per_minute = NonZeroU32::new(60);
    settings.address.burst = NonZeroU32::new(3);
    let limits = Limits::new(&settings);
    let arrive = |address| limits.arrive(&settings, &client(address), &HeaderMap::new(), |_| false);
    for host in ["2001:db8::1", "2001:db8::2", "2001:db8::3"] {
        assert!(arrive(host).is_ok());
    }
    assert_eq!(refused(arrive("2001:db8::4"))["ratelimit"], "\"address\";r=0;t=1");
    assert!(arrive("2001:db8:1::1").is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_too_many_refused_tokens_no_new_token_of_the_address_is_looked_at() {
    let mut settings = Settings::default();
    settings.address.refused_tokens_per_minute = NonZeroU32::new(3);
    let limits = Limits::new(&settings);
    let (bad, good) = (client("192.0.2.1"), client("192.0.2.2"));
    let arrive = |settings: &Settings, client: &Client, headers: &HeaderMap| {
        limits.arrive(settings, client, headers, |_| false)
    };
    for _ in 0..3 {
        assert!(arrive(&settings, &bad, &with_token()).is_ok());
        limits.token_refused(bad.address);
    }
    assert!(arrive(&settings, &bad, &with_token()).is_ok());
    limits.token_refused(bad.address);
    refused(arrive(&settings, &bad, &with_token()));
    assert!(arrive(&settings, &bad, &HeaderMap::new()).is_ok(), "there is no token to look at");
    assert!(arrive(&settings, &good, &with_token()).is_ok());
    let known = limits.arrive(&settings, &bad, &with_token(), |token| token == "x");
    assert!(known.is_ok(), "others may share the address");
    tokio::time::advance(Duration::from_secs(21)).await;
    assert!(arrive(&settings, &bad, &with_token()).is_ok());

    limits.token_refused(bad.address);
    settings.address.refused_tokens_per_minute = None;
    limits.reload(&settings);
    for _ in 0..10 {
        limits.token_refused(bad.address);
        assert!(arrive(&settings, &bad, &with_token()).is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_tenant_share_a_bucket_that_is_forgotten_when_it_is_full() {
    let rate = NonZeroU32::new(10_000);
    let mut settings = limited(1);
    settings.default_tier.bytes_per_second = rate;
    let limits = Limits::new(&settings);
    let (alice, bob) = (principal("alice", None), principal("bob", None));
    assert!(limits.throttles(&settings, &principal("alice", Some("free"))).is_none());
    let first = limits.throttles(&settings, &alice).unwrap();
    let second = limits.throttles(&settings, &alice).unwrap();
    assert!(first.down.try_take(50_000) && !second.down.try_take(1), "shared");
    assert!(second.up.try_take(1), "each direction by itself");
    assert!(limits.throttles(&settings, &bob).unwrap().down.try_take(1), "each tenant by itself");
    drop((first, second));
    limits.sweep(Instant::now());
    assert!(!limits.throttles(&settings, &alice).unwrap().down.try_take(1), "what is owed is not forgotten");
    tokio::time::advance(Duration::from_secs(6)).await;
    limits.sweep(Instant::now());
    assert_eq!(limits.in_force.load().tiers.get(None).n_throttled(), 0);

    let held = limits.throttles(&settings, &alice).unwrap();
    assert!(held.down.try_take(50_000) && !held.down.try_take(1));
    settings.default_tier.bytes_per_second = None;
    limits.reload(&settings);
    assert!(held.down.try_take(1), "what is under way is let go, too");
}
