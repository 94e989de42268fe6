//! `tunnelctl metrics`.

use tunnel_client::{Client, exit};

use crate::output::Output;

/// Shows the page that Prometheus reads or, in JSON, what the daemon's clients read.
pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(client.metrics_json().await?)?;
    } else {
        output.answer(&client.metrics_page().await?)?;
    }
    Ok(exit::OK)
}
