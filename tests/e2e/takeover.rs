//! Two daemons with one device name: the newer wins, and the older stays down.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, DaemonOptions, FakeBackend, FlakyLink, Script, WorldOptions, measured, scenario};

use crate::streams;

#[test]
fn the_newer_daemon_wins_and_the_older_stays_down_until_it_is_told() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(WorldOptions::linked()).await?;
        let old_link = world.link()?;
        let mut running =
            streams::open(&world.remote(), Api::OpenAiChat, &Script::tokens(100_000, 50.0).id("running"))
                .await?;
        streams::read_tokens(&mut running, 2).await?;

        let second_backend = FakeBackend::ollama().await?;
        let new_link = FlakyLink::start(world.relay.listen())?;
        let second = lab
            .daemon(DaemonOptions {
                ollama: Some(second_backend.addr()),
                relay: Some(new_link.url()),
                token: Some(world.tunnel_token.clone()),
                ..DaemonOptions::default()
            })
            .await?;
        second.wait_for_tunnel("connected", Duration::from_secs(10)).await?;
        second.wait_for_backend("ollama", Duration::from_secs(10)).await?;
        let took = world.daemon.wait_for_tunnel("refused", Duration::from_secs(5)).await?;
        measured("takeover noticed by the older daemon", format!("{took:.1?}"));

        let ending =
            tokio::time::timeout(Duration::from_secs(3), running.ending()).await.context("left waiting")?;
        ensure!(
            ending.error.is_some() && !ending.text().contains("[DONE]"),
            "a stream of the old session ended in peace"
        );
        let closed = world
            .backend
            .request("running")
            .context("it ran")?
            .connection_closed(Duration::from_secs(3))
            .await;
        closed.context("the old session's work goes on")?;

        let tunnel = world.daemon.tunnel().await?;
        let why = tunnel["last_error"].to_string().to_lowercase();
        ensure!(
            why.contains("taken over") || why.contains("replaced") || why.contains("another"),
            "{tunnel}"
        );
        // It must not dial again: were it to, the two would evict each other for ever.
        let dials = (old_link.accepted(), new_link.accepted());
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(dials == (old_link.accepted(), new_link.accepted()), "one of them dialled again");
        let script = Script::tokens(3, 1000.0).id("to the new");
        streams::exact(
            streams::open(&world.remote(), Api::OllamaChat, &script).await?,
            Api::OllamaChat,
            &script,
        )
        .await?;
        ensure!(second_backend.request("to the new").is_some(), "the newer daemon serves");

        let started = world.daemon.tunnelctl(&["start"]).await?;
        ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        world.daemon.wait_for_tunnel("connected", Duration::from_secs(10)).await?;
        second.wait_for_tunnel("refused", Duration::from_secs(5)).await?;
        Ok(())
    })
}
