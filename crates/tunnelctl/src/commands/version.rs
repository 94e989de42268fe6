//! `tunnelctl version`.

use serde_json::json;
use tunnel_api::Version;
use tunnel_client::{Client, exit};

use crate::output::Output;

/// Shows this program's version even when the daemon's cannot be had.
pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let daemon = client.version().await;
    let own = Client::version_of_client();
    if output.wants_json() {
        output.json(json!({ "tunnelctl": own, "tunneld": daemon.as_ref().ok() }))?;
    } else {
        output.answer(&format!("tunnelctl {own}\n"))?;
    }
    let Version { tunnel_manager, api_version, build, git, protocol, .. } = daemon?;
    if !output.wants_json() {
        output.answer(&format!(
            "tunneld   {tunnel_manager} ({build}, commit {git}; API {api_version}, protocol {protocol})\n"
        ))?;
    }
    Ok(exit::OK)
}
