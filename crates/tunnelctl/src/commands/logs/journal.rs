//! The log in the user's journal.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tunnel_client::exit;

use super::RequestId;
use crate::commands::program;
use crate::commands::service::SERVICE;
use crate::output::Output;
use crate::output::clean;

/// The field that holds `request_id` of an event: `tracing-journald` puts `F_` before the name.
const REQUEST_FIELD: &str = "F_REQUEST_ID";
/// Longest entry that is read, in bytes; the rest of a longer one is skipped.
const MAX_ENTRY_BYTES: u64 = 1024 * 1024;

/// Shows entries, and those to come when following.
pub(super) async fn show(
    follow: bool,
    request: Option<&RequestId>,
    lines: u32,
    output: &Output,
) -> anyhow::Result<u8> {
    let arguments = arguments(follow, request, lines);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = program::command("journalctl", &arguments);
    let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut journalctl = started.context("could not run journalctl")?;
    let stdout = journalctl.stdout.take().context("journalctl has no output")?;
    let mut entries = BufReader::new(stdout);
    let mut entry = Vec::new();
    loop {
        entry.clear();
        let n_bytes = (&mut entries).take(MAX_ENTRY_BYTES).read_until(b'\n', &mut entry).await?;
        if n_bytes == 0 {
            break;
        }
        // The end of one that was too long, or no entry at all.
        let Ok(fields) = serde_json::from_slice::<Value>(&entry) else { continue };
        if output.wants_json() {
            output.json_line(fields)?;
        } else {
            output.answer(&format!("{}\n", line(&fields)))?;
        }
    }
    let mut said = String::new();
    if let Some(stderr) = journalctl.stderr.take() {
        stderr.take(MAX_ENTRY_BYTES).read_to_string(&mut said).await?;
    }
    let ended = journalctl.wait().await.context("could not wait for journalctl")?;
    if !ended.success() && !said.trim().is_empty() {
        output.error(&format!("journalctl failed: {}", said.trim()));
        return Ok(exit::FAILED);
    }
    Ok(exit::OK)
}

/// Returns the last lines, for an archive.
pub(in crate::commands) async fn last_lines(lines: usize, limit: Duration) -> io::Result<Vec<String>> {
    let arguments = arguments(false, None, u32::try_from(lines).unwrap_or(u32::MAX));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = program::run("journalctl", &arguments, limit).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|entry| serde_json::from_str(entry).ok())
        .map(|fields| line(&fields))
        .collect())
}

fn arguments(follow: bool, request: Option<&RequestId>, lines: u32) -> Vec<String> {
    let mut arguments =
        ["--user", "--user-unit", SERVICE, "--no-pager", "-q", "-o", "json"].map(str::to_owned).to_vec();
    arguments.push(format!("--lines={lines}"));
    if follow {
        arguments.push("--follow".to_owned());
    }
    // Matches of one field are alternatives. What begins with the field's name is no option.
    let forms = request.iter().flat_map(|request| request.forms());
    arguments.extend(forms.map(|form| format!("{REQUEST_FIELD}={form}")));
    arguments
}

/// Fields of ours that are no news: where in the source it was logged.
const UNSHOWN: [&str; 1] = ["F_LOG_MODULE_PATH"];

/// Returns an entry as the daemon writes it elsewhere: time, level, target, message, fields.
fn line(fields: &Value) -> String {
    let text = |name: &str| fields.get(name).map(plain).unwrap_or_default();
    let at = text("__REALTIME_TIMESTAMP").parse::<i64>().ok();
    let at = at.and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    let level = match text("PRIORITY").as_str() {
        "0" | "1" | "2" | "3" => "ERROR",
        "4" => "WARN",
        "7" => "DEBUG",
        _ => "INFO",
    };
    let mut line = at.map(|at| format!("{at:.6} ")).unwrap_or_default();
    line.push_str(&format!("{level:>5} "));
    // systemd's own words about the unit have no target.
    let target = match text("TARGET") {
        target if target.is_empty() => text("SYSLOG_IDENTIFIER"),
        target => target,
    };
    if !target.is_empty() {
        line.push_str(&format!("{target}: "));
    }
    line.push_str(&text("MESSAGE"));
    let own = fields.as_object().into_iter().flatten();
    for (name, value) in own.filter(|(name, _)| !UNSHOWN.contains(&name.as_str())) {
        if let Some(name) = name.strip_prefix("F_") {
            line.push_str(&format!(" {}={}", name.to_ascii_lowercase(), plain(value)));
        }
    }
    clean(&line)
}

/// Returns a field's text. The journal writes one that is no text as a list of its bytes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn request_is_matched_in_both_of_its_forms() {
        let id = RequestId::parse("--flush").unwrap();
        let arguments = arguments(true, Some(&id), 7);
        assert_eq!(arguments[..3], ["--user", "--user-unit", SERVICE]);
        assert_eq!(
            arguments[7..],
            ["--lines=7", "--follow", "F_REQUEST_ID=--flush", "F_REQUEST_ID=\"--flush\""]
        );
    }

    #[test]
    fn entries_look_like_lines_of_the_log_file() {
        let entry = json!({
            "__REALTIME_TIMESTAMP": "1700000000123456", "PRIORITY": "4", "TARGET": "tunneld::doors",
            "MESSAGE": "a door\nis shut", "F_DOOR": "gateway", "F_PORT": "11435", "_PID": "5",
        });
        assert_eq!(
            line(&entry),
            "2023-11-14T22:13:20.123456Z  WARN tunneld::doors: a door?is shut door=gateway port=11435"
        );
        let unit = json!({ "MESSAGE": [72, 105, 27], "SYSLOG_IDENTIFIER": "systemd" });
        assert_eq!(line(&unit), " INFO systemd: Hi?");
    }
}
