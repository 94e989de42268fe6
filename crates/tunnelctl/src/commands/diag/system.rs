//! What the machine tells of the daemon: its unit, its log, its limits, the session.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tunnel_client::Client;

use super::config_file;
use super::job::{Content, Job, Trouble, blocking};
use crate::commands::logs::source::{self, Source};
use crate::commands::{doctor, logs, program};

/// Longest wait for a program.
const LIMIT: Duration = Duration::from_secs(10);
/// Last lines of the log that are taken along.
const LOG_LINES: usize = 2000;
/// Properties of the units. The environment is none of them: it may hold anything.
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Result,UnitFileState,FragmentPath,\
     DropInPaths,MainPID,NRestarts,ExecMainCode,ExecMainStatus,ActiveEnterTimestamp,StatusText,MemoryCurrent,\
     MemoryMax,MemoryHigh,CPUUsageNSec,TasksCurrent,TasksMax,LimitNOFILE,Listen,NAccepted,NConnections";
/// Settings of a unit whose values may be secrets.
const PRIVATE_SETTINGS: [&str; 3] = ["Environment", "SetCredential", "SetCredentialEncrypted"];
/// Variables that say what kind of session it is, and whose values say nothing else.
const SESSION: [&str; 6] =
    ["XDG_SESSION_TYPE", "XDG_CURRENT_DESKTOP", "XDG_SESSION_CLASS", "DESKTOP_SESSION", "LANG", "TERM"];
/// Variables of which it matters only whether they are set.
const SET: [&str; 9] = [
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "SSH_CONNECTION",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "OLLAMA_HOST",
];

pub(super) fn jobs(client: &Client) -> Vec<Job> {
    let (client, asks, file_of) = (client.clone(), client.clone(), client.clone());
    vec![
        Job::new("doctor.json", async move {
            let checks = doctor::examine(&client, |_: &str| {}).await;
            Ok(Content::Json(json!({ "checks": checks })))
        }),
        Job::new("log.txt", log(asks)),
        Job::new("config-file.json", async move {
            // The one that the daemon reads; without a daemon, the one that it would read.
            let named = file_of.config_origins().await.ok().and_then(|origins| origins.file);
            blocking(move || config_file::read(named.as_deref().map(Path::new))).await
        }),
        Job::new("units.txt", async {
            program_text("systemctl", &["--user", "show", "tunneld.service", "tunneld.socket", PROPERTIES])
                .await
        }),
        Job::new("unit-files.txt", async {
            let shown = program_text("systemctl", &["--user", "cat", "tunneld.service"]).await?;
            let Content::Text(text) = shown else { return Ok(shown) };
            Ok(Content::Text(without_private_settings(&text)))
        }),
        Job::blocking("limits.txt", limits),
        Job::blocking("os-release.txt", || text_of("/etc/os-release")),
        Job::blocking("kernel.txt", kernel),
        Job::blocking("session.json", || {
            let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
            Ok(Content::Json(session(|name| std::env::var(name).ok(), names.collect())))
        }),
    ]
}

async fn log(client: Client) -> Result<Content, Trouble> {
    match source::find(&client).await {
        Source::Journal => {
            let lines = logs::last_journal_lines(LOG_LINES, LIMIT).await;
            lines
                .map(|lines| Content::Text(joined(&lines)))
                .map_err(|error| run_trouble("journalctl", &error))
        }
        Source::File(path) => {
            let read = tokio::task::spawn_blocking(move || logs::last_file_lines(&path, LOG_LINES)).await;
            let lines = read.map_err(|error| Trouble::Err(error.to_string()))?;
            lines.map(|lines| Content::Text(joined(&lines))).map_err(|error| Trouble::Err(error.to_string()))
        }
        Source::Stderr => Err(Trouble::Skip("tunneld logs to where it was started".to_owned())),
        Source::None { .. } => {
            Err(Trouble::Skip("the journal has nothing of tunneld, and there is no log file".to_owned()))
        }
    }
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

async fn program_text(name: &str, arguments: &[&str]) -> Result<Content, Trouble> {
    let output = program::run(name, arguments, LIMIT).await.map_err(|error| run_trouble(name, &error))?;
    if !output.status.success() {
        return Err(Trouble::Err(format!("{name} failed: {}", program::complaint(&output))));
    }
    Ok(Content::Text(String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn run_trouble(name: &str, error: &io::Error) -> Trouble {
    if error.kind() == io::ErrorKind::NotFound {
        Trouble::Skip(format!("there is no {name} here"))
    } else {
        Trouble::Err(error.to_string())
    }
}

/// Returns unit files with only the names of what is set in the environment; also where a setting goes over lines.
fn without_private_settings(text: &str) -> String {
    let mut kept = String::new();
    let mut goes_on = false;
    for line in text.lines() {
        let setting = line.split_once('=').map(|(name, _)| name.trim());
        let private = goes_on || setting.is_some_and(|name| PRIVATE_SETTINGS.contains(&name));
        if !private {
            kept.push_str(line);
            kept.push('\n');
        } else if let Some(setting) = setting.filter(|_| !goes_on) {
            kept.push_str(&format!("{setting}=<left out>\n"));
        }
        goes_on = private && line.ends_with('\\');
    }
    kept
}

/// Limits of the process and of its control group.
fn limits() -> Result<Content, Trouble> {
    let pid =
        daemon_pid().ok_or_else(|| Trouble::Skip("no process of this user is called tunneld".to_owned()))?;
    let process = Path::new("/proc").join(pid.to_string());
    let mut text = fs::read_to_string(process.join("limits")).unwrap_or_default();
    let group = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    text.push_str(&format!("\ncgroup {group}"));
    // Version 2 has one line, which begins so.
    if let Some(path) = group.lines().find_map(|line| line.strip_prefix("0::/")) {
        let folder = Path::new("/sys/fs/cgroup").join(path);
        for file in ["memory.current", "memory.high", "memory.max", "cpu.max", "pids.current", "pids.max"] {
            if let Ok(value) = fs::read_to_string(folder.join(file)) {
                text.push_str(&format!("{file} {value}"));
            }
        }
    }
    Ok(Content::Text(text))
}

fn daemon_pid() -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    pids.filter(|entry| {
        use std::os::unix::fs::MetadataExt as _;
        entry.metadata().is_ok_and(|meta| meta.uid() == own)
    })
    .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "tunneld"))
}

fn text_of(path: &str) -> Result<Content, Trouble> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Content::Text(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Trouble::Skip(format!("there is no {path}")))
        }
        Err(error) => Err(Trouble::Err(format!("{path}: {error}"))),
    }
}

/// What `uname` tells, without the machine's name.
fn kernel() -> Result<Content, Trouble> {
    let fact = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let facts = ["ostype", "osrelease", "version"].map(|name| fact(name).trim().to_owned());
    Ok(Content::Text(format!("{} {}\n", facts.join(" "), std::env::consts::ARCH)))
}

fn session(env: impl Fn(&str) -> Option<String>, names: Vec<String>) -> Value {
    let values: Value = SESSION.iter().map(|name| ((*name).to_owned(), json!(env(name)))).collect();
    let set: Value = SET.iter().map(|name| ((*name).to_owned(), json!(env(name).is_some()))).collect();
    let mut own: Vec<String> = names.into_iter().filter(|name| name.starts_with("TUNNELD_")).collect();
    own.sort_unstable();
    json!({ "session": values, "is_set": set, "variables_of_tunneld": own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_of_a_unit_is_left_out() {
        let unit = "[Service]\nEnvironment=A=canary \\\n  B=canary\nExecStart=/x\nEnvironment = C=canary\nUMask=0077\n";
        assert_eq!(
            without_private_settings(unit),
            "[Service]\nEnvironment=<left out>\nExecStart=/x\nEnvironment=<left out>\nUMask=0077\n"
        );
    }

    #[test]
    fn only_names_of_variables_are_told() {
        let env = |name: &str| (name == "LANG" || name == "HTTPS_PROXY").then(|| format!("value of {name}"));
        let told = session(env, vec!["TUNNELD_LOG".to_owned(), "OTHER".to_owned()]);
        assert_eq!(told["session"]["LANG"], "value of LANG");
        assert_eq!(told["is_set"]["HTTPS_PROXY"], true);
        assert_eq!(told["is_set"]["DISPLAY"], false);
        assert_eq!(told["variables_of_tunneld"], json!(["TUNNELD_LOG"]));
        assert!(!told.to_string().contains("value of HTTPS_PROXY"), "{told}");
    }
}
