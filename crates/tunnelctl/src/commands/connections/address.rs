//! Addresses of model servers, as people write them. Pure.

use tunnel_client::exit;
use url::{Host, Url};

use crate::refusal::Refusal;

/// Reads an address; `http://` may be left out.
///
/// What is wrong with it is told without repeating it: whoever writes a password into it must not find it in a log.
pub(super) fn read(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    let wrong =
        |why: &str| Refusal::new(exit::USAGE, format!("{why}; it must look like http://127.0.0.1:8080"));
    let url = url.map_err(|error| wrong(&format!("the address cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("the address is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "the address has a user name or a password in it, and the configuration holds no secrets",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("the address has more than a server and a path"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Tells whether two addresses lead to the same server: names of this machine are one, and so are `/v1` and none.
pub(super) fn same(one: &str, other: &str) -> bool {
    endpoint(one).is_some_and(|one| Some(one) == endpoint(other))
}

fn endpoint(text: &str) -> Option<(String, String, Option<u16>, String)> {
    let url = Url::parse(text).ok()?;
    let host = match url.host()? {
        Host::Domain("localhost") => "loopback".to_owned(),
        Host::Ipv4(ip) if ip.is_loopback() => "loopback".to_owned(),
        Host::Ipv6(ip) if ip.is_loopback() => "loopback".to_owned(),
        host => host.to_string(),
    };
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    Some((url.scheme().to_owned(), host, url.port_or_known_default(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_may_be_left_out() {
        for (text, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("localhost:1234/", "http://localhost:1234"),
            (" https://lab.example.org/v1/ ", "https://lab.example.org/v1"),
            ("[::1]:8000", "http://[::1]:8000"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_address_is_refused_without_its_secrets() {
        for text in ["", "ftp://h", "http://u:canary@h", "http://canary@h", "http://h/?key=canary", "h:99999"]
        {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.code(), exit::USAGE, "{text}");
            assert!(!refusal.to_string().contains("canary"), "{refusal}");
        }
    }

    #[test]
    fn names_of_this_machine_are_one() {
        for other in ["http://localhost:8080", "http://[::1]:8080/", "http://127.0.0.1:8080/v1"] {
            assert!(same("http://127.0.0.1:8080", other), "{other}");
        }
        for other in ["https://localhost:8080", "http://localhost:8081", "http://10.0.0.1:8080", "nonsense"] {
            assert!(!same("http://127.0.0.1:8080", other), "{other}");
        }
        assert!(same("http://h", "http://h:80/") && !same("x", "x"));
    }
}
