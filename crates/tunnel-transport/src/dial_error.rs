//! Why a dial failed, and what to do about it.

use std::io;
use std::time::Duration;

/// Why a relay was not reached or did not take the dial.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// 401 `token_invalid`.
    #[error("{host} does not accept the token: {detail}")]
    TokenInvalid {
        /// The relay's host.
        host: String,
        /// The relay's sentence.
        detail: String,
    },
    /// 401 `token_expired`. `clock_off_s` is how far this machine's clock is ahead of the relay's, in seconds.
    #[error("the token for {host} has expired")]
    TokenExpired {
        /// The relay's host.
        host: String,
        /// Seconds by which the local clock is ahead of the relay's; negative when behind.
        clock_off_s: Option<i64>,
    },
    /// 403.
    #[error("{host} does not allow this: {detail}")]
    NotAllowed {
        /// The relay's host.
        host: String,
        /// The relay's sentence.
        detail: String,
    },
    /// 409: another daemon took over this device.
    #[error("another tunneld has taken over this device at {host}")]
    Replaced {
        /// The relay's host.
        host: String,
    },
    /// 410: the session is not known any more.
    #[error("the relay no longer has the session")]
    SessionGone,
    /// 426, or a relay that speaks another protocol.
    #[error("{host} does not speak tunnel.v1: {detail}")]
    VersionUnsupported {
        /// The relay's host.
        host: String,
        /// The relay's sentence.
        detail: String,
    },
    /// 429 or 503.
    #[error("{host} asks to come back in {} s", after.as_secs())]
    Busy {
        /// The relay's host.
        host: String,
        /// From `Retry-After`.
        after: Duration,
    },
    /// An answer that no relay gives.
    #[error("{host} does not answer like a relay: {detail}")]
    NotARelay {
        /// The host.
        host: String,
        /// What it did instead.
        detail: String,
    },
    /// No TCP connection.
    #[error("could not reach {host}")]
    Unreachable {
        /// The relay's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS: a certificate that is not trusted, above all.
    #[error("could not agree on TLS with {host}")]
    Tls {
        /// The relay's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{host} did not answer within {} s", after.as_secs())]
    Timeout {
        /// The relay's host.
        host: String,
        /// The limit that passed.
        after: Duration,
    },
}

/// What to do after a failed dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing, until the token or the config changes or the user says so.
    Never,
    /// Dial at once, as a new session.
    Fresh,
    /// Dial after this long, at the earliest.
    After(Duration),
    /// Dial after the usual back-off.
    Backoff,
}

impl DialError {
    /// Tells the supervisor what to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::TokenInvalid { .. } | Self::TokenExpired { .. } | Self::NotAllowed { .. } => Retry::Never,
            Self::Replaced { .. } => Retry::Never,
            Self::SessionGone => Retry::Fresh,
            Self::Busy { after, .. } => Retry::After(*after),
            // A relay may be updated or a proxy before it mended at any time.
            Self::VersionUnsupported { .. } | Self::NotARelay { .. } => Retry::Backoff,
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Timeout { .. } => Retry::Backoff,
        }
    }
}
