//! The relay's own TLS: with files and with an authority, for callers of both versions of HTTP and for tunnels.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    DaemonOptions, FakeBackend, FakeBackendOptions, Pebble, PebblePlace, Relay, RelayOptions, Scope,
    TlsFiles, TokenRequest, curl, eventually, measured, scenario, skipped,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(20);
/// A relay looks at its files each 30 s, or when it is told to.
const RELOAD_LIMIT: Duration = Duration::from_secs(45);

#[test]
fn callers_and_tunnels_come_by_tls_and_a_new_certificate_needs_no_restart() -> Result<()> {
    scenario(async |lab| {
        let dir = lab.dir().join("tls");
        let files = TlsFiles::new(&dir, "relay", "localhost")?;
        let config = format!(
            "[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            files.certificate().display(),
            files.key().display()
        );
        let mut relay = lab.relay(RelayOptions { config: Some(config), ..RelayOptions::default() }).await?;
        // The roots that the daemon and curl trust, as they were at the start.
        let roots = dir.join("roots.pem");
        fs::copy(files.certificate(), &roots)?;
        let backend = FakeBackend::start(FakeBackendOptions::default()).await?;
        let options = DaemonOptions {
            ollama: Some(backend.addr()),
            relay: Some(url(&relay, "")),
            token: Some(relay.token(&TokenRequest::new("alice", Scope::Tunnel))?),
            ..DaemonOptions::default()
        };
        let daemon = lab.daemon(options.with("caFile", roots.display().to_string())).await?;
        daemon.wait_for_tunnel("connected", LIMIT).await?;
        daemon.wait_for_backend("ollama", LIMIT).await?;

        let token =
            format!("authorization: Bearer {}", relay.token(&TokenRequest::new("alice", Scope::Inference))?);
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let asked = url(&relay, "/api/version");
            let trusted = roots.display().to_string();
            let said = ["--write-out", " HTTP/%{http_version} %{http_code}"];
            let answer = curl(
                &[&said[..], &[flag, "--cacert", &trusted, "--header", &token, "--include", &asked]].concat(),
            )
            .await?;
            ensure!(answer.ends_with(&format!("HTTP/{version} 200")), "{flag}: {answer}");
            ensure!(answer.contains("strict-transport-security: max-age=31536000"), "{answer}");
        }
        for old in ["1.0", "1.1"] {
            let version = ["--tls-max", old, "--tlsv1.0", "--cacert"];
            let refused =
                curl(&[&version[..], &[&roots.display().to_string(), &health(&relay)]].concat()).await;
            ensure!(refused.is_err(), "TLS {old} was spoken");
        }

        // A bad pair changes nothing; a good one is shown.
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644))?;
        relay.process().signal(Signal::HUP);
        let told = Pattern("chmod 600");
        eventually("the relay says what is wrong", RELOAD_LIMIT, async || told.is_in(&mut relay)).await?;
        ensure!(is_served(&relay, &roots).await, "a bad pair replaced a good one");
        files.renew()?;
        relay.process().signal(Signal::HUP);
        eventually("the new certificate is shown", RELOAD_LIMIT, async || {
            is_served(&relay, files.certificate()).await
        })
        .await?;
        ensure!(!is_served(&relay, &roots).await, "the old certificate is shown, too");
        daemon.wait_for_tunnel("connected", LIMIT).await?;
        Ok(())
    })
}

#[test]
fn a_certificate_is_ordered_answered_for_and_kept() -> Result<()> {
    if !Pebble::is_installed() {
        return skipped("certificates by ACME", "pebble is not installed; cargo xtask setup does that");
    }
    scenario(async |lab| {
        let dir = lab.folder("pebble", "pebble.log")?;
        let place = PebblePlace::new(&dir)?;
        let config = format!(
            "[acme]\ndomains = [\"localhost\"]\ncontact = \"mailto:operator@example.org\"\ndirectory = \
             \"{}\"\nca_file = \"{}\"\n",
            place.url(),
            place.ca_file().display()
        );
        let mut relay = lab.relay(RelayOptions { config: Some(config), ..RelayOptions::default() }).await?;
        let any = dir.join("any.pem");
        fs::copy(place.ca_file(), &any)?;
        ensure!(!is_served(&relay, &any).await, "there is no certificate yet");
        let begun = std::time::Instant::now();
        let pebble = place.start(relay.listen()).await?;
        let root = pebble.root().await?;
        eventually("a certificate is issued", LIMIT * 2, async || is_served(&relay, &root).await).await?;
        measured("certificate by ACME, from the authority's start", format!("{:.2?}", begun.elapsed()));

        let kept = relay.data_dir().join("acme");
        for name in ["account.json", "certificate.json"] {
            let mode = fs::metadata(kept.join(name))?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{name} has mode {mode:o}");
        }
        // The certificate outlives the process, and the authority is not asked again.
        let before = fs::read(kept.join("certificate.json"))?;
        drop(pebble);
        relay.kill()?;
        eventually("the relay is gone", LIMIT, async || relay.process().exited().is_ok_and(|e| e.is_some()))
            .await?;
        relay.restart().await?;
        eventually("the kept certificate is shown", LIMIT, async || is_served(&relay, &root).await).await?;
        ensure!(fs::read(kept.join("certificate.json"))? == before, "another certificate was ordered");
        Ok(())
    })
}

#[test]
fn an_account_that_cannot_be_kept_is_opened_once() -> Result<()> {
    if !Pebble::is_installed() {
        return skipped("certificates by ACME", "pebble is not installed; cargo xtask setup does that");
    }
    scenario(async |lab| {
        let dir = lab.folder("pebble", "pebble.log")?;
        let place = PebblePlace::new(&dir)?;
        let data = lab.dir().join("data-of-the-relay");
        // What cannot be overwritten stands where the account would be drafted.
        fs::create_dir_all(data.join("acme/.account.json"))?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        let config = format!(
            "[acme]\ndomains = [\"localhost\"]\ndirectory = \"{}\"\nca_file = \"{}\"\n",
            place.url(),
            place.ca_file().display()
        );
        let options = RelayOptions { config: Some(config), data_dir: Some(data), ..RelayOptions::default() };
        let mut relay = lab.relay(options).await?;
        let pebble = place.start(relay.listen()).await?;
        let root = pebble.root().await?;
        eventually("a certificate is issued", LIMIT * 2, async || is_served(&relay, &root).await).await?;
        ensure!(Pattern("the account with the authority could not be kept").is_in(&mut relay));
        let log = fs::read_to_string(dir.join("pebble.log"))?;
        let opened = log.matches("accounts in memory").count();
        ensure!(opened == 1, "{opened} accounts were opened: {log}");
        Ok(())
    })
}

fn url(relay: &Relay, path: &str) -> String {
    format!("https://localhost:{}{path}", relay.listen().port())
}

fn health(relay: &Relay) -> String {
    url(relay, "/health")
}

/// Tells whether the relay shows a certificate that these roots vouch for.
async fn is_served(relay: &Relay, roots: &Path) -> bool {
    let health = curl(&["--cacert", &roots.display().to_string(), &health(relay)]).await;
    health.is_ok_and(|text| text.contains("\"status\":\"ok\""))
}

/// A piece of a log.
struct Pattern(&'static str);

impl Pattern {
    fn is_in(&self, relay: &mut Relay) -> bool {
        fs::read_to_string(relay.process().log())
            .context("reading the log")
            .is_ok_and(|log| log.contains(self.0))
    }
}
