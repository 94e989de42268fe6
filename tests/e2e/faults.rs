//! What the official clients make of servers that fail in each way, by each API, streamed and not: an error of their
//! own or the answer of another server, in time, and never half an answer that looks whole.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    FakeBackend, FakeBackendOptions, Fault, FaultyServer, Flavor, Lab, OfficialClients, Script, World,
    WorldOptions, measured, scenario, skipped, soak,
};
use serde::Deserialize;
use serde_json::json;

/// `requestTimeout` and `firstByteTimeout`, in seconds: the least that the configuration allows.
const SILENCE_S: u64 = 5;
/// `connectionTimeout`, in seconds.
const CONNECT_S: u64 = 1;
/// A client that has not heard by then has been left waiting: the silence, another server's answer, and room for a
/// machine that runs four clients at once.
const LATE: Duration = Duration::from_secs(SILENCE_S + 8);
/// How many tokens the scripted server answers with unless asked.
const HEALTHY_TOKENS: u32 = 8;

/// Script, and what follows the door's address.
const CLIENTS: [(&str, &str); 4] = [
    ("openai_faults.py", "/v1"),
    ("openai_faults.mjs", "/v1"),
    ("ollama_faults.py", ""),
    ("ollama_faults.mjs", ""),
];

/// What one client saw of one request.
#[derive(Debug, Deserialize)]
struct Row {
    api: String,
    model: String,
    stream: bool,
    /// `answer`, `error` or `hang`.
    outcome: String,
    /// Of an error: the library's `own`, its HTTP library's (`transport`) or `other`.
    #[serde(default)]
    kind: String,
    #[serde(default)]
    error: String,
    text: String,
    finished: bool,
    ms: u64,
}

/// Whether another server has the model too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Alone,
    Paired,
}

impl Company {
    fn model(self, fault: Fault) -> String {
        match self {
            Self::Alone => format!("alone-{}:1b", fault.name()),
            Self::Paired => format!("paired-{}:1b", fault.name()),
        }
    }
}

fn cases() -> impl Iterator<Item = (Fault, Company)> {
    Fault::ALL.into_iter().flat_map(|fault| [(fault, Company::Alone), (fault, Company::Paired)])
}

/// A daemon before the faulty servers and one that is well and comes after them.
struct Scene {
    world: World,
    faulty: Vec<FaultyServer>,
    _healthy: FakeBackend,
}

impl Scene {
    async fn start(lab: &mut Lab) -> Result<Self> {
        let mut faulty = Vec::new();
        let mut connections = Vec::new();
        for fault in Fault::ALL {
            let models = [Company::Alone, Company::Paired].map(|company| company.model(fault)).to_vec();
            let server = FaultyServer::start(fault, models).await?;
            connections.push(json!({"id": fault.name(), "type": "ollama", "url": server.url()}));
            faulty.push(server);
        }
        let models = Fault::ALL.map(|fault| Company::Paired.model(fault)).to_vec();
        let options = FakeBackendOptions { flavor: Flavor::Ollama, models, port: None };
        let healthy = FakeBackend::start(options).await?;
        connections.push(json!({"id": "healthy", "type": "ollama", "url": healthy.url(), "priority": 1}));
        let options = WorldOptions::default()
            .with("connections", connections)
            .with("connectionTimeout", CONNECT_S)
            .with("requestTimeout", SILENCE_S)
            .with("firstByteTimeout", SILENCE_S);
        let world = lab.world_with(options).await?;
        for id in Fault::ALL.map(Fault::name).into_iter().chain(["healthy"]) {
            world.daemon.wait_for_backend(id, Duration::from_secs(15)).await?;
        }
        Ok(Self { world, faulty, _healthy: healthy })
    }
}

/// Runs the whole matrix of each client against one door; returns what each saw.
async fn ask(clients: &OfficialClients, base: &str, token: &str) -> Result<Vec<(&'static str, Vec<Row>)>> {
    let models = json!(cases().map(|(fault, company)| company.model(fault)).collect::<Vec<_>>()).to_string();
    let limit = LATE.as_secs().to_string();
    let runs = CLIENTS.map(async |(script, path)| {
        let base = format!("{base}{path}");
        let printed = clients.run(script, &[&base, token, &models, &limit]).await?;
        let rows: Vec<Row> = printed
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{script} printed {line}")))
            .collect::<Result<_>>()?;
        let expected = cases().count() * 2 * 2;
        ensure!(rows.len() == expected, "{script}: {} rows instead of {expected}", rows.len());
        anyhow::Ok((script, rows))
    });
    futures_util::future::try_join_all(runs).await
}

/// Says what is wrong with what a client saw; none if nothing is.
fn complaint(fault: Fault, company: Company, row: &Row) -> Option<String> {
    if row.outcome == "hang" || row.ms >= u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX) {
        return Some(format!("left waiting for {} ms", row.ms));
    }
    if row.outcome == "answer" {
        let healthy = Script::default().text(HEALTHY_TOKENS);
        let whole = company == Company::Paired && row.finished && row.text == healthy;
        return (!whole).then(|| format!("an end that is none, after {:?}", row.text));
    }
    // What the rules of failover promise: nothing of an answer had come, and the body is at hand.
    let spared = matches!(fault, Fault::Refuse | Fault::BlackHole | Fault::ServerError);
    if company == Company::Paired && spared {
        return Some(format!("the other server was not asked: {}", row.error));
    }
    let typed = match fault {
        // The bytes are the server's and pass as they are: the client complains of its JSON.
        Fault::BadJson => true,
        // So it does of a line that broke off; the error in the API's words comes behind it.
        Fault::TruncatedInLine if row.stream => true,
        // The head is with the caller: all that is left to say it with is the connection.
        _ if fault.is_midway() && !row.stream => row.kind == "own" || row.kind == "transport",
        _ => row.kind == "own",
    };
    (!typed).then(|| format!("not an error of its own: {}", row.error))
}

fn judge(door: &str, seen: &[(&str, Vec<Row>)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (script, rows) in seen {
        let (mut answered, mut longest) = (0, 0);
        let mut kinds = BTreeMap::<&str, usize>::new();
        for row in rows {
            let case = cases().find(|(fault, company)| company.model(*fault) == row.model);
            let Some((fault, company)) = case else {
                complaints.push(format!("{script}: a row about {}", row.model));
                continue;
            };
            longest = longest.max(row.ms);
            if row.outcome == "answer" {
                answered += 1;
            } else {
                *kinds.entry(&row.kind).or_default() += 1;
            }
            if let Some(complaint) = complaint(fault, company, row) {
                let how = if row.stream { "streamed" } else { "whole" };
                complaints.push(format!(
                    "{door}, {script}, {}, {how}, {company:?}: {}: {complaint}",
                    row.api,
                    fault.name()
                ));
            }
        }
        measured(
            "faults and official clients",
            format!(
                "{door}, {script}: {} requests, {answered} answered by the other server, errors {kinds:?}, the \
                     longest took {longest} ms",
                rows.len()
            ),
        );
    }
    complaints
}

#[test]
fn each_fault_is_an_error_of_the_clients_own_or_the_answer_of_another_server() -> Result<()> {
    let Some(clients) = OfficialClients::find() else {
        return skipped("faults", "the client libraries are not installed; run `cargo xtask setup`");
    };
    scenario(async |lab| {
        let scene = Scene::start(lab).await?;
        let began = Instant::now();
        for server in &scene.faulty {
            server.fall().await?;
        }
        let gateway = format!("http://{}", scene.world.daemon.gateway());
        let mut complaints = judge("gateway", &ask(&clients, &gateway, "-").await?);
        if soak() {
            let (base, token) = (scene.world.relay.url(), scene.world.caller_token.clone());
            complaints.extend(judge("relay", &ask(&clients, &base, &token).await?));
        }
        measured("faults and official clients", format!("all in {:.1} s", began.elapsed().as_secs_f64()));
        let falls = |fault| matches!(fault, Fault::Refuse | Fault::BlackHole);
        for server in scene.faulty.iter().filter(|server| !falls(server.fault())) {
            ensure!(server.asked() > 0, "{} was never asked: nothing was tested", server.fault().name());
        }
        ensure!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
        Ok(())
    })
}
