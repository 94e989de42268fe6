//! What the supervisor needs from the configuration.

use std::path::PathBuf;
use std::time::Duration;

use tunnel_transport::{DeviceName, Proxy, RelayUrl};

use crate::config::Proxies;

/// The tunnel's part of the configuration. A change of any field makes the supervisor look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `enableCloudProxy`: whether there is a tunnel at all.
    pub(crate) enabled: bool,
    /// `cloudProxyUrl`.
    pub(crate) relay: RelayUrl,
    /// `deviceName`, the host name by default.
    pub(crate) device: DeviceName,
    /// `preferredDevice`: told to the relay over the tunnel.
    pub(crate) preferred: bool,
    /// `connectionTimeout`: longest wait for the connection to the relay.
    pub(crate) connect_timeout: Duration,
    /// `caFile`: trusted besides the system's certificates.
    pub(crate) ca_file: Option<PathBuf>,
    /// `proxyUrl`, or what the environment says; None for a relay on this machine.
    pub(crate) proxy: Option<Proxy>,
    /// How the server that renews the token is reached.
    pub(crate) proxies: Proxies,
}

impl Settings {
    /// Tells whether a session dialled with the other settings is as good as one dialled with these.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        self.relay == other.relay
            && self.device == other.device
            && self.ca_file == other.ca_file
            && self.proxy == other.proxy
    }
}
