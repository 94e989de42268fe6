//! The answer of `GET /api/devices`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The machines of this account that the relay knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Devices {
    /// By name.
    pub devices: Vec<Device>,
    /// The name of this machine among them.
    pub this_device: String,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One machine of the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// Its `deviceName`.
    pub name: String,
    /// Whether its tunnel is up.
    pub online: bool,
    /// Whether it is asked first, by its `preferredDevice`.
    pub preferred: bool,
    /// Since when its tunnel is up. Null when it is not.
    pub connected_since: Option<Timestamp>,
    /// The models that can be asked for there. Null when it does not tell: it is offline, or too old.
    pub models: Option<Vec<DeviceModel>>,
    /// Requests that it works on.
    pub in_flight: u64,
}

/// A model of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceModel {
    /// As the machine lists it.
    pub name: String,
    /// Whether it is in memory, so that it answers without a load.
    pub loaded: bool,
}
