//! What can go wrong when the daemon is asked, and the exit code that stands for it.

use std::time::Duration;

use tunnel_api::ErrorBody;

/// Exit codes of command lines that ask the daemon.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// It failed for another reason than those below.
    pub const FAILED: u8 = 1;
    /// The command line was wrong.
    pub const USAGE: u8 = 2;
    /// The daemon does not run.
    pub const NOT_RUNNING: u8 = 3;
    /// What was asked for is not ready, and will not be by waiting.
    pub const NOT_READY: u8 = 4;
    /// The daemon does not take orders from this user.
    pub const NOT_ALLOWED: u8 = 5;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 6;
    /// The configuration is wrong.
    pub const CONFIG_INVALID: u8 = 7;
    /// It took longer than it may.
    pub const TIMEOUT: u8 = 8;
    /// It does not fit what is there, such as an order to a tunnel that is switched off.
    pub const CONFLICT: u8 = 9;

    /// Returns the word that stands for an exit code in JSON. Stable.
    pub fn name(code: u8) -> &'static str {
        match code {
            OK => "ok",
            USAGE => "usage",
            NOT_RUNNING => "not_running",
            NOT_READY => "not_ready",
            NOT_ALLOWED => "not_allowed",
            NOT_FOUND => "not_found",
            CONFIG_INVALID => "config_invalid",
            TIMEOUT => "timeout",
            CONFLICT => "conflict",
            _ => "failed",
        }
    }
}

/// Why the daemon did not do what it was asked.
///
/// The texts are for people: what failed, on what, what to try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the door.
    #[error("cannot reach tunneld at {door}; {step}")]
    NotRunning {
        /// Where it was looked for.
        door: String,
        /// What to do about it.
        step: &'static str,
        /// What the connection attempt said.
        #[source]
        source: reqwest::Error,
    },
    /// The door belongs to somebody else.
    #[error("tunneld at {door} does not let this user in; ask as the user that runs it")]
    NotAllowed {
        /// Where it was asked.
        door: String,
        /// What it said, if it answered.
        body: Option<Box<ErrorBody>>,
    },
    /// Something else listens at the door.
    #[error("what answers at {door} is not tunneld: {detail}; name the right address with --url")]
    NotTunneld {
        /// Where it was asked.
        door: String,
        /// Why that is known.
        detail: String,
    },
    /// The daemon says that it is not ready.
    #[error("tunneld is not ready: {}", .0.error)]
    NotReady(Box<ErrorBody>),
    /// The daemon tried for as long as it was asked to.
    #[error("{}", .0.error)]
    WaitOver(Box<ErrorBody>),
    /// The daemon refused, or failed to do it.
    #[error("{}", .0.error)]
    Refused(Box<ErrorBody>),
    /// The daemon did not answer.
    #[error("tunneld at {door} did not answer within {} s; look at: tunnelctl logs", .after.as_secs_f64())]
    Timeout {
        /// Where it was asked.
        door: String,
        /// How long an answer was waited for.
        after: Duration,
    },
    /// The connection was lost before the answer was complete, or while the daemon was being followed.
    #[error("tunneld at {door} went away; see: tunnelctl status")]
    Lost {
        /// Where it was asked.
        door: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No client could be made.
    #[error("could not prepare a connection to tunneld")]
    Setup(#[source] reqwest::Error),
}

impl Error {
    /// Returns the word by which programs know it: the daemon's own where it gave one. Stable.
    pub fn code(&self) -> &str {
        let own = match self {
            Self::NotRunning { .. } => "not_running",
            Self::NotAllowed { .. } => "not_allowed",
            Self::NotTunneld { .. } => "not_tunneld",
            Self::NotReady(_) => "not_ready",
            Self::WaitOver(_) | Self::Timeout { .. } => "timeout",
            Self::Refused(_) => "refused",
            Self::Lost { .. } => "lost",
            Self::Setup(_) => "setup",
        };
        self.body().map(|body| body.code.as_str()).filter(|code| !code.is_empty()).unwrap_or(own)
    }

    /// Returns what the daemon answered, if it was the daemon that refused.
    pub fn body(&self) -> Option<&ErrorBody> {
        match self {
            Self::NotReady(body) | Self::WaitOver(body) | Self::Refused(body) => Some(body),
            Self::NotAllowed { body, .. } => body.as_deref(),
            Self::NotRunning { .. }
            | Self::NotTunneld { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Setup(_) => None,
        }
    }

    /// Returns the code with which a command line ends; see [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => exit::NOT_RUNNING,
            Self::NotAllowed { .. } => exit::NOT_ALLOWED,
            Self::NotReady(_) => exit::NOT_READY,
            Self::WaitOver(_) | Self::Timeout { .. } => exit::TIMEOUT,
            Self::Refused(body) => match body.status_code {
                404 => exit::NOT_FOUND,
                409 | 412 => exit::CONFLICT,
                422 if body.code == "config_invalid" => exit::CONFIG_INVALID,
                _ => exit::FAILED,
            },
            Self::NotTunneld { .. } | Self::Lost { .. } | Self::Setup(_) => exit::FAILED,
        }
    }
}
