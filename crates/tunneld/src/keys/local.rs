//! Making a key that is good at this machine's own gateway.

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use tunnel_api::config::RemotePaths;
use tunnel_api::{Key, KeyReach, KeyRequest, NewKey};

use super::KeyError;
use super::token::{Fresh, fresh};
use crate::config::broker_paths;
use crate::store::StoredKey;

/// What a local key may ask is said by its paths; this is what lists show beside the remote ones.
const INFERENCE: &str = "inference";
/// Most rules for paths.
const MAX_RULES: usize = 64;
/// Longest life that can be asked for: what is longer is meant for ever.
const MAX_LIFE: SignedDuration = SignedDuration::from_hours(100 * 366 * 24);

/// Checks what only a local key can get wrong. The rest is the same for both.
pub(super) fn check(request: &KeyRequest) -> Result<(), KeyError> {
    let unusable = |field, rule| Err(KeyError::Unusable { field, rule });
    if request.device.is_some() {
        return unusable("device", "left out for a local key, which is good at this machine only");
    }
    if request.scopes.iter().any(|scope| scope != INFERENCE) {
        return unusable("scopes", "left out for a local key; paths says what it may reach");
    }
    if matches!(&request.paths, RemotePaths::Rules(rules) if rules.is_empty() || rules.len() > MAX_RULES)
        || broker_paths(&request.paths).is_err()
    {
        return unusable("paths", "inference, all, or 1 to 64 rules such as \"POST /api/chat\"");
    }
    let life = request.expires_in.map(|seconds| i64::try_from(seconds).map(SignedDuration::from_secs));
    if life.is_some_and(|life| life.is_err() || life.is_ok_and(|life| life > MAX_LIFE)) {
        return unusable("expires_in", "at most a hundred years; leave it out for a key that does not end");
    }
    Ok(())
}

/// Makes one. `request` has been checked.
pub(super) fn make(request: KeyRequest, now: Timestamp) -> Result<(StoredKey, NewKey), KeyError> {
    let Fresh { id, hash, token } = fresh().ok_or(KeyError::NoRandomness)?;
    let life =
        request.expires_in.and_then(|seconds| i64::try_from(seconds).ok()).map(SignedDuration::from_secs);
    let key = Key {
        id,
        reach: KeyReach::Local,
        relay: String::new(),
        name: request.name,
        scopes: vec![INFERENCE.to_owned()],
        device: None,
        models: request.models,
        paths: request.paths,
        limits: request.limits.into(),
        created_at: now,
        // Cannot fail: a hundred years are within what timestamps hold.
        expires_at: life.and_then(|life| now.checked_add(life).ok()),
        last_used_at: None,
        revoked_at: None,
    };
    let stored = StoredKey { key: key.clone(), hash: Some(hash) };
    Ok((stored, NewKey { key, token: token.expose_secret().to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::token::Shown;

    #[test]
    fn key_is_made_as_it_was_asked_for() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let request = KeyRequest {
            reach: KeyReach::Local,
            name: Some("phone".to_owned()),
            models: vec!["llama3".to_owned()],
            paths: RemotePaths::All,
            expires_in: Some(60),
            ..KeyRequest::default()
        };
        let (stored, new) = make(request, now).unwrap();
        assert_eq!(stored.key, new.key);
        assert_eq!(new.key.expires_at, Timestamp::from_second(1_800_000_060).ok());
        assert_eq!((new.key.name.as_deref(), &new.key.paths), (Some("phone"), &RemotePaths::All));
        let shown = Shown::parse(&new.token).unwrap_or_else(|| panic!("no key"));
        assert!(shown.id == new.key.id && stored.hash.is_some_and(|hash| hash.matches(shown.secret)));
    }

    #[test]
    fn what_a_local_key_cannot_have_is_told_by_its_field() {
        let field = |request: KeyRequest| match check(&request) {
            Err(KeyError::Unusable { field, .. }) => field,
            Ok(()) => "",
            Err(other) => panic!("{other:?}"),
        };
        let base = KeyRequest::default;
        assert_eq!(field(KeyRequest { scopes: vec!["inference".to_owned()], ..base() }), "");
        assert_eq!(field(KeyRequest { scopes: vec!["account".to_owned()], ..base() }), "scopes");
        assert_eq!(field(KeyRequest { device: Some("desk".to_owned()), ..base() }), "device");
        assert_eq!(field(KeyRequest { paths: RemotePaths::Rules(Vec::new()), ..base() }), "paths");
        assert_eq!(field(KeyRequest { expires_in: Some(u64::MAX), ..base() }), "expires_in");
    }
}
