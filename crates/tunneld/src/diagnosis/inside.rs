//! The daemon itself: its configuration, its doors, its disk, where it keeps the token. Pure.

use std::path::PathBuf;

use tunnel_api::auth::StoredIn;
use tunnel_api::status::ConfigStatus;
use tunnel_api::warning::{
    KEYRING_ABSENT, KEYRING_FAILED, KEYRING_LOCKED, KEYRING_TIMEOUT, LAN_GATEWAY_PLAIN, LAN_GATEWAY_TLS,
    PLUGIN_FAILING, PLUGIN_UNSANDBOXED, PORT_TAKEN, SECRET_FILE_UNUSABLE, STATE_CORRUPT, STATE_DEGRADED,
    STATE_NEWER, TOKEN_NOT_STORED,
};
use tunnel_api::{AuthStatus, Check, Config, Warning};

use super::check::{Subject, one_line};

/// Free room below which someone should look: usage and events of some months fit in it.
const LITTLE_ROOM_BYTES: u64 = 100_000_000;

/// What is known of the room where the state is kept.
#[derive(Debug)]
pub(super) enum Room {
    Free { directory: PathBuf, bytes: u64 },
    Unknown { directory: PathBuf, why: String },
    Nowhere,
}

pub(super) fn config(status: &ConfigStatus) -> Check {
    let subject = Subject::new("config", "configuration");
    if let Some(error) = &status.last_error {
        let detail = format!("the newest version is not in force: {}", one_line(error));
        return subject.fail(detail, "tunnelctl config check, then mend the file: tunnelctl config edit");
    }
    if !status.restart_required.is_empty() {
        let detail =
            format!("a change of {} takes effect after a restart", status.restart_required.join(", "));
        return subject.warn(detail, "systemctl --user restart tunneld");
    }
    match status.files.as_slice() {
        [] => subject.pass("there is no file, the defaults are in force"),
        files => subject.pass(format!("{} is in force", files.join(", "))),
    }
}

/// Codes of the warnings about doors on TCP.
const PORT_CODES: [&str; 4] = [PORT_TAKEN, "port_forbidden", "port_unusable", LAN_GATEWAY_TLS];
/// Codes of the warnings about the control socket.
const SOCKET_CODES: [&str; 2] = ["no_control_socket", "no_runtime_dir"];

pub(super) fn ports(config: &Config, warnings: &[Warning]) -> Check {
    let subject = Subject::new("ports", "ports");
    if let Some(warning) = find(warnings, &PORT_CODES) {
        return subject.fail_as(warning);
    }
    if let Some(warning) = find(warnings, &SOCKET_CODES).or_else(|| find(warnings, &[LAN_GATEWAY_PLAIN])) {
        return subject.warn_as(warning);
    }
    let door = |name, port, open| {
        if open { format!("{name} port {port} is open") } else { format!("{name} port is switched off") }
    };
    let control = door("control", config.api_server_port, config.enable_api_server);
    let gateway = door("gateway", config.gateway_port, config.enable_gateway);
    let lan = &config.lan_gateway;
    // Closed is how it is nearly everywhere, and not worth a word.
    let lan = if lan.enabled {
        format!(", LAN gateway port {} is open at {} to callers with a key", lan.port, lan.address)
    } else {
        String::new()
    };
    subject.pass(format!("{control}, {gateway}{lan}"))
}

/// Tells what is wrong with the programs behind plugins.
pub(super) fn plugins(warnings: &[Warning]) -> Vec<Check> {
    let about_plugins =
        |warning: &&Warning| [PLUGIN_FAILING, PLUGIN_UNSANDBOXED].contains(&warning.code.as_str());
    let subject = Subject::new("plugin", "plugin");
    warnings.iter().filter(about_plugins).map(|warning| subject.warn_as(warning)).collect()
}

pub(super) fn disk(room: Room, warnings: &[Warning]) -> Check {
    let subject = Subject::new("disk", "disk");
    if let Some(warning) = find(warnings, &[STATE_DEGRADED, STATE_CORRUPT, STATE_NEWER, "no_state_dir"]) {
        return subject.warn_as(warning);
    }
    match room {
        Room::Nowhere => subject.skip("there is no state directory"),
        Room::Unknown { directory, why } => {
            let detail = format!("how much room is left for {} is not known: {why}", directory.display());
            subject.warn(detail, format!("df -h {}", directory.display()))
        }
        Room::Free { directory, bytes } => {
            let detail = format!("{} are free for {}", size(bytes), directory.display());
            if bytes < LITTLE_ROOM_BYTES {
                subject.warn(detail, format!("make room, see: df -h {}", directory.display()))
            } else {
                subject.pass(detail)
            }
        }
    }
}

/// Codes of the warnings about the places for a token.
const KEEPING_CODES: [&str; 6] =
    [KEYRING_ABSENT, KEYRING_LOCKED, KEYRING_TIMEOUT, KEYRING_FAILED, SECRET_FILE_UNUSABLE, TOKEN_NOT_STORED];

pub(super) fn keyring(auth: &AuthStatus, warnings: &[Warning]) -> Check {
    let subject = Subject::new("keyring", "keyring");
    if let Some(warning) = find(warnings, &KEEPING_CODES) {
        return subject.warn_as(warning);
    }
    match auth.stored_in {
        StoredIn::Keyring => subject.pass("the token is kept in it"),
        StoredIn::Credential => subject.skip("not used: the token is systemd's credential cloud-token"),
        StoredIn::File => subject.skip("not used: the token is kept in a sealed file in the state directory"),
        StoredIn::TokenFile => subject.skip("not used: the token comes from a token file"),
        StoredIn::None | StoredIn::Unknown => subject.skip("there is no token to keep in it"),
    }
}

fn find<'a>(warnings: &'a [Warning], codes: &[&str]) -> Option<&'a Warning> {
    warnings.iter().find(|warning| codes.contains(&warning.code.as_str()))
}

/// In the units in which tunnelctl writes sizes.
fn size(bytes: u64) -> String {
    const GB: u64 = 1_000_000_000;
    let (unit, name) = if bytes >= GB { (GB, "GB") } else { (1_000_000, "MB") };
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    fn warning(code: &str) -> Warning {
        Warning::new(code, "what is wrong", "do this")
    }

    #[test]
    fn faulty_file_fails_and_a_restart_that_is_due_warns() {
        let faulty = ConfigStatus {
            last_error: Some("c.json has 2 faults:\n  a is wrong\n  b too\n".to_owned()),
            restart_required: vec!["logLevel".to_owned()],
            ..ConfigStatus::default()
        };
        let check = config(&faulty);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.detail.ends_with("c.json has 2 faults: a is wrong; b too"), "{}", check.detail);
        let check = config(&ConfigStatus { last_error: None, ..faulty });
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.detail.contains("logLevel") && check.next_step.contains("restart tunneld"));
        let check = config(&ConfigStatus { files: vec!["/c.json".to_owned()], ..ConfigStatus::default() });
        assert_eq!((check.verdict, check.detail.as_str()), (Verdict::Pass, "/c.json is in force"));
    }

    #[test]
    fn door_that_is_taken_fails_in_the_words_that_name_who_has_it() {
        let mut warnings = vec![warning("no_control_socket"), warning(PORT_TAKEN)];
        let check = ports(&Config::default(), &warnings);
        assert_eq!((check.verdict, check.detail.as_str()), (Verdict::Fail, "what is wrong"));
        assert_eq!(check.next_step, "do this");
        warnings.pop();
        assert_eq!(ports(&Config::default(), &warnings).verdict, Verdict::Warn);
        let check = ports(&Config { enable_gateway: false, ..Config::default() }, &[]);
        assert_eq!(check.detail, "control port 8765 is open, gateway port is switched off");
    }

    #[test]
    fn full_disk_and_a_database_in_trouble_warn() {
        let room = |bytes| Room::Free { directory: "/s".into(), bytes };
        assert_eq!(disk(room(LITTLE_ROOM_BYTES), &[]).verdict, Verdict::Pass);
        let little = disk(room(LITTLE_ROOM_BYTES - 1), &[]);
        assert_eq!((little.verdict, little.detail.as_str()), (Verdict::Warn, "100.0 MB are free for /s"));
        assert_eq!(disk(room(u64::MAX), &[warning(STATE_DEGRADED)]).detail, "what is wrong");
        assert_eq!(disk(Room::Nowhere, &[]).verdict, Verdict::Skip);
        let unknown = Room::Unknown { directory: "/s".into(), why: "no".to_owned() };
        assert_eq!(disk(unknown, &[]).verdict, Verdict::Warn);
    }

    #[test]
    fn keyring_that_is_not_needed_is_not_looked_at() {
        let auth = |stored_in| AuthStatus { stored_in, ..AuthStatus::default() };
        assert_eq!(keyring(&auth(StoredIn::Keyring), &[]).verdict, Verdict::Pass);
        assert_eq!(keyring(&auth(StoredIn::File), &[]).verdict, Verdict::Skip);
        let locked = keyring(&auth(StoredIn::None), &[warning("other"), warning(KEYRING_LOCKED)]);
        assert_eq!((locked.verdict, locked.next_step.as_str()), (Verdict::Warn, "do this"));
    }
}
