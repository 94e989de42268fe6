//! What the relay says about logging in: `GET /_tunnel/v1/login`.

use http::StatusCode;
use serde::Deserialize;
use tunnel_transport::RelayUrl;

use super::LoginError;
use crate::secrets::{Call, Endpoint, Way};

/// Where and as whom to log in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Offer {
    /// What the provider calls itself, exactly.
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) scope: String,
    /// Which some providers (Auth0) want named beside the scope.
    pub(super) audience: Option<String>,
    /// Which others want: RFC 8707.
    pub(super) resource: Option<String>,
}

/// Longest text of an offer, in bytes.
const MAX_TEXT: usize = 2048;

impl Offer {
    /// Asks the relay.
    pub(super) async fn of(relay: &RelayUrl, way: &Way) -> Result<Self, LoginError> {
        let name = || relay.host().to_owned();
        let endpoint = Endpoint::of_relay(relay, "/_tunnel/v1/login");
        let answer = Call::get(&endpoint).make(way).await?;
        match answer.status {
            StatusCode::OK => {
                Self::read(&answer.body).map_err(|why| LoginError::BadOffer { relay: name(), why })
            }
            // A relay that is older says so of all paths that it does not know.
            StatusCode::NOT_FOUND => Err(LoginError::NotOffered { relay: name() }),
            status => Err(LoginError::Unavailable { host: name(), status }),
        }
    }

    fn read(body: &[u8]) -> Result<Self, &'static str> {
        let offer: Self =
            serde_json::from_slice(body).map_err(|_| "it is no object with the login's fields")?;
        let optional = [&offer.audience, &offer.resource].into_iter().flatten();
        let fit =
            |text: &String| !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        if ![&offer.issuer, &offer.client_id, &offer.scope].into_iter().chain(optional).all(fit) {
            return Err("a field is empty, too long, or no plain text");
        }
        Ok(offer)
    }

    /// Adds what names the token's audience to a form or a query.
    pub(super) fn name_audience<'a>(&'a self, pairs: &mut Vec<(&'static str, &'a str)>) {
        pairs.extend(self.audience.as_deref().map(|audience| ("audience", audience)));
        pairs.extend(self.resource.as_deref().map(|resource| ("resource", resource)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offer_is_plain_text_of_bounded_length() {
        let offer = |issuer: &str| {
            let body = serde_json::json!({ "issuer": issuer, "client_id": "desk", "scope": "openid", "audience": null,
                                           "resource": "https://relay.example", "later": 1 });
            Offer::read(body.to_string().as_bytes())
        };
        assert_eq!(
            offer("https://login.example").unwrap().resource.as_deref(),
            Some("https://relay.example")
        );
        for bad in ["", "a\nb", &"x".repeat(MAX_TEXT + 1)] {
            assert!(offer(bad).is_err(), "{}", bad.len());
        }
        assert!(Offer::read(b"{}").is_err() && Offer::read(b"<html>").is_err());
    }
}
