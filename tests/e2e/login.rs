//! Logging in: with a token that is handed to the daemon, and as a person at a real OpenID provider.

mod alone;
mod through_relay;

pub(crate) use self::through_relay::{Desktop, RESOURCE};

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Daemon, DaemonOptions, Lab, OidcProvider, ProviderOptions, RelayOptions, Scope, TokenRequest, measured,
    poll_until, scenario, skipped,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(15);

#[test]
fn a_token_is_stored_dialled_with_kept_over_a_restart_and_forgotten() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let options = DaemonOptions { relay: Some(relay.url()), ..DaemonOptions::default() };
        let mut daemon = lab.daemon(options).await?;
        let token = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        // A file in which a secret belongs.
        let file = daemon.dir().join("token-to-store");
        fs::create_dir_all(&file)?;
        let file = file.join("token");
        fs::write(&file, &token)?;

        let missing = daemon.tunnelctl(&["login"]).await?;
        ensure!(missing.status.code() == Some(2), "where the token comes from has to be said");
        let stored = daemon.tunnelctl(&["login", "--token-file", &file.display().to_string()]).await?;
        let said = String::from_utf8_lossy(&[stored.stdout, stored.stderr].concat()).into_owned();
        ensure!(stored.status.success() && said.contains("encrypted file"), "{said}");
        let took = daemon.wait_for_tunnel("connected", LIMIT).await?;
        measured("tunnelctl login to a tunnel that is up", format!("{:.2} s", took.as_secs_f64()));

        daemon.kill()?;
        daemon.restart().await?;
        daemon.wait_for_tunnel("connected", LIMIT).await?;
        let auth = daemon.control().get("/api/auth").send().await?.json().await?;
        ensure!(auth["stored_in"] == "file" && auth["subject"] == "alice", "{auth}");

        ensure!(daemon.tunnelctl(&["logout"]).await?.status.success());
        daemon.wait_for_tunnel("disconnected", LIMIT).await?;
        let auth = daemon.control().get("/api/auth").send().await?.json().await?;
        ensure!(auth["stored_in"] == "none", "{auth}");
        Ok(())
    })
}

/// Runs a scenario with a provider; says so where there is none.
pub(crate) fn with_provider(
    options: ProviderOptions,
    body: impl AsyncFnOnce(&mut Lab, OidcProvider) -> Result<()>,
) -> Result<()> {
    scenario(async |lab| match lab.provider(options)? {
        Some(provider) => body(lab, provider).await,
        None => {
            skipped("a login at a real provider", "oidc-provider is not installed; run `cargo xtask setup`")
        }
    })
}

/// Begins a login with the real command line, and returns what it shows the person.
async fn begin(daemon: &Daemon, flow: &str) -> Result<Value> {
    let output = daemon.tunnelctl(&["login", flow, "--no-wait", "--json"]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context("what the login begins with")
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key}"))
}

/// Waits until the login that was begun is over, and returns how.
async fn until_over(daemon: &Daemon) -> Result<Value> {
    poll_until("the login is over", LIMIT, async || {
        let status = asked(daemon, "/api/auth/login").await.ok()?;
        (status["state"] != "pending").then_some(status)
    })
    .await
}

async fn asked(daemon: &Daemon, path: &str) -> Result<Value> {
    daemon.control().get(path).send().await?.json().await
}

/// Logs in by device code as the person who agrees.
pub(crate) async fn log_in(daemon: &Daemon, provider: &OidcProvider) -> Result<()> {
    let begun = begin(daemon, "--device-code").await?;
    provider.approve(text(&begun, "user_code")?).await?;
    let over = until_over(daemon).await?;
    ensure!(over["state"] == "done", "{over}");
    Ok(())
}
