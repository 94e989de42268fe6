//! A process that is asked to end finishes what runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, RelayOptions, Script, WorldOptions, eventually, measured, scenario};

use crate::streams;

const EXIT_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn a_daemon_that_is_stopped_finishes_its_streams_and_takes_no_new_ones() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let script = Script::tokens(150, 50.0);
        let remote = streams::open(&world.remote(), Api::OpenAiChat, &script).await?;
        let local = streams::open(&world.local(), Api::OllamaChat, &script).await?;
        world.daemon.terminate();
        let refused = eventually("new requests are refused", Duration::from_secs(2), async || {
            world.remote().get("/api/version").send().await.is_ok_and(|reply| reply.status() == 503)
        });
        let (remote, local, refused) = tokio::join!(
            streams::exact(remote, Api::OpenAiChat, &script),
            streams::exact(local, Api::OllamaChat, &script),
            refused
        );
        remote.context("the stream through the relay")?;
        local.context("the stream through the gateway")?;
        refused?;
        let done = Instant::now();
        let status = world.daemon.process().wait(EXIT_LIMIT).await?;
        ensure!(status.success(), "the daemon ended with {status}");
        measured("daemon drained: exit after the last stream", format!("{:.1?}", done.elapsed()));
        Ok(())
    })
}

#[test]
fn a_relay_that_is_stopped_finishes_its_streams_and_the_daemon_finds_the_next_one() -> Result<()> {
    scenario(async |lab| {
        let relay = RelayOptions { grace_s: Some(20), ..RelayOptions::default() };
        let mut world = lab.world_with(WorldOptions { relay, ..WorldOptions::default() }).await?;
        let script = Script::tokens(150, 50.0);
        let running = streams::open(&world.remote(), Api::OpenAiChat, &script).await?;
        world.relay.terminate();
        streams::exact(running, Api::OpenAiChat, &script).await.context("the stream that ran")?;
        let done = Instant::now();
        let status = world.relay.process().wait(Duration::from_secs(25)).await?;
        ensure!(status.success(), "the relay ended with {status}");
        measured("relay drained: exit after the last stream", format!("{:.1?}", done.elapsed()));

        world.relay.restart().await?;
        let up = Instant::now();
        world.daemon.wait_for_tunnel("connected", Duration::from_secs(10)).await?;
        measured("relay restarted: tunnel up again", format!("{:.1?}", up.elapsed()));
        streams::exact(
            streams::open(&world.remote(), Api::OllamaChat, &script).await?,
            Api::OllamaChat,
            &script,
        )
        .await
    })
}

#[test]
fn a_rolling_restart_drops_nothing() -> Result<()> {
    scenario(async |lab| {
        let options = RelayOptions { grace_s: Some(10), ..RelayOptions::default() };
        let world_options = WorldOptions { relay: options.clone(), ..WorldOptions::linked() };
        let mut world = lab.world_with(world_options).await?;
        // The next relay has the same issuer, and the balancer leads new connections to it.
        let next = lab.relay(RelayOptions { data_dir: Some(world.relay.data_dir()), ..options }).await?;
        let next_caller = next.caller().bearer(&world.caller_token);

        let script = Script::tokens(200, 50.0);
        let running = streams::open(&world.remote(), Api::OpenAiChat, &script).await?;
        world.link()?.lead_to(next.listen());
        world.relay.terminate();
        let asked = Instant::now();
        let served = eventually("the next relay serves the device", Duration::from_secs(9), async || {
            let short = Script::tokens(3, 1000.0);
            match streams::open(&next_caller, Api::OllamaChat, &short).await {
                Ok(reply) => streams::exact(reply, Api::OllamaChat, &short).await.is_ok(),
                Err(_) => false,
            }
        });
        let (running, served) = tokio::join!(streams::exact(running, Api::OpenAiChat, &script), served);
        running.context("the stream on the old session")?;
        measured("rolling restart: the next relay serves after", format!("{:.1?}", served?));
        let status = world.relay.process().wait(EXIT_LIMIT).await?;
        ensure!(status.success(), "the relay ended with {status}");
        measured("rolling restart: the old relay is gone after", format!("{:.1?}", asked.elapsed()));
        world.daemon.wait_for_tunnel("connected", Duration::from_secs(2)).await?;
        streams::exact(streams::open(&next_caller, Api::OllamaChat, &script).await?, Api::OllamaChat, &script)
            .await
    })
}
