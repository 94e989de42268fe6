//! Keys that are made here: who gets in with one, how far, how often, and for how long.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Daemon, DaemonOptions, FakeBackend, FakeBackendOptions, Lab, MODEL, OfficialClients, Script,
    TlsFiles, curl, eventually, keep_secret, measured, poll_until, ports, scenario, skipped,
};
use serde_json::{Value, json};

use crate::streams;

const LIMIT: Duration = Duration::from_secs(20);
const OTHER_MODEL: &str = "other:7b";

/// A daemon with two models, and the address at which its door for the network is to be.
async fn daemon(lab: &mut Lab, lan: Value) -> Result<(Daemon, FakeBackend, SocketAddr)> {
    let models = vec![MODEL.to_owned(), OTHER_MODEL.to_owned()];
    let backend = FakeBackend::start(FakeBackendOptions { models, ..FakeBackendOptions::default() }).await?;
    let port = ports::free()?;
    let mut keys = json!({ "enabled": true, "address": "127.0.0.1", "port": port });
    keys.as_object_mut().context("an object")?.extend(lan.as_object().cloned().unwrap_or_default());
    let options = DaemonOptions { ollama: Some(backend.addr()), ..DaemonOptions::default() };
    let daemon = lab.daemon(options.with("lanGateway", keys)).await?;
    daemon.wait_for_backend("ollama", LIMIT).await?;
    Ok((daemon, backend, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

async fn wait_for_lan(daemon: &Daemon, url: Option<String>) -> Result<()> {
    let wanted = url.map_or(Value::Null, Value::from);
    eventually("the door for the network is where it is wanted", LIMIT, async || {
        daemon.status().await.is_ok_and(|status| status["gateway"]["lan_url"] == wanted)
    })
    .await?;
    Ok(())
}

/// Makes a key, which from now on must be found nowhere. Returns its id, too.
async fn key(daemon: &Daemon, arguments: &[&str]) -> Result<(String, String)> {
    let output = daemon.tunnelctl(&[&["keys", "create", "--local"], arguments].concat()).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let token = String::from_utf8(output.stdout)?.trim().to_owned();
    keep_secret(&token);
    let id = token.rsplit_once('_').context("a key has an id")?.0.to_owned();
    ensure!(said.contains(&format!("tunnelctl keys revoke {id}")), "{said}");
    Ok((token, id))
}

async fn tunnelctl(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    let output = daemon.tunnelctl(arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What another user of this machine gets: the answer with its status on the last line.
async fn as_another_user(daemon: &Daemon, path: &str, arguments: &[&str]) -> Result<(String, u16)> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "curl"]);
    command.args(["--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code}"]);
    command.args(arguments).arg(format!("http://{}{path}", daemon.gateway())).current_dir("/");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    let (body, status) = said.rsplit_once('\n').context("curl writes the status")?;
    Ok((body.to_owned(), status.parse()?))
}

#[test]
fn another_user_gets_in_with_a_key_and_to_the_models_only() -> Result<()> {
    scenario(async |lab| {
        if !rustix::process::geteuid().is_root() {
            return skipped("another user's key", "needs root, to be another user");
        }
        let (daemon, backend, _) = daemon(lab, json!({ "enabled": false })).await?;
        let (token, id) = key(&daemon, &["--name", "container"]).await?;
        let bearer = format!("authorization: Bearer {token}");

        let (body, status) = as_another_user(&daemon, "/v1/models", &[]).await?;
        ensure!(status == 401 && body.contains("tunnelctl keys create --local"), "{status} {body}");
        for header in [&bearer, &format!("x-api-key: {token}"), &format!("api-key: {token}")] {
            let (body, status) = as_another_user(&daemon, "/api/tags", &["--header", header]).await?;
            ensure!(status == 200 && body.contains(OTHER_MODEL), "{status} {body}");
        }
        // By whatever name a container knows this machine.
        let host = ["--header", &bearer, "--header", "host: host.containers.internal:11435"];
        ensure!(as_another_user(&daemon, "/api/tags", &host).await?.1 == 200);
        let (_, status) = as_another_user(&daemon, &format!("/api/tags?key={token}"), &[]).await?;
        ensure!(status == 401, "an address is no place for a key: {status}");
        let pull = ["--header", &bearer, "--data", "{\"model\":\"x\"}"];
        let (body, status) = as_another_user(&daemon, "/api/pull", &pull).await?;
        ensure!(status == 403 && body.contains("--paths"), "{status} {body}");
        let wrong = format!("authorization: Bearer {id}_{}", "0".repeat(64));
        let (body, status) = as_another_user(&daemon, "/api/tags", &["--header", &wrong]).await?;
        ensure!(status == 401 && body.contains("not known here"), "{status} {body}");
        tunnelctl(&daemon, &["keys", "revoke", &id]).await?;
        let (body, status) = as_another_user(&daemon, "/api/tags", &["--header", &bearer]).await?;
        ensure!(status == 401 && body.contains("revoked"), "{status} {body}");

        let (all, _) = key(&daemon, &["--paths", "all"]).await?;
        let header = format!("authorization: Bearer {all}");
        let echo =
            ["--header", &header, "--header", "fake-script: {\"echo\":true}", "--data", "{\"model\":\"x\"}"];
        let (body, status) = as_another_user(&daemon, "/api/pull", &echo).await?;
        ensure!(status == 200 && !body.contains(&all), "the model server does not see the key: {body}");
        ensure!(backend.requests().len() == 1, "nothing that was refused reached the model server");

        let refused = poll_until("the history tells of it", LIMIT, async || {
            let events = daemon.control().get("/api/events").send().await.ok()?.json().await.ok()?;
            events["events"].as_array()?.iter().find(|event| event["kind"] == "key_refused").cloned()
        });
        let refused = refused.await?;
        ensure!(refused["data"]["door"] == "gateway" && !refused.to_string().contains(&id), "{refused}");
        Ok(())
    })
}

#[test]
fn official_client_reaches_the_door_for_the_network_over_tls() -> Result<()> {
    let Some(clients) = OfficialClients::find() else {
        return skipped(
            "keys with openai-python",
            "the client libraries are not installed; run `cargo xtask setup`",
        );
    };
    scenario(async |lab| {
        let files = TlsFiles::new(&lab.dir().join("lan"), "lan", "localhost")?;
        let (certificate, private) =
            (files.certificate().display().to_string(), files.key().display().to_string());
        let (daemon, _backend, lan) =
            daemon(lab, json!({ "certFile": certificate, "keyFile": private })).await?;
        wait_for_lan(&daemon, Some(format!("https://{lan}"))).await?;
        let (good, _) = key(&daemon, &["--name", "laptop", "--model", MODEL]).await?;
        let (limited, _) = key(&daemon, &["--name", "phone", "--requests-per-minute", "2"]).await?;
        let base = format!("https://localhost:{}/v1", lan.port());
        let passed =
            clients.run("app_keys.py", &[&base, &certificate, &good, &limited, MODEL, OTHER_MODEL]).await?;
        measured("official client with keys", passed.trim());

        let usage = poll_until("usage is counted by key", LIMIT, async || {
            let table = tunnelctl(&daemon, &["usage", "--by", "key"]).await.ok()?;
            (table.contains("laptop (tk_") && table.contains("phone (tk_")).then_some(table)
        });
        usage.await?;
        // Plain HTTP gets nothing where TLS is spoken, and the certificate is for one name only.
        ensure!(curl(&[&format!("http://{lan}/v1/models")]).await.is_err());
        Ok(())
    })
}

async fn ask(caller: &Caller, path: &str, body: Value) -> Result<(u16, Value)> {
    let reply = caller.post(path).json(&body).send().await?;
    Ok((reply.status().as_u16(), reply.json().await.unwrap_or_default()))
}

#[test]
fn revoked_key_ends_what_runs_with_it_and_the_others_outlive_a_restart() -> Result<()> {
    scenario(async |lab| {
        let (mut daemon, backend, lan) = daemon(lab, json!({})).await?;
        wait_for_lan(&daemon, Some(format!("http://{lan}"))).await?;
        let (doomed, doomed_id) = key(&daemon, &["--name", "doomed"]).await?;
        let (kept, _) = key(&daemon, &["--concurrent", "1", "--expires", "30d"]).await?;
        let (short, _) = key(&daemon, &["--expires", "1s"]).await?;
        let (brief, _) = key(&daemon, &["--expires", "3s"]).await?;

        // Its time ends what runs with it, as a revocation does.
        let script = Script::tokens(100_000, 50.0).id("brief");
        let mut stream = streams::open(&Caller::new(lan).bearer(&brief), Api::OpenAiChat, &script).await?;
        streams::read_tokens(&mut stream, 3).await?;
        let ending = tokio::time::timeout(LIMIT, stream.ending()).await?;
        ensure!(ending.error.is_some(), "what was cut must not look whole");
        backend.request("brief").context("it ran")?.connection_closed(LIMIT).await?;

        let script = Script::tokens(100_000, 50.0).id("doomed");
        let mut stream = streams::open(&Caller::new(lan).bearer(&doomed), Api::OpenAiChat, &script).await?;
        streams::read_tokens(&mut stream, 3).await?;
        let running = daemon.control().get("/api/requests").send().await?.json().await?;
        let shown = &running["requests"][0];
        ensure!(shown["key"] == doomed_id.as_str() && shown["ingress"] == "lan", "{running}");
        // Many have the whole key at hand, and not its id.
        let said = tunnelctl(&daemon, &["keys", "revoke", &doomed]).await?;
        ensure!(said.contains(&doomed_id) && !said.contains(&doomed), "{said}");
        let ending = tokio::time::timeout(LIMIT, stream.ending()).await?;
        ensure!(ending.error.is_some(), "what was cut must not look whole");
        backend.request("doomed").context("it ran")?.connection_closed(LIMIT).await?;
        let (status, body) =
            ask(&Caller::new(lan).bearer(&doomed), "/api/chat", Api::OllamaChat.request(MODEL)).await?;
        ensure!(status == 401 && body["error"].as_str().is_some_and(|why| why.contains("revoked")), "{body}");

        daemon.terminate();
        daemon.process().wait(LIMIT).await?;
        daemon.restart().await?;
        daemon.wait_for_backend("ollama", LIMIT).await?;
        wait_for_lan(&daemon, Some(format!("http://{lan}"))).await?;
        let caller = Caller::new(lan).bearer(&kept);
        let script = Script::tokens(100_000, 50.0).id("kept");
        let mut first = streams::open(&caller, Api::OllamaChat, &script).await?;
        streams::read_tokens(&mut first, 2).await?;
        let reply = caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).send().await?;
        ensure!(reply.status() == 429 && reply.header("retry-after") == "1", "{}", reply.status());
        ensure!(reply.text().await?.contains("1 requests at once"));
        drop(first);
        eventually("the place of the one that left is free", LIMIT, async || {
            let request = caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).send();
            request.await.is_ok_and(|reply| reply.status() == 200)
        })
        .await?;
        eventually("the end of the short one", LIMIT, async || {
            let asked =
                ask(&Caller::new(lan).bearer(&short), "/api/chat", Api::OllamaChat.request(MODEL)).await;
            asked.is_ok_and(|(status, _)| status == 401)
        })
        .await?;
        // A program of the user's own gets no further with what is over than another machine.
        let program = daemon.local().bearer(&short);
        ensure!(ask(&program, "/api/chat", Api::OllamaChat.request(MODEL)).await?.0 == 401);
        let unknown = daemon.local().bearer(&format!("tk_0000000000_{}", "0".repeat(64)));
        ensure!(ask(&unknown, "/api/chat", Api::OllamaChat.request(MODEL)).await?.0 == 401);
        for (token, why) in [(&doomed, "revoked"), (&short, "expired")] {
            let (status, body) =
                ask(&Caller::new(lan).bearer(token), "/api/chat", json!({ "model": MODEL })).await?;
            ensure!(status == 401 && body.to_string().contains(why), "{why}: {status} {body}");
        }
        let list = tunnelctl(&daemon, &["keys", "list"]).await?;
        ensure!(list.contains("revoked") && list.contains("expired") && list.contains("local"), "{list}");

        // The door closes and opens while the daemon runs.
        tunnelctl(&daemon, &["config", "set", "lanGateway.enabled", "false"]).await?;
        wait_for_lan(&daemon, None).await?;
        ensure!(tokio::net::TcpStream::connect(lan).await.is_err(), "the door is closed");
        Ok(())
    })
}

#[test]
fn key_for_one_model_leads_to_no_other() -> Result<()> {
    scenario(async |lab| {
        let (daemon, backend, lan) = daemon(lab, json!({})).await?;
        wait_for_lan(&daemon, Some(format!("http://{lan}"))).await?;
        let (token, _) = key(&daemon, &["--model", MODEL]).await?;
        // The same from the network and from a program of the user's own that shows the key.
        for caller in [Caller::new(lan).bearer(&token), daemon.local().bearer(&token)] {
            for (path, list) in [("/api/tags", "models"), ("/v1/models", "data"), ("/api/ps", "models")] {
                let listed = caller.get(path).send().await?.json().await?;
                ensure!(
                    !listed.to_string().contains(OTHER_MODEL) && listed[list].is_array(),
                    "{path}: {listed}"
                );
            }
            ensure!(caller.get(&format!("/v1/models/{MODEL}")).send().await?.status() == 200);
            ensure!(caller.get(&format!("/v1/models/{OTHER_MODEL}")).send().await?.status() == 404);
            let before = backend.requests().len();
            for body in [
                format!(r#"{{"model":"{OTHER_MODEL}"}}"#),
                format!(r#"{{"model":"ollama/{OTHER_MODEL}"}}"#),
                format!(r#"{{"model":"{MODEL}","model":"{OTHER_MODEL}"}}"#),
                format!(r#"{{"model":"{MODEL}","name":"{OTHER_MODEL}"}}"#),
                format!(r#"{{"model":"{MODEL}","MODEL":"{OTHER_MODEL}"}}"#),
                format!(r#"{{"name":"{OTHER_MODEL}"}}"#),
                r#"{"prompt":"no model at all"}"#.to_owned(),
                "not JSON".to_owned(),
            ] {
                for path in ["/api/chat", "/api/show", "/v1/chat/completions", "/tokenize"] {
                    let reply = caller.post(path).body(body.clone()).send().await?;
                    ensure!(reply.status() == 403, "{path} {body}: {}", reply.status());
                }
            }
            let management = [("/api/pull", 403), ("/api/copy", 403), ("/v1/files", 403)];
            for (path, status) in management {
                let reply = caller.post(path).json(&json!({ "model": MODEL })).send().await?;
                ensure!(reply.status() == status, "{path}: {}", reply.status());
            }
            ensure!(backend.requests().len() == before, "nothing of it reached the model server");
            for model in [MODEL.to_owned(), format!("ollama/{MODEL}")] {
                let (status, body) = ask(&caller, "/api/chat", Api::OllamaChat.request(&model)).await?;
                ensure!(status == 200, "{model}: {status} {body}");
            }
        }
        let foreign = Caller::new(lan).header("host", "evil.example").bearer(&token);
        ensure!(foreign.get("/api/tags").send().await?.status() == 403, "a name of nobody's here");
        Ok(())
    })
}

#[test]
fn tokens_of_an_answer_are_charged_to_its_key() -> Result<()> {
    scenario(async |lab| {
        let (daemon, _backend, lan) = daemon(lab, json!({})).await?;
        wait_for_lan(&daemon, Some(format!("http://{lan}"))).await?;
        // The limit holds whether or not anything is measured.
        for metrics in ["true", "false"] {
            tunnelctl(&daemon, &["config", "set", "enableMetrics", metrics]).await?;
            let (token, _) = key(&daemon, &["--tokens-per-minute", "20"]).await?;
            let caller = Caller::new(lan).bearer(&token);
            let script = Script { tokens: Some(60), ..Script::default() };
            let reply =
                caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).script(&script).send().await?;
            ensure!(reply.ending().await.error.is_none());
            let refused = poll_until("what it took is owed", LIMIT, async || {
                let reply = caller
                    .post("/v1/chat/completions")
                    .json(&Api::OpenAiChat.request(MODEL))
                    .send()
                    .await
                    .ok()?;
                (reply.status() == 429).then_some(reply)
            });
            let refused = refused.await?;
            let seconds: u64 = refused.header("retry-after").parse()?;
            // 40 tokens are owed at least, and a third of one flows in a second.
            ensure!(seconds > 100, "retry after {seconds}");
            let body = refused.json().await?;
            ensure!(body["error"]["code"] == "tokens_per_minute", "{body}");
        }
        Ok(())
    })
}
