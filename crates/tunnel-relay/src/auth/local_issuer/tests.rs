use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::Scope;
use super::super::jwt::TOKEN_MAX_BYTES;
use super::*;
use crate::private_file::PrivateFileError;

const NOW: u64 = 1_800_000_000;

fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn grant() -> Grant {
    Grant {
        subject: "alice@example.org".into(),
        scopes: Scopes::parse("inference"),
        device: None,
        models: None,
        tier: None,
        ttl: Duration::from_secs(60),
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn good_claims() -> Value {
    json!({"iss": "tunnel-relay", "sub": "alice", "scope": "inference", "jti": "1", "iat": NOW, "exp": NOW + 60})
}

/// Signs whatever is given with the issuer's real key: what an issuer with a fault would make.
fn signed(issuer: &LocalIssuer, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &issuer.signing, Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn own_token_is_accepted_until_its_last_second() {
    let dir = data_dir();
    let issuer = LocalIssuer::open(dir.path()).unwrap();
    let full = Grant {
        scopes: [Scope::Tunnel, Scope::Inference].into_iter().collect(),
        device: Some("desk".parse().unwrap()),
        tier: Some("gold".into()),
        ..grant()
    };
    let token = issuer.issue(&full, NOW).unwrap();
    let verifier = issuer.verifier();
    let principal = verifier.verify(&token, NOW).unwrap();
    assert_eq!(&*principal.subject, "alice@example.org");
    assert!(principal.scopes.has(Scope::Tunnel) && principal.scopes.has(Scope::Inference));
    assert_eq!(principal.device.as_ref().map(DeviceName::as_str), Some("desk"));
    assert_eq!(principal.tier.as_deref(), Some("gold"));
    assert_eq!(principal.expires_at, NOW + 60);
    assert_eq!(
        principal.caller.to_str().unwrap(),
        format!("sub=\"alice@example.org\", token=\"{}\", scope=\"tunnel inference\"", principal.token_id)
    );
    assert!(verifier.verify(&token, NOW + 59).is_ok());
    assert_eq!(verifier.verify(&token, NOW + 60).unwrap_err(), TokenError::Expired);
    // Also when nothing is remembered.
    assert_eq!(issuer.verifier().verify(&token, NOW + 60).unwrap_err(), TokenError::Expired);
}

#[test]
fn forged_and_foreign_tokens_are_refused() {
    let (dir, other_dir) = (data_dir(), data_dir());
    let issuer = LocalIssuer::open(dir.path()).unwrap();
    let other = LocalIssuer::open(other_dir.path()).unwrap();
    let verifier = issuer.verifier();
    let claims = good_claims();
    let eddsa = json!({"alg": "EdDSA", "typ": "JWT"});
    assert!(verifier.verify(&signed(&issuer, &eddsa, &claims), NOW).is_ok(), "the vectors' base is sound");

    let public = issuer.public.clone();
    let hmac = |secret: &[u8], alg: &str, algorithm| {
        let message = format!("{}.{}", part(&json!({"alg": alg, "typ": "JWT"})), part(&claims));
        let key = EncodingKey::from_secret(secret);
        format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap())
    };
    let good = signed(&issuer, &eddsa, &claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let swapped = format!("{}.{}.{signature}", part(&eddsa), part(&json!({"sub": "root"})));
    let with = |key: &str, value: Value| {
        let mut claims = claims.clone();
        claims[key] = value;
        signed(&issuer, &eddsa, &claims)
    };
    let without = |key: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(key);
        signed(&issuer, &eddsa, &claims)
    };
    let vectors = [
        ("alg none", format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims))),
        (
            "alg None with signature",
            format!("{}.{}.{signature}", part(&json!({"alg": "None"})), part(&claims)),
        ),
        ("HS256 with the public key", hmac(&public, "HS256", Algorithm::HS256)),
        ("HS512 with the public key", hmac(&public, "HS512", Algorithm::HS512)),
        ("HS256 with an empty key", hmac(b"", "HS256", Algorithm::HS256)),
        ("says RS256", signed(&issuer, &json!({"alg": "RS256"}), &claims)),
        ("says ES256", signed(&issuer, &json!({"alg": "ES256"}), &claims)),
        ("says eddsa in lower case", signed(&issuer, &json!({"alg": "eddsa"}), &claims)),
        ("no alg", signed(&issuer, &json!({"typ": "JWT"}), &claims)),
        ("another relay's key", other.issue(&grant(), NOW).unwrap()),
        ("another key, this kid", signed(&other, &json!({"alg": "EdDSA", "kid": issuer.key_id}), &claims)),
        ("a path as kid", signed(&issuer, &json!({"alg": "EdDSA", "kid": "../../dev/null"}), &claims)),
        (
            "an unknown critical header",
            signed(&issuer, &json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), &claims),
        ),
        ("a key of its own (jwk)", {
            let jwk = Jwk::from_encoding_key(&other.signing, Algorithm::EdDSA).unwrap();
            signed(&other, &json!({"alg": "EdDSA", "jwk": jwk}), &claims)
        }),
        ("another issuer", with("iss", json!("https://evil.example"))),
        ("no issuer", without("iss")),
        ("no subject", without("sub")),
        ("empty subject", with("sub", json!(""))),
        ("subject with a line break", with("sub", json!("a\r\nx: y"))),
        ("no expiry", without("exp")),
        ("expiry as text", with("exp", json!("never"))),
        ("no scope claim", without("scope")),
        ("not yet valid", with("nbf", json!(NOW + 1))),
        ("a device that is none", with("device", json!("../x"))),
        ("an empty device", with("device", json!(""))),
        ("other claims under a good signature", swapped),
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("four parts", format!("{good}.x")),
        ("a changed signature", format!("{message}.{}", signature.chars().rev().collect::<String>())),
        ("garbage", "garbage".to_owned()),
        ("empty", String::new()),
        ("not base64", "a!.b!.c!".to_owned()),
        ("too long", "a".repeat(TOKEN_MAX_BYTES + 1)),
    ];
    for (what, token) in vectors {
        assert_eq!(verifier.verify(&token, NOW).unwrap_err(), TokenError::Invalid, "{what}");
    }
    let expired = with("exp", json!(NOW));
    assert_eq!(verifier.verify(&expired, NOW).unwrap_err(), TokenError::Expired);
}

#[test]
fn a_token_without_known_scope_allows_nothing() {
    let dir = data_dir();
    let issuer = LocalIssuer::open(dir.path()).unwrap();
    let mut claims = good_claims();
    claims["scope"] = json!("admin");
    let token = signed(&issuer, &json!({"alg": "EdDSA"}), &claims);
    assert_eq!(issuer.verifier().verify(&token, NOW).unwrap().scopes, Scopes::default());
}

#[test]
fn grants_that_make_no_sense_are_refused() {
    let dir = data_dir();
    let issuer = LocalIssuer::open(dir.path()).unwrap();
    let bad_subjects = ["", "  ", "a\nb", "ä", &"x".repeat(SUBJECT_MAX_BYTES + 1)];
    for subject in bad_subjects {
        let grant = Grant { subject: subject.to_owned(), ..grant() };
        assert!(matches!(issuer.issue(&grant, NOW), Err(GrantError::BadSubject)), "{subject:?}");
    }
    let grant_nothing = Grant { scopes: Scopes::default(), ..grant() };
    assert!(matches!(issuer.issue(&grant_nothing, NOW), Err(GrantError::NoScope)));
    let no_time = Grant { ttl: Duration::ZERO, ..grant() };
    assert!(matches!(issuer.issue(&no_time, NOW), Err(GrantError::NoTime)));
}

#[test]
fn the_key_is_made_once_and_private() {
    let dir = data_dir();
    let data = dir.path().join("not/yet/there");
    let tokens: Vec<String> = thread::scope(|scope| {
        let started: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| LocalIssuer::open(&data).unwrap().issue(&grant(), NOW).unwrap()))
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let verifier = LocalIssuer::open(&data).unwrap().verifier();
    for token in &tokens {
        assert!(verifier.verify(token, NOW).is_ok(), "all racers signed with the one key");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&key_file::path(&data)), 0o600);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn a_key_or_directory_that_others_can_read_is_refused_with_the_remedy() {
    let dir = data_dir();
    LocalIssuer::open(dir.path()).unwrap();
    let key = key_file::path(dir.path());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = LocalIssuer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("0640") && error.contains(&format!("chmod 600 {}", key.display())), "{error}");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = LocalIssuer::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("0755") && error.contains(&format!("chmod 700 {}", dir.path().display())),
        "{error}"
    );
}

#[test]
fn a_damaged_key_is_named_and_left_alone() {
    let dir = data_dir();
    let key = key_file::path(dir.path());
    fs::write(&key, "not a key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let error = LocalIssuer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&key.display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(&key).unwrap(), "not a key");
    assert!(matches!(
        LocalIssuer::open(&key).unwrap_err(),
        IssuerError::File(PrivateFileError::WrongKind { expected: "directory", .. })
    ));
}
