//! The local API keeps its own description's word, and the metrics page is what Prometheus reads.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, MODEL, Script, binaries, in_own_network, measured, scenario, skipped, soak_count};

/// What schemathesis looks at. Left out: what is about keys and sessions, which this API does not have.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,allow_header_conformance,negative_data_rejection";

fn schemathesis() -> Option<PathBuf> {
    let program = binaries::workspace_dir().join(".cache/contract/venv/bin/st");
    program.exists().then_some(program)
}

#[test]
fn no_input_breaks_the_api_or_its_description() -> Result<()> {
    scenario(async |lab| {
        let Some(st) = schemathesis() else {
            return skipped("schemathesis", "it is not there: cargo xtask setup");
        };
        let dir = lab.folder("daemon", "tunneld.log")?;
        fs::write(dir.join("tunnel_config.json"), "{}")?;
        let examples = soak_count(15, 150);
        // One worker: CPython before 3.11.5 fails now and then when two threads parse at once (gh-106905), as they do here.
        // What the fuzzer writes into the configuration must neither close the door that it comes through nor dial out.
        let script = format!(
            "cd {dir}\npython3 {quiet} 11434 &\n\
             TUNNELD_API_SERVER_PORT=8765 TUNNELD_ENABLE_API_SERVER=true TUNNELD_ENABLE_CLOUD_PROXY=false \
             TUNNELD_ENABLE_LOCAL_OLLAMA=true TUNNELD_OLLAMA_HOST=127.0.0.1 TUNNELD_OLLAMA_PORT=11434 \
             {tunneld} --config tunnel_config.json --state-dir state > tunneld.log 2>&1 &\n\
             daemon=$!\n\
             for i in $(seq 100); do curl -sf -o probe http://localhost:8765/readyz && break; sleep 0.1; done\n\
             {st} run http://localhost:8765/openapi.json --checks {CHECKS} --max-examples {examples} --seed 1 --no-color \
             --phases examples,coverage,fuzzing --continue-on-failure --request-timeout 20 --workers 1 \
             --suppress-health-check all > st.out 2>&1\n\
             code=$?\nkill -0 $daemon || echo 'the daemon has ended' >> st.out\nexit $code\n",
            dir = dir.display(),
            tunneld = binaries::tunneld()?.display(),
            st = st.display(),
            quiet = binaries::package_dir().join("clients/quiet_ollama.py").display(),
        );
        let home = dir.display().to_string();
        let environment =
            [("HOME", home.as_str()), ("XDG_RUNTIME_DIR", home.as_str()), ("LC_ALL", "C.UTF-8")];
        let Some(output) = in_own_network(&script, &environment).await? else {
            return skipped("schemathesis", "this user may make no network namespace");
        };
        let report = fs::read_to_string(dir.join("st.out")).unwrap_or_default();
        let summary: Vec<&str> = report.lines().rev().take(25).collect();
        ensure!(output.status.success(), "{}\n{report}", output.status);
        ensure!(!report.contains("the daemon has ended"), "{report}");
        let cases = summary.iter().find(|line| line.contains("generated")).map_or("", |line| line.trim());
        measured("schemathesis over the whole API", format!("no server error, no schema fault; {cases}"));
        Ok(())
    })
}

#[test]
fn the_metrics_page_is_what_prometheus_reads() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for caller in [world.local(), world.remote()] {
            let reply = caller
                .post("/api/chat")
                .json(&Api::OllamaChat.request(MODEL))
                .script(&Script::tokens(3, 100.0))
                .send()
                .await?;
            drop(reply.bytes().await?);
        }
        let counted = async || {
            let page = world.daemon.control().get("/metrics").send().await.ok()?.text().await.ok()?;
            page.contains("ingress=\"tunnel\"").then_some(page)
        };
        let page = e2e::poll_until("both requests are counted", Duration::from_secs(5), counted).await?;
        ensure!(
            page.contains("tunneld_requests_total{")
                && page.contains("tunneld_time_to_first_token_seconds_bucket"),
            "{page}"
        );
        let open = world
            .daemon
            .control()
            .get("/metrics")
            .header("accept", "application/openmetrics-text; version=1.0.0")
            .send()
            .await?;
        ensure!(
            open.header("content-type").starts_with("application/openmetrics-text"),
            "{:?}",
            open.headers()
        );
        ensure!(open.text().await?.trim_end().ends_with("# EOF"));
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            return skipped("promtool", "it is not there: cargo xtask setup");
        };
        std::io::Write::write_all(&mut promtool.stdin.take().context("piped")?, page.as_bytes())?;
        let checked = promtool.wait_with_output()?;
        let said = [checked.stdout, checked.stderr].concat();
        ensure!(checked.status.success() && said.is_empty(), "{}\n{page}", String::from_utf8_lossy(&said));
        measured("promtool check metrics", format!("silent about {} lines", page.lines().count()));
        Ok(())
    })
}
