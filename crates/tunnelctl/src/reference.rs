//! The documents that are made of the command line's definitions: completions, manual pages, docs/cli.md.
//!
//! Each is compared with what the repository holds; `UPDATE_DOCS=1` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::{Cli, Shell};
use crate::commands::{completions, pages};

/// What the definitions do not say.
const HEAD: &str = "\
# The command line

`tunnelctl` looks after a running `tunneld`. It asks over the daemon's control socket, so it runs as the same user; \
whatever it does is a call of the [local API](local-api.md).

- Standard output has the answer, standard error the talk: what goes on, what to do next, errors. `--quiet` leaves \
answers and errors.
- `--json` answers with one object, which names its form: `\"schema\": \"tunnelctl/v1\"`. Fields may be added, none \
is renamed or taken away. Verbs that go on showing changes write one object a line.
- Text for people may change at any time. It has colours and symbols only on a terminal, and colours only without \
`NO_COLOR`.
- `config path`, `check`, `edit`, `schema` and `init`, `connect` without an app, `service`, `doctor`, `completion` and \
`man` work without a daemon.
- Completions and manual pages are in `dist/`; `tunnelctl completion` and `tunnelctl man` write the same.

This page is made of the program's definitions: `cargo xtask docs`.
";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a file of the repository with what it should hold; `UPDATE_DOCS=1` writes it.
fn assert_current(path: &str, text: &str) {
    let file = repository().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == text, "{path} is not what the code says; write it anew: cargo xtask docs");
}

#[test]
fn command_reference_in_the_repository_is_current() {
    assert_current("docs/cli.md", &reference());
}

#[test]
fn completions_in_the_repository_are_current() {
    for (shell, name) in
        [(Shell::Bash, "tunnelctl.bash"), (Shell::Zsh, "_tunnelctl"), (Shell::Fish, "tunnelctl.fish")]
    {
        assert_current(&format!("dist/completions/{name}"), &completions(shell));
    }
}

#[test]
fn manual_in_the_repository_is_current() {
    let pages = pages().unwrap();
    let names: BTreeSet<String> = pages.iter().map(|page| page.name.clone()).collect();
    for page in &pages {
        assert_current(&format!("dist/man/{}", page.name), &page.text);
    }
    // A command that is gone takes its page with it.
    for entry in std::fs::read_dir(repository().join("dist/man")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("tunnelctl") && !names.contains(&name) {
            assert!(
                std::env::var_os("UPDATE_DOCS").is_some(),
                "dist/man/{name} is of a command that is gone"
            );
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn reference_names_every_command_and_every_exit_code() {
    let text = reference();
    for heading in ["\n### tunnelctl status\n", "\n### tunnelctl config set\n", "\n### tunnelctl man\n"] {
        assert!(text.contains(heading), "{heading}");
    }
    for code in 0..=9 {
        assert!(text.contains(&format!("\n| {code} | ")), "{code}");
    }
    assert!(text.contains("`--origin`"), "flags are told");
    assert!(text.is_ascii() || !text.contains('\u{1b}'), "no colours");
}

/// Returns the text of docs/cli.md.
fn reference() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in exit_codes(&command) {
        writeln!(text, "| {code} | {meaning} |").unwrap();
    }
    text.push_str("\n## Options of all commands\n\n");
    arguments(&mut text, command.get_arguments().filter(|argument| argument.is_global_set()));
    let mut all = Vec::new();
    verbs(&command, &mut all);
    text.push_str("\n## Commands\n\n| command | what it does |\n|---|---|\n");
    for verb in &all {
        let (name, about) = (name(verb), verb.get_about().map(ToString::to_string).unwrap_or_default());
        writeln!(text, "| [`{name}`](#{}) | {} |", name.replace(' ', "-"), cell(&about)).unwrap();
    }
    for verb in all {
        section(&mut text, verb);
    }
    text
}

/// Collects the commands that do something, in the order in which the help has them.
fn verbs<'a>(command: &'a Command, all: &mut Vec<&'a Command>) {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        if command.has_subcommands() {
            verbs(command, all);
        } else {
            all.push(command);
        }
    }
}

fn section(text: &mut String, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    write!(text, "\n### {}\n\n```\n{usage}\n```\n\n{}\n", name(command), sentences(&about).join("\n\n"))
        .unwrap();
    let own: Vec<&Arg> = command.get_arguments().filter(|argument| !argument.is_global_set()).collect();
    if own.iter().any(|argument| is_told(argument)) {
        text.push('\n');
        arguments(text, own.into_iter());
    }
}

fn name(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn is_told(argument: &Arg) -> bool {
    !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
}

fn arguments<'a>(text: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    for argument in arguments.filter(|argument| is_told(argument)) {
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        write!(text, "- `{}`: {}", spelled(argument), sentences(&help).join(" ")).unwrap();
        let values = argument.get_possible_values();
        if argument.get_action().takes_values() && !values.is_empty() {
            let values: Vec<String> = values
                .iter()
                .filter(|value| !value.is_hide_set())
                .map(|value| match value.get_help() {
                    Some(help) => format!("`{}` ({help})", value.get_name()),
                    None => format!("`{}`", value.get_name()),
                })
                .collect();
            write!(text, " One of {}.", values.join(", ")).unwrap();
        }
        if argument.get_action().takes_values()
            && let [default] = argument.get_default_values()
        {
            write!(text, " Default `{}`.", default.to_string_lossy()).unwrap();
        }
        text.push('\n');
    }
}

/// Returns `-w, --watch`, `--model <NAME>` or `ID`.
fn spelled(argument: &Arg) -> String {
    let names: Vec<&str> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let value = names.join(" ");
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    match (flags.is_empty(), argument.get_action().takes_values()) {
        (true, _) => value,
        (false, true) => format!("{} <{value}>", flags.join(", ")),
        (false, false) => flags.join(", "),
    }
}

/// Returns the paragraphs of a text, each with the full stop that help texts go without.
fn sentences(text: &str) -> Vec<String> {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "\\<"))
        .map(|text| if text.ends_with(['.', '…', ':', '!', '?']) { text } else { format!("{text}.") })
        .collect()
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Reads the exit codes out of the text that the help ends with.
fn exit_codes(command: &Command) -> Vec<(String, String)> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let codes = text.split_once(": ").map(|(_, codes)| codes).unwrap_or_default();
    codes
        .split(',')
        .filter_map(|code| code.trim().split_once(' '))
        .map(|(code, meaning)| (code.to_owned(), meaning.to_owned()))
        .collect()
}
