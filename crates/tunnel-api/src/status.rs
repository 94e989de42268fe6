//! The answer of `GET /api/status`: one snapshot of everything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Connection, Tunnel, Warning};

/// One snapshot of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The daemon in three words, as the original system told it.
    pub tunnel_manager: TunnelManager,
    /// The tunnel to the relay.
    pub tunnel: Tunnel,
    /// All connections by id.
    pub connections: BTreeMap<String, Connection>,
    /// Id of the connection that a request without preferences would go to. None when none is up.
    pub best_connection: Option<String>,
    /// What someone should look at, the most severe first.
    pub warnings: Vec<Warning>,
    /// Where the configuration came from and whether it is in force.
    pub config: ConfigStatus,
    /// When it was answered.
    pub timestamp: Timestamp,
}

impl Status {
    /// Returns the warning that explains why the tunnel is not up.
    pub fn tunnel_warning(&self) -> Option<&Warning> {
        self.warnings.iter().find(|warning| warning.is_about_tunnel())
    }
}

/// The daemon in three words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelManager {
    /// Whether it does its work; false while it shuts down.
    pub running: bool,
    /// Whether the tunnel or a connection is just being made.
    pub connecting: bool,
    /// What keeps it from its work, as one sentence.
    pub error: Option<String>,
}

/// The configuration part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigStatus {
    /// Files that were read. Empty when the defaults run.
    pub files: Vec<String>,
    /// When what is in force was loaded.
    pub loaded_at: Timestamp,
    /// Why the newest version of the file is not in force. None when it is.
    pub last_error: Option<String>,
    /// Keys whose change takes effect only after a restart.
    pub restart_required: Vec<String>,
}
