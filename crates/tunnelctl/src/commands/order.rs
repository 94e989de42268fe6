//! `tunnelctl start`, `stop`, `restart`.

use tunnel_api::TunnelAnswer;
use tunnel_client::{Error, exit};

use crate::output::Output;

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
