//! `GET /_tunnel/v1/login`: how a desktop gets a token here. For everybody: it is what a login page would show.

use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::body::RelayBody;
use crate::config::Settings;
use crate::error::Refusal;

/// Answers a request for it.
pub(super) fn answer(settings: &Settings, method: &Method) -> Result<Response<RelayBody>, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let login = settings.login.as_ref().ok_or(Refusal::LoginUnavailable)?;
    // Checked with the settings; one that is gone is no login.
    let issuer = settings.issuers.iter().find(|issuer| issuer.name == login.issuer);
    let issuer = issuer.ok_or(Refusal::LoginUnavailable)?;
    let mut body = json!({
        "issuer": issuer.issuer,
        "client_id": login.client_id,
        "scope": login.scope,
    });
    for (name, value) in [("audience", &login.audience), ("resource", &login.resource)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    Ok(super::json(StatusCode::OK, &body))
}
