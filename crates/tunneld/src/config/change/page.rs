//! What a web page cannot bring into the configuration, even one that may change it: what would start programs, hand out
//! secrets, open a door, or have the daemon dial somebody else. Taking such things away is not refused. Pure.

use tunnel_api::Config;
use tunnel_api::config::{ConnectionConfig, ConnectionType, LanGateway, RemotePaths};

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
    #[error(
        "a web page cannot change {key}, which says where the daemon dials and whom it shows its token: whoever is \
         there is let in by the tunnel"
    )]
    Relay { key: &'static str },
    #[error(
        "a web page cannot change {key}: where the daemon's own doors are is what keeps requests that it forwards from \
         coming back to it as yours"
    )]
    Door { key: &'static str },
    #[error("a web page cannot widen remotePaths, which says what may be reached through the tunnel")]
    RemotePaths,
    #[error("a web page cannot add to allowedOrigins, which says what web pages may do here")]
    AllowedOrigins,
}

impl PageRefusal {
    /// The stable word by which programs know it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Plugin { .. } => "program_change_refused",
            Self::Credential { .. }
            | Self::LanGateway
            | Self::CaFile
            | Self::Relay { .. }
            | Self::Door { .. }
            | Self::RemotePaths
            | Self::AllowedOrigins => "page_change_refused",
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
    let any = |fits: &dyn Fn(&Config) -> bool| known.iter().any(|before| fits(before));
    let lan = &config.lan_gateway;
    let closed =
        |before: &LanGateway| *before == *lan || LanGateway { enabled: false, ..before.clone() } == *lan;
    if *lan != LanGateway::default() && !any(&|before| closed(&before.lan_gateway)) {
        return Err(PageRefusal::LanGateway);
    }
    if config.ca_file.is_some() && !any(&|before| before.ca_file == config.ca_file) {
        return Err(PageRefusal::CaFile);
    }
    // Back to the default is somewhere else, too.
    for (key, is_same) in [
        ("cloudProxyUrl", any(&|before| before.cloud_proxy_url == config.cloud_proxy_url)),
        ("cloudProxyAudience", any(&|before| before.cloud_proxy_audience == config.cloud_proxy_audience)),
        ("proxyUrl", any(&|before| before.proxy_url == config.proxy_url)),
    ] {
        if !is_same {
            return Err(PageRefusal::Relay { key });
        }
    }
    // A door that cannot move stays where it is, and a connection could lead there once its port is another one on paper.
    for (key, is_same) in [
        ("apiServerPort", any(&|before| before.api_server_port == config.api_server_port)),
        ("gatewayPort", any(&|before| before.gateway_port == config.gateway_port)),
        ("enableApiServer", any(&|before| before.enable_api_server == config.enable_api_server)),
        ("enableGateway", any(&|before| before.enable_gateway == config.enable_gateway)),
    ] {
        if !is_same {
            return Err(PageRefusal::Door { key });
        }
    }
    if !any(&|before| is_within(&config.remote_paths, &before.remote_paths)) {
        return Err(PageRefusal::RemotePaths);
    }
    let origins = &config.allowed_origins;
    if !any(&|before| origins.iter().all(|origin| before.allowed_origins.contains(origin))) {
        return Err(PageRefusal::AllowedOrigins);
    }
    Ok(())
}

/// Tells whether paths are no more than these, as far as that is plain: a rule is compared as it is written.
fn is_within(paths: &RemotePaths, before: &RemotePaths) -> bool {
    match (paths, before) {
        (_, RemotePaths::All) => true,
        (RemotePaths::Rules(rules), RemotePaths::Rules(before)) => {
            rules.iter().all(|rule| before.contains(rule))
        }
        (RemotePaths::Rules(rules), RemotePaths::Inference) => rules.is_empty(),
        (paths, before) => paths == before,
    }
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
