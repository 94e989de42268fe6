//! `tunnelctl service install` and `uninstall`, and the key that the daemon carries over to systemd.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::support::{Daemon, Script, Told};

/// A user manager to which every unit runs.
const SYSTEMCTL: &str = "#!/bin/sh\necho LoadState=loaded; echo ActiveState=active\n";

fn run(daemon: &Daemon, home: &Path, line: &str) -> Told {
    for program in ["systemctl", "tunneld"] {
        let path = home.join(program);
        std::fs::write(&path, SYSTEMCTL).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = daemon.command(line);
    Told::from(command.env("PATH", home).env("HOME", home).output().unwrap())
}

fn script(starts: bool, in_file: Vec<&'static str>) -> Script {
    let mut script = Script { in_file, ..Script::default() };
    script.config["autoStartOnBoot"] = starts.into();
    script
}

#[test]
fn install_and_uninstall_put_right_what_would_undo_them() {
    let home = tempfile::tempdir().unwrap();
    let install = format!("service install --tunneld {}", home.path().join("tunneld").display());
    for (line, wanted) in [(install.as_str(), true), ("service uninstall", false)] {
        let daemon = Daemon::start(script(!wanted, vec!["autoStartOnBoot"]));
        let told = run(&daemon, home.path(), line);
        assert_eq!(told.code, 0, "{told:?}");
        assert_eq!(daemon.script().config["autoStartOnBoot"], json!(wanted), "{line}");
        let sentence = format!("autoStartOnBoot was {}; it is {wanted} now", !wanted);
        assert!(told.stderr.contains(&sentence), "{}", told.stderr);
    }
}

#[test]
fn key_that_nobody_has_set_stays_unset() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(script(false, vec![]));
    let line = format!("service install --tunneld {}", home.path().join("tunneld").display());
    assert_eq!(run(&daemon, home.path(), &line).code, 0);
    assert!(daemon.script().heard.is_empty(), "{:?}", daemon.script().heard);
}

#[test]
fn value_that_a_variable_sets_is_told_with_the_command_to_make_sure() {
    let home = tempfile::tempdir().unwrap();
    let mut script = script(true, vec!["autoStartOnBoot"]);
    script.overridden = vec!["autoStartOnBoot"];
    let told = run(&Daemon::start(script), home.path(), "service uninstall");
    assert_eq!(told.code, 0);
    assert!(told.stderr.contains("tunnelctl config set autoStartOnBoot false"), "{}", told.stderr);
}
