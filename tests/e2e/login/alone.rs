//! The daemon and a real provider. The relay is scripted: it says where to log in, and takes no tunnel.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    Daemon, DaemonOptions, Lab, OidcProvider, ProviderOptions, ScriptedDoor, eventually, measured, soak,
};
use serde_json::json;

use super::{LIMIT, asked, begin, log_in, text, until_over, with_provider};

/// A daemon whose relay sends people to this provider.
async fn daemon_at(lab: &mut Lab, provider: &OidcProvider) -> Result<(Daemon, ScriptedDoor)> {
    let offer =
        json!({ "issuer": provider.issuer(), "client_id": "tunneld", "scope": "openid offline_access",
                        "audience": null, "resource": "https://relay.test" })
        .to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let relay =
        ScriptedDoor::answering(format!("{head}content-length: {}\r\n\r\n{offer}", offer.len())).await?;
    let daemon = lab.daemon(DaemonOptions { relay: Some(relay.url()), ..DaemonOptions::default() }).await?;
    Ok((daemon, relay))
}

#[test]
fn a_typed_code_logs_in_and_logout_makes_the_refresh_token_void() -> Result<()> {
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let (daemon, _relay) = daemon_at(lab, &provider).await?;
        log_in(&daemon, &provider).await?;
        let auth = asked(&daemon, "/api/auth").await?;
        ensure!(auth["subject"] == "alice" && auth["refreshable"] == true, "{auth}");
        // Events are on the disk a moment after what they tell of.
        eventually("the event", LIMIT, async || {
            asked(&daemon, "/api/events").await.is_ok_and(|events| events.to_string().contains("login_done"))
        })
        .await?;
        ensure!(provider.live_refresh_tokens().await? == 1, "one login, one refresh token");

        ensure!(daemon.tunnelctl(&["logout"]).await?.status.success());
        ensure!(provider.live_refresh_tokens().await? == 0, "the refresh token is still taken");
        ensure!(asked(&daemon, "/api/auth").await?["stored_in"] == "none");
        Ok(())
    })
}

#[test]
fn a_browser_comes_back_with_a_code_and_is_told_how_it_ended() -> Result<()> {
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let (daemon, _relay) = daemon_at(lab, &provider).await?;
        let begun = begin(&daemon, "--browser").await?;
        let page = provider.browse(text(&begun, "authorization_url")?, false).await?;
        ensure!(page.contains("Access was denied"), "{page}");
        let over = until_over(&daemon).await?;
        ensure!(over["code"] == "access_denied", "{over}");

        let begun = begin(&daemon, "--browser").await?;
        let page = provider.browse(text(&begun, "authorization_url")?, true).await?;
        ensure!(page.contains("You are logged in") && !page.contains("<script"), "{page}");
        let over = until_over(&daemon).await?;
        ensure!(over["state"] == "done" && over["flow"] == "browser", "{over}");
        ensure!(asked(&daemon, "/api/auth").await?["subject"] == "alice");
        Ok(())
    })
}

#[test]
fn a_code_that_is_refused_or_not_typed_in_time_ends_the_login() -> Result<()> {
    with_provider(ProviderOptions { code_ttl_s: 8, ..ProviderOptions::default() }, async |lab, provider| {
        let (daemon, _relay) = daemon_at(lab, &provider).await?;
        let begun = begin(&daemon, "--device-code").await?;
        provider.deny(text(&begun, "user_code")?).await?;
        let over = until_over(&daemon).await?;
        ensure!(over["code"] == "access_denied", "{over}");

        begin(&daemon, "--device-code").await?;
        let over = until_over(&daemon).await?;
        ensure!(over["code"] == "login_timeout", "{over}");
        ensure!(asked(&daemon, "/api/auth").await?["stored_in"] == "none");
        ensure!(provider.live_refresh_tokens().await? == 0);
        Ok(())
    })
}

#[test]
fn tokens_of_seconds_are_renewed_with_rotating_refresh_tokens_before_they_end() -> Result<()> {
    with_provider(ProviderOptions { access_ttl_s: 6, ..ProviderOptions::default() }, async |lab, provider| {
        let (daemon, _relay) = daemon_at(lab, &provider).await?;
        log_in(&daemon, &provider).await?;
        let wanted = if soak() { 20 } else { 2 };
        eventually("renewals", LIMIT + Duration::from_secs(8 * wanted), async || {
            provider.questions("refresh_token").await.unwrap_or(0) >= wanted
        })
        .await?;
        let auth = asked(&daemon, "/api/auth").await?;
        ensure!(auth["authenticated"] == true && auth["last_error"].is_null(), "{auth}");
        ensure!(provider.live_refresh_tokens().await? == 1, "the ones before are used up");
        measured(
            "renewals in a row, token of 6 s, rotating refresh tokens",
            format!("{wanted}, none lapsed"),
        );
        Ok(())
    })
}

#[test]
fn a_token_endpoint_that_is_down_is_not_hammered() -> Result<()> {
    with_provider(ProviderOptions { access_ttl_s: 4, ..ProviderOptions::default() }, async |lab, provider| {
        let (daemon, _relay) = daemon_at(lab, &provider).await?;
        log_in(&daemon, &provider).await?;
        provider.set_down(503).await?;
        eventually("an attempt", LIMIT, async || provider.questions("refused").await.unwrap_or(0) >= 1)
            .await?;
        let watched = Duration::from_secs(if soak() { 120 } else { 8 });
        // Nothing to wait for: it is the absence of attempts that counts.
        tokio::time::sleep(watched).await;
        let attempts = provider.questions("refused").await?;
        let most = 1 + watched.as_secs() / 30;
        measured(
            "attempts while the token endpoint is down",
            format!("{attempts} in {} s", watched.as_secs()),
        );
        ensure!(attempts <= most, "{attempts} attempts in {watched:?}, at most {most} are right");
        let auth = asked(&daemon, "/api/auth").await?;
        ensure!(auth["authenticated"] == false, "it has expired: {auth}");
        ensure!(auth["last_error"].as_str().is_some_and(|error| error.contains("503")), "{auth}");
        Ok(())
    })
}
