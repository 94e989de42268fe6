//! Running other programs: never for longer than a limit, and in a language that can be read by programs.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// Runs a program to its end and returns what it wrote.
///
/// One that is not there is [`io::ErrorKind::NotFound`]; one that takes longer than `limit` is killed, which is
/// [`io::ErrorKind::TimedOut`].
pub(super) async fn run(program: &str, arguments: &[&str], limit: Duration) -> io::Result<Output> {
    let ended = command(program, arguments).output();
    tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| {
        let sentence = format!("{program} took longer than {} s", limit.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, sentence))
    })
}

/// Returns a program that is ready to be started, and is killed when its handle is dropped.
pub(super) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    // Plain text, whatever the terminal and the user's language are.
    command.env("SYSTEMD_COLORS", "0").env("LC_ALL", "C.UTF-8");
    command
}

/// Returns what a program said on standard error, on one line; else how it ended.
pub(super) fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn program_that_hangs_or_is_missing_is_an_error_of_its_own() {
        let error = |program: &'static str, arguments: &'static [&str], limit| async move {
            run(program, arguments, limit).await.unwrap_err().kind()
        };
        assert_eq!(error("sleep", &["60"], Duration::from_millis(20)).await, io::ErrorKind::TimedOut);
        assert_eq!(error("no-such-program", &[], LIMIT).await, io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn complaint_is_one_line() {
        let output = run("sh", &["-c", "echo a >&2; echo; echo ' b' >&2; exit 3"], LIMIT).await.unwrap();
        assert_eq!(complaint(&output), "a; b");
        let output = run("sh", &["-c", "exit 3"], LIMIT).await.unwrap();
        assert_eq!(complaint(&output), "exit status: 3");
    }
}
