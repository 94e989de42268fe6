//! Alerts and dashboard ask for metrics that the relay really has.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use e2e::{RelayOptions, TlsFiles, binaries, measured, scenario, skipped};
use serde_json::Value;

const PREFIX: &str = "tunnel_relay_";

fn dist(file: &str) -> PathBuf {
    binaries::workspace_dir().join("dist").join(file)
}

/// Returns the names of metrics that a text asks for.
fn names(text: &str) -> BTreeSet<String> {
    text.match_indices(PREFIX)
        .map(|(at, _)| text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() -> Result<()> {
    scenario(async |lab| {
        // What tells of the certificate is there where there is one.
        let files = TlsFiles::new(&lab.dir().join("tls"), "relay", "localhost")?;
        let (certificate, key) = (files.certificate().display(), files.key().display());
        let config = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
        let relay = lab.relay(RelayOptions { config: Some(config), ..RelayOptions::default() }).await?;
        let page = relay.metrics().await?;
        // Families without a sample yet have their type; a histogram's samples have endings.
        let typed = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let sampled = page.lines().filter_map(|line| line.split(['{', ' ']).next());
        let there: BTreeSet<&str> = typed.chain(sampled).collect();
        let dashboard = fs::read_to_string(dist("grafana/tunnel-relay.json"))?;
        let rules = fs::read_to_string(dist("prometheus/tunnel-relay.rules.yml"))?;
        let rules: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        for (what, asked) in [("dashboard", names(&dashboard)), ("alerts", names(&rules))] {
            ensure!(asked.len() > 5, "{what}: {asked:?}");
            let missing: Vec<&String> = asked.iter().filter(|name| !there.contains(name.as_str())).collect();
            ensure!(missing.is_empty(), "the {what} ask for {missing:?}, which is not in\n{page}");
        }
        let dashboard: Value = serde_json::from_str(&dashboard)?;
        let panels = dashboard["panels"].as_array().context("panels")?;
        let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        ensure!(ids.len() == panels.len(), "two panels have one id");
        for panel in panels {
            let targets = panel["targets"].as_array().context("targets")?;
            ensure!(targets.iter().all(|target| target["expr"].is_string()), "{panel}");
        }
        measured("dashboard", format!("{} panels, all of metrics that /metrics has", panels.len()));
        Ok(())
    })
}

#[test]
fn the_alerts_go_off_when_they_should_and_else_do_not() -> Result<()> {
    let promtool =
        |args: &[&str]| Command::new("promtool").args(args).current_dir(dist("prometheus")).output();
    for args in [
        &["check", "rules", "--lint-fatal", "tunnel-relay.rules.yml"][..],
        &["test", "rules", "tunnel-relay.rules.test.yml"],
    ] {
        let output = match promtool(args) {
            Ok(output) => output,
            Err(error) => return skipped("alerts", &format!("promtool cannot be run: {error}")),
        };
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {said}");
    }
    Ok(())
}

#[test]
fn each_alert_has_a_test() -> Result<()> {
    let rules = fs::read_to_string(dist("prometheus/tunnel-relay.rules.yml"))?;
    let tests = fs::read_to_string(dist("prometheus/tunnel-relay.rules.test.yml"))?;
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() == 11, "{alerts:?}");
    for alert in alerts {
        ensure!(
            tests.contains(&format!("alertname: {alert}, exp_alerts: []")),
            "{alert} is not tested quiet"
        );
        ensure!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested loud");
    }
    Ok(())
}
