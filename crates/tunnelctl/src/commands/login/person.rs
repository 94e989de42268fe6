//! A login that takes a person: begun here, carried out by the daemon, and waited for.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tunnel_api::{LoginBegun, LoginFlow, LoginState, LoginStatus};
use tunnel_client::{Client, Error, exit};

use super::dial::Outcome;
use super::{place, stored};
use crate::output::{Output, clean};

/// Time between two looks at how it goes: both ends are on this machine.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for the daemon to take back a login that the person gave up.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);
/// What a shell sees of a program that was ended with Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Begins a login and shows the person what to do; with `wait`, tells how it ended. Ctrl-C cancels it.
pub(super) async fn login(
    client: &Client,
    flow: LoginFlow,
    wait: bool,
    output: &Output,
) -> anyhow::Result<u8> {
    let before = client.status().await?.tunnel;
    let begun = client.begin_login(flow).await?;
    show(&begun, output)?;
    if !wait {
        output.talk("see how it goes with: tunnelctl events --follow; when it is done: tunnelctl whoami");
        return Ok(exit::OK);
    }
    output.talk(&format!("waiting until {}; Ctrl-C cancels it", begun.expires_at.strftime("%H:%M:%SZ")));
    let status = tokio::select! {
        status = until_over(client, &begun) => status?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            // A daemon that does not answer lets it run out by itself.
            drop(tokio::time::timeout(CANCEL_LIMIT, cancel(client, &begun)).await);
            output.talk("the login is cancelled");
            return Ok(INTERRUPTED);
        }
    };
    if status.state == LoginState::Done {
        let answer = client.auth().await?;
        if !output.wants_json() {
            // Whose account this machine now serves is worth a look.
            let subject =
                answer.subject.as_deref().map_or_else(String::new, |of| format!(" as {}", clean(of)));
            output.done(&format!("logged in{subject}; the token is kept in {}", place(answer.stored_in)))?;
        }
        let outcome = Outcome::since(&before, client).await?;
        return stored(&answer, &outcome, output);
    }
    failed(&status, output)
}

/// Shows where to go, for a person or for a program that waits with us.
fn show(begun: &LoginBegun, output: &Output) -> anyhow::Result<()> {
    if output.wants_json() {
        // The outcome is a second line.
        output.json_line(json!(begun))?;
        return Ok(());
    }
    let address = begun.authorization_url.as_ref().or(begun.verification_uri.as_ref());
    let mut text = format!("Open  {}\n", clean(address.map_or("", String::as_str)));
    if let Some(code) = &begun.user_code {
        text.push_str(&format!("Code  {}\n", clean(code)));
    }
    if let Some(complete) = &begun.verification_uri_complete {
        text.push_str(&format!("Link  {}\n", clean(complete)));
    }
    output.answer(&text)?;
    if let Some(url) = &begun.authorization_url {
        output.talk(match open(url) {
            true => "it is being opened in your browser",
            false => {
                "open it in a browser of this machine; with one elsewhere: tunnelctl login --device-code"
            }
        });
    }
    Ok(())
}

/// Opens an address in the desktop's browser. Returns whether there is a desktop that may do so.
fn open(url: &str) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !is_set("DISPLAY") && !is_set("WAYLAND_DISPLAY") {
        return false;
    }
    let mut opener = Command::new("xdg-open");
    opener.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not waited for: some browsers go on running under it.
    opener.spawn().is_ok()
}

async fn until_over(client: &Client, begun: &LoginBegun) -> Result<LoginStatus, Error> {
    loop {
        let status = client.login_status().await?;
        if status.state != LoginState::Pending {
            return Ok(status);
        }
        if !is_pending(begun, &status) {
            return Ok(LoginStatus {
                state: LoginState::Failed,
                flow: Some(begun.flow),
                error: Some("another login was begun in its place".to_owned()),
                code: Some("login_superseded".to_owned()),
                ..LoginStatus::default()
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes the login back, and no other one.
async fn cancel(client: &Client, begun: &LoginBegun) -> Result<(), Error> {
    if is_pending(begun, &client.login_status().await?) {
        client.cancel_login().await?;
    }
    Ok(())
}

/// Tells whether it is this login that is under way: its end is to the nanosecond.
fn is_pending(begun: &LoginBegun, status: &LoginStatus) -> bool {
    status.state == LoginState::Pending && status.expires_at == Some(begun.expires_at)
}

/// Tells a login that ended without a token.
fn failed(status: &LoginStatus, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json_line(json!(status))?;
    }
    let why = match (&status.error, status.state) {
        (Some(error), _) => error.as_str(),
        (None, LoginState::None) => {
            "it was cancelled, or tunneld was started anew; to try again: tunnelctl login"
        }
        (None, _) => "tunneld does not say why; see: tunnelctl logs",
    };
    output.error(&format!("nobody is logged in: {why}"));
    Ok(exit_code(status.code.as_deref()))
}

fn exit_code(code: Option<&str>) -> u8 {
    match code {
        Some("access_denied") => exit::NOT_ALLOWED,
        Some("login_timeout") => exit::TIMEOUT,
        Some("login_unavailable" | "login_superseded" | "token_file_in_use" | "credential_in_use") => {
            exit::CONFLICT
        }
        Some(_) | None => exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_of_somebody_else_is_not_ours() {
        let at = |nanosecond| jiff::Timestamp::new(1_800_000_000, nanosecond).unwrap();
        let begun = LoginBegun { expires_at: at(1), ..LoginBegun::default() };
        let status = |state, expires_at| LoginStatus { state, expires_at, ..LoginStatus::default() };
        assert!(is_pending(&begun, &status(LoginState::Pending, Some(at(1)))));
        assert!(!is_pending(&begun, &status(LoginState::Pending, Some(at(2)))));
        assert!(!is_pending(&begun, &status(LoginState::Done, None)));
    }

    #[test]
    fn exit_code_tells_who_has_to_act() {
        let codes =
            [Some("access_denied"), Some("login_timeout"), Some("login_unavailable"), Some("later"), None];
        assert_eq!(codes.map(exit_code), [5, 8, 9, 1, 1]);
    }
}
