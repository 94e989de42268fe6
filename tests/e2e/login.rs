//! A token is handed to the daemon on the command line, is kept, and is forgotten.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use e2e::{DaemonOptions, RelayOptions, Scope, TokenRequest, measured, scenario};

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
