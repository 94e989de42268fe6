//! The text of our units, and whether a file is still as we wrote it. Pure.

use std::path::Path;

use super::{SERVICE, SOCKET};

const SERVICE_TEXT: &str = include_str!("../../../../../systemd/tunneld.service");
const SOCKET_TEXT: &str = include_str!("../../../../../systemd/tunneld.socket");

/// What the unit in the repository starts.
const PACKAGED_START: &str = "ExecStart=/usr/bin/tunneld";

/// Begins the last line of each file that we write; the checksum of all before it follows.
const SEAL: &str = "# Written by tunnelctl service install, which leaves it alone once it is changed: ";

/// Keys that need user namespaces, which some systems forbid.
const NEEDS_NAMESPACES: [&str; 14] = [
    "PrivateUsers",
    "CapabilityBoundingSet",
    "ProtectSystem",
    "ProtectHome",
    "ReadWritePaths",
    "InaccessiblePaths",
    "PrivateTmp",
    "PrivateDevices",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
];

/// A unit as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authorship {
    /// As we wrote it, this version or an earlier one.
    Ours,
    /// We wrote it, and somebody has changed it.
    Changed,
    /// Somebody else wrote it.
    Foreign,
}

/// The service, starting `tunneld`, in its sandbox or without.
pub(super) fn service(tunneld: &Path, sandbox: bool) -> Unit {
    let start = format!("ExecStart={}", escape(&tunneld.to_string_lossy()));
    let text: String = SERVICE_TEXT
        .lines()
        .filter(|line| sandbox || !needs_namespaces(line))
        .map(|line| if line == PACKAGED_START { &start } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    Unit { name: SERVICE, text: seal(&text) }
}

/// The socket unit.
pub(super) fn socket() -> Unit {
    Unit { name: SOCKET, text: seal(SOCKET_TEXT) }
}

/// Tells who wrote a file with this text.
pub(super) fn authorship(text: &str) -> Authorship {
    let Some((body, sum)) = text.rsplit_once(SEAL) else { return Authorship::Foreign };
    if sum.trim_end() == checksum(body) { Authorship::Ours } else { Authorship::Changed }
}

fn needs_namespaces(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| NEEDS_NAMESPACES.contains(&key))
}

fn seal(body: &str) -> String {
    format!("{body}{SEAL}{}\n", checksum(body))
}

/// FNV-1a: it has to notice changes, not to withstand anybody, and to be the same for ever.
fn checksum(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Writes a path as systemd reads it: `%` and `$` are special, and so are spaces, quotes and backslashes.
fn escape(path: &str) -> String {
    let plain = path.replace('%', "%%").replace('$', "$$");
    if plain.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\')) {
        format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_starts_the_daemon_that_was_named() {
        let unit = service(Path::new("/opt/my tools/100%/tunneld"), true);
        assert!(unit.text.contains("\nExecStart=\"/opt/my tools/100%%/tunneld\"\n"), "{}", unit.text);
        assert!(!unit.text.contains("/usr/bin/tunneld"), "{}", unit.text);
        assert_eq!(escape("/a$b\\c"), "\"/a$$b\\\\c\"");
    }

    #[test]
    fn change_by_hand_is_noticed() {
        for unit in [service(Path::new("/usr/bin/tunneld"), true), socket()] {
            assert_eq!(authorship(&unit.text), Authorship::Ours);
            let changed = unit.text.replacen("[Install]", "# mine\n[Install]", 1);
            assert_ne!(changed, unit.text);
            assert_eq!(authorship(&changed), Authorship::Changed);
            assert_eq!(authorship(&format!("{}# mine\n", unit.text)), Authorship::Changed);
        }
        assert_eq!(authorship(SERVICE_TEXT), Authorship::Foreign);
    }

    #[test]
    fn unit_of_an_earlier_version_is_ours() {
        assert_eq!(authorship(&seal("[Service]\nExecStart=/x\n")), Authorship::Ours);
        // The same for ever: https://datatracker.ietf.org/doc/html/draft-eastlake-fnv has this value for "a".
        assert_eq!(checksum("a"), "af63dc4c8601ec8c");
    }

    #[test]
    fn without_a_sandbox_nothing_needs_namespaces_and_the_rest_stays() {
        let unit = service(Path::new("/usr/bin/tunneld"), false);
        for key in ["PrivateUsers=", "Protect", "PrivateTmp=", "CapabilityBoundingSet="] {
            assert!(!unit.text.lines().any(|line| line.starts_with(key)), "{key}: {}", unit.text);
        }
        for key in ["NoNewPrivileges=yes", "SystemCallFilter=", "WatchdogSec=", "Restart="] {
            assert!(unit.text.contains(key), "{key}: {}", unit.text);
        }
        let sandboxed = service(Path::new("/usr/bin/tunneld"), true);
        let protections = sandboxed.text.lines().filter(|line| line.starts_with("Protect")).count();
        assert!(protections >= 8, "{}", sandboxed.text);
    }
}
