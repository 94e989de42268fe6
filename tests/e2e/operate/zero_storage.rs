//! The relay keeps nothing of what passes through it: no file, log line, metric, answer or audit line has any of it.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Caller, Daemon, DaemonOptions, FakeBackend, Lab, Relay, RelayOptions, Scope, Script, TokenRequest, World,
    WorldOptions, eventually, keep_secret, look_for_secrets, measured, scenario,
};
use http::Method;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(15);
/// How long after the end of the last stream the relay's memory is looked at.
const AFTER: Duration = Duration::from_secs(5);

/// How each canary begins, and how that looks where bytes are written as a list of numbers, in hexadecimal, and in base64,
/// where it may begin with any of three bytes.
const CANARY: &str = "canary-";
const DISGUISES: [&str; 6] =
    [CANARY, "99, 97, 110, 97, 114, 121, 45", "63616e6172792d", "Y2FuYXJ5L", "jYW5hcnkt", "NhbmFyeS"];

/// Makes up a text that from now on must be found nowhere.
fn canary(what: &str) -> String {
    let secret = format!("{CANARY}{what}-{:016x}", rand::random::<u64>());
    keep_secret(&secret);
    secret
}

#[test]
fn nothing_that_passes_through_is_kept() -> Result<()> {
    scenario(async |lab| {
        let begun = SystemTime::now();
        let own = lab.dir().join("tmp-of-the-relay");
        fs::create_dir_all(&own)?;
        let env = [("TMPDIR", own.display().to_string()), ("TUNNEL_RELAY_LOG", "trace".to_owned())];
        let relay = RelayOptions {
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            // Requests for devices that are not there are a part of it, and need not wait.
            config: Some("device_wait_s = 0\n".to_owned()),
            ..RelayOptions::default()
        };
        let mut world = lab.world_with(WorldOptions { relay, link: true, ..WorldOptions::default() }).await?;
        for own in ["admin-token", "audit.key", "revoked.key"] {
            keep_secret(fs::read_to_string(world.relay.data_dir().join(own))?.trim());
        }

        let prompt = canary("prompt");
        for of_version in [Caller::clone, |caller: &Caller| caller.clone().http2()] {
            passes(&of_version(&world.remote()), &prompt).await?;
            is_refused(&world.relay, &of_version(&world.relay.caller())).await?;
            is_revoked(&world.relay, &of_version(&world.relay.caller()), &prompt).await?;
        }
        is_cut(&world, &prompt).await?;
        // It stays until the relay has ended, which else waits for it to come back.
        let second = is_taken_over(lab, &world, &prompt).await?;

        // While it runs: what it says, what it has open.
        for args in [
            &["admin", "tenants"][..],
            &["admin", "sessions"],
            &["admin", "limits"],
            &["admin", "config"],
            &["admin", "audit", "-n", "1000"],
            &["audit", "verify"],
        ] {
            let output = world.relay.operator(args).await?;
            ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            look_for_secrets(&[output.stdout, output.stderr].concat())
                .with_context(|| format!("{args:?}"))?;
        }
        look_for_secrets(world.relay.metrics().await?.as_bytes()).context("metrics")?;
        let pid = world.relay.process().pid();
        let open = open_files(pid, lab.dir())?;
        tokio::time::sleep(AFTER).await;
        let copies = copies_in_memory(pid, prompt.as_bytes())?;
        others_call(&world.relay).await?;
        let later = copies_in_memory(pid, prompt.as_bytes())?;

        world.relay.terminate();
        world.relay.process().wait(LIMIT).await?;
        // Also where secrets of its own belong, and in other forms.
        look_for_canaries(&world.relay.data_dir())?;
        look_for_canaries(world.relay.process().log())?;
        for everybodys in ["/tmp", "/var/tmp", "/dev/shm"] {
            look_for_newer_files(Path::new(everybodys), begun)?;
        }
        ensure!(list(&own).is_empty(), "the relay has left {:?}", list(&own));
        let data = list(&world.relay.data_dir());
        let known = [
            "acme",
            "addresses.json",
            "admin-token",
            "audit.head",
            "audit.jsonl",
            "audit.key",
            "audit.lock",
            "issuer.key",
            "revoked",
            "revoked.key",
        ];
        let unknown: Vec<&String> = data.iter().filter(|name| !known.contains(&name.as_str())).collect();
        ensure!(unknown.is_empty(), "the data directory has {unknown:?}, which nobody told of");
        let printed = world.relay.process().printed();
        ensure!(printed.contains("DEBUG") && printed.contains("request refused"), "{printed}");
        let log = printed.len();
        drop(second);
        // Every file of the scenario is looked through when it ends.
        measured(
            "zero storage, relay",
            format!(
                "prompts, answers, tokens, queries, model names: none in {} files of the data directory, {open} open \
                 files, {log} bytes of log at TRACE, metrics, 6 admin answers, audit log",
                data.len()
            ),
        );
        // Memory that was given back, and buffers that were read out, are not wiped: what is in them is gone when they
        // are used anew.
        let row = "left-over copies of a prompt in the relay's memory";
        measured(
            row,
            format!("{copies} of 17 requests, 5 s after the last; {later} after 40 other requests"),
        );
        Ok(())
    })
}

/// Requests that work, and some that the desktop answers with an error.
async fn passes(caller: &Caller, prompt: &str) -> Result<()> {
    for _ in 0..5 {
        let body = json!({ "model": e2e::MODEL, "messages": [{ "role": "user", "content": prompt }] });
        let call = caller.post(&format!("/api/chat?secret={}", canary("query"))).json(&body);
        let call = call.header("x-api-key", &canary("header")).script(&Script::tokens(5, 200.0));
        ensure!(call.send().await?.ending().await.error.is_none());
    }
    // Answers with canaries in them: what the backend was sent, and an error that names the model.
    let echo = Script { echo: true, ..Script::default() };
    let answered = canary("answer");
    let call = caller.post("/api/chat").header("x-echoed", &answered).script(&echo);
    let echoed = call.json(&json!({ "model": e2e::MODEL })).send().await?.text().await?;
    ensure!(echoed.contains(&answered), "{echoed}");
    let unknown = json!({ "model": canary("model"), "messages": [{ "role": "user", "content": prompt }] });
    let answer = caller.post("/api/chat").json(&unknown).send().await?;
    ensure!(answer.status() == 404, "{}", answer.status());
    let echoed = answer.text().await?;
    ensure!(echoed.contains("canary-model"), "the answer that passes has the canary in it: {echoed}");
    let path = format!("/v1/{}", canary("path"));
    drop(caller.get(&path).send().await?.ending().await);
    Ok(())
}

/// Requests that the relay answers itself.
async fn is_refused(relay: &Relay, caller: &Caller) -> Result<()> {
    let body = |what: &str| json!({ "model": canary("model"), "prompt": canary(what) });
    let expired = relay.token(&TokenRequest {
        ttl: Some("1s".to_owned()),
        ..TokenRequest::new("alice", Scope::Inference)
    })?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let damaged = canary("token");
    for token in [&expired, &damaged, &format!("{damaged}.{}.{}", canary("claims"), canary("signature"))] {
        let call = caller.clone().bearer(token).post(&format!("/api/chat?key={}", canary("query")));
        let answer = call.json(&body("refused")).send().await?;
        ensure!(answer.status() == 401);
        look_for_secrets(answer.text().await?.as_bytes())?;
    }
    let stranger = relay.token(&TokenRequest::new("bob", Scope::Inference))?;
    let offline = caller.clone().bearer(&stranger).post("/api/chat").json(&body("offline")).send().await?;
    ensure!(offline.status().is_client_error() || offline.status().is_server_error());
    let dial =
        caller.clone().bearer(&canary("dial")).get(&format!("/_tunnel/v1/connect?x={}", canary("query")));
    drop(dial.send().await?.ending().await);
    Ok(())
}

/// A key that is made, used, and taken back in the middle of a stream.
async fn is_revoked(relay: &Relay, caller: &Caller, prompt: &str) -> Result<()> {
    let login = caller.clone().bearer(&relay.token(&TokenRequest::new("alice", Scope::Account))?);
    let wanted = json!({ "name": canary("name"), "scopes": ["inference"] });
    let made = login.post(&format!("/_tunnel/v1/tokens?x={}", canary("query"))).json(&wanted).send().await?;
    ensure!(made.status() == 201, "{}", made.status());
    let made = made.json().await?;
    let [id, key] = ["id", "token"].map(|field| made[field].as_str().unwrap_or_default().to_owned());
    keep_secret(&key);
    let holder = caller.clone().bearer(&key);
    let body = json!({ "model": e2e::MODEL, "messages": [{ "role": "user", "content": prompt }] });
    let mut reply = holder.post("/api/chat").json(&body).script(&Script::tokens(1_000, 50.0)).send().await?;
    reply.chunk().await?;
    let path = format!("/_tunnel/v1/tokens/{id}?x={}", canary("query"));
    let revoked = login.call(Method::DELETE, &path).send().await?;
    ensure!(revoked.status() == 204, "{}", revoked.status());
    ensure!(reply.ending().await.error.is_some(), "the stream of a revoked key ended like a whole one");
    let path = format!("/api/chat?key={}", canary("query"));
    let body = json!({ "model": canary("model"), "prompt": canary("revoked") });
    let refused = holder.post(&path).json(&body).send().await?;
    ensure!(refused.status() == 401, "{}", refused.status());
    look_for_secrets(refused.text().await?.as_bytes())
}

/// Requests of somebody else, which are refused: so that memory is used anew.
async fn others_call(relay: &Relay) -> Result<()> {
    let token = relay.token(&TokenRequest::new("carol", Scope::Inference))?;
    for _ in 0..40 {
        let body = json!({ "model": "m", "prompt": "x".repeat(4_000) });
        drop(relay.caller().bearer(&token).post("/api/chat").json(&body).send().await?.ending().await);
    }
    Ok(())
}

/// Streams that callers leave, and that the network cuts.
async fn is_cut(world: &World, prompt: &str) -> Result<()> {
    let body = json!({ "model": e2e::MODEL, "messages": [{ "role": "user", "content": prompt }] });
    let streaming = async || {
        let call = world.remote().post("/api/chat").json(&body).script(&Script::tokens(1_000, 50.0));
        let mut reply = call.send().await?;
        reply.chunk().await?;
        anyhow::Ok(reply)
    };
    drop(streaming().await?);
    let mut held = streaming().await?;
    world.link()?.cut();
    ensure!(held.chunk().await?.is_some(), "it goes on after the cut");
    drop(held);
    Ok(())
}

/// A second daemon under the same name, in the middle of a stream.
async fn is_taken_over(lab: &mut Lab, world: &World, prompt: &str) -> Result<(Daemon, FakeBackend)> {
    let body = json!({ "model": e2e::MODEL, "messages": [{ "role": "user", "content": prompt }] });
    let call = world.remote().post("/api/chat").json(&body).script(&Script::tokens(1_000, 50.0));
    let mut reply = call.send().await?;
    reply.chunk().await?;
    let takeovers = "tunnel_relay_takeovers_total 1";
    let second: (Daemon, FakeBackend) = {
        let backend = FakeBackend::start(e2e::FakeBackendOptions::default()).await?;
        let daemon = lab
            .daemon(DaemonOptions {
                ollama: Some(backend.addr()),
                relay: Some(world.relay.url()),
                token: Some(world.tunnel_token.clone()),
                ..DaemonOptions::default()
            })
            .await?;
        (daemon, backend)
    };
    eventually("the second daemon has taken over", LIMIT, async || {
        world.relay.metrics().await.is_ok_and(|page| page.contains(takeovers))
    })
    .await?;
    drop(reply.ending().await);
    Ok(second)
}

/// Fails if a canary, however disguised, is in this file or in one below this folder.
fn look_for_canaries(place: &Path) -> Result<()> {
    if place.is_dir() {
        return list(place).iter().try_for_each(|name| look_for_canaries(&place.join(name)));
    }
    let bytes = fs::read(place)?;
    let found = DISGUISES.iter().find(|form| count(&bytes, form.as_bytes()) > 0);
    ensure!(found.is_none(), "{} has {found:?} in it, which a canary begins with", place.display());
    Ok(())
}

/// Looks for secrets in the files of a folder that everybody may write to, not in what lies below: that is other tests'.
fn look_for_newer_files(dir: &Path, begun: SystemTime) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() && meta.modified().is_ok_and(|modified| modified >= begun) {
            // One that is gone meanwhile, or another user's, is not the relay's.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            look_for_secrets(&bytes).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

fn list(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Looks through every regular file that a process has open, also those without a name any more. Returns how many.
fn open_files(pid: u32, below: &Path) -> Result<usize> {
    let mut n = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        if !meta.is_file() {
            continue;
        }
        n += 1;
        let place = fs::read_link(entry.path())?;
        ensure!(place.starts_with(below), "the relay has {} open", place.display());
        ensure!(meta.nlink() > 0, "the relay has a file open that has no name: {}", place.display());
        look_for_secrets(&fs::read(entry.path())?).with_context(|| place.display().to_string())?;
    }
    Ok(n)
}

/// Counts how often a text is in the writable memory of a process.
fn copies_in_memory(pid: u32, needle: &[u8]) -> Result<usize> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut copies = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        if !mode.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range of addresses")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // What the process gave back meanwhile cannot be read.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            copies += count(&bytes, needle);
        }
    }
    Ok(copies)
}

fn count(mut haystack: &[u8], needle: &[u8]) -> usize {
    let mut n = 0;
    while let Some(at) = haystack.iter().position(|byte| *byte == needle[0]) {
        n += usize::from(haystack[at..].starts_with(needle));
        haystack = &haystack[at + 1..];
    }
    n
}
