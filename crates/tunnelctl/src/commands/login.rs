//! `tunnelctl login`, `logout` and `whoami`: the token that the tunnel is dialled with.

mod dial;
mod person;
mod unseen;

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::json;
use tunnel_api::{AuthStatus, LoginFlow, StoredIn};
use tunnel_client::{Client, exit};

use self::dial::Outcome;
use super::keys;
use crate::cli::LoginFrom;
use crate::output::{Output, clean};
use crate::refusal::Refusal;

/// Longest token that is read, in bytes; the daemon takes no longer one.
const MAX_TOKEN_BYTES: u64 = 32 * 1024;
/// How to get a token, for those who have none.
const NEXT: &str = "log in with: tunnelctl login, or store one with: tunnelctl login --token-stdin";

/// Why a login without a flag is refused where there is no terminal.
const WHERE_FROM: &str = "say where the token comes from: --token-stdin, --token-file FILE, or a person who logs in with \
                          --device-code or --browser";

/// Hands a token to the daemon, from a file or standard input, or has a person log in.
pub(super) async fn login(client: &Client, from: &LoginFrom, output: &Output) -> anyhow::Result<u8> {
    if from.token_file.is_none() && !from.token_stdin {
        let flow = match (from.device_code, from.browser) {
            (true, _) => LoginFlow::DeviceCode,
            (false, true) => LoginFlow::Browser,
            (false, false) if output.is_terminal() && io::stdin().is_terminal() => LoginFlow::Browser,
            // A script that waits for a browser would wait for nobody.
            (false, false) => return Err(Refusal::new(exit::USAGE, WHERE_FROM).into()),
        };
        return person::login(client, flow, !from.no_wait, output).await;
    }
    let text = match &from.token_file {
        Some(file) => {
            let open = fs::File::open(file).map_err(|error| Refusal::unread(file, error))?;
            let mut text = String::new();
            open.take(MAX_TOKEN_BYTES + 1)
                .read_to_string(&mut text)
                .with_context(|| format!("could not read {}", file.display()))?;
            text
        }
        None => typed(output, "Paste the token, then press Enter; it is not shown: ")
            .await
            .context("could not read standard input")?,
    };
    let token = text.trim();
    if token.is_empty() {
        output.error("there is no token in it; the relay's operator makes one: tunnel-relay token create --scope tunnel");
        return Ok(exit::USAGE);
    }
    let before = client.status().await?.tunnel;
    let answer = client.store_token(token).await?;
    if !output.wants_json() {
        output.done(&format!("the token is kept in {}", place(answer.stored_in)))?;
    }
    let outcome = Outcome::since(&before, client).await?;
    stored(&answer, &outcome, output)
}

/// Tells what came of a token that was stored.
fn stored(answer: &AuthStatus, outcome: &Outcome, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        let mut told = json!(answer);
        told["tunnel"] = outcome.json();
        output.json(told)?;
    }
    match outcome {
        Outcome::Refused { why, next_step } => {
            output.error(&format!("the relay refuses it: {why}"));
            if !next_step.is_empty() {
                output.talk(next_step);
            }
            return Ok(exit::NOT_READY);
        }
        _ if output.wants_json() => {}
        Outcome::Connected => output.done("the tunnel is connected")?,
        Outcome::SwitchedOff => {
            output.talk("the tunnel is switched off; to use it: tunnelctl connections enable cloud");
        }
        Outcome::Stopped => output.talk("the tunnel was stopped; to open it: tunnelctl start"),
        Outcome::Open(why) => {
            let why = why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
            output.talk(&format!("whether the relay takes it is not known yet{why}; see: tunnelctl status"));
        }
    }
    Ok(exit::OK)
}

/// Reads a token or another secret from standard input: of a person one line, of a program all.
pub(super) async fn typed(output: &Output, prompt: &str) -> io::Result<String> {
    if io::stdin().is_terminal() {
        return unseen::line(|| output.ask(prompt)).await;
    }
    let mut text = String::new();
    io::stdin().lock().take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Has the daemon forget its token. A daemon that cannot list its keys has said what counts all the same.
pub(super) async fn logout(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let before = client.auth().await?;
    let answer = client.logout().await?;
    if let Some(error) = &answer.last_error {
        output.talk(error);
    }
    if !output.wants_json()
        && let Ok(keys) = client.keys().await
        && let Some(left) = keys::left_behind(&keys, Timestamp::now())
    {
        output.talk(&left);
    }
    let none = before.stored_in == StoredIn::None && !before.authenticated;
    told(&answer, if none { "there was no token" } else { "the token is forgotten" }, output)
}

/// Shows whom the token is for; ends with code 4 when there is none that is good.
pub(super) async fn whoami(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let answer = client.auth().await?;
    if output.wants_json() {
        output.json(json!(answer))?;
    } else if answer.stored_in != StoredIn::None || answer.authenticated {
        output.answer(&card(&answer))?;
    }
    if answer.authenticated {
        return Ok(exit::OK);
    }
    output.error(&nobody(&answer, Timestamp::now()));
    Ok(exit::NOT_READY)
}

/// Returns what is known of a token.
fn card(answer: &AuthStatus) -> String {
    let subject = answer.subject.as_deref().map_or_else(|| "not told by the token".to_owned(), clean);
    let expires = match answer.expires_at {
        Some(at) => at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        None => "not told by the token".to_owned(),
    };
    let renewal = if answer.refreshable { "by the daemon, before it expires" } else { "by hand" };
    let mut card = format!(
        "subject  {subject}\nexpires  {expires}\nrenewed  {renewal}\nkept in  {}\n",
        place(answer.stored_in)
    );
    if let Some(error) = &answer.last_error {
        card.push_str(&format!("error    {}\n", clean(error)));
    }
    card
}

fn nobody(answer: &AuthStatus, now: Timestamp) -> String {
    match answer.expires_at.filter(|at| *at <= now) {
        Some(at) => format!("the token has expired at {}; {NEXT}", at.strftime("%Y-%m-%d %H:%M:%SZ")),
        None if answer.stored_in == StoredIn::None => {
            format!("nobody is logged in: there is no token; {NEXT}")
        }
        None => format!("the token is not good; {NEXT}"),
    }
}

fn told(answer: &AuthStatus, done: &str, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(json!(answer))?;
    } else {
        output.done(done)?;
    }
    Ok(exit::OK)
}

pub(super) fn place(stored_in: StoredIn) -> &'static str {
    match stored_in {
        StoredIn::Keyring => "the desktop's keyring",
        StoredIn::File => "an encrypted file",
        StoredIn::Credential => "systemd's credential",
        StoredIn::TokenFile => "the token file",
        StoredIn::None | StoredIn::Unknown => "the daemon",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_has_no_line_of_the_tokens_own() {
        let answer = AuthStatus {
            authenticated: true,
            subject: Some("alice\nexpires  never".to_owned()),
            expires_at: Some("2026-01-31T12:00:00Z".parse().unwrap()),
            stored_in: StoredIn::Keyring,
            ..AuthStatus::default()
        };
        assert_eq!(
            card(&answer),
            "subject  alice?expires  never\nexpires  2026-01-31 12:00:00Z\nrenewed  by hand\n\
             kept in  the desktop's keyring\n"
        );
    }

    #[test]
    fn expired_token_is_told_from_none() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let none = AuthStatus { stored_in: StoredIn::None, ..AuthStatus::default() };
        assert!(nobody(&none, now).starts_with("nobody is logged in: there is no token; log in with:"));
        let expired =
            AuthStatus { expires_at: Some(now), stored_in: StoredIn::File, ..AuthStatus::default() };
        assert!(nobody(&expired, now).starts_with("the token has expired at 2026-01-31 12:00:00Z; log in"));
    }
}
