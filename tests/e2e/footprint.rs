//! What an idle daemon costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{binaries, measured, scenario, soak};

#[test]
fn an_idle_daemon_with_its_tunnel_up_is_small_and_quiet() -> Result<()> {
    scenario(async |lab| {
        // With the defaults that users have: a probe each 30 s.
        let options = e2e::WorldOptions::default().with("healthCheckInterval", 30);
        let world = lab.world_with(options).await?;
        // The start itself is no part of being idle.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let time = Duration::from_secs(if soak() { 60 } else { 15 });
        let cpu = world.daemon.cpu()?;
        tokio::time::sleep(time).await;
        let cpu = (world.daemon.cpu()? - cpu).as_secs_f64() / time.as_secs_f64() * 100.0;
        let mib = world.daemon.memory()?.rss as f64 / f64::from(1 << 20);
        let relay = world.relay.memory()?.rss as f64 / f64::from(1 << 20);
        let build = if binaries::optimised() { "release" } else { "dev build" };
        measured(
            "idle daemon with a tunnel up",
            format!(
                "RSS {mib:.1} MiB, CPU {cpu:.2} % over {} s ({build}); relay RSS {relay:.1} MiB",
                time.as_secs()
            ),
        );
        // An unoptimised build is larger and slower than what is shipped.
        if binaries::optimised() && soak() {
            ensure!(mib <= 20.0, "{mib:.1} MiB");
            ensure!(cpu <= 0.2, "{cpu:.2} %");
        }
        Ok(())
    })
}
