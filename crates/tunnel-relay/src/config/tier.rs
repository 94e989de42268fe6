//! What one tenant may use: a tier, by name.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use super::table::Table;

/// Limits of one tenant. A token names the tier; one that names none, or one that is not in the settings, has `default`.
///
/// `None`, which is 0 in the file, is without a limit of its own: what the machine and the protocol allow.
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
    /// Dials of its desktops a minute, in the long run: new sessions, and as many resumes again. Default 300. Four for
    /// each of `max_devices`, and ten, may come at once before that counts: when a relay comes back, they all do.
    /// Beyond: 429 `rate_limited`.
    pub dials_per_minute: Option<NonZeroU32>,
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
    /// Refused tokens a minute. Default 60: beyond, 429 for tokens that were not found good a moment ago.
    pub refused_tokens_per_minute: Option<NonZeroU32>,
}

impl Default for Tier {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            burst: None,
            max_streams: 5_000,
            max_devices: 256,
            dials_per_minute: NonZeroU32::new(300),
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

/// The name of the tier that applies where a token names none.
pub(super) const DEFAULT: &str = "default";

/// Requests a minute that a limit may allow at most: beyond, leave it out.
const MAX_PER_MINUTE: u32 = 100_000_000;

/// Reads all tiers, with what the file says of the tier `default` under its first names.
pub(super) fn read_all(root: &mut Table<'_>) -> BTreeMap<String, Tier> {
    let first_names = ["max_streams_per_subject", "max_devices_per_subject"];
    let max_streams = root.count(first_names[0], STREAMS);
    let max_devices = root.count(first_names[1], DEVICES);
    let given = first_names.map(|name| root.has(name));
    let mut tiers = root.named("tiers", |name, table| {
        let shown = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if !shown || !(1..=64).contains(&name.chars().count()) {
            table.fault_here("a tier's name must be 1 to 64 characters without spaces");
        }
        for ((key, given), first) in ["max_streams", "max_devices"].iter().zip(given).zip(first_names) {
            if name == DEFAULT && given && table.has(key) {
                table.fault(key, format!("says the same as {first}; keep one of them"));
            }
        }
        Tier::read(table)
    });
    if max_streams.is_some() || max_devices.is_some() {
        let tier = tiers.entry(DEFAULT.to_owned()).or_default();
        tier.max_streams = max_streams.unwrap_or(tier.max_streams);
        tier.max_devices = max_devices.unwrap_or(tier.max_devices);
    }
    tiers
}

const STREAMS: RangeInclusive<u32> = 1..=1_000_000;
const DEVICES: RangeInclusive<u32> = 1..=10_000;

impl Tier {
    fn read(table: &mut Table<'_>) -> Self {
        let defaults = Self::default();
        let (requests_per_minute, burst) = read_rate(table);
        Self {
            requests_per_minute,
            burst,
            max_streams: table.count("max_streams", STREAMS).unwrap_or(defaults.max_streams),
            max_devices: table.count("max_devices", DEVICES).unwrap_or(defaults.max_devices),
            dials_per_minute: table
                .limit("dials_per_minute", MAX_PER_MINUTE)
                .unwrap_or(defaults.dials_per_minute),
            max_body_bytes: table.whole("max_body_bytes", 0..=1 << 40).filter(|n| *n > 0),
            bytes_per_second: table.limit("bytes_per_second", u32::MAX).flatten(),
        }
    }
}

impl AddressLimits {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let defaults = Self::default();
        let (requests_per_minute, burst) = read_rate(table);
        Self {
            requests_per_minute,
            burst,
            max_connections: table
                .count("max_connections", 1..=1_000_000)
                .unwrap_or(defaults.max_connections),
            refused_tokens_per_minute: table
                .limit("refused_tokens_per_minute", MAX_PER_MINUTE)
                .unwrap_or(defaults.refused_tokens_per_minute),
        }
    }
}

fn read_rate(table: &mut Table<'_>) -> (Option<NonZeroU32>, Option<NonZeroU32>) {
    let requests_per_minute = table.limit("requests_per_minute", MAX_PER_MINUTE).flatten();
    let burst = table.limit("burst", MAX_PER_MINUTE).flatten();
    if burst.is_some() && !table.has("requests_per_minute") {
        table.fault("burst", "means nothing without requests_per_minute; set that, too");
    }
    (requests_per_minute, burst)
}
