//! Which proxy stands between this machine and others.

use std::ffi::OsString;
use std::net::IpAddr;

use tunnel_api::Config;
use tunnel_api::config::Fault;
use tunnel_transport::{Proxy, is_loopback};
use url::Url;

/// Variables that name a proxy for https, in the order in which they count.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Variables that name hosts which are reached without one.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// How other machines are reached: `proxyUrl`, or what the environment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Proxies {
    proxy: Option<Proxy>,
    /// Hosts that are reached without it, as `NO_PROXY` lists them.
    exempt: String,
}

/// What was found out about proxies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) proxies: Proxies,
    /// A variable that names a proxy of a kind that we cannot use. It is other programs' too, so it is no fault.
    pub(super) unusable_variable: Option<&'static str>,
}

impl Proxies {
    #[cfg(test)]
    pub(crate) fn all_through(proxy: &str) -> Self {
        Self { proxy: Some(Proxy::parse(proxy).unwrap()), exempt: String::new() }
    }

    /// Returns the proxy to the host of an address. None for this machine and for exempt hosts.
    pub(crate) fn to(&self, url: &Url) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !is_loopback(url) && !is_exempt(url, &self.exempt))
    }
}

/// Looks for a proxy: `proxyUrl`, else what the environment says.
pub(super) fn find(config: &Config, env: impl Fn(&str) -> Option<OsString>) -> Result<Found, Fault> {
    if let Some(url) = &config.proxy_url {
        let proxy = Proxy::parse(url.as_str()).map_err(|error| Fault {
            key: "proxyUrl".to_owned(),
            value: None,
            rule: format!("Proxy URL is not usable: {error}"),
            did_you_mean: None,
        })?;
        // Who names it here means it for all.
        let proxies = Proxies { proxy: Some(proxy), exempt: String::new() };
        return Ok(Found { proxies, unusable_variable: None });
    }
    let set = |name: &&'static str| {
        let value = env(name)?.to_string_lossy().trim().to_owned();
        Some((*name, value)).filter(|(_, value)| !value.is_empty())
    };
    let Some((variable, address)) = PROXY_VARIABLES.iter().find_map(set) else { return Ok(Found::default()) };
    let exempt = NO_PROXY_VARIABLES.iter().find_map(set).map(|(_, hosts)| hosts).unwrap_or_default();
    // Other programs take `proxy:3128` there.
    let address = if address.contains("://") { address } else { format!("http://{address}") };
    let proxy = Proxy::parse(&address).ok();
    let relay = &config.cloud_proxy_url;
    let missed = proxy.is_none() && !is_loopback(relay) && !is_exempt(relay, &exempt);
    Ok(Found { proxies: Proxies { proxy, exempt }, unusable_variable: missed.then_some(variable) })
}

/// Tells whether a list such as `localhost,.example.org,10.0.0.1:8443` names the address. `*` names all.
fn is_exempt(url: &Url, hosts: &str) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    hosts.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, port) = match entry.rsplit_once(':') {
            // An IPv6 address has colons of its own.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
            _ => (entry, None),
        };
        if port.is_some_and(|port| port.parse().ok() != url.port_or_known_default()) {
            return false;
        }
        let name = name
            .trim_matches(['[', ']'])
            .trim_start_matches("*.")
            .trim_start_matches('.')
            .to_ascii_lowercase();
        let below = || host.strip_suffix(&name).is_some_and(|left| left.ends_with('.'));
        // An address is no domain: 10.0.0.1 is not below 0.0.1.
        name == "*" || host == name || (host.parse::<IpAddr>().is_err() && below())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn proxy(keys: Value, env: &[(&str, &str)]) -> Result<Option<Proxy>, Fault> {
        let config = Config::check(keys.as_object().unwrap()).unwrap();
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        find(&config, env).map(|found| found.proxies.to(&config.cloud_proxy_url).cloned())
    }

    fn parsed(text: &str) -> Result<Option<Proxy>, Fault> {
        Ok(Some(Proxy::parse(text).unwrap()))
    }

    #[test]
    fn key_beats_the_environment() {
        let env = [("HTTPS_PROXY", "http://env:1")];
        assert_eq!(proxy(json!({}), &env), parsed("http://env:1"));
        assert_eq!(proxy(json!({ "proxyUrl": "socks5://key:2" }), &env), parsed("socks5://key:2"));
        assert_eq!(proxy(json!({}), &[("https_proxy", "env:1")]), parsed("http://env:1"));
        assert_eq!(proxy(json!({}), &[("HTTPS_PROXY", " ")]), Ok(None));
        assert_eq!(proxy(json!({}), &[]), Ok(None));
    }

    #[test]
    fn relay_on_this_machine_has_none() {
        let env = [("HTTPS_PROXY", "http://env:1")];
        for relay in ["http://127.0.0.1:7000", "http://localhost:7000", "https://[::1]", "https://127.9.9.9"]
        {
            let keys = json!({ "cloudProxyUrl": relay, "proxyUrl": "http://key:2" });
            assert_eq!(proxy(keys, &env), Ok(None), "{relay}");
        }
    }

    #[test]
    fn exempt_hosts_are_reached_directly() {
        let with = |relay: &str, hosts: &str| {
            let env = [("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", hosts)];
            proxy(json!({ "cloudProxyUrl": relay }), &env).unwrap().is_none()
        };
        for hosts in [
            "*",
            "relay.example.org",
            "a, .example.org",
            "example.org",
            "*.example.org",
            "relay.example.org:443",
        ] {
            assert!(with("https://relay.example.org", hosts), "{hosts}");
        }
        for hosts in ["", "lay.example.org", "example.com", "relay.example.org:8443", "org.example"] {
            assert!(!with("https://relay.example.org", hosts), "{hosts}");
        }
        assert!(with("https://10.0.0.1:8443", "10.0.0.1") && with("https://[fd00::1]", "fd00::1,x"));
        assert!(!with("https://10.0.0.1", "0.0.1"));
    }

    #[test]
    fn variable_that_is_of_no_use_here_is_named_and_is_no_fault() {
        let env = |name: &str| (name == "HTTPS_PROXY").then(|| "socks4://me:hunter2@p".into());
        let found = find(&Config::default(), env).unwrap();
        assert_eq!(found, Found { unusable_variable: Some("HTTPS_PROXY"), ..Found::default() });
    }
}
