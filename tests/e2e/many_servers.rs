//! Many servers, one address: each in turn is killed, hung and slowed under load, and comes back.
//!
//! Two are real llama.cpp servers with a real model. The Ollama kind is the scripted server, which answers as a real
//! Ollama was recorded to, in processes of its own: no Ollama can be installed by a package's name.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{DaemonOptions, Lab, Latencies, measured, scenario, skipped, soak, soak_count};
use serde_json::Value;

use crate::{
    open_loop::{Failure, OpenLoop, Outcome},
    server_process::{Kind, ServerProcess},
};

/// `healthCheckInterval`: the least that the configuration allows.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest look for an answer of a server that is back; its figure is held against the bar afterwards.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request that takes longer has waited for something.
const WAITED: Duration = Duration::from_secs(2);

/// What the probe itself takes, and the wait for the next request that falls to the server; without a soak other tests
/// keep the machine busy, and a real server gets few of the requests.
fn slack() -> Duration {
    Duration::from_secs(if soak() { 1 } else { 5 })
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Killed,
    Hung,
    Slowed,
}

impl Trial {
    fn length(self) -> Duration {
        match (self, soak()) {
            (Self::Killed | Self::Slowed, false) => Duration::from_secs(2),
            // Requests are sent after it must be known, too: `judge` looks at those.
            (Self::Hung, false) => PROBE_INTERVAL + slack() + Duration::from_secs(3),
            (Self::Killed, true) => Duration::from_secs(5),
            (Self::Hung, true) => Duration::from_secs(15),
            (Self::Slowed, true) => Duration::from_secs(10),
        }
    }
}

/// One trial of one server.
#[derive(Debug)]
struct Interruption {
    id: &'static str,
    trial: Trial,
    began: Instant,
    /// When the server could serve again.
    over: Instant,
    /// Until it answered a request that was sent after that.
    back: Duration,
}

impl Interruption {
    async fn run(server: &mut ServerProcess, trial: Trial, load: &OpenLoop) -> Result<Self> {
        let began = Instant::now();
        let over = match trial {
            Trial::Killed => {
                server.kill()?;
                tokio::time::sleep(trial.length()).await;
                server.restart().await?
            }
            Trial::Hung => {
                server.hang();
                tokio::time::sleep(trial.length()).await;
                server.resume();
                Instant::now()
            }
            Trial::Slowed => {
                server.slow(trial.length()).await;
                Instant::now()
            }
        };
        let back = load.answer_of(server.id(), over, PATIENCE).await?;
        Ok(Self { id: server.id(), trial, began, over, back })
    }

    /// Tells whether a request was under way when it began.
    fn met(&self, outcome: &Outcome) -> bool {
        outcome.sent < self.began && outcome.ended >= self.began
    }

    /// Tells whether it excuses this failure: a hung server may keep what it has, and an answer that has begun cannot be
    /// begun again elsewhere.
    fn excuses(&self, outcome: &Outcome) -> bool {
        match (&outcome.failure, self.trial) {
            (None, _) => true,
            (Some(_), Trial::Hung) => self.met(outcome),
            (Some(Failure::BrokeOff(_)), Trial::Killed) => self.met(outcome),
            (Some(_), Trial::Killed | Trial::Slowed) => false,
        }
    }

    fn describe(&self, outcomes: &[Outcome]) -> String {
        let during = || outcomes.iter().filter(|one| one.sent >= self.began && one.sent < self.over);
        let own = during().filter(|one| one.connection == self.id).count();
        let latencies = latencies(during());
        let waited = by_server(during().filter(|one| one.ended - one.sent > WAITED));
        format!(
            "{} {} for {:.1} s: {} of {} requests went there meanwhile, all: {latencies}; over {} s: {waited:?}; \
             back after {:.2} s",
            self.id,
            format!("{:?}", self.trial).to_lowercase(),
            (self.over - self.began).as_secs_f64(),
            own,
            during().count(),
            WAITED.as_secs(),
            self.back.as_secs_f64()
        )
    }
}

fn by_server<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<&'a str, usize> {
    let mut each = BTreeMap::new();
    outcomes.for_each(|one| *each.entry(one.connection.as_str()).or_default() += 1);
    each
}

fn latencies<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Latencies {
    let mut latencies = Latencies::default();
    outcomes.for_each(|one| latencies.record(one.ended - one.sent));
    latencies
}

async fn servers(lab: &mut Lab) -> Result<Option<Vec<ServerProcess>>> {
    let mut servers = Vec::new();
    for (id, kind) in [
        ("llama-1", Kind::LlamaCpp),
        ("ollama-1", Kind::Ollama),
        ("llama-2", Kind::LlamaCpp),
        ("scripted", Kind::Ollama),
    ] {
        let Some(server) = ServerProcess::start(lab, id, kind).await? else { return Ok(None) };
        servers.push(server);
    }
    Ok(Some(servers))
}

/// What each server goes through: everything in a soak, else one thing each.
fn trials(place: usize) -> &'static [Trial] {
    const ALL: [Trial; 3] = [Trial::Killed, Trial::Hung, Trial::Slowed];
    if soak() { &ALL } else { &ALL[place % ALL.len()..][..1] }
}

#[test]
fn servers_that_die_hang_and_crawl_fail_no_request_and_are_back_within_a_probe_interval() -> Result<()> {
    scenario(async |lab| {
        let Some(mut servers) = servers(lab).await? else {
            return skipped("many servers", "no model server; run `cargo xtask setup`");
        };
        let connections: Vec<Value> = servers.iter().map(ServerProcess::connection).collect();
        let options = DaemonOptions::default()
            .with("connections", connections)
            .with("healthCheckInterval", PROBE_INTERVAL.as_secs());
        let daemon = lab.daemon(options).await?;
        for server in &servers {
            daemon.wait_for_backend(server.id(), Duration::from_secs(20)).await?;
        }
        let load = OpenLoop::start(daemon.local(), u32::try_from(soak_count(40, 200))?);
        for server in &servers {
            load.answer_of(server.id(), Instant::now(), PATIENCE).await?;
        }
        let mut interruptions = Vec::new();
        for (place, server) in servers.iter_mut().enumerate() {
            for trial in trials(place) {
                interruptions.push(Interruption::run(server, *trial, &load).await?);
            }
        }
        let (outcomes, rate) = load.finish().await?;
        report(&interruptions, &outcomes, rate);
        judge(&interruptions, &outcomes)
    })
}

fn report(interruptions: &[Interruption], outcomes: &[Outcome], rate: f64) {
    const ROW: &str = "many servers under load";
    for interruption in interruptions {
        measured(ROW, interruption.describe(outcomes));
    }
    let each = by_server(outcomes.iter());
    for (outcome, failure) in outcomes.iter().filter_map(|one| Some((one, one.failure.as_ref()?))) {
        let place = place(interruptions, outcome);
        measured(ROW, format!("failed: {place}, {:?}: {failure}", outcome.connection));
    }
    let failed = outcomes.iter().filter(|one| one.failure.is_some()).count();
    measured(
        ROW,
        format!(
            "{} requests, {rate:.0} a second, {failed} failed, by server {each:?}; {}",
            outcomes.len(),
            latencies(outcomes.iter())
        ),
    );
}

/// Says during which trial a request ended, and how long after its beginning it was sent.
fn place(interruptions: &[Interruption], outcome: &Outcome) -> String {
    let Some(one) = interruptions.iter().rev().find(|one| one.began <= outcome.ended) else {
        return "before all".to_owned();
    };
    let (sign, sent) = match outcome.sent.checked_duration_since(one.began) {
        Some(after) => ('+', after),
        None => ('-', one.began - outcome.sent),
    };
    format!("{} {:?} {sign}{:.3} s", one.id, one.trial, sent.as_secs_f64())
}

fn judge(interruptions: &[Interruption], outcomes: &[Outcome]) -> Result<()> {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !interruptions.iter().any(|one| one.excuses(outcome)))
        .filter_map(|outcome| {
            Some(format!("{}: {}", place(interruptions, outcome), outcome.failure.as_ref()?))
        })
        .collect();
    ensure!(
        failed.is_empty(),
        "{} requests failed while a server could serve:\n{}",
        failed.len(),
        failed[..failed.len().min(20)].join("\n")
    );
    for hung in interruptions.iter().filter(|one| one.trial == Trial::Hung) {
        let known = hung.began + PROBE_INTERVAL + slack();
        let sent: Vec<&Outcome> =
            outcomes.iter().filter(|one| one.sent >= known && one.sent < hung.over).collect();
        ensure!(!sent.is_empty(), "{} hung too shortly: no request was sent when it was known", hung.id);
        let waited = sent.iter().filter(|one| one.connection == hung.id).count();
        ensure!(waited == 0, "{waited} requests were sent to {} a probe interval after it hung", hung.id);
    }
    for one in interruptions {
        ensure!(
            one.back <= PROBE_INTERVAL + slack(),
            "{} was back in rotation only {:.1} s after it could serve ({:?})",
            one.id,
            one.back.as_secs_f64(),
            one.trial
        );
    }
    Ok(())
}
