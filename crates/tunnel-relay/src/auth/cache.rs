//! Tokens that were verified a moment ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Principal;

/// SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// Remembers principals by their token's digest, so that the signature is checked once per token and not once
/// per request.
///
/// Two generations of at most half [`VerifiedCache::MAX`] entries each: when the young one is full it becomes the
/// old one and what was not asked for since is gone. Expiry is the asker's business.
#[derive(Debug, Default)]
pub(super) struct VerifiedCache {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Arc<Principal>>,
    old: HashMap<Digest, Arc<Principal>>,
}

impl VerifiedCache {
    /// Most tokens that are remembered: about 1 MiB.
    pub(super) const MAX: usize = 4_096;

    /// Returns the principal of a token that was verified before.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Principal>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(principal) = generations.young.get(digest) {
            return Some(Arc::clone(principal));
        }
        let principal = generations.old.remove(digest)?;
        generations.insert(*digest, Arc::clone(&principal));
        Some(principal)
    }

    /// Remembers a principal whose token has just been verified.
    pub(super) fn insert(&self, digest: Digest, principal: Arc<Principal>) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, principal);
    }

    /// Forgets a token, for example because it has expired.
    pub(super) fn remove(&self, digest: &Digest) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.remove(digest);
        generations.old.remove(digest);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let generations = self.generations.lock().unwrap();
        generations.young.len() + generations.old.len()
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest, principal: Arc<Principal>) {
        if self.young.len() >= VerifiedCache::MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, principal);
    }
}
