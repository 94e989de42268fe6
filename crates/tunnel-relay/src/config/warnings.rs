//! What is no fault of a settings file, and yet hardly what its writer wants.

use tracing::warn;

use super::{IssuerSettings, Settings, Tier};

/// Supabase's and Auth0's users may write what they like into this object of their tokens.
const WRITTEN_BY_USERS: &str = "user_metadata";

impl Settings {
    /// Returns what an operator should look at again, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.issuers.iter().flat_map(written_by_users).collect();
        warnings.extend(self.without_limits());
        warnings
    }

    /// Writes the same into the log, for those who start without a check.
    pub(crate) fn log_warnings(&self) {
        for warning in self.warnings() {
            warn!(warning, "the settings are in force, but look at this");
        }
    }

    /// Whoever has no tier has the tier `default`. Where others are held to something, that one should not be forgotten.
    fn without_limits(&self) -> Option<String> {
        let by_claim = self.issuers.iter().find(|issuer| issuer.tier_claim.is_some());
        if self.default_tier.limits_use()
            || (by_claim.is_none() && !self.tiers.values().any(Tier::limits_use))
        {
            return None;
        }
        let who = match by_claim {
            Some(IssuerSettings { name, tier_claim: Some(claim), .. }) => {
                format!(
                    "a token of the issuer {name} without {claim}, or with a tier that is not in this file,"
                )
            }
            _ => "a token that names no tier, or one that is not in this file,".to_owned(),
        };
        Some(format!(
            "tiers.default: {who} has no limit of requests, bytes a second or bodies; give [tiers.default] the limits of \
             the smallest tier"
        ))
    }
}

impl Tier {
    /// Tells whether it limits what a tenant sends, beyond how many streams and devices it has at a time.
    fn limits_use(&self) -> bool {
        self.requests_per_minute.is_some() || self.bytes_per_second.is_some() || self.max_body_bytes.is_some()
    }
}

fn written_by_users(issuer: &IssuerSettings) -> Vec<String> {
    let claims = [
        (
            "tenant_claim",
            Some(&issuer.tenant_claim),
            "make itself the tenant that it likes, with that one's desktops",
        ),
        ("tier_claim", issuer.tier_claim.as_ref(), "choose its own limits"),
        ("scope_claim", issuer.scope_claim.as_ref(), "choose what it may do"),
    ];
    let is_written = |path: &str| path.split('.').next() == Some(WRITTEN_BY_USERS);
    let told = claims
        .into_iter()
        .filter_map(|(key, path, what)| Some((key, path.filter(|path| is_written(path))?, what)));
    told.map(|(key, path, what)| {
        format!(
            "issuers.{}.{key}: users may change {path} by themselves, so that an account could {what}; use a claim that \
             only the issuer writes, such as app_metadata.…",
            issuer.name
        )
    })
    .collect()
}
