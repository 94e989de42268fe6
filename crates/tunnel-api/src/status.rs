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
    /// Where apps on this machine reach the models. Left out by daemons that do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
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

    /// Returns where apps reach the models, as `http://127.0.0.1:11435`. None while the gateway is closed.
    ///
    /// `configured` is the port that the configuration gives it, none where it is switched off there. Only a daemon that
    /// does not tell where its gateway is makes use of it: another program may hold that port.
    pub fn gateway_url(&self, configured: Option<u16>) -> Option<String> {
        match &self.gateway {
            Some(gateway) => gateway.url.clone(),
            None => configured.map(|port| format!("http://127.0.0.1:{port}")),
        }
    }
}

/// The door to the models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gateway {
    /// Where it is open now, as `http://127.0.0.1:11435`; its configured port may be held by another program.
    /// None while it is closed.
    pub url: Option<String>,
    /// Where it is open for other machines with a key, as `https://192.168.1.5:11436`; a door on all addresses
    /// is shown at the one that this machine has on its way out, and with TLS by a name that its certificate has. None while
    /// it is closed, which is the default.
    pub lan_url: Option<String>,
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
