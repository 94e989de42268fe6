//! Plugins: programs behind the gateway that the daemon starts, watches and starts again.
//!
//! The example of `docs/plugins.md` is what runs here, word for word.

mod example;
mod sandbox;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{Daemon, DaemonOptions, Lab, measured, poll_until, scenario};
use serde_json::{Value, json};

use self::example::Example;

/// Longest wait for a program to come up, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);

fn question(stream: bool, content: &str) -> Value {
    json!({ "model": "echo", "stream": stream, "messages": [{ "role": "user", "content": content }] })
}

/// Starts a daemon with one connection and nothing else.
async fn daemon_with(dir: &Path, entry: &Value) -> Result<Daemon> {
    let options = DaemonOptions::default().with("connections", json!([entry])).with("connectionTimeout", 2);
    Daemon::start(dir, options).await
}

/// Writes the documented program into `dir` and starts a daemon with the documented entry.
async fn with_the_example(lab: &mut Lab) -> Result<Daemon> {
    let dir = lab.folder("daemon", "tunneld.log")?;
    let example = Example::read()?;
    let config = example.install(&dir.join("plugins"))?;
    let daemon = daemon_with(&dir, &config["connections"][0]).await?;
    daemon.wait_for_backend("echo", LIMIT).await?;
    Ok(daemon)
}

async fn warning(daemon: &Daemon, code: &str) -> Option<Value> {
    let status = daemon.status().await.ok()?;
    status["warnings"].as_array()?.iter().find(|warning| warning["code"] == code).cloned()
}

async fn wait_for_warning(daemon: &Daemon, code: &str, part: &str) -> Result<Value> {
    let mut last = None;
    let found = poll_until(code, LIMIT, async || {
        last = warning(daemon, code).await;
        last.clone().filter(|warning| warning["message"].as_str().is_some_and(|text| text.contains(part)))
    });
    found.await.with_context(|| format!("a warning {code} with {part:?}; the last was {last:?}"))
}

/// The process of the plugin, as it says itself: the one that listens on the socket.
fn pid_of_plugin(daemon: &Daemon) -> Result<u32> {
    let script = daemon.dir().join("plugins/echo.py").display().to_string();
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let mut pids = pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == script.as_bytes())
    });
    pids.next().context("the program does not run")
}

fn kill(pid: u32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.try_into()?).context("a number of a process")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

#[test]
fn example_answers_through_the_gateway() -> Result<()> {
    scenario(async |lab| {
        let daemon = with_the_example(lab).await?;
        let ask = |stream| {
            let question = question(stream, "hello from a plugin");
            daemon.local().post("/v1/chat/completions").json(&question).send()
        };
        let whole = ask(false).await?;
        ensure!(
            whole.status() == 200 && whole.header("x-tunnel-connection") == "echo",
            "{:?}",
            whole.headers()
        );
        let whole = whole.json().await?;
        ensure!(whole["choices"][0]["message"]["content"] == "hello from a plugin", "{whole}");
        let streamed = ask(true).await?.ending().await;
        let text = streamed.text();
        ensure!(text.matches("data: ").count() == 7 && text.ends_with("data: [DONE]\n\n"), "{text}");

        let listed = daemon.local().get("/v1/models").send().await?.json().await?;
        ensure!(listed["data"][0]["id"] == "echo", "{listed}");
        // Here is no systemd, and that is said.
        let open = wait_for_warning(&daemon, "plugin_unsandboxed", "echo").await?;
        ensure!(open["next_step"].as_str().is_some_and(|step| step.contains("service install")), "{open}");
        let doctor = daemon.tunnelctl(&["doctor"]).await?;
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        ensure!(doctor.contains("it has no sandbox"), "{doctor}");
        Ok(())
    })
}

#[test]
fn killed_plugin_is_started_again_and_requests_meanwhile_get_the_reason() -> Result<()> {
    scenario(async |lab| {
        let mut daemon = with_the_example(lab).await?;
        let first = pid_of_plugin(&daemon)?;
        kill(first)?;
        let mut refused = Vec::new();
        let took = poll_until("an answer of the new process", LIMIT, async || {
            let asked = daemon.local().post("/v1/chat/completions").json(&question(false, "again")).send();
            let reply = asked.await.ok()?;
            if reply.status() == 200 {
                return Some(());
            }
            refused.push((reply.status(), reply.text().await.unwrap_or_default()));
            None
        });
        let begun = std::time::Instant::now();
        took.await?;
        measured("killed plugin, until it answers again", format!("{:.1?}", begun.elapsed()));
        for (status, text) in &refused {
            ensure!(*status == 502 || *status == 503, "{status}: {text}");
            ensure!(text.contains("echo") || text.contains("connection"), "{text}");
        }
        let second = pid_of_plugin(&daemon)?;
        ensure!(second != first);
        // A crash of a program that was up mends itself: nobody is called.
        ensure!(warning(&daemon, "plugin_failing").await.is_none());

        // Again and again: by then someone should look.
        for _ in 0..2 {
            poll_until("another process", LIMIT, async || {
                pid_of_plugin(&daemon).ok().and_then(|pid| kill(pid).ok())
            })
            .await?;
        }
        let failing = wait_for_warning(&daemon, "plugin_failing", "killed by signal 9").await?;
        ensure!(failing["message"].as_str().is_some_and(|text| text.contains("in a row")), "{failing}");

        daemon.wait_for_backend("echo", LIMIT).await?;
        // The daemon may not have seen yet that the last one is gone.
        let last = poll_until("a process", LIMIT, async || pid_of_plugin(&daemon).ok()).await?;
        // Whichever way the daemon ends, nothing is left of the program. A zombie, for whom init has no time, has no line.
        daemon.kill()?;
        let gone =
            async || fs::read(format!("/proc/{last}/cmdline")).unwrap_or_default().is_empty().then_some(());
        poll_until("the end of the plugin after that of the daemon", LIMIT, gone).await
    })
}

#[test]
fn plugin_that_cannot_be_used_is_told_with_the_reason() -> Result<()> {
    scenario(async |lab| {
        let sleeper = json!({ "id": "p", "type": "plugin", "command": ["/bin/sleep", "600"] });
        let other = r#"
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind(os.environ["TUNNEL_PLUGIN_SOCKET"]); s.listen()
body = b'{"protocol": 2, "api": ["openai"]}'
while True:
    c, _ = s.accept(); c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body); c.close()
"#;
        let other = json!({ "id": "p", "type": "plugin", "command": ["/usr/bin/python3", "-c", other] });
        let exits = json!({ "id": "p", "type": "plugin", "command": ["/bin/sh", "-c", "exit 3"] });
        let absent = json!({ "id": "p", "type": "plugin", "command": ["/no/such/program"] });
        let strict = json!({ "id": "p", "type": "plugin", "command": ["/bin/sleep", "600"],
            "sandbox": { "required": true } });
        let dir = lab.folder("daemon", "tunneld.log")?;
        let daemon = daemon_with(&dir, &sleeper).await?;
        for (entry, why) in [
            (sleeper, "was not ready within 2 s"),
            (other, "the plugin speaks protocol 2"),
            (exits, "exit status 3"),
            (absent, "/no/such/program cannot be executed"),
            (strict, "sandbox.required"),
        ] {
            let body = json!({ "connections": [entry] });
            let changed =
                daemon.control().call(http::Method::PATCH, "/api/config").json(&body).send().await?;
            ensure!(changed.status() == 200, "{}", changed.text().await?);
            wait_for_warning(&daemon, "plugin_failing", why).await?;
            let status = daemon.status().await?;
            let error = status["connections"]["p"]["error"].as_str().unwrap_or_default();
            ensure!(error.contains(why), "{error}");
        }
        let shown = daemon.tunnelctl(&["connections", "list"]).await?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("sandbox.required"), "{shown}");
        Ok(())
    })
}

#[test]
fn reload_leaves_a_plugin_alone_whose_entry_stays() -> Result<()> {
    scenario(async |lab| {
        let daemon = with_the_example(lab).await?;
        let first = pid_of_plugin(&daemon)?;
        let patch = async |body: &Value| -> Result<()> {
            let changed = daemon.control().call(http::Method::PATCH, "/api/config").json(body).send().await?;
            ensure!(changed.status() == 200, "{}", changed.text().await?);
            Ok(())
        };
        let config = daemon.control().get("/api/config").send().await?.json().await?;
        let mut entry = config["connections"][0].clone();
        entry["priority"] = 3.into();
        patch(&json!({ "connections": [entry], "logLevel": "DEBUG" })).await?;
        daemon.wait_for_backend("echo", LIMIT).await?;
        ensure!(pid_of_plugin(&daemon)? == first, "a change of its priority has ended it");

        entry["sandbox"]["environment"] = json!({ "ECHO_PAUSE": "0.01" });
        patch(&json!({ "connections": [entry] })).await?;
        poll_until("another process", LIMIT, async || {
            pid_of_plugin(&daemon).ok().filter(|pid| *pid != first)
        })
        .await?;
        patch(&json!({ "connections": [] })).await?;
        poll_until("no process", LIMIT, async || pid_of_plugin(&daemon).is_err().then_some(())).await
    })
}

#[test]
fn plugin_that_hangs_is_started_again() -> Result<()> {
    scenario(async |lab| {
        let dir = lab.folder("daemon", "tunneld.log")?;
        let config = Example::read()?.install(&dir.join("plugins"))?;
        let options = DaemonOptions::default().with("connections", config["connections"].clone());
        let options = options.with("maxRetries", 1).with("connectionTimeout", 2).with("retryDelay", 1);
        let daemon = Daemon::start(&dir, options).await?;
        daemon.wait_for_backend("echo", LIMIT).await?;
        let first = pid_of_plugin(&daemon)?;
        let pid = rustix::process::Pid::from_raw(first.try_into()?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        let test = daemon.control().post("/api/connections/echo/test").send();
        let begun = std::time::Instant::now();
        let _answer = test.await?;
        poll_until("another process", LIMIT, async || {
            pid_of_plugin(&daemon).ok().filter(|pid| *pid != first)
        })
        .await?;
        measured("hung plugin, until another process runs", format!("{:.1?}", begun.elapsed()));
        daemon.wait_for_backend("echo", LIMIT).await
    })
}

#[test]
fn web_page_cannot_start_programs() -> Result<()> {
    scenario(async |lab| {
        let dir = lab.folder("daemon", "tunneld.log")?;
        let page = "http://page.example";
        let options = DaemonOptions::default().with("allowedOrigins", json!([page]));
        let daemon = Daemon::start(&dir, options).await?;
        let patch = |body: Value| {
            let call = daemon.control().call(http::Method::PATCH, "/api/config").header("origin", page);
            call.json(&body).send()
        };
        let harmless = patch(json!({ "logLevel": "DEBUG" })).await?;
        ensure!(harmless.status() == 200, "{}", harmless.text().await?);
        let program =
            json!({ "connections": [{ "id": "p", "type": "plugin", "command": ["/bin/sleep", "9"] }] });
        let refused = patch(program).await?;
        ensure!(refused.status() == 403, "{}", refused.status());
        let refused = refused.json().await?;
        ensure!(refused["code"] == "program_change_refused", "{refused}");
        let config = fs::read_to_string(daemon.config_file())?;
        ensure!(!config.contains("/bin/sleep"), "{config}");
        Ok(())
    })
}
