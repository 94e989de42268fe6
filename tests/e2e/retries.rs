//! Servers that all fail are not asked more often than the budget allows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, DaemonOptions, FakeBackend, MODEL, Script, measured, scenario, soak_count};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Requests a second.
const RATE: u32 = 200;
/// Attempts that the servers may see for each request.
const MOST_ATTEMPTS: f64 = 1.2;

#[test]
fn servers_that_all_answer_500_are_asked_little_more_often_than_the_callers_ask() -> Result<()> {
    scenario(async |lab| {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(FakeBackend::ollama().await?);
        }
        let ids = ["one", "two", "three"];
        let connections: Vec<Value> = ids
            .iter()
            .zip(&servers)
            .map(|(id, server)| json!({"id": id, "type": "ollama", "url": server.url()}))
            .collect();
        let daemon = lab.daemon(DaemonOptions::default().with("connections", connections)).await?;
        for id in ids {
            daemon.wait_for_backend(id, Duration::from_secs(15)).await?;
        }
        let n = u32::try_from(soak_count(600, 6_000))?;
        let mut calls = JoinSet::new();
        let began = Instant::now();
        for number in 0..n {
            let due = began + Duration::from_secs(1) / RATE * number;
            tokio::time::sleep_until(due.into()).await;
            let api = [Api::OllamaChat, Api::OpenAiChat][number as usize % 2];
            let script = Script { status: Some(500), ..Script::default() };
            let call = daemon.local().post(api.path()).json(&api.request(MODEL)).script(&script);
            calls.spawn(async move {
                let reply =
                    tokio::time::timeout(Duration::from_secs(20), call.send()).await.context("hangs")??;
                let (status, text) = (reply.status(), reply.text().await?);
                ensure!(status == 500, "{}: {status}: {text}", api.path());
                let body: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
                let message = if api.is_sse() { &body["error"]["message"] } else { &body["error"] };
                ensure!(message == "scripted failure", "{}: not the server's own words: {text}", api.path());
                Ok(())
            });
        }
        let answers = calls.join_all().await;
        let rate = f64::from(n) / began.elapsed().as_secs_f64();
        let each: Vec<usize> = servers.iter().map(|server| server.requests().len()).collect();
        let attempts: usize = each.iter().sum();
        let ratio = attempts as f64 / f64::from(n);
        measured(
            "attempts while all servers answer 500",
            format!("{ratio:.3} for each of {n} requests at {rate:.0} a second; {each:?} by server"),
        );
        let failed: Vec<String> = answers
            .iter()
            .filter_map(|answer| answer.as_ref().err().map(|error| format!("{error:#}")))
            .collect();
        ensure!(
            failed.is_empty(),
            "{} of {n} got something else than the 500: {:?}",
            failed.len(),
            &failed[..failed.len().min(5)]
        );
        ensure!(rate > f64::from(RATE) * 0.5, "only {rate:.0} requests a second were made");
        ensure!(ratio <= MOST_ATTEMPTS, "{ratio:.3} attempts a request");
        Ok(())
    })
}
