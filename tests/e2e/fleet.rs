//! Several desktops at one relay, each behind a link of its own that can fail without the others.

use std::time::Duration;

use anyhow::Result;
use e2e::{
    Caller, Daemon, DaemonOptions, FakeBackend, FlakyLink, Lab, Relay, RelayOptions, Scope, TokenRequest,
};

/// One desktop and what lies between it and the relay.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) daemon: Daemon,
    pub(crate) link: FlakyLink,
    /// Asks this desktop through the relay.
    pub(crate) caller: Caller,
}

/// A relay, a backend that all desktops share, and the desktops.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) relay: Relay,
    pub(crate) backend: FakeBackend,
}

impl Fleet {
    pub(crate) async fn start(lab: &mut Lab, lanes: usize) -> Result<Self> {
        let backend = FakeBackend::ollama().await?;
        let relay = lab.relay(RelayOptions::default()).await?;
        let tunnel_token = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let caller_token = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
        let mut fleet = Self { lanes: Vec::new(), relay, backend };
        for number in 0..lanes {
            let link = FlakyLink::start(fleet.relay.listen())?;
            let device = format!("desk-{number}");
            let caller = fleet.relay.caller().bearer(&caller_token).header("tunnel-device", &device);
            let daemon = lab
                .daemon(DaemonOptions {
                    ollama: Some(fleet.backend.addr()),
                    relay: Some(link.url()),
                    token: Some(tunnel_token.clone()),
                    device,
                    ..DaemonOptions::default()
                })
                .await?;
            fleet.lanes.push(Lane { daemon, link, caller });
        }
        for lane in &fleet.lanes {
            lane.daemon.wait_for_tunnel("connected", Duration::from_secs(15)).await?;
            lane.daemon.wait_for_backend("ollama", Duration::from_secs(15)).await?;
        }
        Ok(fleet)
    }
}
