//! Login in a browser on this machine: the authorization code flow with PKCE (RFC 7636), whose answer comes back to a
//! port on loopback (RFC 8252).
//!
//! There is no `nonce`: it ties an ID token to the request, and none is kept. That the code is ours is what PKCE and
//! `state` show.

mod door;
mod page;

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use tunnel_api::auth::{LoginBegun, LoginFlow, StoredIn};

use self::door::{Door, Visit};
use self::page::Page;
use super::desk::Keep;
use super::grant::{after, exchanged};
use super::offer::Offer;
use super::provider::Provider;
use super::{Flow, LoginError};
use crate::secrets::{Call, Issued, Way};

/// How long the port stays open for the browser to come back.
const LIFE: Duration = Duration::from_secs(300);

/// A login that waits for the browser.
pub(super) struct BrowserLogin {
    provider: Provider,
    offer: Offer,
    door: Door,
    /// What the browser has to bring back.
    state: SecretString,
    /// What shows the provider that the code is ours: RFC 7636 §4.1.
    verifier: SecretString,
    ends: Instant,
}

impl BrowserLogin {
    /// Opens the port, and writes the address for the browser.
    pub(super) async fn begin(provider: Provider, offer: Offer) -> Result<(Self, LoginBegun), LoginError> {
        let Some(endpoint) = provider.authorization_endpoint.as_ref().filter(|_| provider.takes_s256) else {
            return Err(LoginError::NoSuchFlow { host: provider.host(), flow: Flow::Browser });
        };
        let door = Door::open().await.map_err(LoginError::Listen)?;
        let (state, verifier) = (secret(), secret());
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.expose_secret().as_bytes()));
        let redirect_uri = door.redirect_uri();
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", offer.client_id.as_str()),
            ("redirect_uri", redirect_uri.as_str()),
            ("scope", offer.scope.as_str()),
            ("state", state.expose_secret()),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        if offer.scope.split(' ').any(|scope| scope == "offline_access") {
            // OpenID Connect Core §11: without it a provider leaves the refresh token out.
            query.push(("prompt", "consent"));
        }
        offer.name_audience(&mut query);
        let mut url = endpoint.url().clone();
        url.query_pairs_mut().extend_pairs(query);
        let begun = LoginBegun {
            flow: LoginFlow::Browser,
            authorization_url: Some(url.into()),
            expires_at: after(LIFE),
            ..LoginBegun::default()
        };
        Ok((Self { provider, offer, door, state, verifier, ends: Instant::now() + LIFE }, begun))
    }

    pub(super) fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Waits for the browser, and fetches the token.
    pub(super) async fn finish(mut self, way: &Way, keep: &Keep<'_>) -> Result<StoredIn, LoginError> {
        let (visit, outcome) =
            timeout_at(self.ends, self.until_back()).await.map_err(|_| LoginError::TimedOut)?;
        let stored = match outcome {
            Ok(code) => match self.redeem(&code, way).await {
                Ok(issued) => keep.store(issued, &self.provider, &self.offer).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // Only now: the page says how it ended.
        let page = match &stored {
            Ok(_) => Page::LoggedIn,
            Err(LoginError::Denied { .. }) => Page::Denied,
            Err(_) => Page::Failed,
        };
        visit.show(page);
        self.door.close().await;
        stored
    }

    /// Waits for the answer to this very login; all else that comes to the port is refused.
    async fn until_back(&mut self) -> (Visit, Result<SecretString, LoginError>) {
        loop {
            let visit = self.door.visit().await;
            match self.judge(&visit) {
                Some(outcome) => return (visit, outcome),
                None => {
                    debug!("an answer to another login was refused");
                    visit.show(Page::Stranger);
                }
            }
        }
    }

    /// Judges what a browser brought: RFC 6749 §4.1.2. `None` where it is no answer to this login.
    fn judge(&self, visit: &Visit) -> Option<Result<SecretString, LoginError>> {
        let ours = visit.parameter("state").is_some_and(|state| same(state, self.state.expose_secret()));
        // RFC 9207: an answer that another provider gave must not be redeemed at this one.
        let issuer = match visit.parameter("iss") {
            Some(issuer) => issuer == self.provider.issuer,
            None => !self.provider.names_itself,
        };
        if !ours || !issuer {
            return None;
        }
        let host = self.provider.host();
        match (visit.parameter("error"), visit.parameter("code")) {
            (Some("access_denied"), _) => Some(Err(LoginError::Denied { host })),
            (Some(error), _) => {
                let known = CODES.iter().find(|known| **known == error);
                Some(Err(LoginError::Refused {
                    host,
                    code: known.copied().unwrap_or("for a reason of its own"),
                }))
            }
            (None, Some(code)) => Some(Ok(SecretString::from(code))),
            (None, None) => None,
        }
    }

    async fn redeem(&self, code: &SecretString, way: &Way) -> Result<Issued, LoginError> {
        let redirect_uri = self.door.redirect_uri();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.expose_secret()),
            ("redirect_uri", redirect_uri.as_str()),
            ("client_id", self.offer.client_id.as_str()),
            ("code_verifier", self.verifier.expose_secret()),
        ];
        form.extend(self.offer.resource.as_deref().map(|resource| ("resource", resource)));
        let endpoint = &self.provider.token_endpoint;
        exchanged(Call::post_form(endpoint, &form).make(way).await, &endpoint.host())
    }
}

/// Codes of RFC 6749 §4.1.2.1, RFC 8707 §2 and OpenID Connect Core §3.1.2.6. What else stands there is not repeated.
const CODES: [&str; 10] = [
    "invalid_request",
    "unauthorized_client",
    "unsupported_response_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "invalid_target",
    "login_required",
    "consent_required",
    "interaction_required",
];

/// 256 random bits, as text that an address can carry.
fn secret() -> SecretString {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into()
}

/// Compares without telling by its time where two texts differ.
fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}
