//! `tunnelctl service uninstall`.

use std::fs;

use serde_json::json;
use tunnel_client::exit;

use super::systemctl::Systemctl;
use super::unit::{self, Authorship};
use super::{Places, SERVICE, SOCKET, keep_aside};
use crate::output::Output;

/// Stops and disables, then removes what `install` wrote. Configuration and state stay.
pub(super) fn uninstall(
    force: bool,
    places: &Places,
    systemctl: &Systemctl,
    output: &Output,
) -> anyhow::Result<u8> {
    // The socket first: it would start the service anew.
    for unit in [SOCKET, SERVICE] {
        if systemctl.show(unit)?.exists() {
            systemctl.run(&["disable", "--now", unit])?;
        }
    }
    let mut removed = Vec::new();
    let mut kept = Vec::new();
    for unit in [SOCKET, SERVICE] {
        let path = places.own(unit);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match unit::authorship(&text) {
            Authorship::Ours => {
                fs::remove_file(&path)?;
                removed.push(path.display().to_string());
            }
            Authorship::Changed | Authorship::Foreign if force => {
                kept.push(keep_aside(&path)?.display().to_string());
                removed.push(path.display().to_string());
            }
            Authorship::Changed | Authorship::Foreign => kept.push(path.display().to_string()),
        }
    }
    systemctl.run(&["daemon-reload"])?;
    // A unit that had failed would be listed on although it is gone; one that had not is no fault.
    let _nothing_to_forget = systemctl.run(&["reset-failed", SERVICE, SOCKET]);
    if output.wants_json() {
        output.json(json!({ "status": "success", "removed": removed, "kept": kept }))?;
    } else {
        output
            .done("tunneld is stopped and will not be started at login; configuration and state are kept")?;
        for path in kept {
            output.talk(&format!("{path} was written or changed by hand, so it stays"));
        }
    }
    Ok(exit::OK)
}
