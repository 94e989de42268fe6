//! What is known of a plugin's program before it is started.

use std::path::PathBuf;

use tunnel_api::Config;
use tunnel_api::config::SandboxConfig;

use super::Place;

/// A program to keep running. Two that are equal are the same: nothing has to be done for a new configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginSpec {
    /// The connection's id.
    pub(crate) id: String,
    /// An absolute path.
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) sandbox: SandboxConfig,
    /// A folder of its own, and the only one that it can always write.
    pub(crate) folder: PathBuf,
    /// Where it is to listen, in that folder.
    pub(crate) socket: PathBuf,
}

impl PluginSpec {
    /// Returns the programs that a configuration wants, in its order.
    pub(crate) fn all(config: &Config, place: &Place) -> Vec<Self> {
        let used = config.connections.iter().filter(|connection| connection.enabled);
        let started = used.filter_map(|connection| {
            let (program, arguments) = connection.command.split_first()?;
            Some(Self {
                id: connection.id.clone(),
                program: program.clone(),
                arguments: arguments.to_vec(),
                sandbox: connection.sandbox.clone(),
                folder: place.folder(&connection.id),
                socket: place.socket(&connection.id),
            })
        });
        started.collect()
    }
}
