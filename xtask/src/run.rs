//! Running other programs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::{talk, workspace};

/// Runs `command` with its output on our terminal; fails if it does.
pub(crate) fn shown(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("starting {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// Runs `command` with its output in a log, shows that it goes on, and shows the log's end if it fails.
pub(crate) fn logged(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let folder = workspace::cache("logs");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = folder.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("starting {}", line(command)))?;
    let begin = Instant::now();
    let mut shown = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
        if begin.elapsed().as_secs() > shown {
            shown = begin.elapsed().as_secs();
            talk::waiting(what, begin.elapsed());
        }
    };
    talk::waited();
    if !status.success() {
        bail!("{what}: {status}; the end of {}:\n{}", path.display(), tail(&path, 15));
    }
    Ok(())
}

/// Tries again after a failure, with a pause; for what comes over a network.
pub(crate) fn with_retries<T>(
    what: &str,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    for pause in [Duration::from_secs(2), Duration::from_secs(8)] {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => {
                talk::note(&format!("{what} failed, again in {} s: {error:#}", pause.as_secs()));
                std::thread::sleep(pause);
            }
        }
    }
    attempt()
}

/// Returns what `command` prints; fails if it does.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", line(command)))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}\n{}", line(command), output.status, complaint.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether `command` can be run and ends well, silently.
pub(crate) fn succeeds(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Fails unless the file system of `folder` has this much room.
pub(crate) fn require_room(folder: &Path, mebibytes: u64) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let text = output(Command::new("df").args(["--output=avail", "--block-size=1M"]).arg(folder))?;
    let free: u64 =
        text.lines().last().unwrap_or_default().trim().parse().context("reading the output of df")?;
    ensure!(
        free >= mebibytes,
        "{} has {free} MiB left, {mebibytes} are needed; make room and try again",
        folder.display()
    );
    Ok(())
}

/// Returns the last `lines` of a log.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    // The first two say enough, and what follows may be long or a token.
    let arguments = command.get_args().take(2).map(OsStr::to_string_lossy);
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}
