//! Tokens of another issuer, a certified provider, at the real relay: taken, refused, and with keys that change under load.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, DaemonOptions, OidcProvider, ProviderOptions, Script, eventually, measured, soak, soak_count,
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    login::{Desktop, RESOURCE, with_provider},
    streams,
};

const LIMIT: Duration = Duration::from_secs(15);

/// Requests a second while the keys change.
const PER_SECOND: usize = 200;

/// Where a proxy says who calls.
const FROM: &str = "x-forwarded-for";

/// Least time between two fetches of an issuer's keys, and what clocks and scheduling may take off it.
const COOL_DOWN: Duration = Duration::from_millis(9_900);

async fn one_token(provider: &OidcProvider, resource: &str) -> Result<String> {
    provider.tokens(resource, 1).await?.pop().context("no token")
}

#[test]
fn tokens_of_the_provider_dial_and_call_and_those_for_others_do_neither() -> Result<()> {
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let desktop = Desktop::set(lab, &provider, "").await?;
        let app = desktop.relay.caller().bearer(&one_token(&provider, RESOURCE).await?);
        let script = Script::tokens(5, 100.0);
        streams::exact(streams::open(&app, Api::OpenAiChat, &script).await?, Api::OpenAiChat, &script)
            .await?;

        let elsewhere = one_token(&provider, "https://other.test").await?;
        let reply = desktop.relay.caller().bearer(&elsewhere).get("/api/version").send().await?;
        ensure!(reply.status() == 401, "{}", reply.status());
        ensure!(reply.header("tunnel-error") == "token_invalid", "{:?}", reply.headers());
        let options = DaemonOptions {
            relay: Some(desktop.relay.url()),
            token: Some(elsewhere),
            ..DaemonOptions::default()
        };
        let daemon = lab.daemon(options).await?;
        daemon.wait_for_tunnel("refused", LIMIT).await?;
        ensure!(app.get("/api/version").send().await?.status() == 200, "the right one is not taken any more");
        Ok(())
    })
}

#[test]
fn what_an_issuers_tokens_opened_ends_when_it_leaves_the_settings() -> Result<()> {
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let desktop = Desktop::set(lab, &provider, "").await?;
        let app = desktop.relay.caller().bearer(&one_token(&provider, RESOURCE).await?);
        let stream = streams::open(&app, Api::OpenAiChat, &Script::tokens(600, 10.0)).await?;
        let file = desktop.relay.data_dir().with_file_name("relay.toml");
        let settings = fs::read_to_string(&file)?;

        fs::write(&file, "# no issuers\n")?;
        let begun = Instant::now();
        desktop.daemon.wait_for_tunnel("refused", LIMIT).await?;
        let ending = timeout(LIMIT, stream.ending()).await.context("the stream goes on")?;
        ensure!(
            ending.error.is_some() || !ending.text().ends_with("data: [DONE]\n\n"),
            "the stream ended as if it were whole"
        );
        measured(
            "issuer removed until its tunnel and its stream have ended",
            format!("{:.1} s", begun.elapsed().as_secs_f64()),
        );
        ensure!(app.get("/api/version").send().await?.status() == 401);

        fs::write(&file, settings)?;
        eventually("its tokens are taken again", LIMIT, async || {
            app.get("/api/version").send().await.is_ok_and(|reply| reply.status() != 401)
        })
        .await?;
        ensure!(desktop.daemon.tunnelctl(&["start"]).await?.status.success());
        desktop.daemon.wait_for_tunnel("connected", LIMIT).await?;
        Ok(())
    })
}

/// Callers from several addresses with tokens that name keys that nobody has. They do not wait. Returns how many were let in.
async fn flood(caller: Caller, tokens: Vec<String>, over: Duration) -> usize {
    let mut calls = JoinSet::new();
    let mut ticks = interval(over / u32::try_from(tokens.len()).unwrap_or(u32::MAX));
    let mut let_in = 0;
    for (n, token) in tokens.into_iter().enumerate() {
        ticks.tick().await;
        let from = format!("203.0.113.{}", n % 200);
        let call = caller.clone().header(FROM, &from).bearer(&token).get("/api/version").send();
        calls.spawn(async move {
            let answered = timeout(Duration::from_millis(500), call).await;
            matches!(answered, Ok(Ok(reply)) if !matches!(reply.status().as_u16(), 401 | 429 | 503))
        });
        while let Some(Ok(is_in)) = calls.try_join_next() {
            let_in += usize::from(is_in);
        }
    }
    let_in + calls.join_all().await.into_iter().filter(|is_in| *is_in).count()
}

#[test]
fn keys_that_change_under_load_and_a_flood_of_key_ids_fail_no_request() -> Result<()> {
    const BEHIND_A_PROXY: &str = "[edge]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let (seconds, between) = if soak() { (36, 12) } else { (4, 2) };
    with_provider(ProviderOptions::default(), async |lab, provider| {
        provider.set_keys(&["k0"]).await?;
        let desktop = Desktop::set(lab, &provider, BEHIND_A_PROXY).await?;
        let strange = provider.strange_tokens(RESOURCE, soak_count(300, 10_000)).await?;
        let n_strange = strange.len();
        let mut flooding = JoinSet::new();
        flooding.spawn(flood(desktop.relay.caller(), strange, Duration::from_secs(seconds)));

        let mut calls = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(PER_SECOND)?);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begun = Instant::now();
        for second in 0..seconds {
            let (key, before) = (format!("k{}", second / between), second.saturating_sub(1) / between);
            let before = format!("k{before}");
            if second % between == 0 && second > 0 {
                // Published first, as it should be; then it signs.
                provider.set_keys(&[&before, &key]).await?;
                provider.set_keys(&[&key, &before]).await?;
            }
            for token in provider.tokens(RESOURCE, PER_SECOND).await? {
                ticks.tick().await;
                // An app's server has all its users' requests on one address.
                let caller = desktop.relay.caller().header(FROM, "198.51.100.1").bearer(&token);
                let call = caller.get("/api/version").send();
                calls.spawn(async move {
                    let asked = Instant::now();
                    let answered = timeout(Duration::from_secs(60), call).await;
                    let outcome = match answered {
                        Ok(Ok(reply)) if reply.status() == 200 => Ok(()),
                        Ok(Ok(reply)) => Err(format!("{} {}", reply.status(), reply.header("tunnel-error"))),
                        Ok(Err(error)) => Err(format!("{error:#}")),
                        Err(_) => Err("no answer".to_owned()),
                    };
                    (outcome, asked.elapsed())
                });
            }
        }
        let took = begun.elapsed();
        let (mut failed, mut longest, n_calls) = (Vec::new(), Duration::ZERO, calls.len());
        for (outcome, took) in calls.join_all().await {
            failed.extend(outcome.err());
            longest = longest.max(took);
        }
        let let_in: usize = flooding.join_all().await.into_iter().sum();
        let fetches = provider.keys_asked().await?;
        let least = fetches.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min();
        measured(
            "signing keys changed under load",
            format!(
                "{} changes, {:.0} requests/s, {} of {n_calls} failed, longest wait {:.1} s",
                (seconds - 1) / between,
                n_calls as f64 / took.as_secs_f64(),
                failed.len(),
                longest.as_secs_f64()
            ),
        );
        measured(
            "tokens that name keys that nobody has",
            format!(
                "{n_strange}, {let_in} let in, {} fetches, least time between two {least:?}",
                fetches.len()
            ),
        );
        failed.truncate(5);
        ensure!(failed.is_empty(), "{failed:?}");
        ensure!(let_in == 0, "{let_in} let in");
        ensure!(fetches.len() >= 2 && least.is_some_and(|least| least >= COOL_DOWN), "{fetches:?}");
        Ok(())
    })
}
