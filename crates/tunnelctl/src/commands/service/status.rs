//! `tunnelctl service status`.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use tunnel_client::exit;

use super::systemctl::{Properties, Systemctl};
use super::{SERVICE, SOCKET};
use crate::output::Output;

/// Users whose services run without a login, one file each.
const LINGER: &str = "/var/lib/systemd/linger";

/// Shows how the service stands. The exit code is 0 when it runs, else 3.
pub(super) fn show(systemctl: &Systemctl, output: &Output) -> anyhow::Result<u8> {
    let (service, socket) = (systemctl.show(SERVICE)?, systemctl.show(SOCKET)?);
    let lingers = lingers(std::env::var("LOGNAME").or_else(|_| std::env::var("USER")).ok().as_deref());
    let next_step = next_step(&service, &socket, lingers);
    if output.wants_json() {
        let service_json = merge(
            unit(&service),
            json!({
                "pid": service.get("MainPID").parse::<u32>().ok().filter(|pid| *pid != 0),
                "status": service.get("StatusText"),
                "restarts": service.get("NRestarts").parse::<u32>().unwrap_or(0),
                "result": service.get("Result"),
            }),
        );
        output.json(json!({
            "service": service_json, "socket": unit(&socket), "linger": lingers, "next_step": next_step,
        }))?;
    } else {
        output.answer(&text(&service, &socket, lingers, next_step.as_deref()))?;
    }
    Ok(if service.is_active() { exit::OK } else { exit::NOT_RUNNING })
}

fn text(service: &Properties, socket: &Properties, lingers: Option<bool>, next_step: Option<&str>) -> String {
    let mut lines = vec![("service", state(service))];
    if service.is_active() {
        lines.push(("pid", service.get("MainPID").to_owned()));
        lines.extend(since(service).map(|since| ("since", since.to_string())));
    }
    if !service.get("StatusText").is_empty() {
        lines.push(("status", service.get("StatusText").to_owned()));
    }
    lines.push(("socket", state(socket)));
    let lingering = match lingers {
        Some(true) => "on: runs from boot on",
        Some(false) => "off: runs while you are logged in",
        None => "unknown",
    };
    lines.push(("lingering", lingering.to_owned()));
    lines.extend(next_step.map(|step| ("next step", step.to_owned())));
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

fn state(unit: &Properties) -> String {
    if !unit.exists() {
        return "not installed".to_owned();
    }
    let enabled = match unit.get("UnitFileState") {
        "" => "no unit file",
        state => state,
    };
    match unit.get("ActiveState") {
        "failed" => {
            format!("failed ({}, exit code {}), {enabled}", unit.get("Result"), unit.get("ExecMainStatus"))
        }
        active => format!("{active} ({}), {enabled}", unit.get("SubState")),
    }
}

fn unit(unit: &Properties) -> Value {
    json!({
        "installed": unit.exists(),
        "active": unit.get("ActiveState"),
        "enabled": unit.is_enabled(),
        "since": since(unit),
        "file": Some(unit.get("FragmentPath")).filter(|path| !path.is_empty()),
    })
}

fn merge(mut into: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut into, more) {
        fields.extend(more);
    }
    into
}

/// When it became active; systemd writes `@` and seconds.
fn since(unit: &Properties) -> Option<Timestamp> {
    let seconds = unit.get("ActiveEnterTimestamp").strip_prefix('@')?.parse().ok()?;
    Timestamp::from_second(seconds).ok().filter(|_| unit.is_active())
}

/// Tells whether the user's services run from boot on; `None` where that cannot be known.
pub(in crate::commands) fn lingers(user: Option<&str>) -> Option<bool> {
    let user = user.filter(|user| !user.is_empty() && !user.contains('/'))?;
    Some(Path::new(LINGER).join(user).exists())
}

fn next_step(service: &Properties, socket: &Properties, lingers: Option<bool>) -> Option<String> {
    let step = if !service.exists() {
        "tunnelctl service install"
    } else if [service, socket].iter().any(|unit| unit.get("ActiveState") == "failed") {
        // It starts anew also what failed so often that systemd has given up.
        "look at: journalctl --user -u tunneld; when it is mended: tunnelctl service install"
    } else if !service.is_active() {
        "systemctl --user start tunneld"
    } else if !service.is_enabled() {
        "to have it at each login: systemctl --user enable tunneld"
    } else if lingers == Some(false) {
        "to have it from boot on: loginctl enable-linger"
    } else {
        return None;
    };
    Some(step.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        Properties::parse(&pairs.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>())
    }

    #[test]
    fn next_step_follows_the_state() {
        let step = |pairs: &[(&str, &str)], lingers| {
            next_step(&properties(pairs), &properties(&[]), lingers).unwrap_or_default()
        };
        let running = [("ActiveState", "active"), ("UnitFileState", "enabled")];
        assert!(step(&[("LoadState", "not-found")], None).contains("service install"));
        assert!(step(&[("ActiveState", "failed")], None).contains("journalctl"));
        let failed = properties(&[("ActiveState", "failed")]);
        assert!(next_step(&properties(&running), &failed, None).unwrap().contains("journalctl"));
        assert!(step(&[("ActiveState", "inactive")], None).contains("start tunneld"));
        assert!(step(&running[..1], None).contains("enable tunneld"));
        assert!(step(&running, Some(false)).contains("enable-linger"));
        assert_eq!(step(&running, Some(true)), "");
    }

    #[test]
    fn text_says_what_runs_since_when() {
        let service = properties(&[
            ("LoadState", "loaded"),
            ("ActiveState", "active"),
            ("SubState", "running"),
            ("UnitFileState", "enabled"),
            ("MainPID", "42"),
            ("ActiveEnterTimestamp", "@1700000000"),
            ("StatusText", "1 of 1 model servers up"),
        ]);
        let socket = properties(&[("LoadState", "not-found")]);
        assert_eq!(
            text(&service, &socket, Some(false), Some("do it")),
            "service    active (running), enabled\npid        42\nsince      2023-11-14T22:13:20Z\n\
             status     1 of 1 model servers up\nsocket     not installed\n\
             lingering  off: runs while you are logged in\nnext step  do it\n"
        );
    }
}
