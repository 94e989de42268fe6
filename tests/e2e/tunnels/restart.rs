//! A relay that goes away under a thousand tunnels and comes back: they do, and do not trample on each other.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{
    Daemon, DaemonOptions, FakeBackend, Lab, Latencies, Relay, RelayOptions, measured, poll_until, scenario,
    soak_count,
};

use super::{
    Account, DEVICES_PER_ACCOUNT, accounts, ask_all,
    desktop::{self, Desktop, Dials},
    dial_all,
};

/// How a relay ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Stopped,
}

/// A relay with many desktops, some of them real daemons.
struct Fleet {
    relay: Relay,
    accounts: Vec<Account>,
    desktops: Vec<Desktop>,
    daemons: Vec<Daemon>,
    dials: Dials,
    _backend: FakeBackend,
}

impl Fleet {
    async fn start(lab: &mut Lab, n: usize, n_daemons: usize) -> Result<Self> {
        desktop::raise_file_limit(n)?;
        let relay = lab.relay(RelayOptions { grace_s: Some(5), ..RelayOptions::default() }).await?;
        let backend = FakeBackend::ollama().await?;
        let accounts = accounts(&relay, n + n_daemons)?;
        let mut daemons = Vec::new();
        for number in n..n + n_daemons {
            let options = DaemonOptions {
                ollama: Some(backend.addr()),
                relay: Some(relay.url()),
                token: Some(accounts[number / DEVICES_PER_ACCOUNT].tunnel_token.clone()),
                device: format!("desk-{}", number % DEVICES_PER_ACCOUNT),
                ..DaemonOptions::default()
            };
            daemons.push(lab.daemon(options).await?);
        }
        let dials = Dials::default();
        let desktops = dial_all(&relay, &accounts, n, &dials).await?;
        for daemon in &daemons {
            daemon.wait_for_tunnel("connected", Duration::from_secs(20)).await?;
        }
        Ok(Self { relay, accounts, desktops, daemons, dials, _backend: backend })
    }

    /// The most sessions of desktops that were opened within a second.
    async fn most_opened(&self) -> Result<usize> {
        let mut at = Vec::new();
        for desktop in &self.desktops {
            at.push(desktop.up(Duration::ZERO).await?);
        }
        Ok(desktop::most_in_a_second(at))
    }

    /// Ends the relay, starts it again, and returns how long each desktop took from then on, and the daemons' longest.
    async fn restart(&mut self, end: End) -> Result<(Latencies, Duration)> {
        self.dials.clear();
        match end {
            End::Killed => self.relay.kill()?,
            End::Stopped => {
                self.relay.terminate();
                self.relay.process().wait(Duration::from_secs(10)).await?;
            }
        }
        let gone = Instant::now();
        self.relay.restart().await?;
        let mut back = Latencies::default();
        for desktop in &self.desktops {
            let up = desktop.up_since(gone, Duration::from_secs(30)).await?;
            back.record(up.duration_since(gone));
        }
        for daemon in &self.daemons {
            daemon.wait_for_tunnel("connected", Duration::from_secs(30)).await?;
        }
        let all = gone.elapsed();
        poll_until("the relay has all sessions", Duration::from_secs(5), async || {
            let metrics = self.relay.metrics().await.ok()?;
            let n = metrics
                .lines()
                .find_map(|line| line.strip_prefix("tunnel_relay_sessions ")?.parse::<usize>().ok())?;
            (n >= self.desktops.len() + self.daemons.len()).then_some(())
        })
        .await?;
        Ok((back, all))
    }
}

#[test]
fn all_tunnels_are_back_soon_after_a_restart_and_do_not_come_at_once() -> Result<()> {
    scenario(async |lab| {
        let (n, n_daemons) = (soak_count(100, 980), soak_count(2, 20));
        let mut fleet = Fleet::start(lab, n, n_daemons).await?;
        for end in [End::Killed, End::Stopped] {
            // A link counts as proven after ten seconds, and its next loss as a new outage.
            tokio::time::sleep(Duration::from_secs(soak_count(1, 11) as u64)).await;
            let (back, all) = fleet.restart(end).await?;
            ensure!(back.max() < Duration::from_secs(20), "{end:?}: {back}");
            ask_all(&fleet.relay, &fleet.accounts, n).await?;
            let opened = fleet.most_opened().await?;
            measured(
                "relay restarted under its tunnels",
                format!(
                    "{end:?}: {} back: {back}; all after {:.1} s; most in a second: {} attempts, {} sessions opened",
                    n + n_daemons,
                    all.as_secs_f64(),
                    fleet.dials.peak(),
                    opened,
                ),
            );
            if e2e::soak() {
                ensure!(back.max() <= Duration::from_secs(10), "{end:?}: {back}");
                ensure!(opened <= 200, "{opened} sessions opened in a second");
            }
        }
        Ok(())
    })
}
