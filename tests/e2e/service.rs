//! The daemon as a user service, under a real systemd with a real journal.
//!
//! Each scenario has a user of its own, who installs the service with `tunnelctl service install`. The ports are the
//! default ones: the session has a loopback of its own.

mod load;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{UserSession, measured, skipped};
use serde_json::Value;

use self::load::Load;

/// Longest wait for anything that systemd does.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a scenario in a session of its own, and shows the journal if it fails.
#[expect(clippy::print_stderr, reason = "the journal explains the failure")]
fn in_session(scenario: impl FnOnce(&UserSession) -> Result<()>) -> Result<()> {
    if let Some(why) = UserSession::obstacle() {
        return skipped("a real systemd", &why);
    }
    let session = UserSession::begin()?;
    // No relay is dialled: there is no network.
    session.write(CONFIG, r#"{ "enableCloudProxy": false }"#)?;
    let outcome = scenario(&session);
    if outcome.is_err() {
        eprintln!("--- journal\n{}\n---", session.journal());
    }
    outcome
}

const CONFIG: &str = "~/.config/cloudtolocalllm/tunnel_config.json";
const DROP_IN: &str = "~/.config/systemd/user/tunneld.service.d/e2e.conf";

fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let begun = Instant::now();
    while !condition() {
        ensure!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(begun.elapsed())
}

fn property(session: &UserSession, name: &str) -> String {
    session.ask(&format!("systemctl --user show tunneld.service --property={name} --value"))
}

fn status(session: &UserSession) -> Result<Value> {
    let text = session.sh("tunnelctl status --json")?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

fn warning(session: &UserSession, code: &str) -> Option<Value> {
    let status = status(session).ok()?;
    status["warnings"].as_array()?.iter().find(|warning| warning["code"] == code).cloned()
}

#[test]
fn installed_service_runs_shows_its_status_and_goes_without_a_trace() -> Result<()> {
    in_session(|session| {
        let begun = Instant::now();
        session.sh("tunnelctl service install")?;
        measured("service install, until it is ready", format!("{:.1?}", begun.elapsed()));
        ensure!(property(session, "ActiveState") == "active");
        let status = session.sh("tunnelctl service status")?;
        for part in ["active (running), enabled", "lingering  off", "enable-linger"] {
            ensure!(status.contains(part), "{part}: {status}");
        }
        let json: Value = serde_json::from_str(&session.sh("tunnelctl service status --json")?)?;
        ensure!(json["service"]["enabled"] == true && json["socket"]["active"] == "active", "{json}");
        ensure!(json["service"]["pid"].as_u64() == property(session, "MainPID").parse().ok(), "{json}");
        eventually("a status line", || property(session, "StatusText").contains("model servers up"))?;

        // The alias leads to the same unit, and `status` of the command line finds the daemon by its socket.
        ensure!(session.ask("systemctl --user is-active cloudtolocalllm-tunnel.service") == "active");
        ensure!(session.sh("tunnelctl status --json")?.contains("tunnel_manager"));
        let rights =
            session.sh("stat --format='%a %F' $XDG_RUNTIME_DIR/tunneld $XDG_RUNTIME_DIR/tunneld/api.sock")?;
        ensure!(rights == "700 directory\n600 socket\n", "{rights}");

        // Again: nothing to do, and the daemon is not disturbed.
        let pid = property(session, "MainPID");
        session.sh("tunnelctl service install")?;
        ensure!(property(session, "MainPID") == pid, "a second install restarted the daemon");

        session.sh("tunnelctl service uninstall")?;
        let left = session.ask("find ~/.config/systemd -type f -o -type l");
        ensure!(left.is_empty(), "left behind: {left}");
        let output = session.run("tunnelctl", &["service", "status"])?;
        ensure!(output.status.code() == Some(3), "{output:?}");
        ensure!(String::from_utf8_lossy(&output.stdout).contains("not installed"), "{output:?}");
        Ok(())
    })
}

#[test]
fn units_pass_systemd_s_own_check() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install --tunneld /srv/bin/tunneld")?;
        // It succeeds whatever it finds: what counts is that it has nothing to say.
        let said = session
            .sh("systemd-analyze --user verify ~/.config/systemd/user/tunneld.{service,socket} 2>&1")?;
        ensure!(said.is_empty(), "{said}");
        let score = session
            .sh("systemd-analyze security --offline=true --no-pager ~/.config/systemd/user/tunneld.service | tail -1")?;
        measured("systemd-analyze security of the unit", score.trim().trim_start_matches('→').trim());
        Ok(())
    })
}

#[test]
fn unit_changed_by_hand_is_kept() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install --no-socket")?;
        session.sh("echo '# mine' >> ~/.config/systemd/user/tunneld.service")?;
        let output = session.run("tunnelctl", &["service", "install"])?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && told.contains("--force"), "{told}");
        session.sh("tunnelctl service install --force")?;
        ensure!(session.sh("tail -1 ~/.config/systemd/user/tunneld.service.bak")? == "# mine\n");
        ensure!(session.ask("systemctl --user is-active tunneld.socket") == "active");
        Ok(())
    })
}

#[test]
fn unit_of_the_original_makes_way_only_by_force() -> Result<()> {
    in_session(|session| {
        let original = "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=default.target\n";
        session.write("~/.config/systemd/user/cloudtolocalllm-tunnel.service", original)?;
        session.sh(
            "systemctl --user daemon-reload; systemctl --user enable --now cloudtolocalllm-tunnel.service",
        )?;
        let output = session.run("tunnelctl", &["service", "install"])?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(session.ask("systemctl --user is-active cloudtolocalllm-tunnel.service") == "active");
        session.sh("tunnelctl service install --force")?;
        ensure!(
            session.sh("readlink ~/.config/systemd/user/cloudtolocalllm-tunnel.service")?.contains("tunneld")
        );
        ensure!(session.sh("cat ~/.config/systemd/user/cloudtolocalllm-tunnel.service.bak")? == original);
        ensure!(property(session, "ActiveState") == "active");
        Ok(())
    })
}

#[test]
fn journal_has_the_fields() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install")?;
        let entries = || session.ask("journalctl --user --unit tunneld --output json --no-pager");
        let listening = || {
            let entries = entries();
            let entries = entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            entries.into_iter().find(|entry| entry["MESSAGE"] == "listening")
        };
        eventually("the daemon's first line", || listening().is_some())?;
        let entry = listening().context("it was there")?;
        for (field, value) in [
            ("SYSLOG_IDENTIFIER", "tunneld"),
            ("PRIORITY", "6"),
            ("TARGET", "tunneld::daemon"),
            ("GATEWAY", "127.0.0.1:11435 [::1]:11435"),
            ("_SYSTEMD_USER_UNIT", "tunneld.service"),
        ] {
            ensure!(entry[field] == value, "{field}: {entry}");
        }
        ensure!(entry["VERSION"].is_string() && entry["SOCKET"].is_string(), "{entry}");
        Ok(())
    })
}

#[test]
fn reload_takes_the_new_configuration_without_a_new_process() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install --no-socket")?;
        let pid = property(session, "MainPID");
        session.write(CONFIG, r#"{ "enableCloudProxy": false, "apiServerPort": 12345 }"#)?;
        session.sh("systemctl --user reload tunneld")?;
        eventually("the control port at its new place", || {
            let asked = session.run("tunnelctl", &["--url", "http://127.0.0.1:12345", "version"]);
            asked.is_ok_and(|output| output.status.success())
        })?;
        ensure!(property(session, "MainPID") == pid);
        ensure!(property(session, "ActiveState") == "active");
        // Held by systemd, the doors stay where they are, and the status says so.
        session.write(CONFIG, r#"{ "enableCloudProxy": false }"#)?;
        session.sh("tunnelctl service install")?;
        session.write(CONFIG, r#"{ "enableCloudProxy": false, "gatewayPort": 12346 }"#)?;
        session.sh("systemctl --user reload tunneld")?;
        eventually("the key that waits", || {
            let status = status(session).unwrap_or_default();
            status["config"]["restart_required"] == serde_json::json!(["gatewayPort"])
        })?;
        Ok(())
    })
}

#[test]
fn restart_under_load_refuses_nobody_and_cuts_no_stream() -> Result<()> {
    in_session(|session| {
        session.write(CONFIG, r#"{ "enableCloudProxy": false, "healthCheckInterval": 5 }"#)?;
        session.sh("tunnelctl service install")?;
        let load = Load::begin(session)?;
        let mut pids = vec![property(session, "MainPID")];
        for _ in 0..3 {
            load.wait_for_more()?;
            session.sh("systemctl --user restart tunneld")?;
            pids.push(property(session, "MainPID"));
        }
        pids.dedup();
        ensure!(pids.len() == 4, "{pids:?}");
        let seen = load.end()?;
        measured("restart through systemd under load", format!("{seen:?}, 3 restarts"));
        ensure!(seen.connects >= 200, "{seen:?}");
        ensure!(seen.refused == 0 && seen.failed == 0, "{seen:?}");
        ensure!(seen.streams >= 1 && seen.cut == 0, "{seen:?}");
        Ok(())
    })
}

#[test]
fn hung_daemon_is_killed_and_started_anew() -> Result<()> {
    in_session(|session| {
        session.write(DROP_IN, "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\n")?;
        session.sh("tunnelctl service install")?;
        // Longer than the limit: a healthy daemon is left alone.
        let pid = property(session, "MainPID");
        thread::sleep(Duration::from_secs(5));
        ensure!(property(session, "MainPID") == pid, "a healthy daemon was killed");

        session.sh(&format!("kill -STOP {pid}"))?;
        let took = eventually("another process", || {
            let now = property(session, "MainPID");
            now != pid && now != "0" && property(session, "SubState") == "running"
        })?;
        measured("hung daemon, until another one is ready", format!("{took:.1?} with WatchdogSec=2"));
        ensure!(session.ask("journalctl --user --unit tunneld --no-pager").contains("Watchdog timeout"));
        session.sh("tunnelctl version").map(drop)
    })
}

#[test]
fn crashed_daemon_is_started_anew() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install --no-socket")?;
        for round in 1..=3 {
            let pid = property(session, "MainPID");
            session.sh(&format!("kill -KILL {pid}"))?;
            eventually("another process", || {
                property(session, "NRestarts") == round.to_string()
                    && property(session, "SubState") == "running"
            })?;
            session.sh("tunnelctl version")?;
        }
        Ok(())
    })
}

#[test]
fn taken_port_ends_the_start_once_and_says_who_has_it() -> Result<()> {
    in_session(|session| {
        let mut holder = session.command("/srv/program");
        let mut holder = holder
            .args(["--exact", "service::load::hold_port", "--ignored"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        eventually("a listener", || {
            session.ask("ss --listening --tcp --no-header 'sport = :11435'").contains("11435")
        })?;
        let output = session.run("tunnelctl", &["service", "install", "--no-socket"])?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        // The daemon's sandbox does not let it see whose it is, so it says how to find out.
        ensure!(told.contains("11435 is taken") && told.contains("ss -ltnp"), "{told}");
        ensure!(property(session, "ExecMainStatus") == "9" && property(session, "ActiveState") == "failed");
        let shown = session.ask("systemctl --user status tunneld --no-pager");
        ensure!(shown.contains("is taken") && shown.contains("status=9"), "{shown}");
        // RestartSec is one second: a loop would have begun.
        thread::sleep(Duration::from_secs(3));
        ensure!(property(session, "NRestarts") == "0");
        holder.kill()?;
        holder.wait()?;
        Ok(())
    })
}

#[test]
fn auto_start_on_boot_and_the_unit_are_in_step() -> Result<()> {
    in_session(|session| {
        session.sh("tunnelctl service install --no-socket")?;
        let enabled = || session.ask("systemctl --user is-enabled tunneld");
        // The default is not the user's word.
        session.sh("systemctl --user reload tunneld")?;
        ensure!(enabled() == "enabled", "{}", enabled());
        let pid = property(session, "MainPID");
        let set = |value: bool| {
            session
                .write(CONFIG, &format!(r#"{{ "enableCloudProxy": false, "autoStartOnBoot": {value} }}"#))?;
            // systemd reloads no unit that is masked.
            session.sh(&format!("kill -HUP {pid}")).map(drop)
        };
        set(false)?;
        eventually("a disabled unit", || enabled() == "disabled")?;
        ensure!(property(session, "ActiveState") == "active");
        set(true)?;
        eventually("an enabled unit", || enabled() == "enabled")?;
        eventually("the word on lingering", || warning(session, "no_linger").is_some())?;
        // Masked by its user: that is for him to take back.
        set(false)?;
        eventually("a disabled unit", || enabled() == "disabled")?;
        session
            .sh("mv ~/.config/systemd/user/tunneld.service /tmp; systemctl --user mask tunneld.service")?;
        set(true)?;
        eventually("the word on the mask", || warning(session, "boot_masked").is_some())?;
        Ok(())
    })
}

#[test]
fn sandbox_leaves_the_daemon_its_folders_and_nothing_else() -> Result<()> {
    in_session(|session| {
        session.sh("mkdir -p ~/.ssh && echo secret > ~/.ssh/id && tunnelctl service install")?;
        let pid = property(session, "MainPID");
        let inside = |line: &str| {
            session.ask(&format!(
                "nsenter --target {pid} --user --preserve-credentials --mount -- bash -c '{line}' 2>&1"
            ))
        };
        for (line, wanted) in [
            ("touch ~/.config/cloudtolocalllm/x && echo ok", "ok"),
            ("touch ~/.local/state/cloudtolocalllm/x && echo ok", "ok"),
            ("touch ~/.bashrc", "Read-only file system"),
            ("touch /srv/x", "Read-only file system"),
            ("cat ~/.ssh/id", "Permission denied"),
        ] {
            let said = inside(line);
            ensure!(said.contains(wanted), "{line}: {said}");
        }
        let capabilities = session.ask(&format!("grep -E 'Cap(Prm|Eff|Bnd)' /proc/{pid}/status"));
        ensure!(
            capabilities.lines().count() == 3
                && capabilities.lines().all(|line| line.ends_with("\t0000000000000000")),
            "{capabilities}"
        );
        ensure!(
            warning(session, "no_state_dir").is_none() && warning(session, "no_control_socket").is_none()
        );
        Ok(())
    })
}
