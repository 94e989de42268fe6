//! A person's login carries a tunnel: the real relay takes the provider's tokens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Daemon, DaemonOptions, FakeBackend, Lab, OidcProvider, ProviderOptions, Relay, RelayOptions,
    Script, eventually, keep_secret, measured,
};
use serde_json::Value;

use super::{LIMIT, log_in, with_provider};
use crate::streams;

/// Whom the provider's tokens are for.
pub(crate) const RESOURCE: &str = "https://relay.test";

/// A desktop whose owner has logged in, and its relay.
pub(crate) struct Desktop {
    pub(crate) daemon: Daemon,
    pub(crate) relay: Relay,
    _backend: FakeBackend,
}

impl Desktop {
    /// Sets one up; `further` are further settings of the relay.
    pub(crate) async fn set(lab: &mut Lab, provider: &OidcProvider, further: &str) -> Result<Self> {
        let issuer = provider.issuer();
        let config = format!(
            "[[issuers]]\nname = \"home\"\nissuer = \"{issuer}\"\naudiences = [\"{RESOURCE}\"]\nleeway_s = 0\n\n\
             [login]\nissuer = \"home\"\nclient_id = \"tunneld\"\nscope = \"openid offline_access\"\n\
             resource = \"{RESOURCE}\"\n{further}"
        );
        let relay = lab.relay(RelayOptions { config: Some(config), ..RelayOptions::default() }).await?;
        let backend = FakeBackend::ollama().await?;
        let options = DaemonOptions {
            ollama: Some(backend.addr()),
            relay: Some(relay.url()),
            ..DaemonOptions::default()
        };
        let daemon = lab.daemon(options).await?;
        let begun = Instant::now();
        log_in(&daemon, provider).await?;
        daemon.wait_for_tunnel("connected", LIMIT).await?;
        daemon.wait_for_backend("ollama", LIMIT).await?;
        measured(
            "login by device code to a tunnel that is up",
            format!("{:.1} s", begun.elapsed().as_secs_f64()),
        );
        Ok(Self { daemon, relay, _backend: backend })
    }

    /// A key as an app gets it: with the real command line.
    async fn key(&self) -> Result<(String, Caller)> {
        let output = self
            .daemon
            .tunnelctl(&["keys", "create", "--name", "editor", "--expires", "1d", "--json"])
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let key: Value = serde_json::from_slice(&output.stdout)?;
        let token = key["token"].as_str().context("no token")?;
        keep_secret(token);
        let id = key["id"].as_str().context("no id")?.to_owned();
        Ok((id, self.relay.caller().bearer(token)))
    }
}

#[test]
fn a_key_reaches_the_models_until_it_is_revoked() -> Result<()> {
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let desktop = Desktop::set(lab, &provider, "").await?;
        let (id, app) = desktop.key().await?;
        let script = Script::tokens(5, 100.0);
        streams::exact(streams::open(&app, Api::OpenAiChat, &script).await?, Api::OpenAiChat, &script)
            .await?;
        let listed = desktop.daemon.tunnelctl(&["keys", "list"]).await?.stdout;
        let listed = String::from_utf8(listed)?;
        ensure!(listed.contains(&id) && listed.contains("good"), "{listed}");

        ensure!(desktop.daemon.tunnelctl(&["keys", "revoke", &id]).await?.status.success());
        let took = eventually("the key is void", Duration::from_secs(2), async || {
            app.get("/api/version").send().await.is_ok_and(|reply| reply.status() == 401)
        })
        .await?;
        measured("key revoked until it is refused", format!("{:.2} s", took.as_secs_f64()));
        Ok(())
    })
}

#[test]
fn a_stream_outlives_the_tokens_that_its_tunnel_was_dialled_with() -> Result<()> {
    with_provider(ProviderOptions { access_ttl_s: 6, ..ProviderOptions::default() }, async |lab, provider| {
        let desktop = Desktop::set(lab, &provider, "").await?;
        let (_, app) = desktop.key().await?;
        // Three lives of a token long.
        let script = Script::tokens(180, 10.0);
        let stream = streams::open(&app, Api::OpenAiChat, &script).await?;
        streams::exact(stream, Api::OpenAiChat, &script).await?;
        let renewals = provider.questions("refresh_token").await?;
        ensure!(renewals >= 2, "{renewals} renewals in 18 s");
        measured("stream of 18 s over tokens of 6 s", format!("{renewals} renewals, 0 bytes lost"));
        Ok(())
    })
}

#[test]
fn a_stream_ends_with_an_error_when_its_tunnels_token_is_over_and_cannot_be_renewed() -> Result<()> {
    with_provider(ProviderOptions { access_ttl_s: 8, ..ProviderOptions::default() }, async |lab, provider| {
        let desktop = Desktop::set(lab, &provider, "").await?;
        let (_, app) = desktop.key().await?;
        provider.set_down(503).await?;
        let script = Script::tokens(400, 10.0);
        let begun = Instant::now();
        let ending = streams::open(&app, Api::OpenAiChat, &script).await?.ending().await;
        let took = begun.elapsed();
        ensure!(
            ending.error.is_some() || !ending.text().ends_with("data: [DONE]\n\n"),
            "it ended as if it were whole"
        );
        ensure!(took < Duration::from_secs(20), "it went on for {took:?}");
        let attempts = provider.questions("refused").await?;
        measured(
            "token over, endpoint down",
            format!("stream ended after {:.1} s, {attempts} attempts", took.as_secs_f64()),
        );
        ensure!(attempts <= 1, "{attempts} attempts in {took:?}");

        provider.set_down(0).await?;
        // The next attempt comes 30 s after the one before, at the earliest.
        desktop.daemon.wait_for_tunnel("connected", Duration::from_secs(60)).await?;
        Ok(())
    })
}
