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
        self.authority.verify_at(token, NOW).await
    }

    fn local_token(&self, subject: &str) -> String {
        let grant = Grant {
            subject: subject.into(),
            scopes: Scopes::parse("inference"),
            device: None,
            models: None,
            tier: None,
            ttl: Duration::from_secs(60),
        };
        self.local.issue(&grant, NOW).unwrap()
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
    let late = bench.authority.verify_at(&token, NOW + 60).await;
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
