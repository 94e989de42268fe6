//! Where keys are shown at the doors of the data plane.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use tunnel_api::Severity;

use crate::doors::address::AddressKey;
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
    /// in with any other key, or none: apps that must have one send a placeholder.
    pub(super) fn recognise(&self, headers: &HeaderMap) -> Result<Option<Admitted>, KeyRefusal> {
        if self.ring.is_empty() {
            return Ok(None);
        }
        let Some(text) = shown(headers).filter(|text| is_local_key(text)) else { return Ok(None) };
        match self.ring.find(text, Timestamp::now()) {
            Ok(key) => key.admit(Instant::now(), Timestamp::now()).map(Some).map_err(KeyRefusal::Over),
            Err(BadKey::Unknown | BadKey::Revoked | BadKey::Expired) => Ok(None),
        }
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
