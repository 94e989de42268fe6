//! `tunnelctl models load`, `tunnelctl models unload`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tunnel_api::ModelOrder;
use tunnel_client::{Client, exit};

use crate::cli::Which;
use crate::output::Output;
use crate::output::words::seconds;

/// When it is told for the first time that it goes on, and how often from then on.
const FIRST_WORD: Duration = Duration::from_secs(2);
const NEXT_WORD: Duration = Duration::from_secs(10);

pub(super) async fn load(
    client: &Client,
    which: &Which,
    keep_alive: Option<&str>,
    output: &Output,
) -> anyhow::Result<u8> {
    let order = ModelOrder { keep_alive: keep_alive.map(Into::into), ..order(which) };
    let begun = Instant::now();
    let mut loading = std::pin::pin!(client.load_model(&order));
    let mut words = tokio::time::interval_at(begun + FIRST_WORD, NEXT_WORD);
    let moves = loop {
        tokio::select! {
            moves = &mut loading => break moves?,
            _ = words.tick() => {
                let so_far = seconds(begun.elapsed().as_secs());
                output.talk(&format!("loading {}, for {so_far} now; Ctrl-C gives it up", which.model));
            }
        }
    };
    tell(&moves, output)
}

pub(super) async fn unload(client: &Client, which: &Which, output: &Output) -> anyhow::Result<u8> {
    tell(&client.unload_model(&order(which)).await?, output)
}

fn order(which: &Which) -> ModelOrder {
    ModelOrder { model: which.model.clone(), connection: which.on.clone(), keep_alive: None }
}

fn tell(moves: &tunnel_api::ModelMoves, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(json!(moves))?;
    } else {
        let took: u64 = moves.moved.iter().map(|moved| moved.duration_ms / 1000).sum();
        let took = if took == 0 { String::new() } else { format!(", after {}", seconds(took)) };
        output.done(&format!("{}{took}", moves.message))?;
    }
    Ok(exit::OK)
}
