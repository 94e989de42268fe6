//! A terminal that shows what a command line says.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::programs;

/// Terminals, the user's choice first, with what stands between their name and the command.
const TERMINALS: [(&str, &[&str]); 15] = [
    ("x-terminal-emulator", &["-e"]),
    ("xdg-terminal-exec", &[]),
    ("gnome-terminal", &["--"]),
    ("ptyxis", &["--"]),
    ("kgx", &["--"]),
    ("konsole", &["-e"]),
    ("xfce4-terminal", &["-x"]),
    ("mate-terminal", &["-x"]),
    ("tilix", &["-e"]),
    ("kitty", &[]),
    ("foot", &[]),
    ("alacritty", &["-e"]),
    ("wezterm", &["start", "--"]),
    ("st", &["-e"]),
    ("xterm", &["-e"]),
];

/// Shows the output until someone has read it.
const READ_AND_CLOSE: &str = r#""$@"; printf '\nPress Enter to close this window. '; read -r _"#;

/// What decides which terminal is used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) path: Option<OsString>,
    /// The variable TERMINAL.
    pub(crate) terminal: Option<OsString>,
    /// Whether there is a screen at all.
    pub(crate) has_display: bool,
}

impl Surroundings {
    pub(crate) fn read() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            path: set("PATH"),
            terminal: set("TERMINAL"),
            has_display: set("DISPLAY").or_else(|| set("WAYLAND_DISPLAY")).is_some(),
        }
    }

    /// Returns the command line that opens a terminal with this command in it. None if there is no terminal.
    pub(crate) fn command(&self, command: &[OsString]) -> Option<Vec<OsString>> {
        if !self.has_display {
            return None;
        }
        let (program, between) = self.choice()?;
        let mut line = vec![program.into_os_string()];
        line.extend(between.iter().map(OsString::from));
        line.extend(["sh", "-c", READ_AND_CLOSE, "sh"].map(OsString::from));
        line.extend_from_slice(command);
        Some(line)
    }

    fn choice(&self) -> Option<(PathBuf, &'static [&'static str])> {
        let path = self.path.as_deref();
        if let Some(program) = self.terminal.as_deref().and_then(|name| programs::find(name, path)) {
            let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let known = TERMINALS.iter().find(|(known, _)| *known == name);
            return Some((program, known.map_or(&["-e"], |(_, between)| between)));
        }
        TERMINALS.iter().find_map(|(name, between)| {
            programs::find(OsStr::new(name), path).map(|program| (program, *between))
        })
    }
}

/// Opens a terminal with this command in it. The error is for a person, and names the command.
pub(crate) async fn open(surroundings: &Surroundings, command: &[OsString]) -> Result<(), String> {
    let said = spell(command);
    let Some(line) = surroundings.command(command) else {
        return Err(format!("no terminal was found; run it in one yourself: {said}"));
    };
    programs::leave(line).await.map_err(|why| format!("{why}; run: {said}"))
}

/// Returns `tunnelctl` as a command: the one beside this program, else the one that a shell finds.
pub(crate) fn tunnelctl() -> OsString {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("tunnelctl")));
    match beside.filter(|file| programs::find(file.as_os_str(), None).is_some()) {
        // In its usual place the short name is the same, and easier to read.
        Some(file) if file.parent() != Some(Path::new("/usr/bin")) => file.into_os_string(),
        _ => "tunnelctl".into(),
    }
}

fn spell(command: &[OsString]) -> String {
    let words = command.iter().enumerate().map(|(n, word)| {
        let word = if n == 0 { Path::new(word).file_name().unwrap_or(word) } else { word };
        word.to_string_lossy().into_owned()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn with(programs: &[&str]) -> (tempfile::TempDir, Surroundings) {
        let directory = tempfile::tempdir().unwrap();
        for name in programs {
            let file = directory.path().join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = Some(directory.path().as_os_str().to_owned());
        (directory, Surroundings { path, terminal: None, has_display: true })
    }

    fn first_words(surroundings: &Surroundings) -> Vec<String> {
        let line = surroundings.command(&["tunnelctl".into(), "status".into()]).unwrap();
        assert_eq!(line[line.len() - 2..], ["tunnelctl", "status"]);
        let n = line.iter().position(|word| word == "sh").unwrap();
        let program = Path::new(&line[0]).file_name().unwrap().to_string_lossy().into_owned();
        let rest = line[1..n].iter().map(|word| word.to_string_lossy().into_owned());
        std::iter::once(program).chain(rest).collect()
    }

    #[test]
    fn choice_of_the_user_comes_before_what_else_is_there() {
        let (_directory, mut surroundings) = with(&["xterm", "gnome-terminal", "mine"]);
        assert_eq!(first_words(&surroundings), ["gnome-terminal", "--"]);
        surroundings.terminal = Some("mine".into());
        assert_eq!(first_words(&surroundings), ["mine", "-e"]);
        surroundings.terminal = Some("gone".into());
        assert_eq!(first_words(&surroundings), ["gnome-terminal", "--"]);
    }

    #[tokio::test]
    async fn without_a_terminal_the_command_is_told() {
        let (_directory, mut surroundings) = with(&[]);
        let command = ["/opt/x/tunnelctl".into(), "login".into()];
        let why = open(&surroundings, &command).await.unwrap_err();
        assert!(why.ends_with("tunnelctl login") && !why.contains("/opt"), "{why}");
        let (_directory, with_xterm) = with(&["xterm"]);
        surroundings = Surroundings { has_display: false, ..with_xterm };
        assert_eq!(surroundings.command(&command), None);
    }

    #[tokio::test]
    async fn command_reaches_the_terminal_word_for_word() {
        let (directory, surroundings) = with(&["xterm"]);
        // Runs what comes after `-e`, as xterm does.
        std::fs::write(directory.path().join("xterm"), "#!/bin/sh\nshift\nexec \"$@\"\n").unwrap();
        let file = directory.path().join("words");
        let script = r#"printf '%s|' "$@" > "$0.new" && mv "$0.new" "$0""#;
        let command =
            ["sh".into(), "-c".into(), script.into(), file.clone().into(), "a b".into(), "$c;'d".into()];
        open(&surroundings, &command).await.unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !file.exists() && std::time::Instant::now() < limit {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a b|$c;'d|");
    }
}
