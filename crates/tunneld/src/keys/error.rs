//! Why there is no key, or why it is not revoked.

use http::StatusCode;

use crate::secrets::CallError;

/// What went wrong with a key. Repeats what the relay says, and nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the tunnel is switched off in the configuration; to use it: tunnelctl connections enable cloud")]
    SwitchedOff,
    #[error("nobody is logged in, and the relay makes keys for those who are; log in: tunnelctl login")]
    NoToken,
    #[error("the relay {relay} refuses the token of this login; log in anew: tunnelctl login")]
    TokenRefused { relay: String },
    #[error(
        "the relay {relay} does not allow this login to make or revoke keys: {why}; log in anew: tunnelctl login, or have the \
         relay's operator make a token with: tunnel-relay token create --scope tunnel --scope account"
    )]
    NotAllowed { relay: String, why: String },
    #[error(
        "the relay {relay} makes no keys; have its operator make one with: tunnel-relay token create --scope inference"
    )]
    NotOffered { relay: String },
    #[error("{field} must be {rule}")]
    Unusable { field: &'static str, rule: &'static str },
    #[error("the relay {relay} does not make such a key: {sentence}")]
    Refused { relay: String, sentence: String },
    #[error("there is no key with this id; tunnelctl keys list shows those of this machine")]
    Unknown,
    #[error(
        "the relay {relay} does not take this key back for this login: it is void already, or was made with another login; \
         log in as then, or have the relay's operator revoke it by its id"
    )]
    NotTheirs { relay: String },
    #[error("the key was made by another relay, {relay}; to revoke it, make that one cloudProxyUrl again")]
    OtherRelay { relay: String },
    #[error(
        "the system gives no random bytes to make a key of; try again, and look at: journalctl --user -u tunneld"
    )]
    NoRandomness,
    #[error(
        "the key could not be written to the state database, so none was made; see what is wrong with it: tunnelctl status"
    )]
    NotMade,
    #[error(
        "the key lets nobody in any more, but that could not be written to the state database, so it may again after a \
         restart; see what is wrong: tunnelctl status; then look at: tunnelctl keys list"
    )]
    NotWritten,
    #[error("there are too many keys of this machine; revoke some first: tunnelctl keys revoke ID")]
    TooMany,
    #[error("the relay {relay} answered {status}; try again later")]
    Unavailable { relay: String, status: StatusCode },
    #[error("the relay {relay} gave an answer without a usable key; tell its operator")]
    BadAnswer { relay: String },
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("tunneld is shutting down")]
    ShuttingDown,
}

impl KeyError {
    /// The stable word by which programs know it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "cloud_proxy_disabled",
            Self::NoToken => "no_token",
            Self::TokenRefused { .. } => "token_invalid",
            Self::NotAllowed { .. } => "not_allowed",
            Self::NotOffered { .. } => "keys_unavailable",
            Self::Unusable { .. } => "bad_request",
            Self::Refused { .. } => "key_refused",
            Self::Unknown | Self::NotTheirs { .. } => "unknown_key",
            Self::OtherRelay { .. } => "other_relay",
            Self::TooMany => "too_many_keys",
            Self::Unavailable { .. } | Self::BadAnswer { .. } | Self::Call(_) => "relay_unavailable",
            Self::NoRandomness => "no_randomness",
            Self::NotMade | Self::NotWritten => "state_not_written",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The status that belongs to it. Never 401 or 403, which say that the caller is a stranger to the daemon.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::SwitchedOff
            | Self::NoToken
            | Self::TokenRefused { .. }
            | Self::NotAllowed { .. }
            | Self::NotOffered { .. }
            | Self::OtherRelay { .. }
            | Self::TooMany => StatusCode::CONFLICT,
            Self::Unusable { .. } => StatusCode::BAD_REQUEST,
            Self::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unknown | Self::NotTheirs { .. } => StatusCode::NOT_FOUND,
            Self::Unavailable { .. } | Self::BadAnswer { .. } | Self::Call(_) => StatusCode::BAD_GATEWAY,
            Self::NoRandomness | Self::NotMade | Self::NotWritten | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}
