//! `tunnelctl start`, `stop`, `restart`.

mod start;

use tunnel_api::TunnelAnswer;
use tunnel_client::{Error, exit};

pub(super) use self::start::start;
use crate::output::Output;

/// Gives an order to the tunnel, and tells what the daemon answers.
pub(super) async fn give(
    order: impl Future<Output = Result<TunnelAnswer, Error>>,
    output: &Output,
) -> anyhow::Result<u8> {
    let answer = order.await?;
    if output.wants_json() {
        output.json(serde_json::to_value(answer)?)?;
    } else {
        output.done(&answer.message)?;
    }
    Ok(exit::OK)
}
