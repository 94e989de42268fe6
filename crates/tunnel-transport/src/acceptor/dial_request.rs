//! What a desktop asks for.

use http::{HeaderMap, StatusCode};

use crate::SUBPROTOCOL;
use crate::names::{DeviceName, SessionId};

/// A dial, as its headers say it. Who dials is for the relay to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialRequest {
    /// The desktop's name.
    pub device: DeviceName,
    /// Its program and version, of at most 100 printable ASCII characters.
    pub agent: Option<String>,
    /// What it wants.
    pub kind: DialKind,
}

/// What a dial wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialKind {
    /// A new session, instead of an older one.
    Fresh,
    /// A new socket for a session.
    Resume {
        /// The session.
        session: SessionId,
        /// How many bytes of the relay's stream the desktop has received.
        received: u64,
    },
    /// A new session beside another, which the relay has asked for.
    Migrate {
        /// The other session.
        session: SessionId,
    },
}

/// Why a request is not a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDial {
    /// No WebSocket upgrade.
    #[error("this address takes the WebSocket of a tunneld; it is not for browsers")]
    NotAnUpgrade,
    /// Another subprotocol or WebSocket version.
    #[error("this relay speaks {SUBPROTOCOL} over WebSocket version 13")]
    Version,
    /// `Tunnel-Device` is missing or is no device name.
    #[error("the header Tunnel-Device must be 1 to 63 characters out of a-z, 0-9 and -")]
    Device,
    /// `Tunnel-Resume` or `Tunnel-Migrate` cannot be read.
    #[error("the header Tunnel-Resume or Tunnel-Migrate cannot be read")]
    Session,
}

impl BadDial {
    /// Returns the status that answers it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Device | Self::Session => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the machine's word for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAnUpgrade | Self::Version => "version_unsupported",
            Self::Device | Self::Session => "bad_request",
        }
    }
}

impl DialRequest {
    /// Reads the headers of a request to [`crate::CONNECT_PATH`].
    pub fn parse(headers: &HeaderMap) -> Result<Self, BadDial> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let lists = |name: &str, wanted: &str| {
            headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(wanted)))
        };
        if !lists("connection", "upgrade")
            || !lists("upgrade", "websocket")
            || text("sec-websocket-key").is_none()
        {
            return Err(BadDial::NotAnUpgrade);
        }
        if text("sec-websocket-version") != Some("13") || !lists("sec-websocket-protocol", SUBPROTOCOL) {
            return Err(BadDial::Version);
        }
        let device = text("tunnel-device").and_then(|name| name.parse().ok()).ok_or(BadDial::Device)?;
        let agent = text("tunnel-agent").map(|agent| agent.chars().take(100).collect());
        let kind = match (headers.get("tunnel-resume"), headers.get("tunnel-migrate")) {
            (None, None) => Some(DialKind::Fresh),
            (Some(resume), None) => resume.to_str().ok().and_then(parse_resume),
            (None, Some(_)) => text("tunnel-migrate")
                .and_then(|session| session.parse().ok())
                .map(|session| DialKind::Migrate { session }),
            (Some(_), Some(_)) => None,
        };
        Ok(Self { device, agent, kind: kind.ok_or(BadDial::Session)? })
    }
}

/// Reads `<session id> <received>`.
pub(crate) fn parse_resume(value: &str) -> Option<DialKind> {
    let (session, received) = value.split_once(' ')?;
    // `parse` alone would take a sign.
    if !received.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(DialKind::Resume { session: session.parse().ok()?, received: received.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "other, tunnel.v1"),
            ("tunnel-device", "desk"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_dial_is_read_from_its_headers() {
        let mut dial = headers();
        assert_eq!(DialRequest::parse(&dial).unwrap().kind, DialKind::Fresh);
        let session = SessionId::random();
        dial.insert("tunnel-resume", format!("{session} 17").parse().unwrap());
        assert_eq!(DialRequest::parse(&dial).unwrap().kind, DialKind::Resume { session, received: 17 });
        dial.insert("tunnel-migrate", session.to_string().parse().unwrap());
        assert_eq!(DialRequest::parse(&dial), Err(BadDial::Session));
        dial.remove("tunnel-resume");
        assert_eq!(DialRequest::parse(&dial).unwrap().kind, DialKind::Migrate { session });
    }

    #[test]
    fn what_is_not_a_dial_is_told_apart() {
        for (name, error) in [
            ("connection", BadDial::NotAnUpgrade),
            ("upgrade", BadDial::NotAnUpgrade),
            ("sec-websocket-key", BadDial::NotAnUpgrade),
            ("sec-websocket-version", BadDial::Version),
            ("sec-websocket-protocol", BadDial::Version),
            ("tunnel-device", BadDial::Device),
        ] {
            let mut dial = headers();
            dial.remove(name);
            assert_eq!(DialRequest::parse(&dial), Err(error), "without {name}");
        }
    }

    proptest! {
        #[test]
        fn a_resume_header_never_panics_and_round_trips(text in ".{0,80}", id: u128, received: u64) {
            let _outcome = parse_resume(&text);
            let text = format!("{id:032x} {received}");
            let parsed = parse_resume(&text);
            let same = matches!(parsed, Some(DialKind::Resume { received: r, .. }) if r == received);
            prop_assert!(same);
        }
    }
}
