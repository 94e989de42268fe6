//! `tunnelctl login` and `logout`: the token that the tunnel is dialled with.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::{AuthStatus, StoredIn};
use tunnel_client::{Client, exit};

use crate::output::Output;

/// Longest token that is read, in bytes; the daemon takes no longer one.
const MAX_TOKEN_BYTES: u64 = 32 * 1024;

/// Hands a token to the daemon, from a file or, without one, from standard input.
pub(super) async fn login(client: &Client, file: Option<&Path>, output: &Output) -> anyhow::Result<u8> {
    let mut text = String::new();
    match file {
        Some(file) => {
            let open = fs::File::open(file).with_context(|| format!("could not open {}", file.display()))?;
            open.take(MAX_TOKEN_BYTES + 1)
                .read_to_string(&mut text)
                .with_context(|| format!("could not read {}", file.display()))?;
        }
        None => {
            let input = io::stdin().lock().take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text);
            input.context("could not read standard input")?;
        }
    }
    let answer = client.store_token(text.trim()).await?;
    told(&answer, &format!("the token is kept in {}", place(answer.stored_in)), output)
}

/// Has the daemon forget its token.
pub(super) async fn logout(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let answer = client.logout().await?;
    if let Some(error) = &answer.last_error {
        output.talk(error);
    }
    told(&answer, "the token is forgotten", output)
}

fn told(answer: &AuthStatus, done: &str, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(json!(answer))?;
    } else {
        output.done(done)?;
    }
    Ok(exit::OK)
}

fn place(stored_in: StoredIn) -> &'static str {
    match stored_in {
        StoredIn::Keyring => "the desktop's keyring",
        StoredIn::File => "an encrypted file",
        StoredIn::Credential => "systemd's credential",
        StoredIn::TokenFile => "the token file",
        StoredIn::None | StoredIn::Unknown => "the daemon",
    }
}
