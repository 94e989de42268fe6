//! The settings in force as the file that would say them.

use std::fmt::{self, Display, Write as _};
use std::num::NonZeroU32;
use std::path::Path;

use serde_json::json;

use super::{
    AcmeSettings, AddressLimits, EdgeSettings, IssuerSettings, KeySource, LoginSettings, Settings, Tier,
    TlsSettings,
};
use crate::auth::Scope;

impl Settings {
    /// Writes all keys with their values, as TOML. There are no secrets in it: those stand in files of their own, of
    /// which the names are shown.
    pub fn to_toml(&self) -> String {
        let mut page = Page::default();
        // Cannot fail: text has room.
        let _written = self.write(&mut page);
        page.0
    }

    fn write(&self, page: &mut Page) -> fmt::Result {
        page.key("first_byte_timeout_s", self.first_byte_timeout.as_secs())?;
        page.key("idle_timeout_s", self.idle_timeout.as_secs())?;
        page.key("session_grace_s", self.session_grace.as_secs())?;
        page.key("device_wait_s", self.device_wait.as_secs())?;
        page.key("replay_window_bytes", self.replay_window_bytes)?;
        page.key("max_key_ttl_s", self.max_key_ttl.as_secs())?;
        page.key("max_tiered_key_ttl_s", self.max_tiered_key_ttl.as_secs())?;
        self.edge.write(page)?;
        self.address.write(page)?;
        page.table("tiers.default")?;
        self.default_tier.write(page)?;
        for (name, tier) in &self.tiers {
            page.table(&format!("tiers.{}", bare(name)))?;
            tier.write(page)?;
        }
        self.issuers.iter().try_for_each(|issuer| issuer.write(page))?;
        if let Some(login) = &self.login {
            login.write(page)?;
        }
        if let Some(file) = &self.audit_file {
            page.table("audit")?;
            page.key("file", path(file))?;
        }
        Ok(())
    }
}

impl EdgeSettings {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.table("edge")?;
        let proxies: Vec<String> = self.trusted_proxies.iter().map(ToString::to_string).collect();
        page.key("trusted_proxies", json!(proxies))?;
        page.key("proxy_header", json!(self.proxy_header.as_str()))?;
        page.key("allowed_origins", json!(self.allowed_origins))?;
        page.key("hsts_max_age_s", self.hsts_max_age.as_secs())?;
        page.key("tls_handshake_timeout_s", self.tls_handshake_timeout.as_secs())?;
        page.key("header_read_timeout_s", self.header_read_timeout.as_secs())?;
        page.key("keep_alive_timeout_s", self.keep_alive_timeout.as_secs())?;
        page.key("min_upload_bytes_per_second", self.min_upload_bytes_per_second)?;
        page.key("unread_timeout_s", self.unread_timeout.as_secs())?;
        match &self.tls {
            None => Ok(()),
            Some(TlsSettings::Files { certificate, key }) => {
                page.table("tls")?;
                page.key("certificate", path(certificate))?;
                page.key("key", path(key))
            }
            Some(TlsSettings::Acme(acme)) => acme.write(page),
        }
    }
}

impl AcmeSettings {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.table("acme")?;
        page.key("domains", json!(self.domains))?;
        page.optional("contact", self.contact.as_deref())?;
        page.key("directory", json!(self.directory.as_str()))?;
        self.ca_file.as_deref().map_or(Ok(()), |file| page.key("ca_file", path(file)))
    }
}

impl AddressLimits {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.table("address")?;
        page.key("requests_per_minute", limit(self.requests_per_minute))?;
        page.key("burst", limit(self.burst))?;
        page.key("max_connections", self.max_connections)?;
        page.key("refused_tokens_per_minute", limit(self.refused_tokens_per_minute))
    }
}

impl Tier {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.key("requests_per_minute", limit(self.requests_per_minute))?;
        page.key("burst", limit(self.burst))?;
        page.key("max_streams", self.max_streams)?;
        page.key("max_devices", self.max_devices)?;
        page.key("dials_per_minute", limit(self.dials_per_minute))?;
        page.key("max_body_bytes", self.max_body_bytes.unwrap_or(0))?;
        page.key("bytes_per_second", limit(self.bytes_per_second))
    }
}

impl IssuerSettings {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.table("[issuers]")?;
        page.key("name", json!(self.name))?;
        page.key("issuer", json!(self.issuer))?;
        match &self.keys {
            KeySource::Discovery => {}
            KeySource::Jwks(url) => page.key("jwks_url", json!(url.as_str()))?,
            KeySource::SecretFile(file) => page.key("secret_file", path(file))?,
        }
        page.key("algorithms", json!(self.algorithms))?;
        page.key("audiences", json!(self.audiences))?;
        page.key("tenant_claim", json!(self.tenant_claim))?;
        page.optional("tier_claim", self.tier_claim.as_deref())?;
        page.optional("scope_claim", self.scope_claim.as_deref())?;
        let scopes: Vec<&str> = [Scope::Tunnel, Scope::Inference, Scope::Account]
            .into_iter()
            .filter(|scope| self.scopes.has(*scope))
            .map(Scope::as_str)
            .collect();
        page.key("scopes", json!(scopes))?;
        page.key("leeway_s", self.leeway.as_secs())
    }
}

impl LoginSettings {
    fn write(&self, page: &mut Page) -> fmt::Result {
        page.table("login")?;
        page.key("issuer", json!(self.issuer))?;
        page.key("client_id", json!(self.client_id))?;
        page.key("scope", json!(self.scope))?;
        page.optional("audience", self.audience.as_deref())?;
        page.optional("resource", self.resource.as_deref())
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn table(&mut self, name: &str) -> fmt::Result {
        writeln!(self.0, "\n[{name}]")
    }

    /// JSON's texts, numbers and lists are TOML's, too.
    fn key(&mut self, name: &str, value: impl Display) -> fmt::Result {
        writeln!(self.0, "{name} = {value}")
    }

    fn optional(&mut self, name: &str, value: Option<&str>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.key(name, json!(value)))
    }
}

fn limit(limit: Option<NonZeroU32>) -> u32 {
    limit.map_or(0, NonZeroU32::get)
}

fn path(path: &Path) -> serde_json::Value {
    json!(path.to_string_lossy())
}

/// Writes a name as a key: as it is where TOML takes that.
fn bare(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if plain { name.to_owned() } else { json!(name).to_string() }
}
