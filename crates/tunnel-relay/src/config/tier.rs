//! What one tenant may use: a tier, by name.

use std::num::NonZeroU32;

/// Limits of one tenant. A token names the tier; one that names none, or one that is not in the settings, has `default`.
///
/// `None` is without a limit of its own: what the machine and the protocol allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Requests a minute, in the long run. Default: none.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests that may come at once before that counts. Default: as many as a minute allows.
    pub burst: Option<NonZeroU32>,
    /// Most requests under way. Default 5000. Beyond: 429 `too_many_streams`.
    pub max_streams: usize,
    /// Most devices that are known of one tenant. Default 256; those that are away make room.
    pub max_devices: usize,
    /// Longest body of a request, in bytes. Default: none. Beyond: 413 `body_too_large`.
    pub max_body_bytes: Option<u64>,
    /// Bytes a second of all bodies of the tenant together, each direction by itself. Default: none. Beyond it waits.
    pub bytes_per_second: Option<NonZeroU32>,
}

/// Limits of one address, whoever calls from it. Requests without a valid token count, too.
///
/// An address is an IPv4 address or the /64 of an IPv6 address: who has one has all of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Requests a minute, in the long run. Default: none, since many people may share an address.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests that may come at once before that counts. Default: as many as a minute allows.
    pub burst: Option<NonZeroU32>,
    /// Most connections at once. Default 1024. Those of trusted proxies are not counted.
    pub max_connections: usize,
    /// Refused tokens a minute. Default 60: beyond, 429 before a token is looked at.
    pub refused_tokens_per_minute: Option<NonZeroU32>,
}

impl Default for Tier {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            burst: None,
            max_streams: 5_000,
            max_devices: 256,
            max_body_bytes: None,
            bytes_per_second: None,
        }
    }
}

impl Default for AddressLimits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            burst: None,
            max_connections: 1_024,
            refused_tokens_per_minute: NonZeroU32::new(60),
        }
    }
}
