//! `tunnelctl start`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, OLLAMA, Script, Told, tunnelctl};

const LLAMA: &str = "http://127.0.0.1:8080";

/// No Ollama, but a llama.cpp on its usual port.
fn only_llama() -> Script {
    let mut script = Script::default().detects("openai", LLAMA, None);
    script.up.retain(|url| url != OLLAMA);
    script
}

#[test]
fn start_tells_what_is_connected_and_the_next_command() {
    let daemon = Daemon::start(Script::default());
    let told = daemon.run("start");
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    for part in [
        "  OK    ollama  1 model  http://localhost:11434\n",
        "  OpenAI's API  http://127.0.0.1:11435/v1\n",
        "  Ollama's API  OLLAMA_HOST=http://127.0.0.1:11435\n",
        "no token, which is optional",
        "tunnelctl login",
        "\nNext step\n  tunnelctl connect curl\n",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert_eq!(daemon.script().heard, ["start"]);
    let quiet = daemon.run("start -q");
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (0, "", ""));
    let json = daemon.run("start --json").json();
    assert_eq!((&json["status"], &json["tunnel"]["state"]), (&json!("success"), &json!("no_token")));
}

#[test]
fn start_on_an_empty_configuration_adds_what_it_finds() {
    let daemon = Daemon::start(only_llama());
    let told = daemon.run("start");
    assert_eq!(told.code, 0);
    assert!(told.stderr.contains("looking for one"), "{}", told.stderr);
    assert!(
        told.stdout.contains("llama-cpp  1 model  http://127.0.0.1:8080  llama.cpp, found and added"),
        "{}",
        told.stdout
    );
    assert!(told.stdout.ends_with("  tunnelctl connect curl\n"), "{}", told.stdout);
    let added = json!([{ "id": "llama-cpp", "type": "openai", "url": LLAMA }]);
    assert_eq!(daemon.script().config["connections"], added);
}

#[test]
fn start_leaves_a_configuration_that_names_servers_alone() {
    for edit in [
        |script: &mut Script| script.config["ollamaPort"] = 11500.into(),
        |script: &mut Script| {
            script.config["connections"] = json!([{ "id": "far", "type": "openai", "url": "http://far" }]);
        },
    ] {
        let mut script = only_llama();
        edit(&mut script);
        let daemon = Daemon::start(script);
        let told = daemon.run("start");
        assert_eq!((told.code, &daemon.script().heard[..]), (0, &["start".to_owned()][..]));
        assert!(
            told.stdout.contains("FAIL  ollama") && told.stdout.ends_with("  tunnelctl start\n"),
            "{}",
            told.stdout
        );
    }
}

#[test]
fn start_looks_again_at_a_server_that_was_down() {
    let mut script = Script::default();
    script.up.clear();
    script.started = vec![OLLAMA.to_owned()];
    let told = Daemon::start(script).run("start");
    assert_eq!(told.code, 0);
    assert!(told.stdout.contains("OK    ollama  1 model"), "{}", told.stdout);
}

#[test]
fn start_leaves_switched_off_what_was_switched_off() {
    let mut script = Script::default().detects("ollama", OLLAMA, Some("ollama"));
    script.config["enableLocalOllama"] = false.into();
    let daemon = Daemon::start(script);
    let told = daemon.run("start");
    assert_eq!((told.code, &daemon.script().heard[..]), (0, &["start".to_owned()][..]));
    assert!(told.stdout.ends_with("  tunnelctl connections enable ollama\n"), "{}", told.stdout);
}

#[test]
fn tunnel_that_is_switched_off_is_an_error_only_when_it_is_waited_for() {
    let mut script = Script::default();
    script.config["enableCloudProxy"] = false.into();
    let daemon = Daemon::start(script);
    let told = daemon.run("start");
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert!(told.stdout.contains("tunnelctl connections enable cloud"), "{}", told.stdout);
    assert_eq!(daemon.run("start --json").json()["tunnel"]["state"], "switched_off");
    let told = daemon.run("start --wait 5");
    assert_eq!((told.code, told.stdout.as_str()), (9, ""));
    assert_eq!(
        told.stderr,
        "error: the tunnel is switched off in the configuration; to switch it on: tunnelctl connections enable cloud\n"
    );
}

#[test]
fn tunnel_that_is_up_is_told_with_its_relay() {
    let mut script = Script { stored_in: "keyring", ..Script::default() };
    script.tunnel["state"] = "connected".into();
    let told = Daemon::start(script).run("start");
    assert!(told.stdout.contains("OK   connected to https://relay.example.org\n"), "{}", told.stdout);
}

/// Runs `start` where no daemon runs, with this script as `systemctl`.
fn start_with_systemctl(home: &Path, systemctl: &str) -> Child {
    let program = home.join("systemctl");
    std::fs::write(&program, format!("#!/bin/sh\n{systemctl}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    command(home).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The socket is that of a daemon that has ended: it is there, and nobody listens.
fn command(home: &Path) -> Command {
    std::fs::create_dir_all(home.join("tunneld")).unwrap();
    drop(UnixListener::bind(home.join("tunneld/api.sock")).unwrap());
    let mut command = tunnelctl();
    command.env("XDG_RUNTIME_DIR", home).env("PATH", home).env("HOME", home).arg("start");
    command
}

#[test]
fn daemon_that_does_not_run_is_started_by_its_unit() {
    let home = tempfile::tempdir().unwrap();
    let ordered = home.path().join("ordered");
    let script = format!(
        "case \"$*\" in *start*) : > {} ;; *show*) echo LoadState=loaded; echo ActiveState=activating ;; esac",
        ordered.display()
    );
    let child = start_with_systemctl(home.path(), &script);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ordered.exists() {
        assert!(Instant::now() < deadline, "the unit was not started");
        std::thread::sleep(Duration::from_millis(10));
    }
    let daemon = Daemon::start(Script::default());
    daemon.listen_at(&home.path().join("tunneld/api.sock"));
    let told = Told::from(child.wait_with_output().unwrap());
    assert_eq!((told.code, told.stderr.as_str()), (0, "tunneld is being started\n"));
    assert!(told.stdout.starts_with("OK   tunneld is started\n"), "{}", told.stdout);
    assert_eq!(daemon.script().heard, ["start"]);
}

#[test]
fn daemon_that_cannot_be_started_is_exit_code_3_with_the_next_command() {
    for (systemctl, says) in [
        ("case \"$*\" in *tunneld*) echo LoadState=not-found ;; esac", "tunnelctl service install"),
        (
            "echo 'Failed to connect to bus' >&2; exit 1",
            "loginctl enable-linger; or run it without systemd: tunneld",
        ),
        (
            "case \"$*\" in *tunneld*) echo ActiveState=failed; echo Result=exit-code; echo ExecMainStatus=1 ;; esac",
            "ended as soon as it was started (exit-code, exit code 1); look at: tunnelctl logs",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let told = Told::from(start_with_systemctl(home.path(), systemctl).wait_with_output().unwrap());
        assert_eq!((told.code, told.stdout.as_str()), (3, ""), "{}", told.stderr);
        assert!(told.stderr.contains(says), "{}", told.stderr);
    }
    let home = tempfile::tempdir().unwrap();
    let told = Told::from(command(home.path()).output().unwrap());
    assert_eq!(told.code, 3);
    assert!(
        told.stderr.contains("there is no systemctl here") && told.stderr.ends_with("tunneld\n"),
        "{}",
        told.stderr
    );
}

#[test]
fn address_that_was_named_may_be_the_wrong_one() {
    // Nobody listens on the discard port.
    let told = Told::from(tunnelctl().args(["--url", "http://127.0.0.1:9", "start"]).output().unwrap());
    assert_eq!((told.code, told.stdout.as_str()), (3, ""));
    assert!(told.stderr.contains("is that its address? leave --url out"), "{}", told.stderr);
}
