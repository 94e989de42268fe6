//! How long each kind of trouble has to last before it is worth a warning.

use std::time::Duration;

use tunnel_api::warning::{CONNECTION_DOWN, NOT_A_RELAY, PLUGIN_FAILING, RELAY_TLS, RELAY_UNREACHABLE};

/// When a condition is shown, and when it counts as over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// How long it must hold before it is raised.
    pub(super) delay: Duration,
    /// How long it must be gone before it is cleared. Meanwhile it is not shown, for it does not hold; but if it comes
    /// back it is the same warning, and nobody is told twice.
    pub(super) hold_off: Duration,
}

/// Time that a tunnel that dials has before it is a warning. A lost link is back within a second or two as a rule, a
/// machine that wakes has its network within five. The tunnel's own `last_error` says why at once.
const TUNNEL_DELAY: Duration = Duration::from_secs(5);
/// As long as a link must stay up to count as proven: the back-off's measure of the end of an outage.
const TUNNEL_HOLD_OFF: Duration = Duration::from_secs(10);
/// A model server that is restarted or updated is back by then. Its connection shows the error at once.
const CONNECTION_DELAY: Duration = Duration::from_secs(10);
/// A server that crashes each time it loads a model is up in between for about as long as two probes are apart.
const CONNECTION_HOLD_OFF: Duration = Duration::from_secs(30);

impl Timing {
    /// What a person has done or must do (a token, a file, a switch) is shown at once and gone at once: they wait for
    /// the word. So are alerts, which have waited already, and codes that nobody thought of here.
    const AT_ONCE: Self = Self { delay: Duration::ZERO, hold_off: Duration::ZERO };

    pub(super) fn of(code: &str) -> Self {
        match code {
            // What the daemon mends by trying again. A captive portal makes the last two.
            RELAY_UNREACHABLE | RELAY_TLS | NOT_A_RELAY => {
                Self { delay: TUNNEL_DELAY, hold_off: TUNNEL_HOLD_OFF }
            }
            CONNECTION_DOWN => Self { delay: CONNECTION_DELAY, hold_off: CONNECTION_HOLD_OFF },
            // It has failed more than once by the time that it is told; what crashes at each request is up in between.
            PLUGIN_FAILING => Self { delay: Duration::ZERO, hold_off: CONNECTION_HOLD_OFF },
            _ => Self::AT_ONCE,
        }
    }
}
