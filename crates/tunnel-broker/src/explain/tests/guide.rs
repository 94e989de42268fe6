//! Runs the examples of `docs/routing.md`.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;
use serde_json::{Map, Value};
use tunnel_api::Config;
use tunnel_api::config::ConnectionType;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    config: Map<String, Value>,
    servers: BTreeMap<String, Server>,
    /// Who served which session last.
    #[serde(default)]
    sessions: BTreeMap<String, String>,
    request: Request,
    /// How many requests run at any time, where shares of them are told.
    #[serde(default)]
    running_at_a_time: usize,
    decision: Decision,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    models: BTreeMap<String, Place>,
    #[serde(default)]
    running: usize,
    latency_ms: Option<u64>,
    health: Option<Health>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
enum Place {
    #[serde(rename = "in memory")]
    Memory,
    #[serde(rename = "on disk")]
    Disk,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Doubtful,
    Down,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    path: String,
    model: Option<String>,
    connection: Option<String>,
    session: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Decision {
    connection: Option<String>,
    model: Option<String>,
    refusal: Option<String>,
    /// The connections in whose lines the request waits, the first one first.
    waits_for: Vec<String>,
    reasons: BTreeMap<String, String>,
    shares: BTreeMap<String, f64>,
}

impl Example {
    fn world(&self) -> World {
        let config = Config::check(&self.config).expect("the daemon would take the configuration");
        let backends = backends(&config);
        let states: Vec<State> = backends
            .iter()
            .filter(|backend| backend.enabled)
            .map(|backend| self.servers.get(&backend.id).expect("each enabled server is described").state())
            .collect();
        let routing_policy = match config.routing_policy {
            tunnel_api::config::RoutingPolicy::PreferLocal => RoutingPolicy::PreferLocal,
            tunnel_api::config::RoutingPolicy::PreferCloud => RoutingPolicy::PreferCloud,
            tunnel_api::config::RoutingPolicy::LocalOnly => RoutingPolicy::LocalOnly,
        };
        let aliases = config.aliases.into_iter().collect();
        let world = World::new(
            BrokerConfig { backends, routing_policy, aliases, ..BrokerConfig::default() },
            &states,
        );
        for (id, server) in &self.sessions {
            let query = Query { session: Some(id.clone()), ..self.query() };
            let (trail, headers) =
                (Trail::new(Arc::clone(&world.affinity), bytes::Bytes::new(), 0..0), session(&query));
            let (model, now) = (self.request.model.as_deref().unwrap(), Tick::of(world.now));
            Recall { trail: &trail, headers: &headers, model, now }.last();
            trail.served(world.table().backend(server).expect("it is configured").upstream.id, now);
        }
        world
    }

    fn query(&self) -> Query {
        let Request { path, model, connection, session } = &self.request;
        Query {
            path: path.clone(),
            model: model.clone(),
            connection: connection.clone(),
            session: session.clone(),
        }
    }

    fn run(&self) {
        let Decision { connection, model, refusal, waits_for, reasons, shares } = &self.decision;
        let world = self.world();
        if !shares.is_empty() {
            return self.share(&world);
        }
        // Whatever is drawn: the guide does not speak of chance.
        for seed in 0..50 {
            let found = world.explain(&self.query(), seed);
            assert_eq!(&found.connection, connection);
            assert_eq!(found.refusal.as_ref().map(|refusal| refusal.code), refusal.as_deref());
            if model.is_some() {
                assert_eq!(&found.model, model);
            }
            assert_eq!(&found.waits_for, waits_for);
            let told = found.candidates.iter().map(|c| (c.connection.clone(), c.code.to_owned()));
            assert_eq!(&told.collect::<BTreeMap<_, _>>(), reasons);
        }
    }

    fn share(&self, world: &World) {
        let table = world.table();
        let mut running = VecDeque::new();
        for seed in 0..6 * self.running_at_a_time as u64 {
            if running.len() == self.running_at_a_time {
                let over: Arc<Upstream> = running.pop_front().unwrap();
                over.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
            let draw = Draw { seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), now: Tick::of(world.now) };
            let wanted = Wanted {
                ingress: Ingress::Local,
                dialect: Dialect::of(&self.request.path),
                pin: None,
                model: self.request.model.as_deref(),
                spread: Spread::Load(draw),
                takes_slot: true,
                recall: None,
                tried: Tried::NONE,
            };
            let upstream = Arc::clone(&table.route(&wanted).unwrap().backend.upstream);
            upstream.in_flight.fetch_add(1, Ordering::Relaxed);
            running.push_back(upstream);
        }
        for (id, due) in &self.decision.shares {
            let runs = table.backend(id).unwrap().upstream.in_flight.load(Ordering::Relaxed);
            let share = runs as f64 / self.running_at_a_time as f64;
            assert!((share - due).abs() <= 0.03, "{id}: {share} rather than {due}");
        }
    }
}

impl Server {
    fn state(&self) -> State {
        let models =
            self.models.iter().map(|(name, place)| (name.clone(), *place == Place::Memory)).collect();
        State {
            state: Some(match self.health {
                Some(Health::Down) => BackendState::Disconnected,
                Some(Health::Doubtful) | None => BackendState::Connected,
            }),
            failing: self.health.is_some(),
            error: None,
            models: Some(models),
            in_flight: self.running,
            latency: self.latency_ms.map(Duration::from_millis),
        }
    }
}

/// Makes of a configuration what the daemon makes of it.
fn backends(config: &Config) -> Vec<BackendConfig> {
    let ollama = config
        .enable_local_ollama
        .then(|| BackendConfig::new("ollama", BackendKind::Ollama, config.ollama_url()));
    let configured = config.connections.iter().map(|connection| BackendConfig {
        priority: connection.priority,
        weight: connection.weight,
        max_concurrent: connection.max_concurrent,
        models: connection.models.clone(),
        enabled: connection.enabled,
        ..BackendConfig::new(
            connection.id.clone(),
            match connection.kind {
                ConnectionType::Ollama => BackendKind::Ollama,
                ConnectionType::Openai => BackendKind::OpenAi,
                ConnectionType::Llamacpp => BackendKind::LlamaCpp,
                ConnectionType::Vllm => BackendKind::Vllm,
                ConnectionType::Lmstudio => BackendKind::LmStudio,
                ConnectionType::Cloud => BackendKind::Cloud,
                ConnectionType::Plugin => BackendKind::Plugin,
            },
            connection.url.clone().expect("examples have addresses"),
        )
    });
    ollama.into_iter().chain(configured).collect()
}

const GUIDE: &str = include_str!("../../../../../docs/routing.md");

/// Returns the blocks of this kind, and the lines where they begin.
fn blocks(kind: &str) -> Vec<(usize, &'static str)> {
    let start = format!("```json {kind}\n");
    let block = |(at, _)| {
        let text = &GUIDE[at + start.len()..];
        let text = &text[..text.find("\n```").expect("the block ends")];
        (GUIDE[..at].lines().count() + 1, text)
    };
    GUIDE.match_indices(&start).map(block).collect()
}

#[test]
fn examples_of_the_guide_are_true() {
    let examples = blocks("example");
    assert!(examples.len() >= 10, "only {} examples were found", examples.len());
    for (line, text) in examples {
        println!("docs/routing.md:{line}");
        serde_json::from_str::<Example>(text).unwrap_or_else(|error| panic!("{error}")).run();
    }
}

#[test]
fn answer_of_the_guide_is_that_of_the_example_before_it() {
    let (line, answer) = blocks("answer")[0];
    let answer: Value = serde_json::from_str(answer).unwrap();
    let example = blocks("example").into_iter().rfind(|(at, _)| *at < line).unwrap().1;
    let example: Example = serde_json::from_str(example).unwrap();
    let found = example.world().explain(&example.query(), 1);
    assert_eq!(answer["connection"], Value::from(found.connection));
    assert_eq!(answer["waits_for"], Value::from(found.waits_for));
    assert_eq!(answer["queue_position"], Value::from(found.queue_position));
    assert_eq!(answer["refusal"], Value::from(found.refusal.map(|refusal| refusal.code)));
    assert_eq!(answer["model"], Value::from(found.model));
    assert_eq!(answer["resolved_by"], found.resolved_by.unwrap().as_str());
    let shown = |c: &Considered| {
        serde_json::json!({
            "connection": c.connection, "verdict": c.verdict.as_str(), "code": c.code, "reason": c.reason,
            "health": c.health, "side": c.side.as_str(), "priority": c.priority, "loaded": c.loaded,
            "in_flight": c.in_flight, "queued": c.queued, "weight": c.weight, "share": c.share,
            "latency_ewma_ms": c.latency.map(|latency| (latency.as_secs_f64() * 1e3).round()),
        })
    };
    let candidates: Vec<Value> = found.candidates.iter().map(shown).collect();
    assert_eq!(answer["candidates"], Value::from(candidates));
}
