//! What a provider says of itself: OpenID Connect Discovery 1.0.

use http::StatusCode;
use serde::Deserialize;
use url::Url;

use super::LoginError;
use crate::secrets::{Call, Endpoint, Way};

/// An OpenID provider's endpoints.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) token_endpoint: Endpoint,
    pub(super) authorization_endpoint: Option<Endpoint>,
    pub(super) device_authorization_endpoint: Option<Endpoint>,
    pub(super) revocation_endpoint: Option<Endpoint>,
    /// It says in each answer who it is: RFC 9207.
    pub(super) names_itself: bool,
    /// It takes PKCE with SHA-256, or does not say what it takes.
    pub(super) takes_s256: bool,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    code_challenge_methods_supported: Option<Vec<String>>,
}

impl Provider {
    /// Asks the provider that calls itself `issuer`.
    pub(super) async fn discover(issuer: &str, way: &Way) -> Result<Self, LoginError> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let endpoint =
            Endpoint::parse(&format!("{base}/.well-known/openid-configuration")).map_err(|_| {
                let host = Url::parse(issuer).ok().and_then(|url| Some(url.host_str()?.to_owned()));
                let why =
                    "its address must start with https:// (or http:// for this machine), without a query";
                LoginError::BadProvider { host: host.unwrap_or_else(|| "the provider".to_owned()), why }
            })?;
        let answer = Call::get(&endpoint).make(way).await?;
        if answer.status != StatusCode::OK {
            return Err(LoginError::Unavailable { host: endpoint.host(), status: answer.status });
        }
        Self::read(&answer.body, issuer).map_err(|why| LoginError::BadProvider { host: endpoint.host(), why })
    }

    fn read(body: &[u8], issuer: &str) -> Result<Self, &'static str> {
        let metadata: Metadata =
            serde_json::from_slice(body).map_err(|_| "it is no description of an OpenID provider")?;
        // Whoever answers for another one could collect its codes: OpenID Connect Discovery §4.3.
        if metadata.issuer != issuer {
            return Err("it calls itself by another name than the relay does");
        }
        let parse = |text: &str| Endpoint::parse(text).map_err(|_| "an address of it is not https");
        let optional = |text: Option<String>| text.map(|text| parse(&text)).transpose();
        let s256 = |methods: Vec<String>| methods.iter().any(|method| method == "S256");
        Ok(Self {
            issuer: metadata.issuer,
            token_endpoint: parse(&metadata.token_endpoint)?,
            authorization_endpoint: optional(metadata.authorization_endpoint)?,
            device_authorization_endpoint: optional(metadata.device_authorization_endpoint)?,
            revocation_endpoint: optional(metadata.revocation_endpoint)?,
            names_itself: metadata.authorization_response_iss_parameter_supported,
            takes_s256: metadata.code_challenge_methods_supported.is_none_or(s256),
        })
    }

    /// The host that people know it by.
    pub(super) fn host(&self) -> String {
        self.token_endpoint.host()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(changes: serde_json::Value) -> Result<Provider, &'static str> {
        let mut metadata =
            json!({ "issuer": "https://login.example/", "token_endpoint": "https://login.example/token" });
        metadata.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Provider::read(metadata.to_string().as_bytes(), "https://login.example/")
    }

    #[test]
    fn provider_must_be_the_one_that_was_asked_for() {
        assert!(read(json!({})).is_ok());
        for other in ["https://login.example", "https://LOGIN.example/", "https://evil.example/"] {
            assert!(read(json!({ "issuer": other })).is_err(), "{other}");
        }
    }

    #[test]
    fn endpoints_are_encrypted_or_on_this_machine() {
        for name in [
            "token_endpoint",
            "authorization_endpoint",
            "device_authorization_endpoint",
            "revocation_endpoint",
        ] {
            assert!(read(json!({ name: "http://login.example/x" })).is_err(), "{name}");
            assert!(read(json!({ name: "http://127.0.0.1:1/x" })).is_ok(), "{name}");
        }
    }

    #[test]
    fn provider_without_sha_256_is_told_from_one_that_says_nothing() {
        assert!(read(json!({})).unwrap().takes_s256);
        assert!(!read(json!({ "code_challenge_methods_supported": ["plain"] })).unwrap().takes_s256);
    }
}
