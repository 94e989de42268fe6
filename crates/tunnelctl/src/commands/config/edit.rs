//! `tunnelctl config edit`: what is typed is never lost, and what somebody else wrote meanwhile is not overwritten.

mod editor;

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::config::{self, Fault};
use tunnel_api::paths;
use tunnel_client::{Client, Error, VersionedConfig, exit};

use super::{answer, check, file};
use crate::output::Output;

/// What somebody begins with who has no file yet.
const NOTHING: &str = "{\n}\n";

pub(super) async fn edit(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let place = Place::find(client).await?;
    // After the daemon was asked for its version: what comes in between is noticed when it is written.
    let old = file::read_if_there(&place.path)
        .with_context(|| format!("could not read {}", place.path.display()))?;
    if old.is_none() {
        output.talk(&format!(
            "{} is new; all keys and their defaults: tunnelctl config show",
            place.path.display()
        ));
    }
    let start = old.as_deref().unwrap_or(NOTHING);
    let draft = file::draft(start).context("could not make a file to type in")?;
    let outcome = rounds(client, &place, old.as_deref(), start, &draft, output).await;
    match outcome {
        Ok((code, Fate::Gone)) => {
            fs::remove_file(&draft).with_context(|| format!("could not remove {}", draft.display()))?;
            Ok(code)
        }
        Ok((code, Fate::Kept)) => {
            output.error(&format!("nothing was changed; what you typed is kept in {}", draft.display()));
            Ok(code)
        }
        Err(error) if !changed(&draft, start) => {
            // Such as an editor that is not there: nothing was typed.
            drop(fs::remove_file(&draft));
            Err(error)
        }
        Err(error) => {
            output.error(&format!(
                "nothing is known to be changed; what you typed is kept in {}",
                draft.display()
            ));
            Err(error)
        }
    }
}

/// Where the file is, and who else looks after it.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    /// A daemon writes it, if it is still this version.
    Daemon(VersionedConfig),
    /// A daemon runs and takes no change, since the file has faults: they are about to be mended.
    Faults,
    /// No daemon runs.
    Nobody,
}

/// What becomes of the file that was typed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    Kept,
}

impl Place {
    async fn find(client: &Client) -> anyhow::Result<Self> {
        let no_place =
            "there is no place for a configuration file; set HOME, or name one with TUNNELD_CONFIG";
        let path = match client.config_origins().await {
            Ok(origins) => PathBuf::from(origins.file.context(no_place)?),
            Err(Error::NotRunning { .. }) => {
                let found = paths::config_file(None, |name| std::env::var_os(name), Path::exists);
                return Ok(Self { path: found.context(no_place)?.path, keeper: Keeper::Nobody });
            }
            Err(error) => return Err(error.into()),
        };
        // The version in force must be the one on the disk, else its mark is no good.
        let keeper = match client.reload_config().await {
            Ok(_) => Keeper::Daemon(client.versioned_config().await?),
            Err(Error::Refused(_)) => Keeper::Faults,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, keeper })
    }
}

/// Has the text edited until it is written, or given up.
async fn rounds(
    client: &Client,
    place: &Place,
    old: Option<&str>,
    start: &str,
    draft: &Path,
    output: &Output,
) -> anyhow::Result<(u8, Fate)> {
    loop {
        if !editor::run(draft).await? {
            output.error("the editor failed");
            return Ok((exit::FAILED, if changed(draft, start) { Fate::Kept } else { Fate::Gone }));
        }
        let text = file::read(draft).with_context(|| format!("could not read {}", draft.display()))?;
        if text == start || config::is_blank(&text) {
            unchanged("nothing was changed", output)?;
            return Ok((exit::OK, Fate::Gone));
        }
        let faults = faults(client, place, &text).await?;
        if faults.is_empty() {
            return save(client, place, old, &text, output).await;
        }
        answer::faults(&faults, output);
        if !io::stdin().is_terminal() {
            return Ok((exit::CONFIG_INVALID, Fate::Kept));
        }
        if !editor::ask_again(output).await? {
            unchanged("discarded; nothing was changed", output)?;
            return Ok((exit::CONFIG_INVALID, Fate::Gone));
        }
    }
}

/// Tells that all is as it was.
fn unchanged(message: &str, output: &Output) -> io::Result<()> {
    if output.wants_json() {
        output.json(json!({ "status": "success", "message": message, "changes": [] }))
    } else {
        output.done(message)
    }
}

/// Tells whether there is something to lose.
fn changed(draft: &Path, start: &str) -> bool {
    file::read(draft).map_or(true, |text| text != start)
}

/// Returns what is wrong with a text, as the daemon sees it where there is one.
async fn faults(client: &Client, place: &Place, text: &str) -> anyhow::Result<Vec<Fault>> {
    // The daemon does not tell apart what is no JSON; it has no line for it.
    if matches!(place.keeper, Keeper::Nobody) || config::parse(text).is_err() {
        return Ok(check::faults(&place.path, text));
    }
    match client.validate_config(text).await {
        Ok(answer) => Ok(answer.faults),
        // Typing takes its time; it may have been stopped.
        Err(Error::NotRunning { .. }) => Ok(check::faults(&place.path, text)),
        Err(error) => Err(error.into()),
    }
}

async fn save(
    client: &Client,
    place: &Place,
    old: Option<&str>,
    text: &str,
    output: &Output,
) -> anyhow::Result<(u8, Fate)> {
    let Keeper::Daemon(typed_on) = &place.keeper else {
        return write(client, place, old, text, output).await;
    };
    let before = match client.config().await {
        Ok(before) => before,
        Err(Error::NotRunning { .. }) => return write(client, place, old, text, output).await,
        Err(error) => return Err(error.into()),
    };
    match client.replace_config(text, typed_on.version.as_ref()).await {
        Ok(done) => Ok((answer::changed(&before, &done, output)?, Fate::Gone)),
        Err(Error::NotRunning { .. }) => write(client, place, old, text, output).await,
        Err(Error::Refused(body)) if body.code == "config_changed" => {
            Ok((overtaken(place, output), Fate::Kept))
        }
        Err(error) => Ok((answer::refused(error, output)?, Fate::Kept)),
    }
}

/// Writes the file without the daemon, which reads it anew if it runs.
async fn write(
    client: &Client,
    place: &Place,
    old: Option<&str>,
    text: &str,
    output: &Output,
) -> anyhow::Result<(u8, Fate)> {
    let written = file::replace(&place.path, old, text)
        .with_context(|| format!("could not write {}", place.path.display()))?;
    if !written {
        return Ok((overtaken(place, output), Fate::Kept));
    }
    output.done(&format!("wrote {}", place.path.display()))?;
    if !matches!(place.keeper, Keeper::Faults) {
        return Ok((exit::OK, Fate::Gone));
    }
    // The text is in its place now, whatever the daemon says to it.
    let code = match client.reload_config().await {
        Ok(done) => answer::done(&done, output)?,
        Err(Error::NotRunning { .. }) => exit::OK,
        Err(error) => {
            let code = error.exit_code();
            answer::refused(error, output).unwrap_or_else(|error| {
                output.error(&error.to_string());
                code
            })
        }
    };
    Ok((code, Fate::Gone))
}

fn overtaken(place: &Place, output: &Output) -> u8 {
    output.error(&format!(
        "{} was changed by somebody else in the meantime; edit it anew with: tunnelctl config edit",
        place.path.display()
    ));
    exit::CONFLICT
}
