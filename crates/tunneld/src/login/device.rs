//! Login by device code: RFC 8628.

mod pace;

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;
use tunnel_api::auth::{LoginBegun, LoginFlow, StoredIn};
use tunnel_transport::is_loopback;
use url::Url;

use self::pace::Pace;
use super::desk::Keep;
use super::grant::{Grant, after, judge};
use super::offer::Offer;
use super::provider::Provider;
use super::{Flow, LoginError};
use crate::secrets::{Call, Endpoint, Issued, Way};

/// Longest time that a code may be good for, whatever the provider says.
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// Longest code that a person could be asked to type, in characters.
const MAX_USER_CODE: usize = 64;
/// Longest address that is shown, in bytes.
const MAX_ADDRESS: usize = 2048;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A login whose code a person has to type.
pub(super) struct DeviceLogin {
    provider: Provider,
    offer: Offer,
    device_code: SecretString,
    ends: Instant,
    pace: Pace,
}

/// RFC 8628 §3.2.
#[derive(Deserialize)]
struct Granted {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

impl DeviceLogin {
    /// Asks for a code.
    pub(super) async fn begin(
        provider: Provider,
        offer: Offer,
        way: &Way,
    ) -> Result<(Self, LoginBegun), LoginError> {
        let Some(endpoint) = &provider.device_authorization_endpoint else {
            return Err(LoginError::NoSuchFlow { host: provider.host(), flow: Flow::DeviceCode });
        };
        let granted = ask(endpoint, &offer, way).await?;
        let bad = |why| LoginError::BadProvider { host: endpoint.host(), why };
        let verification_uri = page(granted.verification_uri).ok_or_else(|| bad("where to type the code"))?;
        let typable = |code: &str| {
            !code.is_empty() && code.chars().count() <= MAX_USER_CODE && !code.chars().any(char::is_control)
        };
        if !typable(&granted.user_code) {
            return Err(bad("the code to type"));
        }
        let life = Duration::from_secs(granted.expires_in).min(MAX_LIFE);
        let pace = Pace::new(granted.interval);
        let begun = LoginBegun {
            flow: LoginFlow::DeviceCode,
            verification_uri: Some(verification_uri),
            verification_uri_complete: granted.verification_uri_complete.and_then(page),
            user_code: Some(granted.user_code),
            authorization_url: None,
            expires_at: after(life),
            interval_s: Some(pace.interval().as_secs()),
        };
        let device_code = granted.device_code.into();
        Ok((Self { provider, offer, device_code, ends: Instant::now() + life, pace }, begun))
    }

    pub(super) fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Asks for the token until there is one, or there will be none.
    pub(super) async fn finish(mut self, way: &Way, keep: &Keep<'_>) -> Result<StoredIn, LoginError> {
        let ends = self.ends;
        let issued = timeout_at(ends, self.until_issued(way)).await.map_err(|_| LoginError::TimedOut)??;
        keep.store(issued, &self.provider, &self.offer).await
    }

    async fn until_issued(&mut self, way: &Way) -> Result<Issued, LoginError> {
        loop {
            sleep(self.pace.wait()).await;
            match self.poll(way).await {
                Grant::Issued(issued) => return Ok(issued),
                Grant::Pending => self.pace.heard(),
                Grant::SlowDown => self.pace.slow_down(),
                Grant::Trouble(asked) => self.pace.failed(asked),
                Grant::Ended(error) => return Err(error),
            }
        }
    }

    async fn poll(&self, way: &Way) -> Grant {
        let mut form = vec![
            ("grant_type", GRANT),
            ("device_code", self.device_code.expose_secret()),
            ("client_id", self.offer.client_id.as_str()),
        ];
        form.extend(self.offer.resource.as_deref().map(|resource| ("resource", resource)));
        let endpoint = &self.provider.token_endpoint;
        match Call::post_form(endpoint, &form).make(way).await {
            Ok(answer) => judge(&answer, &endpoint.host()),
            Err(error) => {
                debug!(error = crate::daemon::chain(&error), "the provider was not reached, trying again");
                Grant::Trouble(None)
            }
        }
    }
}

async fn ask(endpoint: &Endpoint, offer: &Offer, way: &Way) -> Result<Granted, LoginError> {
    let mut form = vec![("client_id", offer.client_id.as_str()), ("scope", offer.scope.as_str())];
    offer.name_audience(&mut form);
    let answer = Call::post_form(endpoint, &form).make(way).await?;
    let host = || endpoint.host();
    if answer.status == StatusCode::OK {
        let why = "its answer has no code to type";
        return serde_json::from_slice(&answer.body)
            .map_err(|_| LoginError::BadProvider { host: host(), why });
    }
    Err(match judge(&answer, &host()) {
        Grant::Ended(error) => error,
        Grant::Issued(_) | Grant::Pending | Grant::SlowDown | Grant::Trouble(_) => {
            LoginError::Unavailable { host: host(), status: answer.status }
        }
    })
}

/// Takes an address that a person is sent to: encrypted, or on this machine.
fn page(text: String) -> Option<String> {
    let url = Url::parse(&text).ok().filter(|_| text.len() <= MAX_ADDRESS)?;
    let safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
    (safe && url.username().is_empty() && url.password().is_none()).then(|| url.to_string())
}
