//! What an issuer's claims mean here: times, audience, tenant, tier, scopes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::cache::Digest;
use super::standing::Origin;
use super::{Principal, Scopes, TokenError};
use crate::config::IssuerSettings;
use crate::hex::hex;

/// Longest subject, in bytes: long enough for a mail address (RFC 5321 §4.5.3.1).
pub(super) const SUBJECT_MAX_BYTES: usize = 254;

/// Longest id of a token that is used as it is, in bytes.
pub(super) const TOKEN_ID_MAX_BYTES: usize = 128;

/// Longest name of a tier, in bytes.
const TIER_MAX_BYTES: usize = 64;

/// How far ahead a token may say it was issued, in seconds, on top of the leeway: no clock that works is off by more.
const ISSUED_AHEAD_MAX: u64 = 300;

/// The times of a token, checked but for its end, which [`Principal::expires_at`] says.
pub(super) struct Times {
    /// Up to when it is good, leeway included.
    pub(super) until: u64,
    /// When it was issued or, where it does not say, from when it is good; 0 where it says neither.
    pub(super) issued: u64,
}

impl Times {
    /// Reads `exp`, `nbf` and `iat`.
    pub(super) fn check(claims: &Map<String, Value>, leeway: u64, now: u64) -> Result<Self, TokenError> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or(TokenError::Invalid),
        };
        let until = time("exp")?.ok_or(TokenError::Invalid)?.saturating_add(leeway);
        let from = time("nbf")?;
        if from.is_some_and(|from| from > now.saturating_add(leeway)) {
            return Err(TokenError::Invalid);
        }
        // Not when it was first seen here: that would be forgotten, and the token good again.
        let issued = time("iat")?.or(from).unwrap_or(0);
        if issued > now.saturating_add(leeway + ISSUED_AHEAD_MAX) {
            return Err(TokenError::Invalid);
        }
        Ok(Self { until, issued })
    }
}

/// Seconds since 1970, whole or not (RFC 7519 §2).
fn numeric_date(value: &Value) -> Option<u64> {
    match value.as_u64() {
        Some(seconds) => Some(seconds),
        // Some issuers' libraries count in fractions. Beyond 2^53 it is no time any more.
        None => {
            value.as_f64().filter(|seconds| (0.0..9.0e15).contains(seconds)).map(|seconds| seconds as u64)
        }
    }
}

/// Makes a principal of claims whose signature and issuer are right.
pub(super) fn principal(
    settings: &IssuerSettings,
    claims: &Map<String, Value>,
    digest: &Digest,
    origin: &Arc<Origin>,
    now: u64,
) -> Result<Principal, TokenError> {
    let times = Times::check(claims, settings.leeway.as_secs(), now)?;
    if !is_meant_for(claims.get("aud"), &settings.audiences) {
        return Err(TokenError::Invalid);
    }
    let tenant = find(claims, &settings.tenant_claim).and_then(Value::as_str).ok_or(TokenError::Invalid)?;
    if tenant.trim().is_empty() {
        return Err(TokenError::Invalid);
    }
    let subject = format!("{}:{tenant}", settings.name);
    if !is_subject(&subject) {
        return Err(TokenError::Invalid);
    }
    let tier = settings.tier_claim.as_deref().and_then(|path| find(claims, path)).and_then(Value::as_str);
    let scopes = match &settings.scope_claim {
        None => settings.scopes,
        Some(path) => find(claims, path).map(scopes).unwrap_or_default(),
    };
    let token_id = token_id(claims.get("jti"), digest);
    Ok(Principal {
        caller: caller_header(&subject, &token_id, scopes).ok_or(TokenError::Invalid)?,
        subject: subject.into(),
        scopes,
        device: None,
        models: None,
        tier: tier.filter(|name| !name.is_empty() && name.len() <= TIER_MAX_BYTES).map(str::to_owned),
        token_id,
        issued_at: times.issued,
        expires_at: times.until,
        issuer: Some(settings.issuer.as_str().into()),
        origin: Arc::clone(origin),
        checked: AtomicU64::new(0),
    })
}

/// Finds a claim by its name or, where none is called so, by a path with dots into objects. Names that are URLs have
/// dots of their own.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut steps = path.split('.');
    let first = claims.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.as_object()?.get(step))
}

fn is_meant_for(audience: Option<&Value>, ours: &[String]) -> bool {
    let is_ours = |value: &Value| value.as_str().is_some_and(|one| ours.iter().any(|own| own == one));
    match audience {
        Some(Value::Array(list)) => list.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    }
}

fn scopes(claim: &Value) -> Scopes {
    match claim {
        Value::String(list) => Scopes::parse(list),
        Value::Array(list) => {
            Scopes::parse(&list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        }
        _ => Scopes::default(),
    }
}

/// The token's own id or, where it has none that can be written down, one made of its digest.
fn token_id(claim: Option<&Value>, digest: &Digest) -> String {
    match claim.and_then(Value::as_str) {
        Some(id) if is_token_id(id) => id.to_owned(),
        _ => format!("sha256-{}", hex(&digest[..16])),
    }
}

/// Tells whether a text can be the id of a token: it goes into headers, files and paths.
pub(super) fn is_token_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= TOKEN_ID_MAX_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Printable ASCII only: a subject goes into a header, into logs and onto terminals.
pub(super) fn is_subject(subject: &str) -> bool {
    let printable = subject.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    printable && !subject.trim().is_empty() && subject.len() <= SUBJECT_MAX_BYTES
}

/// Writes `tunnel-caller` as a structured-field dictionary (RFC 8941 §3.2): `sub="…", token="…", scope="…"`.
pub(super) fn caller_header(subject: &str, token_id: &str, scopes: Scopes) -> Option<HeaderValue> {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let value =
        format!("sub=\"{}\", token=\"{}\", scope=\"{}\"", quote(subject), quote(token_id), scopes.as_str());
    HeaderValue::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_that_is_called_so_wins_over_a_path() {
        let claims = json!({
            "https://example.org/tier": "premium",
            "app_metadata": {"tier": "free", "plan": {"name": "gold"}},
            "app_metadata.tier": "literal",
        });
        let claims = claims.as_object().unwrap();
        let text = |path| find(claims, path).and_then(Value::as_str);
        assert_eq!(text("https://example.org/tier"), Some("premium"));
        assert_eq!(text("app_metadata.tier"), Some("literal"));
        assert_eq!(text("app_metadata.plan.name"), Some("gold"));
        assert_eq!(text("app_metadata.plan.none"), None);
        assert_eq!(text("app_metadata.tier.name"), None);
        assert_eq!(text(""), None);
    }

    #[test]
    fn a_token_was_issued_when_it_says_or_else_when_it_begins() {
        let issued =
            |claims: Value| Times::check(claims.as_object().unwrap(), 0, 100).map(|times| times.issued);
        assert_eq!(issued(json!({"exp": 200, "iat": 90, "nbf": 80})), Ok(90));
        assert_eq!(issued(json!({"exp": 200, "nbf": 80})), Ok(80));
        assert_eq!(issued(json!({"exp": 200})), Ok(0));
    }

    #[test]
    fn times_may_have_fractions_and_nothing_else() {
        assert_eq!(numeric_date(&json!(1_800_000_000.9)), Some(1_800_000_000));
        for bad in [json!("1800000000"), json!(-1), json!(1e300), json!(null), json!([1])] {
            assert_eq!(numeric_date(&bad), None, "{bad}");
        }
    }
}
