//! Where keys are shown at the doors of the data plane.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use tunnel_api::Severity;
use tunnel_runtime::AddressKey;

use crate::keys::{Admitted, BadKey, Failures, KeyRefusal, KeyRing, is_local_key, shown};
use crate::store::{NewEvent, RecorderHandle};

/// Lets in who shows a good key. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Wicket {
    ring: KeyRing,
    record: RecorderHandle,
    /// Taken for moments, and for wrong keys only.
    failures: Arc<Mutex<Failures>>,
}

impl Wicket {
    pub(super) fn new(ring: KeyRing, record: RecorderHandle) -> Self {
        Self { ring, record, failures: Arc::default() }
    }

    /// Recognises one of the user's own programs by a local key, so that its requests are told apart and limited. It gets
    /// in without one, and with what is no key of ours: apps that must have one send a placeholder. With what has the form
    /// of ours and is none that is good it does not: a key that has ended, was forgotten or cannot be read any more would
    /// open more than it did before.
    pub(super) fn recognise(&self, headers: &HeaderMap) -> Result<Option<Admitted>, KeyRefusal> {
        let Some(text) = shown(headers).filter(|text| is_local_key(text)) else { return Ok(None) };
        let key = self.ring.find(text, Timestamp::now())?;
        key.admit(Instant::now(), Timestamp::now()).map(Some).map_err(KeyRefusal::Over)
    }

    /// Lets a caller in that is not one of the user's own programs, and came over loopback.
    pub(super) fn admit_stranger(&self, headers: &HeaderMap) -> Result<Admitted, KeyRefusal> {
        self.admit(headers, Ipv4Addr::LOCALHOST.into(), KeyRefusal::MissingAtGateway, "gateway")
    }

    /// Lets a caller in from the network.
    pub(super) fn admit_from(&self, headers: &HeaderMap, address: IpAddr) -> Result<Admitted, KeyRefusal> {
        self.admit(headers, address, KeyRefusal::MissingOnLan, "lan")
    }

    fn admit(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
        missing: KeyRefusal,
        door: &'static str,
    ) -> Result<Admitted, KeyRefusal> {
        let text = shown(headers).ok_or(missing)?;
        match self.ring.find(text, Timestamp::now()) {
            Ok(key) => key.admit(Instant::now(), Timestamp::now()).map_err(KeyRefusal::Over),
            Err(bad) => Err(self.failed(bad, address, door)),
        }
    }

    /// Counts a wrong key. Nothing of the key itself is kept.
    fn failed(&self, bad: BadKey, address: IpAddr, door: &'static str) -> KeyRefusal {
        let address = address.to_canonical();
        let failed = {
            // A count: whatever a panic left is good enough.
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.note(AddressKey::of(address), Instant::now())
        };
        if let Some(count) = failed.tell {
            let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
            self.record.event(NewEvent {
                at: Timestamp::now(),
                kind: "key_refused",
                severity: Severity::Warning,
                message: format!(
                    "callers with a wrong key were refused {times}, the last one from {address}"
                ),
                data: json!({ "door": door, "address": address.to_string(), "count": count }),
            });
        }
        failed.keep_away.map_or_else(|| bad.into(), KeyRefusal::TooManyTries)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::AUTHORIZATION;
    use tunnel_api::{Key, KeyReach};

    use super::*;
    use crate::keys::SecretHash;
    use crate::store::{Opened, Store, StoredKey};

    #[tokio::test]
    async fn users_own_program_gets_no_further_with_a_key_that_is_over_than_with_a_good_one() {
        let secret = "0".repeat(64);
        let key = |id: &str, ended: [bool; 2]| {
            let [expires_at, revoked_at] = ended.map(|ended| ended.then_some(Timestamp::UNIX_EPOCH));
            let key =
                Key { id: id.to_owned(), reach: KeyReach::Local, expires_at, revoked_at, ..Key::default() };
            StoredKey { key, hash: Some(SecretHash::of_secret(&secret)) }
        };
        let (good, revoked, expired) = ("tk_0000000001", "tk_0000000002", "tk_0000000003");
        let (damaged, forgotten) = ("tk_0000000004", "tk_0000000005");
        let unreadable = StoredKey { hash: None, ..key(damaged, [false, true]) };
        let keys =
            [key(good, [false, false]), key(revoked, [false, true]), key(expired, [true, false]), unreadable];
        let ring = KeyRing::default();
        ring.replace(&keys, Instant::now());
        let Opened { handle, .. } = Store::open(None, Timestamp::now()).await;
        let wicket = Wicket::new(ring, handle);
        let shown = |text: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {text}")).unwrap();
            wicket.recognise(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        assert!(shown(&format!("{good}_{secret}")).unwrap().is_some());
        assert_eq!(shown(&format!("{revoked}_{secret}")).unwrap_err(), KeyRefusal::Revoked);
        assert_eq!(shown(&format!("{expired}_{secret}")).unwrap_err(), KeyRefusal::Expired);
        for unknown in [damaged, forgotten] {
            assert_eq!(shown(&format!("{unknown}_{secret}")).unwrap_err(), KeyRefusal::Unknown);
        }
        for placeholder in ["dummy", "tk_", "tk_placeholder"] {
            assert!(shown(placeholder).unwrap().is_none(), "{placeholder}");
        }
        // Also when the last one has been forgotten.
        wicket.ring.replace(&[], Instant::now());
        assert_eq!(shown(&format!("{good}_{secret}")).unwrap_err(), KeyRefusal::Unknown);
    }
}
