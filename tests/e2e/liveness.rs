//! A link that is open but dead is noticed by both ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{Script, WorldOptions, eventually, measured, scenario};
use tokio::task::JoinSet;

use crate::streams;

const BAR: Duration = Duration::from_secs(30);

#[test]
fn both_ends_notice_a_half_open_link() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(WorldOptions::linked()).await?;
        let link = world.link()?;
        // Nothing new gets through either: neither end learns of it from the other.
        link.refuse().await?;
        link.freeze();
        let frozen = Instant::now();

        // A caller who comes while the relay still believes in the link waits; one who comes after it noticed is told
        // within 5 s. So the first of them who is told came at most a second after the noticing.
        let noticed = Arc::new(Mutex::new(None::<Instant>));
        let mut callers = JoinSet::new();
        let relay_side = async {
            while noticed.lock().unwrap_or_else(PoisonError::into_inner).is_none()
                && frozen.elapsed() < BAR + Duration::from_secs(8)
            {
                let (call, noticed, came) =
                    (world.remote().get("/api/version"), Arc::clone(&noticed), Instant::now());
                callers.spawn(async move {
                    if call.send().await.is_ok_and(|reply| reply.status() == 503) {
                        let mut first = noticed.lock().unwrap_or_else(PoisonError::into_inner);
                        *first = Some(first.map_or(came, |first| first.min(came)));
                    }
                });
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // Those who are being told now may have come earlier.
            tokio::time::sleep(Duration::from_millis(1500)).await;
        };
        let daemon_side = eventually("the daemon notices", BAR, async || {
            world.daemon.tunnel().await.is_ok_and(|tunnel| tunnel["state"] != "connected")
        });
        let ((), by_daemon) = tokio::join!(relay_side, daemon_side);
        let by_daemon = by_daemon?;
        let by_relay = noticed.lock().unwrap_or_else(PoisonError::into_inner).map(|came| came - frozen);
        measured("half-open link noticed", format!("daemon {by_daemon:.1?}, relay {by_relay:.1?} (to 1 s)"));
        ensure!(by_relay.is_some_and(|took| took <= BAR), "the relay noticed after {by_relay:?}");

        link.accept()?;
        let back = world.daemon.wait_for_tunnel("connected", Duration::from_secs(10)).await?;
        measured("half-open link, back after the network is", format!("{back:.1?}"));
        let script = Script::tokens(5, 1000.0);
        let reply = streams::open(&world.remote(), e2e::Api::OllamaChat, &script).await?;
        streams::exact(reply, e2e::Api::OllamaChat, &script).await
    })
}
