//! The other ends, for tests: a desktop's keyring, and an authorization server.

pub(crate) mod desktop;
pub(crate) mod issuer;

use std::time::Duration;

use jiff::Timestamp;

/// Longest wait for anything in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what} did not come"));
}

/// A JWT of `subject` that was issued so many seconds ago and ends so many from now. Nobody has signed it.
pub(crate) fn jwt(subject: &str, issued_ago: i64, ends_in: i64) -> String {
    use base64::Engine;
    let now = Timestamp::now().as_second();
    let claims = serde_json::json!({ "sub": subject, "iat": now - issued_ago, "exp": now + ends_in });
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{payload}.canary")
}
