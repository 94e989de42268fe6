//! Names that travel in the handshake's headers.

use std::fmt;
use std::str::FromStr;

/// The name of one desktop among those of its user: 1–63 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName(String);

/// Returned for text that is no [`DeviceName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device name is 1 to 63 characters out of a-z, 0-9 and -")]
pub struct BadDeviceName;

impl DeviceName {
    const MAX_LEN: usize = 63;

    /// Makes a device name out of a host name: lower case, up to the first dot, `-` for what does not fit,
    /// `desktop` where nothing is left.
    pub fn from_hostname(hostname: &str) -> Self {
        let first = hostname.split('.').next().unwrap_or_default();
        let name: String = first
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(Self::MAX_LEN)
            .collect();
        let name = name.trim_matches('-');
        Self(if name.is_empty() { "desktop" } else { name }.to_owned())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = BadDeviceName;

    fn from_str(text: &str) -> Result<Self, BadDeviceName> {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(fits) {
            return Err(BadDeviceName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one session for the relay and the desktop alike: 128 random bits, written as 32 hexadecimal digits.
///
/// Resuming needs the id *and* the token of the session, so an id alone opens nothing; it is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u128);

/// Returned for text that is no [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is 32 hexadecimal digits")]
pub struct BadSessionId;

impl SessionId {
    /// Draws a new id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadSessionId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| BadSessionId)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_checked_and_made() {
        assert!("my-desk-2".parse::<DeviceName>().is_ok());
        for bad in ["", "Desk", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert_eq!(bad.parse::<DeviceName>(), Err(BadDeviceName), "{bad}");
        }
        assert_eq!(DeviceName::from_hostname("Maria's PC.lan").as_str(), "maria-s-pc");
        assert_eq!(DeviceName::from_hostname("...").as_str(), "desktop");
        assert!(DeviceName::from_hostname(&"Ü".repeat(80)).as_str().parse::<DeviceName>().is_ok());
    }

    #[test]
    fn session_ids_round_trip_and_nothing_else_parses() {
        let id = SessionId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "+0000000000000000000000000000001", "zz", &"0".repeat(33)] {
            assert_eq!(bad.parse::<SessionId>(), Err(BadSessionId), "{bad}");
        }
    }
}
