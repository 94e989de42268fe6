//! Whole tokens against the whole authority, with real keys and a provider that is really asked.

#[path = "../../../tests/support/identity.rs"]
mod identity;

mod mutations;
mod remote;
mod secrets;
mod vectors;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{Grant, LocalIssuer, Scopes};
use super::*;
use crate::config::{IssuerSettings, KeySource};
use identity::{IdentityProvider, SigningKey};

const NOW: u64 = 1_800_000_000;
const AUDIENCE: &str = "https://relay.example";
const SOMEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// An authority with a data directory of its own.
struct Bench {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    local: LocalIssuer,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Asks issuers as often as tokens want: what waits for an unknown key does not wait long.
    fn new(issuers: Vec<IssuerSettings>) -> Self {
        Self::with_cool_down(issuers, Duration::from_millis(10))
    }

    fn with_cool_down(issuers: Vec<IssuerSettings>, cool_down: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let local = LocalIssuer::open(dir.path()).unwrap();
        let revocations = Revocations::open(dir.path()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let authority = Authority::with_cool_down(
            local.verifier(),
            revocations,
            &settings(issuers),
            Arc::clone(&metrics),
            cool_down,
        );
        Self { authority: Arc::new(authority), metrics, local, _dir: dir }
    }

    async fn verify(&self, token: &str) -> Result<Arc<Principal>, TokenError> {
        self.verify_from(token, SOMEWHERE).await
    }

    async fn verify_from(&self, token: &str, from: IpAddr) -> Result<Arc<Principal>, TokenError> {
        self.authority.verify_at(token, from, NOW).await
    }

    fn local_token(&self, subject: &str) -> String {
        self.local.issue(&Self::grant(subject), NOW).unwrap()
    }

    fn grant(subject: &str) -> Grant {
        Grant {
            subject: subject.into(),
            scopes: Scopes::parse("inference"),
            device: None,
            models: None,
            tier: None,
            ttl: Duration::from_secs(60),
        }
    }
}

fn settings(issuers: Vec<IssuerSettings>) -> Settings {
    Settings { issuers, ..Settings::default() }
}

fn issuer(name: &str, iss: &str, keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        name: name.into(),
        issuer: iss.into(),
        keys,
        algorithms: Vec::new(),
        audiences: vec![AUDIENCE.into()],
        tenant_claim: "sub".into(),
        tier_claim: None,
        scope_claim: None,
        scopes: Scopes::parse("tunnel inference account"),
        leeway: Duration::from_secs(60),
    }
}

fn claims(iss: &str) -> Value {
    json!({"iss": iss, "sub": "ann", "aud": AUDIENCE, "iat": NOW, "exp": NOW + 600, "jti": "t1"})
}

/// Changes one member; null takes it away.
fn with(base: &Value, name: &str, value: Value) -> Value {
    let mut changed = base.clone();
    let members = changed.as_object_mut().unwrap();
    match value {
        Value::Null => drop(members.remove(name)),
        value => drop(members.insert(name.into(), value)),
    }
    changed
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn the_memory_of_verified_tokens_is_bounded_and_holds_no_token() {
    let bench = Bench::new(Vec::new());
    let token = bench.local_token("alice");
    let first = bench.verify(&token).await.unwrap();
    let again = bench.verify(&token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again), "the second look-up is remembered");
    assert!(!format!("{:?} {first:?}", bench.authority).contains(&token[..20]));

    for n in 0..(VerifiedCache::MAX as u64 * 2) {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        bench.authority.verified.insert(digest, Arc::clone(&first));
    }
    assert!(bench.authority.verified.len() <= VerifiedCache::MAX);
    assert!(bench.verify(&token).await.is_ok(), "a forgotten token is verified again");
    let late = bench.authority.verify_at(&token, SOMEWHERE, NOW + 60).await;
    assert_eq!(late.unwrap_err(), TokenError::Expired, "also one that is remembered");
}

#[tokio::test]
async fn an_issuer_that_leaves_the_settings_takes_its_tokens_along() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    let ours = issuer("idp", &provider.issuer(), KeySource::Discovery);
    let bench = Bench::new(vec![ours.clone()]);
    let token = key.token(&claims(&provider.issuer()));
    let principal = bench.verify(&token).await.unwrap();
    let mut holder = bench.authority.holder(&principal);

    let mut renamed =
        settings(vec![ours.clone(), issuer("other", "https://other.example", KeySource::Discovery)]);
    renamed.max_key_ttl = Duration::from_secs(5);
    bench.authority.reload(&renamed);
    assert!(!holder.is_over(), "settings of others do not matter");
    assert_eq!(provider.fetches().len(), 1, "its keys are kept");

    let waiting = std::future::poll_fn(|cx| holder.poll_over(cx));
    let leaving = async { bench.authority.reload(&settings(Vec::new())) };
    tokio::join!(waiting, leaving);
    assert_eq!(bench.verify(&token).await.unwrap_err(), TokenError::Invalid);

    bench.authority.reload(&settings(vec![IssuerSettings { audiences: vec!["another".into()], ..ours }]));
    assert_eq!(bench.verify(&token).await.unwrap_err(), TokenError::Invalid, "the audience is another");
}

#[tokio::test]
async fn a_key_falls_with_the_issuer_through_which_it_was_made() {
    const ISS: &str = "https://idp.example";
    let idp = issuer("idp", ISS, KeySource::SecretFile("/nonexistent/secret".into()));
    let bench = Bench::new(vec![idp.clone()]);
    let key = |subject: &str| bench.local.sign(&Bench::grant(subject), Some(ISS), NOW).unwrap().token;
    let (ann, odd) = (key("idp:ann"), key("idpann"));
    let principal = bench.verify(&ann).await.unwrap();
    assert_eq!(principal.issuer.as_deref(), Some(ISS));
    assert_eq!(bench.verify(&odd).await.unwrap_err(), TokenError::Invalid, "not one of its tenants");
    let by_operator = bench.local_token("idp:ann");
    let holder = bench.authority.holder(&principal);

    let stricter = IssuerSettings { audiences: vec!["another".into()], ..idp.clone() };
    bench.authority.reload(&settings(vec![stricter]));
    assert!(!holder.is_over() && bench.verify(&ann).await.is_ok(), "it is the same issuer still");

    let other = IssuerSettings { issuer: "https://other.example".into(), ..idp.clone() };
    let renamed = IssuerSettings { name: "idp2".into(), ..idp.clone() };
    for gone in [vec![], vec![other], vec![renamed]] {
        bench.authority.reload(&settings(vec![idp.clone()]));
        let principal = bench.verify(&ann).await.unwrap();
        let mut holder = bench.authority.holder(&principal);
        let waiting = std::future::poll_fn(|cx| holder.poll_over(cx));
        let leaving = async { bench.authority.reload(&settings(gone)) };
        tokio::join!(waiting, leaving);
        assert_eq!(bench.verify(&ann).await.unwrap_err(), TokenError::Invalid);
        bench.verify(&by_operator).await.unwrap();
    }
}

#[tokio::test]
async fn a_fetch_does_not_outlive_the_relay() {
    let key = SigningKey::p256("k1");
    let provider = IdentityProvider::start(&[&key]).await;
    provider.change(|behaviour| behaviour.delay = Duration::from_secs(9));
    let bench = Bench::new(vec![issuer("idp", &provider.issuer(), KeySource::Discovery)]);
    let token = key.token(&claims(&provider.issuer()));
    tokio::time::timeout(Duration::from_millis(50), bench.verify(&token)).await.unwrap_err();
    assert_eq!(bench.authority.means.tasks.len(), 1);
    let over = CancellationToken::new();
    over.cancel();
    let ending = Arc::clone(&bench.authority).run(over);
    tokio::time::timeout(Duration::from_secs(5), ending).await.expect("it does not wait for the issuer");
    assert!(bench.authority.means.tasks.is_empty());
}
