//! The user's editor, and the question after it.

use std::ffi::OsString;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::output::Output;

/// What Debian and its kin ask for the user's choice with.
const SENSIBLE: &str = "sensible-editor";
/// What POSIX has everywhere.
const LAST: &str = "vi";

/// Has a file edited; tells whether the editor ended well.
///
/// Waits elsewhere: connections to the daemon must be looked after meanwhile.
pub(super) async fn run(file: &Path) -> anyhow::Result<bool> {
    let editor = choice(|name| std::env::var_os(name), is_program);
    // The variables hold command lines, such as `code --wait`; a shell reads them, as git has it done.
    let mut script = editor.clone();
    script.push(" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&editor).arg(file);
    let status = tokio::task::spawn_blocking(move || command.status()).await?;
    Ok(status.with_context(|| format!("could not start {}", editor.display()))?.success())
}

/// Asks whether to edit again; false is to discard. Who says nothing means to go on: nothing is lost by it.
pub(super) async fn ask_again(output: &Output) -> anyhow::Result<bool> {
    loop {
        output.ask("edit again, or discard? [e/d] ");
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map(|read| (read > 0).then_some(line))
        });
        match line.await?.context("could not read the answer")?.as_deref().map(str::trim) {
            // The end of the input: nobody is there to edit.
            None => anyhow::bail!("there was no answer"),
            Some("" | "e" | "edit") => return Ok(true),
            Some("d" | "discard") => return Ok(false),
            Some(_) => {}
        }
    }
}

fn choice(env: impl Fn(&str) -> Option<OsString>, is_there: impl Fn(&str) -> bool) -> OsString {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| if is_there(SENSIBLE) { SENSIBLE } else { LAST }.into())
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visual_beats_editor_beats_what_is_there() {
        let choose = |variables: &[(&str, &str)], sensible| {
            let env = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            };
            choice(env, |_| sensible)
        };
        assert_eq!(choose(&[("VISUAL", "code --wait"), ("EDITOR", "ed")], true), "code --wait");
        assert_eq!(choose(&[("VISUAL", ""), ("EDITOR", "ed")], true), "ed");
        assert_eq!(choose(&[], true), "sensible-editor");
        assert_eq!(choose(&[], false), "vi");
    }
}
