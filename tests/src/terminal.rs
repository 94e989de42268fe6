//! A real terminal: tmux with a server of its own, whose screen a scenario reads and whose keys it presses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::wait::poll_until;

/// What the shell says when it waits for a command; it counts the commands, so that an old prompt is not taken for the new.
const PROMPT: &str = r"ready\#%";
const SESSION: &str = "main";
const LIMIT: Duration = Duration::from_secs(15);

/// Characters a line, and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A terminal with a shell in it. Dropping it ends both.
#[derive(Debug)]
pub struct Terminal {
    /// Names the server; its socket lies in the scenario's folder.
    dir: PathBuf,
    /// Commands that were given to the shell.
    n_commands: AtomicUsize,
}

impl Terminal {
    /// Opens a terminal whose shell has this environment and nothing else of ours; none where there is no tmux.
    pub async fn open(dir: &Path, size: Size, environment: &[(&str, &str)]) -> Result<Option<Self>> {
        if Command::new("tmux").arg("-V").output().is_err() {
            return Ok(None);
        }
        fs::create_dir_all(dir)?;
        let terminal = Self { dir: dir.to_owned(), n_commands: AtomicUsize::new(0) };
        let mut shell = vec!["env".to_owned(), "-i".to_owned()];
        let path = std::env::var("PATH").unwrap_or_default();
        // tmux's own terminals are all called so.
        let usual =
            [("PATH", path.as_str()), ("TERM", "screen-256color"), ("LANG", "C.UTF-8"), ("PS1", PROMPT)];
        shell.extend(usual.iter().chain(environment).map(|(name, value)| format!("{name}={value}")));
        shell.extend(["bash", "--norc", "--noprofile"].map(str::to_owned));
        let (columns, rows) = (size.columns.to_string(), size.rows.to_string());
        let mut arguments = vec!["new-session", "-d", "-s", SESSION, "-x", &columns, "-y", &rows];
        arguments.extend(shell.iter().map(String::as_str));
        terminal.tmux(&arguments)?;
        terminal.tmux(&["set-option", "-g", "status", "off"])?;
        // Without a client the window keeps the size that it is told.
        terminal.tmux(&["set-option", "-g", "window-size", "manual"])?;
        terminal.resize(size)?;
        terminal.wait_for_prompt().await?;
        Ok(Some(terminal))
    }

    /// Types a line and presses Enter.
    pub fn run(&self, line: &str) -> Result<()> {
        self.n_commands.fetch_add(1, Ordering::Relaxed);
        self.tmux(&["send-keys", "-t", SESSION, "-l", line])?;
        self.press("Enter")
    }

    /// Presses a key, by tmux's name for it: `C-c`, `Enter`, `q`.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", "-t", SESSION, key]).map(drop)
    }

    /// Changes its size, as a person who drags the window's corner does.
    pub fn resize(&self, size: Size) -> Result<()> {
        let (columns, rows) = (size.columns.to_string(), size.rows.to_string());
        self.tmux(&["resize-window", "-t", SESSION, "-x", &columns, "-y", &rows]).map(drop)
    }

    /// What is on the screen now, without what has scrolled away.
    pub fn screen(&self) -> Result<String> {
        let output = self.tmux(&["capture-pane", "-p", "-t", SESSION])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The screen with the sequences that colour it.
    pub fn coloured_screen(&self) -> Result<String> {
        let output = self.tmux(&["capture-pane", "-e", "-p", "-t", SESSION])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the screen is as wanted, and returns it.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let waited = poll_until(what, LIMIT, async || {
            last = self.screen().ok()?;
            wanted(&last).then(|| last.clone())
        });
        waited.await.with_context(|| format!("the screen is\n{last}"))
    }

    /// Waits until the shell waits for the next command, at the end of the screen.
    pub async fn wait_for_prompt(&self) -> Result<String> {
        let prompt = format!("ready{}%", self.n_commands.load(Ordering::Relaxed) + 1);
        self.wait_for("the shell's prompt", |screen| {
            // After a `^C` it begins in the middle of the line.
            let last = screen.lines().rfind(|line| !line.trim().is_empty());
            last.is_some_and(|line| line.trim_end().ends_with(&prompt))
        })
        .await
    }

    /// Tells whether the cursor is shown.
    pub fn cursor_is_shown(&self) -> Result<bool> {
        Ok(self.tell("#{cursor_flag}")? == "1")
    }

    /// Tells whether a program shows a screen of its own, behind which the shell's waits.
    pub fn is_alternate(&self) -> Result<bool> {
        Ok(self.tell("#{alternate_on}")? == "1")
    }

    /// Fails unless what is typed is shown and comes line by line, as a shell's user expects.
    pub async fn check_sane(&self) -> Result<()> {
        ensure!(self.cursor_is_shown()?, "the cursor is hidden");
        ensure!(!self.is_alternate()?, "a screen of the program's own is still shown");
        self.run("clear; stty -a | tr ' ;' '\\n\\n' | grep -cxE 'echo|icanon|isig|opost'")?;
        self.wait_for("the terminal's settings are the usual ones", |screen| {
            screen.lines().any(|line| line.trim() == "4")
        })
        .await?;
        Ok(())
    }

    fn tell(&self, format: &str) -> Result<String> {
        let output = self.tmux(&["display-message", "-p", "-t", SESSION, format])?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command().args(arguments).output().context("running tmux")?;
        ensure!(output.status.success(), "tmux {}: {output:?}", arguments.join(" "));
        Ok(output)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
        command.arg("-u").arg("-S").arg(self.dir.join("tmux")).args(["-f", "/dev/null"]);
        command
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A server that has gone already is what is wanted.
        drop(self.command().arg("kill-server").output());
    }
}
