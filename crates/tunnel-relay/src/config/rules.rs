//! What single values of the settings file must be.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::ProxyHeader;

/// An address that something is fetched from: `https`, or `http` where it does not leave the machine.
pub(super) fn fetched_url(text: &str) -> Result<Url, String> {
    const RULE: &str = "must be an address that begins with https:// (http:// only to this machine itself)";
    let url = Url::parse(text).map_err(|_| RULE.to_owned())?;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !(url.scheme() == "https" && url.has_host() || url.scheme() == "http" && loopback) {
        return Err(RULE.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or password: addresses are shown in logs".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not have a part after #".to_owned());
    }
    Ok(url)
}

/// The origin of a page as browsers write it.
pub(super) fn origin(text: &str) -> Result<String, String> {
    const RULE: &str = "must be an origin as browsers send it, such as https://chat.example.org or http://localhost:3000: \
                        no path, no wildcard";
    let wrong = || RULE.to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if matches!(scheme, "http" | "https") {
        let origin = Url::parse(text).map_err(|_| wrong())?.origin().ascii_serialization();
        return if origin == text {
            Ok(origin)
        } else if origin == text.trim_end_matches('/').to_ascii_lowercase() || origin.len() < text.len() {
            Err(format!("{RULE}; did you mean {origin}?"))
        } else {
            Err(wrong())
        };
    }
    // Pages inside apps: tauri://localhost, chrome-extension://<id>. Browsers know no more of them than this.
    let letters = |text: &str, more: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    (letters(scheme, "+-.") && letters(rest, "-.:")).then(|| text.to_owned()).ok_or_else(wrong)
}

/// A header in which proxies say who calls, however it is written.
pub(super) fn proxy_header(text: &str) -> Result<ProxyHeader, String> {
    [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded]
        .into_iter()
        .find(|header| text.eq_ignore_ascii_case(header.as_str()))
        .ok_or_else(|| {
            "must be x-forwarded-for or forwarded: the header that the proxy writes itself".to_owned()
        })
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text
        .parse()
        .map_err(|_| "must be a network or an address, such as 10.0.0.0/8 or 192.0.2.7".to_owned())?;
    if net == net.trunc() {
        Ok(net)
    } else {
        Err(format!("names one address and a network at once; did you mean {}?", net.trunc()))
    }
}

/// A host name that a certificate can be had for.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = text.parse::<IpAddr>().is_ok();
    if !is_address && text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("must be a host name, such as relay.example.org: no wildcard, no address, no port".to_owned())
    }
}

/// `mailto:` and an address.
pub(super) fn mailto(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("mailto:").and_then(|address| address.split_once('@'));
    match address {
        Some((name, host)) if !name.is_empty() && domain(host).is_ok() => Ok(text.to_owned()),
        _ => Err("must be an address such as mailto:ops@example.org".to_owned()),
    }
}

/// The name of an issuer.
pub(super) fn issuer_name(text: &str) -> Result<String, String> {
    let letters = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if text == "local" {
        Err("is the relay's own issuer; choose another name".to_owned())
    } else if letters && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 32 of a-z, 0-9 and -".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_fetched_safely_or_from_this_machine() {
        for good in [
            "https://id.example.org/",
            "https://id.example.org:8443/r/x?y=1",
            "http://127.0.0.1:4000",
            "http://[::1]/",
            "http://localhost:1/",
        ] {
            assert!(fetched_url(good).is_ok(), "{good}");
        }
        for bad in [
            "id.example.org",
            "http://id.example.org",
            "http://10.0.0.1/",
            "ftp://id.example.org",
            "file:///etc/passwd",
            "https://",
            "https://u@id.example.org",
            "https://u:p@id.example.org",
            "https://id.example.org/#x",
            "http://localhost.example.org/",
            "data:,x",
        ] {
            assert!(fetched_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        for good in [
            "https://chat.example.org",
            "http://localhost:3000",
            "https://[2001:db8::1]:8443",
            "tauri://localhost",
            "chrome-extension://abcdef",
        ] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in [
            "*",
            "null",
            "chat.example.org",
            "https://",
            "https://*.example.org/x",
            "app://",
            "app://x/y",
            "App://x",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        for almost in [
            "https://chat.example.org/",
            "https://Chat.example.org",
            "https://chat.example.org:443",
            "https://chat.example.org/app",
        ] {
            let rule = origin(almost).unwrap_err();
            assert!(rule.ends_with("did you mean https://chat.example.org?"), "{almost}: {rule}");
        }
    }

    #[test]
    fn networks_are_exact() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert!(network("10.0.0.1/8").unwrap_err().contains("did you mean 10.0.0.0/8?"));
        for bad in ["10.0.0.0/33", "10.0.0", "example.org", "10.0.0.0/"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn certificates_are_for_host_names() {
        assert_eq!(domain("Relay.Example.ORG").as_deref(), Ok("relay.example.org"));
        for bad in [
            "*.example.org",
            "192.0.2.7",
            "relay.example.org:443",
            "a..b",
            "-a.org",
            "https://a.org",
            &"a".repeat(64),
        ] {
            assert!(domain(bad).is_err(), "{bad}");
        }
        assert!(mailto("mailto:ops@example.org").is_ok());
        for bad in ["ops@example.org", "mailto:", "mailto:@example.org", "mailto:ops@", "mailto:ops"] {
            assert!(mailto(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn issuers_have_short_names_of_their_own() {
        assert!(issuer_name("auth0").is_ok() && issuer_name("key-cloak").is_ok());
        for bad in ["local", "Auth0", "a:b", "", "a b", &"a".repeat(33)] {
            assert!(issuer_name(bad).is_err(), "{bad}");
        }
    }
}
