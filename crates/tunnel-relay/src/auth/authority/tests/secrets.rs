//! Issuers whose tokens are signed with a shared secret, as older Supabase projects' are.

use super::*;

const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
const NEXT: &str = "another-secret-jwt-token-with-at-least-32-characters-too";

struct Supabase {
    bench: Bench,
    file: std::path::PathBuf,
}

impl Supabase {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let file = dir.join("secret");
        write_secret(&file, &format!("{SECRET}\n"));
        let ours = issuer("supabase", "https://x.supabase.co/auth/v1", KeySource::SecretFile(file.clone()));
        Self { bench: Bench::new(vec![ours]), file }
    }
}

impl Drop for Supabase {
    fn drop(&mut self) {
        fs::remove_dir_all(self.file.parent().unwrap()).unwrap();
    }
}

fn token(secret: &str, jti: &str) -> String {
    let claims = with(&claims("https://x.supabase.co/auth/v1"), "jti", json!(jti));
    SigningKey::secret("", secret.as_bytes()).token_with(&json!({"alg": "HS256", "typ": "JWT"}), &claims)
}

#[tokio::test]
async fn a_shared_secret_is_used_with_hs256_only() {
    let supabase = Supabase::new();
    let principal = supabase.bench.verify(&token(SECRET, "a")).await.unwrap();
    assert_eq!(&*principal.subject, "supabase:ann");
    let claims = claims("https://x.supabase.co/auth/v1");
    let key = SigningKey::secret("", SECRET.as_bytes());
    for (what, token) in [
        ("another secret", token(NEXT, "a")),
        ("the secret with its line break", token(&format!("{SECRET}\n"), "a")),
        ("HS512", key.token_with(&json!({"alg": "HS512"}), &claims)),
        ("says RS256", key.token_with(&json!({"alg": "RS256"}), &claims)),
        ("says none", key.token_with(&json!({"alg": "none"}), &claims)),
        ("an RSA key", SigningKey::rsa("r").token(&claims)),
    ] {
        assert_eq!(supabase.bench.verify(&token).await.unwrap_err(), TokenError::Invalid, "{what}");
    }
}

#[tokio::test]
async fn a_secret_that_changes_ends_what_the_old_one_opened() {
    let supabase = Supabase::new();
    let bench = &supabase.bench;
    let old = bench.verify(&token(SECRET, "a")).await.unwrap();
    let holder = bench.authority.holder(&old);

    fs::write(&supabase.file, "short").unwrap();
    bench.authority.look();
    assert!(
        !holder.is_over() && bench.verify(&token(SECRET, "a")).await.is_ok(),
        "half a file changes nothing"
    );
    fs::write(&supabase.file, NEXT).unwrap();
    fs::set_permissions(&supabase.file, fs::Permissions::from_mode(0o644)).unwrap();
    bench.authority.look();
    assert!(!holder.is_over(), "a file that others can read changes nothing");

    write_secret(&supabase.file, NEXT);
    bench.authority.look();
    assert!(holder.is_over());
    assert_eq!(bench.verify(&token(SECRET, "a")).await.unwrap_err(), TokenError::Invalid);
    bench.verify(&token(NEXT, "a")).await.unwrap();
}

#[tokio::test]
async fn without_its_secret_an_issuer_is_away() {
    let bench = Bench::new(vec![issuer(
        "supabase",
        "https://x.supabase.co/auth/v1",
        KeySource::SecretFile("/nonexistent/secret".into()),
    )]);
    assert_eq!(bench.verify(&token(SECRET, "a")).await.unwrap_err(), TokenError::IssuerAway);
}
