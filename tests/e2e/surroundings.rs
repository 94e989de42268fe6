//! What is missing around the daemon keeps it from nothing else.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{Caller, Process, binaries, forbidden, measured, ports, scenario, skipped};
use serde_json::{Value, json};

/// Starts a daemon in `dir` with this environment and returns it with the time until it answered and its warnings.
async fn start(
    dir: &Path,
    prefix: &[&str],
    env: &[(&str, String)],
    expected: &str,
) -> Result<(Process, Caller, Duration, Vec<Value>)> {
    let (api, gateway) = (ports::free()?, ports::free()?);
    let tunneld = binaries::tunneld()?;
    let mut words: Vec<&str> = prefix.to_vec();
    let program = tunneld.display().to_string();
    words.push(&program);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("TUNNELD_API_SERVER_PORT", api.to_string()).env("TUNNELD_GATEWAY_PORT", gateway.to_string());
    command.env("TUNNELD_ENABLE_LOCAL_OLLAMA", "false").env("TUNNELD_CLOUD_PROXY_URL", "http://127.0.0.1:9");
    command.envs(env.iter().map(|(key, value)| (*key, value)));
    let control = Caller::new(([127, 0, 0, 1], api).into());
    let begin = Instant::now();
    let mut process = Process::spawn("tunneld", &mut command, &dir.join("tunneld.log"))?;
    loop {
        if control.get("/livez").send().await.is_ok() {
            break;
        }
        ensure!(process.exited()?.is_none(), "it ended: {}", process.printed());
        ensure!(begin.elapsed() < Duration::from_secs(20), "no answer: {}", process.printed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begin.elapsed();
    // Keyrings are asked after the start, for 3 s at most.
    let mut warnings = Vec::new();
    for _ in 0..100 {
        let answer = control.get("/api/warnings").send().await?.json().await?;
        warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
        if warnings.iter().any(|warning| warning["code"] == expected) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((process, control, took, warnings))
}

fn codes(warnings: &[Value]) -> Vec<&str> {
    warnings.iter().filter_map(|warning| warning["code"].as_str()).collect()
}

#[test]
fn each_missing_piece_is_one_warning_and_no_delay() -> Result<()> {
    scenario(async |lab| {
        let mut figures = Vec::new();
        for case in [
            "no D-Bus, no journal",
            "no XDG_RUNTIME_DIR",
            "no home",
            "hanging D-Bus",
            "D-Bus address pointing nowhere",
        ] {
            let dir = lab.folder("bare", "tunneld.log")?;
            let run = dir.join("run");
            fs::create_dir_all(&run)?;
            let (home, run) = (dir.display().to_string(), run.display().to_string());
            let mut env = vec![("HOME", home.clone()), ("XDG_RUNTIME_DIR", run.clone())];
            let mut _held = None;
            match case {
                "no XDG_RUNTIME_DIR" => env.retain(|(key, _)| *key != "XDG_RUNTIME_DIR"),
                "no home" => env.retain(|(key, _)| *key != "HOME"),
                "hanging D-Bus" => {
                    // Takes connections into its queue and never says a word.
                    _held = Some(UnixListener::bind(dir.join("bus"))?);
                    let address = format!("unix:path={}", dir.join("bus").display());
                    env.push(("DBUS_SESSION_BUS_ADDRESS", address.clone()));
                    env.push(("DBUS_SYSTEM_BUS_ADDRESS", address));
                }
                "D-Bus address pointing nowhere" => {
                    env.push(("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={home}/nothing")));
                }
                _ => {}
            }
            let expected: &[&str] = match case {
                "no XDG_RUNTIME_DIR" => &["no_runtime_dir"],
                "no home" => &["no_state_dir"],
                "hanging D-Bus" => &["keyring_timeout"],
                _ => &["keyring_absent"],
            };
            let (_process, control, took, warnings) = start(&dir, &["env"], &env, expected[0]).await?;
            let told = codes(&warnings);
            for code in expected {
                let n = told.iter().filter(|told| told == &code).count();
                ensure!(n == 1, "{case}: {code} is told {n} times: {warnings:?}");
            }
            let mut unique = told.clone();
            unique.sort_unstable();
            unique.dedup();
            ensure!(unique.len() == told.len(), "{case}: told twice: {told:?}");
            for warning in &warnings {
                ensure!(
                    warning["next_step"].as_str().is_some_and(|step| !step.is_empty()),
                    "{case}: no next step in {warning}"
                );
            }
            ensure!(took <= Duration::from_secs(5), "{case}: {took:?}");
            ensure!(control.get("/api/status").send().await?.status() == 200);
            figures.push(format!("{case} {:.2} s ({})", took.as_secs_f64(), told.join(" ")));
        }
        measured("starts without what is usually there", figures.join("; "));
        Ok(())
    })
}

#[test]
fn a_read_only_home_is_said_and_nothing_is_kept() -> Result<()> {
    scenario(async |lab| {
        if !rustix::process::geteuid().is_root() {
            return skipped("a read-only home", "only root can mount one");
        }
        if let Some(why) = forbidden(&["--mount"], "mount -t tmpfs -o ro none /tmp") {
            return skipped("a read-only home", &why);
        }
        let dir = lab.folder("frozen", "tunneld.log")?;
        let home = dir.join("home");
        fs::create_dir_all(&home)?;
        let home = home.display().to_string();
        let script = format!("mount -t tmpfs -o ro none {home} && exec \"$0\"");
        let env = [("HOME", home.clone())];
        let (_process, control, took, warnings) =
            start(&dir, &["unshare", "--mount", "sh", "-c", &script], &env, "no_state_dir").await?;
        ensure!(codes(&warnings).contains(&"no_state_dir"), "{warnings:?}");
        ensure!(took <= Duration::from_secs(5), "{took:?}");
        // Counting goes on, for this run.
        let usage = control.get("/api/usage?by=model").send().await?;
        ensure!(usage.status() == 200, "{}", usage.status());
        // A token cannot be kept, and that is said.
        let stored = control
            .call(http::Method::PUT, "/api/auth/token")
            .json(&json!({ "token": "a.b.c" }))
            .send()
            .await?;
        ensure!(
            stored.status().is_client_error() || stored.status().is_server_error(),
            "{}",
            stored.status()
        );
        measured(
            "start with a read-only home",
            format!("{:.2} s ({})", took.as_secs_f64(), codes(&warnings).join(" ")),
        );
        Ok(())
    })
}
