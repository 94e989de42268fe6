//! What the admin API shows: the registry and the settings as JSON. Subjects are in clear here, as the operator who issues
//! their tokens knows them.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use tunnel_transport::LinkState;

use crate::config::{Settings, Tier};
use crate::registry::{Registry, Tunnel};

/// One account that has been here of late.
#[derive(Debug, Serialize)]
pub(super) struct TenantView {
    subject: Arc<str>,
    /// Known, those that are away included.
    devices: usize,
    devices_online: usize,
    sessions: usize,
    streams: usize,
    /// The tier that the newest session's token names.
    tier: Option<String>,
}

/// One tunnel.
#[derive(Debug, Serialize)]
pub(super) struct SessionView {
    id: String,
    subject: Arc<str>,
    device: String,
    agent: Arc<str>,
    since: Timestamp,
    attached: bool,
    streams: usize,
    expires_at: Option<Timestamp>,
}

/// The limits of a tier; `null` is none.
#[derive(Debug, Serialize)]
pub(super) struct TierView {
    requests_per_minute: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    max_streams: usize,
    max_devices: usize,
    max_body_bytes: Option<u64>,
    bytes_per_second: Option<NonZeroU32>,
}

/// A tenant that has all that it may have.
#[derive(Debug, Serialize)]
pub(super) struct AtLimit {
    subject: Arc<str>,
    tier: Option<String>,
    limit: &'static str,
    value: usize,
}

impl SessionView {
    pub(super) fn of(tunnel: &Tunnel) -> Self {
        let expires_at = i64::try_from(tunnel.bearer().expires_at).ok();
        Self {
            id: tunnel.session.id().to_string(),
            subject: Arc::clone(&tunnel.subject),
            device: tunnel.device.to_string(),
            agent: Arc::clone(&tunnel.agent),
            since: tunnel.opened_at,
            attached: matches!(*tunnel.session.link().borrow(), LinkState::Attached { .. }),
            streams: tunnel.n_streams(),
            // One that never ends is no time that a calendar has.
            expires_at: expires_at.and_then(|at| Timestamp::from_second(at).ok()),
        }
    }
}

impl From<&Tier> for TierView {
    fn from(tier: &Tier) -> Self {
        Self {
            requests_per_minute: tier.requests_per_minute,
            burst: tier.burst,
            max_streams: tier.max_streams,
            max_devices: tier.max_devices,
            max_body_bytes: tier.max_body_bytes,
            bytes_per_second: tier.bytes_per_second,
        }
    }
}

/// Returns at most `limit` items that come after `after`, in order, and the last of them if there are more.
pub(super) fn page<T>(
    mut items: Vec<T>,
    key: impl Fn(&T) -> String,
    after: Option<&str>,
    limit: usize,
) -> (Vec<T>, Option<String>) {
    items.retain(|item| after.is_none_or(|after| key(item).as_str() > after));
    items.sort_by_cached_key(&key);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(key);
    (items, next)
}

/// Shows these subjects, those that are gone meanwhile left out.
pub(super) fn tenants(registry: &Registry, subjects: Vec<Arc<str>>) -> Vec<TenantView> {
    let mut sessions: HashMap<Arc<str>, Vec<Arc<Tunnel>>> = HashMap::new();
    for tunnel in registry.tunnels() {
        sessions.entry(Arc::clone(&tunnel.subject)).or_default().push(tunnel);
    }
    let view = |subject: Arc<str>| {
        let tenant = registry.tenant(&subject)?;
        let tunnels = sessions.get(&subject).map_or(&[][..], Vec::as_slice);
        let newest = tunnels.iter().max_by_key(|tunnel| tunnel.opened_at);
        Some(TenantView {
            subject,
            devices: tenant.devices,
            devices_online: tenant.online,
            sessions: tunnels.len(),
            streams: tenant.streams,
            tier: newest.and_then(|tunnel| tunnel.tier.clone()),
        })
    };
    subjects.into_iter().filter_map(view).collect()
}

/// Returns all tiers in force by name.
pub(super) fn tiers(settings: &Settings) -> BTreeMap<&str, TierView> {
    let default = ("default", TierView::from(&settings.default_tier));
    let named = settings.tiers.iter().map(|(name, tier)| (name.as_str(), tier.into()));
    std::iter::once(default).chain(named).collect()
}

/// Returns which tenants have all the streams or devices that their tier allows.
pub(super) fn at_limit(settings: &Settings, tenants: &[TenantView]) -> Vec<AtLimit> {
    let reached = |tenant: &TenantView| {
        let tier = settings.tier(tenant.tier.as_deref());
        [
            ("max_streams", tenant.streams, tier.max_streams),
            ("max_devices", tenant.devices_online, tier.max_devices),
        ]
        .into_iter()
        .filter(|(_, value, most)| value >= most)
        .map(|(limit, value, _)| AtLimit {
            subject: Arc::clone(&tenant.subject),
            tier: tenant.tier.clone(),
            limit,
            value,
        })
        .collect::<Vec<_>>()
    };
    tenants.iter().flat_map(reached).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let all: Vec<String> = (0..25).map(|n| format!("t{:02}", (n * 7) % 25)).collect();
        let (mut seen, mut after) = (Vec::new(), None);
        for _ in 0..3 {
            let (items, next) = page(all.clone(), Clone::clone, after.as_deref(), 10);
            seen.extend(items);
            after = next;
        }
        assert_eq!(after, None);
        let mut expected = all;
        expected.sort();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_tenant_with_all_that_its_tier_allows_is_at_its_limit() {
        let mut settings = Settings::default();
        let small = Tier { max_streams: 2, ..Tier::default() };
        settings.tiers.insert("free".to_owned(), small);
        let tenant = |streams, tier: Option<&str>| TenantView {
            subject: "alice".into(),
            devices: 1,
            devices_online: 1,
            sessions: 1,
            streams,
            tier: tier.map(Into::into),
        };
        assert_eq!(at_limit(&settings, &[tenant(1, Some("free")), tenant(2, None)]).len(), 0);
        let at = at_limit(&settings, &[tenant(2, Some("free"))]);
        assert_eq!((at[0].limit, at[0].value), ("max_streams", 2));
    }
}
