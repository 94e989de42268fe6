//! Why nobody is logged in.

use std::io;

use http::StatusCode;

use super::Flow;
use crate::secrets::{CallError, ChangeError};

/// Why a login could not begin, or ended without a token. Names hosts at most.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("the tunnel is switched off in the configuration; to use it: tunnelctl connections enable cloud")]
    SwitchedOff,
    #[error(
        "the relay {relay} offers no login; have its operator make a token with: tunnel-relay token create --scope \
         tunnel, and store it: tunnelctl login --token-stdin"
    )]
    NotOffered { relay: String },
    #[error("{host} offers no {}; try {}", what(*.flow), other(*.flow))]
    NoSuchFlow { host: String, flow: Flow },
    #[error("what the relay {relay} says about its login cannot be used: {why}; tell its operator")]
    BadOffer { relay: String, why: &'static str },
    #[error("what {host} says about its login cannot be used: {why}; tell the relay's operator")]
    BadProvider { host: String, why: &'static str },
    #[error("{host} answered {status}; try again later")]
    Unavailable { host: String, status: StatusCode },
    #[error("{host} does not let tunneld log in: {code}; tell the relay's operator")]
    Refused { host: String, code: &'static str },
    #[error("it was denied at {host}; to try again: tunnelctl login")]
    Denied { host: String },
    #[error("nobody finished it in time; to try again: tunnelctl login")]
    TimedOut,
    #[error("another login was begun in its place, or it was cancelled")]
    Superseded,
    #[error(
        "no port of this machine could be opened for the browser to come back to; try tunnelctl login --device-code"
    )]
    Listen(#[source] io::Error),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the token could not be kept")]
    Store(#[from] ChangeError),
    #[error("tunneld is shutting down")]
    ShuttingDown,
}

fn what(flow: Flow) -> &'static str {
    match flow {
        Flow::Browser => "login in a browser on this machine",
        Flow::DeviceCode => "login by device code",
    }
}

fn other(flow: Flow) -> &'static str {
    match flow {
        Flow::Browser => "tunnelctl login --device-code",
        Flow::DeviceCode => "tunnelctl login --browser, on this machine",
    }
}

impl LoginError {
    /// The stable word by which programs know it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "cloud_proxy_disabled",
            Self::NotOffered { .. } | Self::NoSuchFlow { .. } => "login_unavailable",
            Self::BadOffer { .. } | Self::BadProvider { .. } | Self::Refused { .. } => "login_refused",
            Self::Unavailable { .. } | Self::Call(_) => "provider_unavailable",
            Self::Denied { .. } => "access_denied",
            Self::TimedOut => "login_timeout",
            Self::Superseded => "login_superseded",
            Self::Listen(_) => "internal_error",
            Self::Store(error) => error.code(),
            Self::ShuttingDown => "shutting_down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_says_what_to_do() {
        let host = || "login.example".to_owned();
        let none = LoginError::NotOffered { relay: host() }.to_string();
        assert!(none.contains("tunnelctl login --token-stdin"), "{none}");
        let flow = LoginError::NoSuchFlow { host: host(), flow: Flow::DeviceCode }.to_string();
        assert!(flow.contains("no login by device code; try tunnelctl login --browser"), "{flow}");
    }
}
