//! Whose token it is.

use std::fmt;

use tunnel_transport::RelayUrl;

/// A relay, as stores file tokens under it: its host, with the port where that is not the usual one.
///
/// A token is shown to no other relay than the one that it was stored for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account(String);

/// The port that goes without saying.
const HTTPS: u16 = 443;

impl Account {
    pub(crate) fn of(relay: &RelayUrl) -> Self {
        match relay.port() {
            HTTPS if relay.is_tls() => Self(relay.host().to_owned()),
            port => Self(format!("{}:{port}", relay.host())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns it fit for the name of a file.
    pub(crate) fn as_file_name(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        self.0.chars().map(|c| if plain(c) { c } else { '_' }).collect()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_the_relays_host_and_an_unusual_port() {
        let account = |url: &str| Account::of(&RelayUrl::parse(url).unwrap());
        assert_eq!(account("https://relay.example/below").as_str(), "relay.example");
        assert_eq!(account("https://relay.example:8443").as_str(), "relay.example:8443");
        assert_eq!(account("http://[::1]:8080").as_file_name(), "__1_8080");
        assert_ne!(account("https://relay.example"), account("https://other.example"));
    }
}
