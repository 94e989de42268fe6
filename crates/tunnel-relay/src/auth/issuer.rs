//! One issuer of the settings: its keys, and what its claims mean.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cache::Digest;
use super::jwt::Jwt;
use super::key::Algorithm;
use super::remote_keys::{Means, Place, RemoteKeys};
use super::shared_secret::SharedSecret;
use super::standing::Origin;
use super::{Principal, TokenError, claims};
use crate::config::{IssuerSettings, KeySource};
use tunnel_runtime::AddressKey;

/// An issuer whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) settings: IssuerSettings,
    /// Empty: all that its keys allow.
    algorithms: Vec<Algorithm>,
    keys: Keys,
    /// What its tokens are verified against now.
    origin: ArcSwap<Origin>,
    /// What keys are verified against that were made with its tokens.
    origin_of_keys: Arc<Origin>,
}

#[derive(Debug)]
enum Keys {
    Remote(Arc<RemoteKeys>),
    Secret(SharedSecret),
}

impl Issuer {
    /// May wait for the disk, where the keys are a file. `origin_of_keys`: of the same issuer with other settings, whose keys
    /// stay good.
    pub(super) fn new(settings: &IssuerSettings, origin_of_keys: Option<Arc<Origin>>, means: &Means) -> Self {
        let remote = |place| Keys::Remote(Arc::new(RemoteKeys::new(&settings.name, place, means)));
        let keys = match &settings.keys {
            KeySource::Discovery => remote(Place::Discovery { issuer: settings.issuer.clone() }),
            KeySource::Jwks(url) => remote(Place::Address(url.clone())),
            KeySource::SecretFile(path) => Keys::Secret(SharedSecret::open(&settings.name, path)),
        };
        Self {
            // Names that are not known allow nothing; where none is left, the list must not mean all.
            algorithms: settings.algorithms.iter().filter_map(|name| Algorithm::of(name)).collect(),
            settings: settings.clone(),
            keys,
            origin: ArcSwap::default(),
            origin_of_keys: origin_of_keys.unwrap_or_default(),
        }
    }

    /// Verifies all of a token but its end.
    pub(super) async fn verify(
        &self,
        jwt: &Jwt<'_>,
        digest: &Digest,
        from: AddressKey,
        now: u64,
    ) -> Result<Principal, TokenError> {
        if jwt.issuer() != Some(self.settings.issuer.as_str()) {
            return Err(TokenError::Invalid);
        }
        if !self.settings.algorithms.is_empty() && !self.algorithms.contains(&jwt.algorithm) {
            return Err(TokenError::Invalid);
        }
        // Before the keys: a secret that changes from here on ends what is verified now.
        let origin = self.origin.load_full();
        match &self.keys {
            // What a public key cannot have signed is not worth asking for.
            Keys::Remote(_) if jwt.algorithm == Algorithm::Hs256 => return Err(TokenError::Invalid),
            Keys::Remote(keys) => keys.verify(jwt, from).await?,
            Keys::Secret(secret) => secret.verify(jwt)?,
        }
        claims::principal(&self.settings, &jwt.claims, digest, &origin, now)
    }

    /// Tells whether these are settings of this issuer, under this name.
    pub(super) fn is_of(&self, settings: &IssuerSettings) -> bool {
        self.settings.issuer == settings.issuer && self.settings.name == settings.name
    }

    /// Tells whether a subject is a tenant of this issuer, which is known by `iss`.
    pub(super) fn vouches_for(&self, iss: &str, subject: &str) -> bool {
        let tenant = subject.strip_prefix(self.settings.name.as_str());
        self.settings.issuer == iss && tenant.is_some_and(|rest| rest.starts_with(':'))
    }

    pub(super) fn origin_of_keys(&self) -> Arc<Origin> {
        Arc::clone(&self.origin_of_keys)
    }

    /// Fetches keys that are not known or old, in the background.
    pub(super) fn refresh(&self) {
        if let Keys::Remote(keys) = &self.keys {
            keys.refresh();
        }
    }

    /// Looks after a secret in a file; true where what was verified with the old one is not good any more. Waits for the
    /// disk.
    pub(super) fn look(&self) -> bool {
        let changed = matches!(&self.keys, Keys::Secret(secret) if secret.look());
        if changed {
            self.origin.swap(Arc::default()).retire();
        }
        changed
    }

    /// Ends the trust in all keys that were made with tokens of this issuer.
    pub(super) fn retire_keys(&self) {
        self.origin_of_keys.retire();
    }

    /// Ends the trust in all tokens of this issuer.
    pub(super) fn retire(&self) {
        self.origin.load().retire();
    }
}
