//! A plugin in the sandbox that the user's systemd makes for it. It tries to get out.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{UserSession, measured, skipped};
use serde_json::{Value, json};

use super::example::Example;

/// Longest wait for anything that systemd does.
const LIMIT: Duration = Duration::from_secs(30);
const CONFIG: &str = "~/.config/cloudtolocalllm/tunnel_config.json";
const UNIT: &str = "tunneld-plugin-echo";

/// Tries what a plugin must not be able to do, before it serves what the documented one serves. It prints what it
/// managed to do.
const CURIOUS: &str = r#"
import os, socket, sys
sys.path.insert(0, os.path.dirname(__file__))
def attempt(name, act):
    try:
        act(); print("CAN", name, flush=True)
    except Exception as error:
        print("CANNOT", name, flush=True)
home = os.environ["HOME"]
def connect():
    socket.create_connection(("127.0.0.1", 8765), 2).close()
def bus(path):
    s = socket.socket(socket.AF_UNIX); s.connect(path)
attempt("read-secret", lambda: open(home + "/secret").read())
attempt("write-home", lambda: open(home + "/written", "w").write("x"))
attempt("read-state", lambda: os.listdir(home + "/.local/state/cloudtolocalllm")[0])
attempt("read-config", lambda: os.listdir(home + "/.config/cloudtolocalllm")[0])
attempt("read-allowed", lambda: os.listdir(home + "/plugins"))
attempt("write-readable", lambda: open(home + "/plugins/written", "w").write("x"))
attempt("write-allowed", lambda: open(home + "/out/written", "w").write("x"))
def writable(path):
    # Whoever may write there: the whole of it is there for reading.
    assert not os.statvfs(path).f_flag & os.ST_RDONLY
attempt("write-system", lambda: writable("/srv"))
attempt("write-tmp", lambda: open("/tmp/written", "w").write("x"))
attempt("network", connect)
attempt("bus", lambda: bus("/run/user/%d/bus" % 4711))
attempt("systemd", lambda: bus("/run/user/%d/systemd/private" % 4711))
attempt("other-plugins", lambda: open("/run/user/4711/tunneld/plugins/other/secret").read())
attempt("daemon-socket", lambda: bus("/run/user/4711/tunneld/api.sock"))
attempt("secret-variable", lambda: os.environ["OPENAI_API_KEY"])
attempt("given-variable", lambda: os.environ["GIVEN"])
print("DONE", flush=True)
if "OUTSIDE" in os.environ:
    sys.exit()
import runpy
runpy.run_path(home + "/plugins/echo.py", run_name="__main__")
"#;

#[expect(clippy::print_stderr, reason = "the journal explains the failure")]
fn in_session(scenario: impl FnOnce(&UserSession) -> Result<()>) -> Result<()> {
    if let Some(why) = UserSession::obstacle() {
        return skipped("a real systemd", &why);
    }
    let session = UserSession::begin()?;
    let outcome = scenario(&session);
    if outcome.is_err() {
        eprintln!("--- journal\n{}\n---", session.journal());
    }
    outcome
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let begun = Instant::now();
    while !condition() {
        ensure!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(begun.elapsed())
}

fn property(session: &UserSession, unit: &str, name: &str) -> String {
    session.ask(&format!("systemctl --user show {unit} --property={name} --value"))
}

fn connection(session: &UserSession) -> Value {
    let text = session.ask("tunnelctl status --json");
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    status["connections"]["echo"].clone()
}

/// Installs the service with the documented plugin, changed by `edit`.
fn install(session: &UserSession, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let (program, mut config) =
        Example::read()?.at("/home/desk/plugins").map(|(program, config)| (program.to_owned(), config))?;
    session.write("~/plugins/echo.py", &program)?;
    config["enableCloudProxy"] = false.into();
    config["enableLocalOllama"] = false.into();
    edit(&mut config["connections"][0]);
    session.write(CONFIG, &config.to_string())?;
    session.sh("tunnelctl service install --no-socket")?;
    eventually("the plugin is up", || connection(session)["connected"] == true).map(drop)
}

#[test]
fn documented_commands_do_what_the_document_says() -> Result<()> {
    in_session(|session| {
        install(session, |_| {})?;
        let example = Example::read()?;
        let mut said = example.commands.iter().map(|command| session.sh(command));
        let answer = said.next().context("the question")??;
        ensure!(
            answer.contains(r#""delta": {"content": "hello"}"#) && answer.trim_end().ends_with("[DONE]"),
            "{answer}"
        );
        let watched = said.next().context("how to watch it")??;
        for part in ["echo", "connected", "echo is ready", "PrivateNetwork=yes"] {
            ensure!(watched.contains(part), "{part}: {watched}");
        }
        ensure!(said.next().is_none(), "a command that this scenario does not know");
        let warned = session.sh("tunnelctl status --json")?;
        ensure!(!warned.contains("plugin_unsandboxed"), "{warned}");
        Ok(())
    })
}

#[test]
fn plugin_gets_nowhere_unless_it_is_allowed_to() -> Result<()> {
    in_session(|session| {
        session.write("~/secret", "s")?;
        session.write("~/plugins/curious.py", CURIOUS)?;
        session.sh("mkdir ~/out; systemctl --user set-environment OPENAI_API_KEY=sk-canary")?;
        session.sh("umask 077; mkdir -p /run/user/4711/tunneld/plugins/other; echo s > /run/user/4711/tunneld/plugins/other/secret")?;
        let attempts = |invocation: &str| {
            let said = session.ask(&format!(
                "journalctl --user --no-pager -o cat _SYSTEMD_INVOCATION_ID={invocation} -t {UNIT}"
            ));
            said.contains("DONE").then_some(said)
        };
        let wait = || -> Result<String> {
            let mut said = None;
            eventually("the attempts", || {
                said = attempts(&property(session, UNIT, "InvocationID"));
                said.is_some()
            })?;
            said.context("it was there")
        };
        let curious = |entry: &mut Value| entry["command"][1] = "/home/desk/plugins/curious.py".into();
        install(session, curious)?;
        let closed = wait()?;
        for name in [
            "read-secret",
            "read-state",
            "read-config",
            "write-home",
            "write-readable",
            "write-allowed",
            "write-system",
            "network",
            "bus",
            "systemd",
            "other-plugins",
            "daemon-socket",
            "secret-variable",
            "given-variable",
        ] {
            ensure!(closed.contains(&format!("CANNOT {name}\n")), "{name}: {closed}");
        }
        for name in ["read-allowed", "write-tmp"] {
            ensure!(closed.contains(&format!("CAN {name}\n")), "{name}: {closed}");
        }
        ensure!(
            session.ask("ls ~/written ~/plugins/written ~/out/written /tmp/written 2>/dev/null").is_empty()
        );
        // What nobody could do anyway would prove nothing.
        let outside = session.sh("OUTSIDE=1 OPENAI_API_KEY=k GIVEN=1 python3 ~/plugins/curious.py")?;
        ensure!(outside.contains("DONE") && !outside.contains("CANNOT"), "{outside}");
        session.sh("rm ~/written ~/plugins/written ~/out/written /tmp/written")?;

        install(session, |entry| {
            curious(entry);
            entry["sandbox"]["network"] = true.into();
            entry["sandbox"]["writePaths"] = json!(["/home/desk/out"]);
            entry["sandbox"]["environment"] = json!({ "GIVEN": "1" });
        })?;
        eventually("the new sandbox", || property(session, UNIT, "PrivateNetwork") == "no")?;
        let open = wait()?;
        for name in ["write-allowed", "network", "given-variable", "read-allowed"] {
            ensure!(open.contains(&format!("CAN {name}\n")), "{name}: {open}");
        }
        for name in ["read-secret", "write-home", "bus", "systemd", "daemon-socket", "secret-variable"] {
            ensure!(open.contains(&format!("CANNOT {name}\n")), "{name}: {open}");
        }
        ensure!(session.ask("ls ~/out") == "written");

        // Who is shown the whole home is not shown what the daemon keeps in it.
        install(session, |entry| {
            curious(entry);
            entry["sandbox"]["readPaths"] = json!(["/home/desk"]);
        })?;
        eventually("the new sandbox", || property(session, UNIT, "PrivateNetwork") == "yes")?;
        let home = wait()?;
        ensure!(home.contains("CAN read-secret\n"), "{home}");
        for name in ["read-state", "read-config"] {
            ensure!(home.contains(&format!("CANNOT {name}\n")), "{name}: {home}");
        }
        Ok(())
    })
}

#[test]
fn bus_that_goes_away_ends_nothing_and_keeps_nothing() -> Result<()> {
    in_session(|session| {
        install(session, |_| {})?;
        let pid = || property(session, UNIT, "MainPID");
        let runs = || !session.ask("pgrep -f plugins/echo.py").is_empty();
        let stop_bus =
            || session.sh("systemctl --user stop dbus.socket dbus.service; rm -f $XDG_RUNTIME_DIR/bus");
        let start_bus = || session.sh("systemctl --user start dbus.socket dbus.service");
        let on_the_bus = || session.ask("busctl --user list --no-legend").contains("tunneld");
        let first = pid();
        stop_bus()?;
        start_bus()?;
        eventually("the daemon is back on the bus", on_the_bus)?;
        ensure!(pid() == first, "the program has not been ended");
        // And it is still looked after.
        session.sh(&format!("kill -KILL {first}"))?;
        eventually("another process", || !["0", "", first.as_str()].contains(&pid().as_str()))?;
        eventually("the plugin is up", || connection(session)["connected"] == true)?;

        // A daemon that starts before the bus does not start a program without a sandbox.
        stop_bus()?;
        session.sh("systemctl --user restart tunneld")?;
        eventually("it waits for the bus", || {
            connection(session)["error"].as_str().is_some_and(|error| error.contains("cannot be asked yet"))
        })?;
        let status = session.sh("tunnelctl status --json")?;
        ensure!(!status.contains("plugin_unsandboxed"), "{status}");
        start_bus()?;
        eventually("the plugin is up", || connection(session)["connected"] == true)?;
        ensure!(!["0", ""].contains(&pid().as_str()), "it is a unit");

        // Nor does one stay whose entry goes meanwhile.
        stop_bus()?;
        session.write(CONFIG, r#"{ "enableCloudProxy": false, "enableLocalOllama": false }"#)?;
        eventually("the entry is gone", || connection(session).is_null())?;
        ensure!(runs(), "nobody could end it");
        start_bus()?;
        eventually("it is ended", || !runs()).map(drop)
    })
}

#[test]
fn plugin_ends_with_the_daemon_and_comes_back_with_it() -> Result<()> {
    in_session(|session| {
        install(session, |_| {})?;
        let pid = || property(session, UNIT, "MainPID");
        let other_than = |former: &str| {
            let now = pid();
            now != former && now != "0" && !now.is_empty()
        };
        let first = pid();
        session.sh(&format!("kill -KILL {first}"))?;
        let took = eventually("another process", || other_than(&first))?;
        measured("killed plugin under systemd, until another process runs", format!("{took:.1?}"));

        eventually("the plugin is up", || connection(session)["connected"] == true)?;
        let second = pid();
        session.sh("kill -KILL $(systemctl --user show tunneld --property=MainPID --value)")?;
        eventually("another daemon and another plugin", || other_than(&second))?;
        eventually("the old one is gone", || {
            session.ask(&format!("ls -d /proc/{second} 2>/dev/null")).is_empty()
        })?;

        eventually("the plugin is up", || connection(session)["connected"] == true)?;
        let begun = Instant::now();
        session.sh("systemctl --user restart tunneld")?;
        measured("restart of the daemon with a plugin", format!("{:.1?}", begun.elapsed()));
        eventually("the plugin is up", || connection(session)["connected"] == true)?;
        let begun = Instant::now();
        session.sh("systemctl --user stop tunneld")?;
        measured("stop of the daemon with a plugin", format!("{:.1?}", begun.elapsed()));
        ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        eventually("no process", || session.ask("pgrep -f plugins/echo.py").is_empty())?;
        Ok(())
    })
}

#[test]
fn reason_of_a_failure_is_systemds() -> Result<()> {
    in_session(|session| {
        install(session, |_| {})?;
        let becomes = |command: Value, sandbox: Value, why: &str| -> Result<()> {
            let entry = json!({ "id": "echo", "type": "plugin", "command": command, "sandbox": sandbox });
            let config =
                json!({ "enableCloudProxy": false, "enableLocalOllama": false, "connections": [entry] });
            session.write(CONFIG, &config.to_string())?;
            let mut last = Value::Null;
            let told = eventually(why, || {
                last = connection(session)["error"].clone();
                last.as_str().is_some_and(|error| error.contains(why))
            });
            told.map(drop).with_context(|| format!("it says {last}"))
        };
        becomes(json!(["/bin/sh", "-c", "exit 7"]), json!({}), "exit status 7")?;
        becomes(json!(["/bin/sh", "-c", "kill -KILL $$"]), json!({}), "signal 9")?;
        becomes(json!(["/home/desk/none"]), json!({}), "/home/desk/none cannot be executed")?;
        becomes(json!(["/bin/true"]), json!({ "readPaths": ["/home/desk/none"] }), "does not exist")?;
        let doctor = session.ask("tunnelctl doctor");
        ensure!(doctor.contains("/home/desk/none"), "{doctor}");
        Ok(())
    })
}
