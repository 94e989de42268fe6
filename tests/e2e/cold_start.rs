//! A model that takes minutes to load is waited for: its server is warming, not down.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, FakeBackend, FakeBackendOptions, Flavor, MODEL, Script, World, WorldOptions, measured,
    scenario, soak,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// `requestTimeout`, in seconds: the least that the configuration allows, and less than any model here takes to load.
const SILENCE_S: u64 = 5;
/// What the load may be exceeded by until the answer is there.
const ROOM: Duration = Duration::from_secs(20);

fn load_time() -> Duration {
    Duration::from_secs(if soak() { 300 } else { 8 })
}

/// Asks by both doors, streamed and not, at the same time; returns how long each took.
async fn ask_everywhere(
    world: &World,
    api: Api,
    model: &str,
    script: &Script,
) -> Result<Vec<(String, Duration)>> {
    let ask = async |door: &str, caller: &Caller, streamed: bool| -> Result<(String, Duration)> {
        let what = format!("{door}, {}", if streamed { "streamed" } else { "whole" });
        let mut body = api.request(model);
        body["stream"] = json!(streamed);
        let asked = Instant::now();
        let call = caller.post(api.path()).json(&body).script(script).send();
        let answered = tokio::time::timeout(load_time() + ROOM, async {
            let reply = call.await?;
            let status = reply.status();
            let ending = reply.ending().await;
            let text = ending.text();
            ensure!(status == 200, "{status}: {text}");
            ensure!(ending.error.is_none(), "broke off: {text}");
            let end = match (api.is_sse(), streamed) {
                (true, true) => "data: [DONE]",
                (true, false) => "\"finish_reason\":\"stop\"",
                (false, _) => "\"done\":true",
            };
            ensure!(text.contains(end), "no whole answer: {text}");
            Ok(())
        });
        answered.await.with_context(|| format!("{what}: left waiting"))?.with_context(|| what.clone())?;
        Ok((what, asked.elapsed()))
    };
    let [(relay, remote), (gateway, local)] = world.doors();
    let (a, b, c, d) = tokio::join!(
        ask(relay, &remote, true),
        ask(relay, &remote, false),
        ask(gateway, &local, true),
        ask(gateway, &local, false)
    );
    Ok(vec![a?, b?, c?, d?])
}

/// What the daemon said about a connection while it was watched.
#[derive(Debug, Default)]
struct Said {
    /// `state`, `health` as `GET /api/connections` had them.
    seen: BTreeSet<(String, String)>,
    down_warnings: BTreeSet<String>,
    /// Why a look came to nothing.
    failed: Option<String>,
}

/// Looks at a connection again and again until dropped.
struct Watch {
    said: Arc<Mutex<Said>>,
    _looking: JoinSet<()>,
}

impl Watch {
    fn start(control: Caller, id: &'static str) -> Self {
        let (said, mut looking) = (Arc::new(Mutex::new(Said::default())), JoinSet::new());
        let noted = Arc::clone(&said);
        looking.spawn(async move {
            loop {
                let look = Self::look(&control, id).await;
                noted.lock().unwrap_or_else(PoisonError::into_inner).note(look);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { said, _looking: looking }
    }

    async fn look(control: &Caller, id: &str) -> Result<((String, String), Vec<String>)> {
        let page = control.get("/api/connections").send().await?.json().await?;
        let connections = page["connections"].as_array().context("no connections")?;
        let own = connections.iter().find(|one| one["id"] == id).context("no such connection")?;
        let text = |key: &str| own[key].as_str().unwrap_or_default().to_owned();
        let page = control.get("/api/warnings").send().await?.json().await?;
        let warnings = page["warnings"].as_array().context("no warnings")?;
        let down = warnings.iter().filter(|one| one["code"] == "connection_down").map(Value::to_string);
        Ok(((text("state"), text("health")), down.collect()))
    }

    fn finish(self) -> Said {
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Said {
    fn note(&mut self, look: Result<((String, String), Vec<String>)>) {
        match look {
            Ok((seen, warnings)) => {
                self.seen.insert(seen);
                self.down_warnings.extend(warnings);
            }
            Err(error) => self.failed = Some(format!("{error:#}")),
        }
    }

    /// Fails if the server was called down.
    fn never_down(&self) -> Result<()> {
        ensure!(self.failed.is_none(), "the daemon could not be watched: {:?}", self.failed);
        ensure!(!self.seen.is_empty(), "the daemon was not watched");
        let down = self
            .seen
            .iter()
            .find(|(state, health)| matches!(state.as_str(), "disconnected" | "error") || health == "down");
        ensure!(down.is_none(), "a server that loads was called down: {:?}", self.seen);
        ensure!(self.down_warnings.is_empty(), "a server that loads was warned of: {:?}", self.down_warnings);
        Ok(())
    }
}

fn tell(what: &str, took: &[(String, Duration)]) {
    let each: Vec<String> =
        took.iter().map(|(door, took)| format!("{door} {:.1} s", took.as_secs_f64())).collect();
    measured("cold start", format!("{what}, {} s to load: {}", load_time().as_secs(), each.join(", ")));
}

#[test]
fn a_server_that_holds_back_its_head_while_it_loads_is_waited_for() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(WorldOptions::default().with("requestTimeout", SILENCE_S)).await?;
        let watch = Watch::start(world.daemon.control(), "ollama");
        let load_ms = u64::try_from(load_time().as_millis())?;
        let script = Script { first_byte_ms: load_ms, ..Script::default() };
        let took = ask_everywhere(&world, Api::OllamaChat, MODEL, &script).await?;
        tell("head held back", &took);
        ensure!(took.iter().all(|(_, took)| *took >= load_time()), "answered before the model was loaded");
        watch.finish().never_down()
    })
}

#[test]
fn a_server_that_answers_503_while_it_loads_is_warming_and_waited_for() -> Result<()> {
    const COLD: &str = "cold:1b";
    scenario(async |lab| {
        let options =
            FakeBackendOptions { flavor: Flavor::OpenAi, models: vec![COLD.to_owned()], port: None };
        let server = FakeBackend::start(options).await?;
        // What waits for the model may wait as long as the model takes.
        let max_wait = (load_time() + ROOM).as_secs();
        let options = WorldOptions::default()
            .with("connections", json!([{"id": "cold", "type": "llamacpp", "url": server.url()}]))
            .with("requestTimeout", SILENCE_S)
            .with("queue", json!({"maxWait": max_wait}));
        let world = lab.world_with(options).await?;
        world.daemon.wait_for_backend("cold", Duration::from_secs(15)).await?;
        // It is started again, and loads.
        server.crash().await?;
        server.set_loading(true);
        server.revive().await?;
        let watch = Watch::start(world.daemon.control(), "cold");
        let script = Script::default();
        let (took, ()) = tokio::join!(ask_everywhere(&world, Api::OpenAiChat, COLD, &script), async {
            tokio::time::sleep(load_time()).await;
            server.set_loading(false);
        });
        let said = watch.finish();
        let took = took.with_context(|| format!("meanwhile it was shown as {:?}", said.seen))?;
        tell("503 meanwhile", &took);
        measured("cold start", format!("shown as {:?} (state, health)", said.seen));
        said.never_down()?;
        ensure!(said.seen.iter().any(|(_, health)| health == "warming"), "never warming: {:?}", said.seen);
        Ok(())
    })
}
