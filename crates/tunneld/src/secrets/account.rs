//! Whose token it is.

use std::fmt;

use tunnel_api::config::is_connection_id;
use tunnel_transport::RelayUrl;

/// What stands before the name of a connection's secret.
const OF_CONNECTIONS: &str = "connection/";

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

    /// The secret of this name that connections are sent. No relay is called like that: hosts have no slash.
    pub(crate) fn connection(name: &str) -> Self {
        Self(format!("{OF_CONNECTIONS}{name}"))
    }

    /// Returns the name of a connection's secret; None of a relay.
    pub(crate) fn connection_name(&self) -> Option<&str> {
        self.0.strip_prefix(OF_CONNECTIONS)
    }

    /// Reads the account as a store files it; None of one that is not a connection's secret.
    pub(crate) fn read_connection(text: &str) -> Option<&str> {
        text.strip_prefix(OF_CONNECTIONS).filter(|name| is_connection_id(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns it fit for the name of a file, without an ending.
    pub(crate) fn as_file_name(&self) -> String {
        if let Some(name) = self.connection_name() {
            // Fit as it is.
            return format!("connection.{name}");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let host: String = self.0.chars().map(|c| if plain(c) { c } else { '_' }).collect();
        format!("token.{host}")
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
        assert_eq!(account("http://[::1]:8080").as_file_name(), "token.__1_8080");
        assert_ne!(account("https://relay.example"), account("https://other.example"));
    }
}
