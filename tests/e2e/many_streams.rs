//! Many streams share one tunnel.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, Latencies, Script, measured, scenario, soak, soak_count};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::streams;

#[test]
fn many_streams_at_once_miss_no_token() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        // Callers and backend are both in this process. What it started keeps the limit that it was started with.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;

        let (n, seconds) = (soak_count(200, 1000), if soak() { 30 } else { 5 });
        let tokens = seconds * 10;
        let mut running = JoinSet::new();
        for number in 0..n {
            let caller = world.remote();
            running.spawn(async move {
                // They start spread over a second, as callers do; at 10 a second they then all run at once.
                tokio::time::sleep(Duration::from_millis(number as u64 % 1000)).await;
                // One in twenty is stamped and timed, the others are compared byte by byte.
                let stamp = number % 20 == 0;
                let script = Script { stamp, ..Script::tokens(tokens, 10.0) }.seed(number as u64);
                let reply = streams::open(&caller, Api::OpenAiChat, &script).await?;
                if stamp {
                    let (late, _) = streams::lateness(reply).await?;
                    ensure!(late.len() == u64::from(tokens), "{} of {tokens} tokens came", late.len());
                    return Ok(Some(late));
                }
                streams::exact(reply, Api::OpenAiChat, &script).await.map(|()| None)
            });
        }
        tokio::time::sleep(Duration::from_secs(u64::from(seconds) / 2 + 1)).await;
        let open = world.backend.requests().iter().filter(|exchange| exchange.ended().is_none()).count();
        let (relay, daemon) = (world.relay.memory()?, world.daemon.memory()?);
        let (mut late, mut faults) = (Latencies::default(), HashMap::<String, usize>::new());
        while let Some(ended) = running.join_next().await {
            match ended.context("a stream panicked")? {
                Ok(stamped) => stamped.iter().for_each(|latencies| late.merge(latencies)),
                Err(error) => *faults.entry(format!("{error:#}")).or_default() += 1,
            }
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        measured(
            "streams at once through one tunnel, 10 tokens/s each",
            format!(
                "{n} streams ({open} open at the look), {} failed; RSS relay {:.1} MiB, daemon {:.1} MiB; tokens late by {late}",
                faults.values().sum::<usize>(),
                mib(relay.rss),
                mib(daemon.rss)
            ),
        );
        ensure!(faults.is_empty(), "{faults:?}");
        ensure!(open == n, "only {open} of {n} streams were open at once");
        Ok(())
    })
}
