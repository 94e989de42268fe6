//! `tunnelctl completion` and `man`: what shells and readers know of the command line, from its definitions.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::{generate, shells};
use clap_mangen::Man;
use serde_json::json;
use tunnel_client::exit;

use crate::cli::{Cli, Shell};
use crate::output::Output;

/// The program's name, as it is typed.
const NAME: &str = "tunnelctl";

pub(super) fn completion(shell: Shell, output: &Output) -> anyhow::Result<u8> {
    output.answer(&completions(shell))?;
    Ok(exit::OK)
}

/// Writes the main page to standard output, or all pages into a directory.
pub(super) fn man(directory: Option<&Path>, output: &Output) -> anyhow::Result<u8> {
    let pages = pages()?;
    let Some(directory) = directory else {
        let main =
            pages.iter().find(|page| page.name == format!("{NAME}.1")).context("there is no main page")?;
        output.answer(&main.text)?;
        return Ok(exit::OK);
    };
    fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    for page in &pages {
        let path = directory.join(&page.name);
        fs::write(&path, &page.text).with_context(|| format!("could not write {}", path.display()))?;
    }
    if output.wants_json() {
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        output.json(json!({ "directory": directory, "pages": names }))?;
    } else {
        output.done(&format!("wrote {} pages into {}", pages.len(), directory.display()))?;
    }
    Ok(exit::OK)
}

/// Shows the help of a command, named by the words that lead to it.
pub(super) fn help(words: &[String], output: &Output) -> anyhow::Result<u8> {
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in words {
        if command.find_subcommand(word).is_none() {
            output.error(&format!("there is no command {}; see: tunnelctl --help", words.join(" ")));
            return Ok(exit::USAGE);
        }
        // Cannot be none: looked for right above.
        command = command.find_subcommand_mut(word).context("a command")?;
    }
    output.answer(&command.render_long_help().to_string())?;
    Ok(exit::OK)
}

/// Returns the script that completes the command line in a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut command = Cli::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, NAME, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// A manual page.
pub(crate) struct Page {
    /// Its file's name, such as `tunnelctl-status.1`.
    pub(crate) name: String,
    /// Its text, for troff.
    pub(crate) text: String,
}

/// Returns the manual page of each command. They name no date, so that they change with the program only.
pub(crate) fn pages() -> anyhow::Result<Vec<Page>> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &clap::Command, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    let page = Man::new(command.clone())
        .source(concat!("tunnelctl ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push(Page { name: page.get_filename(), text: String::from_utf8(text)? });
    let mut shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.try_for_each(|command| add_pages(command, pages))
}
