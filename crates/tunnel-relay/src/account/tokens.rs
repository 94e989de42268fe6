//! `/_tunnel/v1/tokens`: keys for apps, made by whoever is logged in, and revoked.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use tracing::error;
use tunnel_transport::DeviceName;

use crate::audit::Event;
use crate::auth::revoked::{By, RevokeError};
use crate::auth::{self, Grant, Principal, Scope, Scopes, unix_now};
use crate::body::RelayBody;
use crate::client::Client;
use crate::config::Settings;
use crate::error::Refusal;
use crate::relay::Shared;

/// Longest body of a request.
const BODY_MAX_BYTES: usize = 16 * 1024;

/// Longest wait for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most models that a key can be bound to, and the longest name of one.
const MODELS_MAX: usize = 32;
const MODEL_MAX_BYTES: usize = 256;

/// Longest name of a key, in characters.
const NAME_MAX_CHARS: usize = 64;

/// How long a key is good whose maker does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What a new key should be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// For its owner to tell it from others; the relay does not keep it.
    name: Option<String>,
    scopes: Option<Vec<String>>,
    device: Option<String>,
    models: Option<Vec<String>>,
    expires_in: Option<u64>,
}

/// Makes a key: `POST /_tunnel/v1/tokens`.
pub(super) async fn create(
    shared: &Shared,
    client: &Client,
    request: Request<Incoming>,
) -> Result<Response<RelayBody>, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::MethodNotAllowed { allow: "POST" });
    }
    let (maker, limits) = maker(shared, client, request.headers()).await?;
    let wanted: Wanted = serde_json::from_slice(&body(request).await?)
        .map_err(|error| bad(format!("The body is not what is expected here: {error}.")))?;
    let max_ttl = max_ttl(&shared.settings(), &maker);
    let name = wanted.name.clone();
    let grant = grant(&maker, wanted, max_ttl)?;
    let (scopes, device, models) = (grant.scopes, grant.device.clone(), grant.models.clone());
    let issued = shared.issuer.sign(&grant, maker.issuer.as_deref(), unix_now());
    let issued = issued.map_err(|error| bad(format!("No key: {error}.")))?;
    shared.audit.note(&Event::KeyCreated {
        subject: &maker.subject,
        token_id: &issued.id,
        scopes: scopes.as_str(),
    });
    let expires_at =
        i64::try_from(issued.expires_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let mut response = super::json(
        StatusCode::CREATED,
        &json!({
            "id": issued.id,
            "token": issued.token,
            "name": name,
            "scopes": scopes.as_str().split_ascii_whitespace().collect::<Vec<_>>(),
            "device": device.as_ref().map(DeviceName::as_str),
            "models": models,
            "expires_at": expires_at.map(|at| at.to_string()),
            "subject": &*maker.subject,
        }),
    );
    response.headers_mut().extend(limits);
    Ok(response)
}

/// Revokes a key of the caller's own: `DELETE /_tunnel/v1/tokens/<id>`.
///
/// The relay keeps no list of the keys that it has made. The id itself proves whose it is, and until when it has to be
/// remembered; without that, anybody could fill the list of what is revoked with ids that never were.
pub(super) async fn revoke(
    shared: &Shared,
    client: &Client,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<RelayBody>, Refusal> {
    if request.method() != Method::DELETE {
        return Err(Refusal::MethodNotAllowed { allow: "DELETE" });
    }
    let (maker, limits) = maker(shared, client, request.headers()).await?;
    let own = (id == maker.token_id).then_some(maker.expires_at);
    let Some(until) = own.or_else(|| shared.issuer.end_of(id, &maker.subject)) else {
        return Err(not_yours());
    };
    // What is over need not be remembered.
    let revoked = match until > unix_now() {
        true => shared.authority.revoke(&maker.subject, id, until, By::Tenant).await,
        false => Ok(()),
    };
    match revoked {
        Ok(()) => {}
        Err(RevokeError::BadId) => return Err(not_yours()),
        Err(error) => {
            if let RevokeError::Unsaved(cause) = &error {
                error!(error = %cause, "the list of revoked tokens cannot be saved");
            }
            return Err(Refusal::NotRevoked { why: error.to_string() });
        }
    }
    shared.audit.note(&Event::TokenRevoked { subject: &maker.subject, token_id: id });
    let mut response = super::empty(StatusCode::NO_CONTENT);
    response.headers_mut().extend(limits);
    Ok(response)
}

/// Verifies that the caller is the subject in person, and within its limits.
async fn maker(
    shared: &Shared,
    client: &Client,
    headers: &HeaderMap,
) -> Result<(Arc<Principal>, HeaderMap), Refusal> {
    let maker = shared.authority.verify(auth::bearer(headers)?, client.address).await?;
    if !maker.scopes.has(Scope::Account) {
        return Err(Refusal::Scope { needed: Scope::Account, has: maker.scopes });
    }
    let allowed = shared.limits.allow(&shared.settings(), &maker, client)?;
    Ok((maker, allowed.headers))
}

async fn body(request: Request<Incoming>) -> Result<bytes::Bytes, Refusal> {
    let collecting = Limited::new(request.into_body(), BODY_MAX_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collecting).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Refusal::BodyTooLarge { limit: BODY_MAX_BYTES as u64 })
        }
        Ok(Err(_)) => Err(Refusal::BadUpload),
        Err(_) => Err(bad(format!("The body did not come within {} s.", BODY_TIMEOUT.as_secs()))),
    }
}

fn not_yours() -> Refusal {
    bad("The id in the path is none of a key of your account: see \"id\" in the answer that made it. A key that an earlier \
         version of the relay made is revoked by its operator: tunnel-relay admin revoke"
        .into())
}

/// Returns how long a key of this maker may last.
fn max_ttl(settings: &Settings, maker: &Principal) -> Duration {
    let issuer = settings.issuers.iter().find(|issuer| maker.issuer.as_deref() == Some(&issuer.issuer));
    match issuer {
        // The key keeps the tier of today, whatever the issuer says of its holder tomorrow.
        Some(issuer) if issuer.tier_claim.is_some() => settings.max_key_ttl.min(settings.max_tiered_key_ttl),
        Some(_) | None => settings.max_key_ttl,
    }
}

/// Decides what the key may say: no more than its maker's token.
fn grant(maker: &Principal, wanted: Wanted, max_ttl: Duration) -> Result<Grant, Refusal> {
    if let Some(name) = &wanted.name
        && (name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control))
    {
        return Err(bad(format!("\"name\" is at most {NAME_MAX_CHARS} characters without line breaks.")));
    }
    let scopes = scopes(wanted.scopes.as_deref())?;
    if let Some(needed) = [Scope::Tunnel, Scope::Inference]
        .into_iter()
        .find(|scope| scopes.has(*scope) && !maker.scopes.has(*scope))
    {
        return Err(Refusal::Scope { needed, has: maker.scopes });
    }
    let device = match (wanted.device, &maker.device) {
        (None, bound) => bound.clone(),
        (Some(name), bound) => {
            let device: DeviceName =
                name.parse().map_err(|error| bad(format!("\"device\" is no name of a device: {error}.")))?;
            if let Some(bound) = bound.as_ref().filter(|bound| **bound != device) {
                return Err(Refusal::OtherDevice { asked: device.to_string(), bound: bound.to_string() });
            }
            Some(device)
        }
    };
    let models = match (wanted.models, &maker.models) {
        (None, bound) => bound.as_ref().map(|bound| bound.to_vec()),
        (Some(models), bound) => Some(models_within(models, bound.as_deref())?),
    };
    let ttl = match wanted.expires_in.map(Duration::from_secs) {
        None => DEFAULT_TTL.min(max_ttl),
        Some(ttl) if ttl.is_zero() || ttl > max_ttl => {
            return Err(bad(format!(
                "\"expires_in\" is 1 to {} seconds: this relay's keys last no longer.",
                max_ttl.as_secs()
            )));
        }
        Some(ttl) => ttl,
    };
    Ok(Grant { subject: maker.subject.to_string(), scopes, device, models, tier: maker.tier.clone(), ttl })
}

fn scopes(wanted: Option<&[String]>) -> Result<Scopes, Refusal> {
    let Some(wanted) = wanted else { return Ok([Scope::Inference].into_iter().collect()) };
    let mut scopes = Vec::new();
    for word in wanted {
        scopes.push(match word.as_str() {
            "inference" => Scope::Inference,
            "tunnel" => Scope::Tunnel,
            // A key that makes keys could not be taken back by revoking it.
            "account" => return Err(bad("A key for an app cannot have the scope account.".into())),
            _ => return Err(bad("\"scopes\" takes \"inference\" and \"tunnel\".".into())),
        });
    }
    if scopes.is_empty() {
        return Err(bad("\"scopes\" names no scope. Leave it out for \"inference\".".into()));
    }
    Ok(scopes.into_iter().collect())
}

fn models_within(wanted: Vec<String>, bound: Option<&[String]>) -> Result<Vec<String>, Refusal> {
    let is_name = |model: &String| {
        !model.is_empty() && model.len() <= MODEL_MAX_BYTES && !model.chars().any(char::is_control)
    };
    if wanted.is_empty() || wanted.len() > MODELS_MAX || !wanted.iter().all(is_name) {
        return Err(bad(format!(
            "\"models\" lists 1 to {MODELS_MAX} names of at most {MODEL_MAX_BYTES} bytes. Leave it out for every model."
        )));
    }
    if let Some(bound) = bound
        && !wanted.iter().all(|model| bound.iter().any(|pattern| covers(pattern, model)))
    {
        return Err(Refusal::ModelNotAllowed {
            why: "Your token holds for some models only, and \"models\" names others. A key cannot do more than the \
                  token that makes it.",
        });
    }
    Ok(wanted)
}

/// Tells whether all models that `wanted` stands for are ones that `pattern` stands for.
fn covers(pattern: &str, wanted: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => wanted.strip_suffix('*').unwrap_or(wanted).starts_with(start),
        None => pattern == wanted,
    }
}

fn bad(why: String) -> Refusal {
    Refusal::BadRequest { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_only_what_is_narrower() {
        for (pattern, wanted) in
            [("*", "a*"), ("*", "*"), ("a*", "a*"), ("a*", "ab*"), ("a*", "abc"), ("a", "a")]
        {
            assert!(covers(pattern, wanted), "{pattern} {wanted}");
        }
        for (pattern, wanted) in [("a*", "*"), ("ab*", "a*"), ("a", "a*"), ("a", "ab"), ("a*", "b")] {
            assert!(!covers(pattern, wanted), "{pattern} {wanted}");
        }
    }
}
