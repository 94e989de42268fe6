//! Programs of others: found by name, run to their end with a limit.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a helper that should end at once.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Returns where the program is that a shell would run. `path` is the variable PATH.
pub(crate) fn find(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    std::env::split_paths(path?).map(|directory| directory.join(name)).find(is_program)
}

fn is_program(file: &impl AsRef<Path>) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a helper on a thread that may block, with this text as its input. The error is for a person.
pub(crate) async fn run(program: OsString, arguments: Vec<OsString>, input: String) -> Result<(), String> {
    tokio::task::spawn_blocking(move || run_blocking(&program, &arguments, &input))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// Starts a program that stays, such as one with a window, and leaves it to the session: it is not this program's
/// child, and stays when this program ends.
pub(crate) async fn leave(line: Vec<OsString>) -> Result<(), String> {
    let mut arguments = vec!["-c".into(), LEAVE.into(), "sh".into()];
    arguments.extend(line);
    run("sh".into(), arguments, String::new()).await
}

const LEAVE: &str = r#""$@" >/dev/null 2>&1 &"#;

fn run_blocking(program: &OsStr, arguments: &[OsString], input: &str) -> Result<(), String> {
    let name = program.to_string_lossy();
    let failed = |why: &dyn std::fmt::Display| format!("{name} failed: {why}");
    // Its errors go where ours go. Its output could be held open by a part of it that stays behind.
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
    {
        tracing::debug!(program = %name, %error, "it did not take its input");
    }
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(|error| failed(&error))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(&status)),
            None if begun.elapsed() > LIMIT => {
                let _killed = child.kill();
                let _reaped = child.wait();
                return Err(failed(&"it does not come to an end"));
            }
            None => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let path = std::env::join_paths(["/nonexistent".into(), directory.path().to_owned()]).unwrap();
        assert_eq!(find(OsStr::new("tool"), Some(&path)), None, "not executable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(OsStr::new("tool"), Some(&path)), Some(file.clone()));
        assert_eq!(find(file.as_os_str(), None), Some(file));
        assert_eq!(find(OsStr::new("tool"), None), None);
    }

    #[tokio::test]
    async fn helpers_get_their_input_and_their_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("out");
        let script = |text: &str| vec!["-c".into(), text.into(), "sh".into(), file.clone().into()];
        run("sh".into(), script("cat > \"$1\""), "hello".to_owned()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
        let why = run("sh".into(), script("exit 3"), String::new()).await.unwrap_err();
        assert!(why.contains("sh failed") && why.contains('3'), "{why}");
    }
}
