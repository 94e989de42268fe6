//! Tokens arrive as they are made, however long that takes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Latencies, ModelServer, REAL_MODEL, Script, Tap, WorldOptions, measured, scenario, skipped,
    soak_count,
};
use serde_json::json;

use crate::streams;

#[test]
fn each_token_arrives_by_itself_as_it_is_sent() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let tokens = u32::try_from(soak_count(100, 2000))?;
        let direct = ("backend directly", Caller::new(world.backend.addr()));
        for (door, caller) in [direct].into_iter().chain(world.doors()) {
            for api in [Api::OllamaChat, Api::OpenAiChat] {
                let script = Script { stamp: true, ..Script::tokens(tokens, 50.0) };
                let (late, pieces) = streams::lateness(streams::open(&caller, api, &script).await?).await?;
                ensure!(late.len() == u64::from(tokens), "{door}: {} of {tokens} tokens came", late.len());
                // At 20 ms a token a piece that holds two was held back somewhere.
                ensure!(
                    pieces >= tokens as usize * 9 / 10,
                    "{door}: {tokens} tokens came in {pieces} pieces"
                );
                measured("token after it was sent, scripted", format!("{door}, {}: {late}", api.path()));
            }
        }
        Ok(())
    })
}

#[test]
fn a_real_model_streams_token_by_token_through_the_whole_path() -> Result<()> {
    scenario(async |lab| {
        let folder = lab.folder("model", "llama.log")?;
        let Some(model) = ModelServer::start(&folder).await? else {
            return skipped(
                "a real model through the whole path",
                "no model server; run `cargo xtask setup`",
            );
        };
        let tap = Tap::start(model.addr()).await?;
        let connections = json!([{"id": "llama", "type": "openai", "url": format!("http://{}", tap.addr())}]);
        let world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
        world.daemon.wait_for_backend("llama", Duration::from_secs(20)).await?;

        // A llama.cpp server's own field: some answers would be over after a few tokens.
        let body = json!({"model": REAL_MODEL, "stream": true, "max_tokens": 60, "ignore_eos": true,
            "messages": [{"role": "user", "content": "Name three colours and say a sentence about each."}]});
        for (door, caller) in world.doors() {
            let mut all = Latencies::default();
            for _ in 0..soak_count(2, 50) {
                // Calls at the same time are not told apart by the tap, so that probes must not be in its record.
                tap.clear();
                let call = caller.post("/v1/chat/completions").json(&body);
                let mut reply = call.send().await?;
                ensure!(reply.status() == 200, "{door}: {}", reply.status());
                let mut pieces = Vec::new();
                while let Some(chunk) = reply.chunk().await? {
                    pieces.push((chunk.at, chunk.bytes));
                }
                let text: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                ensure!(text.ends_with(b"data: [DONE]\n\n"), "{door}: the stream has no regular end");
                let sent = tap.passed(b"data: ");
                let came = markers(&pieces, b"data: ");
                ensure!(
                    sent.len() == came.len() && came.len() > 10,
                    "{door}: {} sent, {} came",
                    sent.len(),
                    came.len()
                );
                for (sent, came) in sent.iter().zip(&came) {
                    all.record(came.saturating_duration_since(*sent));
                }
            }
            measured("token after the real model sent it", format!("{door}: {all}"));
        }
        Ok(())
    })
}

/// When each occurrence of the marker had come in full.
fn markers(pieces: &[(std::time::Instant, bytes::Bytes)], marker: &[u8]) -> Vec<std::time::Instant> {
    let mut ends = Vec::new();
    let mut whole = Vec::new();
    for (at, bytes) in pieces {
        whole.extend_from_slice(bytes);
        ends.push((whole.len(), *at));
    }
    let starts =
        (0..whole.len().saturating_sub(marker.len() - 1)).filter(|at| whole[*at..].starts_with(marker));
    starts
        .filter_map(|at| ends.iter().find(|(end, _)| *end >= at + marker.len()).map(|(_, at)| *at))
        .collect()
}

#[test]
fn neither_a_cold_model_nor_a_long_answer_runs_into_a_limit_on_silence() -> Result<()> {
    scenario(async |lab| {
        // The shortest silence that the config allows; a first byte has its own, longer limit.
        let world = lab.world_with(WorldOptions::default().with("requestTimeout", 5)).await?;
        let script = Script { first_byte_ms: 6_500, ..Script::tokens(16, 2.0) };
        let (remote, local) = (world.remote(), world.local());
        let through = async |caller: &Caller, api: Api| {
            let reply = streams::open(caller, api, &script).await?;
            let waited = reply.waited();
            ensure!(waited >= Duration::from_millis(6_500), "the answer came after {waited:?}");
            streams::exact(reply, api, &script).await
        };
        let (a, b) = tokio::join!(through(&remote, Api::OpenAiChat), through(&local, Api::OllamaChat));
        a.context("relay")?;
        b.context("gateway")?;
        Ok(())
    })
}
