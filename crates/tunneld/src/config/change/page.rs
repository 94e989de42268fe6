//! What a web page cannot bring into the configuration, even one that may change it: what would start programs, hand out
//! secrets or open a door. Taking such things away is not refused. Pure.

use tunnel_api::Config;
use tunnel_api::config::{ConnectionConfig, ConnectionType, LanGateway};

/// Why a change by a web page is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PageRefusal {
    #[error(
        "a web page cannot add or change a plugin, since that starts programs or reaches sockets of this machine ({id})"
    )]
    Plugin { id: String },
    #[error(
        "a web page cannot say which connection is sent a stored secret, since it could have it sent to itself ({id})"
    )]
    Credential { id: String },
    #[error("a web page cannot open the gateway to the network, nor change lanGateway")]
    LanGateway,
    #[error("a web page cannot set caFile, which says whom the daemon believes to be its relay")]
    CaFile,
}

impl PageRefusal {
    /// The stable word by which programs know it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Plugin { .. } => "program_change_refused",
            Self::Credential { .. } | Self::LanGateway | Self::CaFile => "page_change_refused",
        }
    }
}

/// Tells whether a web page may bring about `config` where what is `known` was there before.
///
/// A plugin that the daemon does not start is one too: all that is sent to its id reaches its address as it is, which may
/// be a socket that executes what it is told.
pub(super) fn may(config: &Config, known: &[&Config]) -> Result<(), PageRefusal> {
    for entry in &config.connections {
        let is_plugin = entry.kind == ConnectionType::Plugin;
        if !(is_plugin || entry.credential.is_some()) || is_known(entry, known) {
            continue;
        }
        let id = entry.id.clone();
        return Err(if is_plugin { PageRefusal::Plugin { id } } else { PageRefusal::Credential { id } });
    }
    let lan = &config.lan_gateway;
    let closed =
        |before: &LanGateway| *before == *lan || LanGateway { enabled: false, ..before.clone() } == *lan;
    if *lan != LanGateway::default() && !known.iter().any(|before| closed(&before.lan_gateway)) {
        return Err(PageRefusal::LanGateway);
    }
    if config.ca_file.is_some() && !known.iter().any(|before| before.ca_file == config.ca_file) {
        return Err(PageRefusal::CaFile);
    }
    Ok(())
}

/// Tells whether an entry is what it was, but for what is served of it. One that is switched off counts too: whoever
/// switches it on must not wonder where it came from.
fn is_known(entry: &ConnectionConfig, known: &[&Config]) -> bool {
    let same = |other: &&ConnectionConfig| {
        (&other.id, other.kind, &other.url, &other.command, &other.sandbox, &other.credential)
            == (&entry.id, entry.kind, &entry.url, &entry.command, &entry.sandbox, &entry.credential)
    };
    let mut before = known.iter().flat_map(|config| &config.connections).filter(same);
    before.any(|other| other.enabled || !entry.enabled)
}
