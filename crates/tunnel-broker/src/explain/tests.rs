mod guide;

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::{BackendKind, BrokerConfig, RoutingPolicy};
use crate::dialect::{Listed, Listing};
use crate::health::{Fault, Phase};
use crate::profile::Api;
use crate::status::BackendState;
use crate::upstream::{Report, Upstream};

/// A table with everything as a test wants it.
struct World {
    config: BrokerConfig,
    /// Of the enabled backends, in their order.
    upstreams: Vec<Arc<Upstream>>,
    affinity: Arc<Affinity>,
    now: Instant,
}

/// How a backend is.
#[derive(Clone, Debug, Default)]
struct State {
    state: Option<BackendState>,
    failing: bool,
    error: Option<String>,
    /// What it lists; none: it has never said.
    models: Option<Vec<(String, bool)>>,
    in_flight: usize,
    latency: Option<Duration>,
}

impl World {
    fn new(config: BrokerConfig, states: &[State]) -> Self {
        let now = Instant::now();
        let enabled = config.backends.iter().filter(|config| config.enabled);
        let upstreams = enabled.zip(states).map(|(config, state)| {
            let stop = tokio_util::sync::CancellationToken::new();
            let upstream = Upstream::new(config, None, Arc::default(), stop);
            upstream.slots.set_limit(config.max_concurrent.map(|max| max.get() as usize));
            let listed = |(name, loaded): &(String, bool)| Listed {
                name: name.clone(),
                loaded: *loaded,
                size_bytes: None,
                entry: Value::Null,
                api: Api::Ollama,
            };
            let listing = state.models.as_ref().map(|models| {
                Arc::new(Listing { models: models.iter().map(listed).collect(), running: Vec::new() })
            });
            upstream.set_report(Report {
                state: state.state.unwrap_or(BackendState::Connected),
                phase: match state.state.unwrap_or(BackendState::Connected) {
                    BackendState::Connecting => Phase::Unknown,
                    BackendState::Connected => Phase::Up,
                    BackendState::Disconnected => Phase::Down(Fault::Unreachable),
                    BackendState::Error => Phase::Down(Fault::Misbehaves),
                },
                failing: state.failing,
                error: state.error.clone(),
                listing,
                ..Report::clone(&upstream.report())
            });
            upstream.in_flight.store(state.in_flight, Ordering::Relaxed);
            if let Some(latency) = state.latency {
                upstream.load.answered(latency, now);
            }
            Arc::new(upstream)
        });
        let upstreams = upstreams.collect();
        Self { config, upstreams, affinity: Arc::new(Affinity::new()), now }
    }

    fn table(&self) -> Table {
        Table::new(Arc::new(self.config.clone()), &self.upstreams)
    }

    fn explain(&self, query: &Query, seed: u64) -> Explanation {
        let chance = Chance { affinity: &self.affinity, seed, now: self.now };
        explain(&self.table(), query, &chance)
    }
}

fn backend(id: &str, kind: BackendKind) -> BackendConfig {
    BackendConfig::new(id, kind, "http://127.0.0.1:1".parse().unwrap())
}

fn has(models: &[&str]) -> State {
    State { models: Some(models.iter().map(|m| ((*m).to_owned(), false)).collect()), ..State::default() }
}

fn chat(model: &str) -> Query {
    Query { path: "/api/chat".to_owned(), model: Some(model.to_owned()), ..Query::default() }
}

fn codes(explanation: &Explanation) -> Vec<(&str, Verdict, &str)> {
    explanation.candidates.iter().map(|c| (c.connection.as_str(), c.verdict, c.code)).collect()
}

#[test]
fn each_backend_is_told_its_reason() {
    let full = BackendConfig { max_concurrent: NonZeroU32::new(2), ..backend("full", BackendKind::Ollama) };
    let off = BackendConfig { enabled: false, ..backend("off", BackendKind::Ollama) };
    let second = BackendConfig { priority: 1, ..backend("second", BackendKind::Ollama) };
    let vllm = backend("vllm", BackendKind::OpenAi);
    let ollama = |id| backend(id, BackendKind::Ollama);
    let backends =
        vec![off, full, second, ollama("good"), vllm, ollama("down"), ollama("other"), ollama("new")];
    let refused = Some("connection refused".to_owned());
    let states = [
        State { in_flight: 2, ..has(&["m"]) },
        has(&["m"]),
        has(&["m:latest"]),
        has(&["m"]),
        State { state: Some(BackendState::Disconnected), error: refused, ..has(&["m"]) },
        has(&["n"]),
        State { state: Some(BackendState::Connecting), ..State::default() },
    ];
    let world = World::new(BrokerConfig { backends, ..BrokerConfig::default() }, &states);
    let explanation = world.explain(&chat("m"), 1);
    assert_eq!(
        (explanation.connection.as_deref(), explanation.model.as_deref(), explanation.resolved_by),
        (Some("good"), Some("m:latest"), Some(ResolvedBy::Exact))
    );
    assert_eq!(
        codes(&explanation),
        [
            ("good", Verdict::Chosen, "priority"),
            ("second", Verdict::Next, "priority"),
            ("full", Verdict::Full, "full"),
            ("vllm", Verdict::Excluded, "wrong_api"),
            ("down", Verdict::Excluded, "down"),
            ("off", Verdict::Excluded, "disabled"),
            ("other", Verdict::Excluded, "no_model"),
            ("new", Verdict::Excluded, "models_unknown"),
        ]
    );
    let reason = |id| &explanation.candidates.iter().find(|c| c.connection == id).unwrap().reason;
    assert_eq!(reason("full"), "2 requests run on it, as many as may run");
    assert_eq!(reason("second"), "its priority is 1; 'good' with 0 comes first");
    assert_eq!(reason("down"), "it is down: connection refused");
    assert_eq!(reason("vllm"), "it speaks OpenAI's API, and the path is of Ollama's");

    let pinned = world.explain(&chat("second/m"), 1);
    assert_eq!(
        (pinned.connection.as_deref(), pinned.resolved_by),
        (Some("second"), Some(ResolvedBy::Pinned))
    );
    assert!(codes(&pinned).contains(&("good", Verdict::Excluded, "other_connection")));
    let busy = world.explain(&Query { connection: Some("full".to_owned()), ..chat("m") }, 1);
    assert_eq!(
        (busy.connection.as_deref(), busy.refusal.as_ref(), busy.queue_position),
        (None, None, Some(0))
    );
    assert_eq!(busy.waits_for, ["full"], "it would wait, and nobody is refused");
    let mut crowded = world;
    crowded.config.queue.max_waiting = 0;
    let world = crowded;
    let refused = world.explain(&Query { connection: Some("full".to_owned()), ..chat("m") }, 1);
    assert_eq!((refused.refusal.map(|r| r.code), refused.waits_for), (Some("queue_full"), Vec::new()));
    let nobody = world.explain(&Query { connection: Some("nobody".to_owned()), ..chat("m") }, 1);
    assert_eq!(nobody.refusal.map(|r| r.code), Some("unknown_connection"));
    // A request waits for those that have not said what they have.
    let unknown = world.explain(&chat("x"), 1);
    assert_eq!((unknown.refusal, unknown.waits_for), (None, vec!["new".to_owned()]));
    let management = Query { path: "/api/pull".to_owned(), ..chat("new") };
    assert_eq!(world.explain(&management, 1).resolved_by, None);
}

#[test]
fn who_waits_for_a_slot_takes_no_room_from_who_waits_for_the_model() {
    let mut world = World::new(
        BrokerConfig { backends: vec![backend("a", BackendKind::Ollama)], ..BrokerConfig::default() },
        &[has(&["m"])],
    );
    world.config.queue.max_waiting = 1;
    let upstream = &world.upstreams[0];
    upstream.set_report(Report { phase: Phase::Warming, ..Report::clone(&upstream.report()) });
    upstream.slots.set_waiting(1);
    assert_eq!(world.explain(&chat("m"), 1).waits_for, ["a"]);
    let _waits = upstream.slots.await_model(1).unwrap();
    assert_eq!(world.explain(&chat("m"), 1).refusal.map(|refusal| refusal.code), Some("backend_loading"));
}

#[test]
fn management_is_explained_as_it_is_done() {
    let backends = vec![backend("a", BackendKind::Ollama), backend("b", BackendKind::Ollama)];
    let aliases = [("fast".to_owned(), "m".to_owned())].into_iter().collect();
    let config = BrokerConfig { backends, aliases, ..BrokerConfig::default() };
    let world = World::new(config, &[has(&["m"]), has(&["m"])]);
    let delete = |model: &str| Query { path: "/api/delete".to_owned(), ..chat(model) };
    for (model, connection, refusal) in
        [("m", Some("a"), None), ("b/m", Some("b"), None), ("fast", None, Some("is_alias"))]
    {
        let explained = world.explain(&delete(model), 1);
        let told = (explained.connection.as_deref(), explained.refusal.map(|refusal| refusal.code));
        assert_eq!(told, (connection, refusal), "{model}");
    }
}

#[test]
fn a_session_stays_where_it_was_and_that_is_told() {
    let backends = vec![backend("a", BackendKind::Ollama), backend("b", BackendKind::Ollama)];
    let world = World::new(BrokerConfig { backends, ..BrokerConfig::default() }, &[has(&["m"]), has(&["m"])]);
    let query = Query { session: Some("s".to_owned()), ..chat("m") };
    for (server, id) in [(0, "a"), (1, "b")] {
        let (trail, headers) =
            (Trail::new(Arc::clone(&world.affinity), bytes::Bytes::new(), 0..0), session(&query));
        let now = Tick::of(world.now);
        Recall { trail: &trail, headers: &headers, model: "m", now }.last();
        trail.served(world.upstreams[server].id, now);
        for seed in 0..10 {
            let explanation = world.explain(&query, seed);
            assert_eq!(explanation.connection.as_deref(), Some(id));
            assert_eq!(explanation.candidates[0].code, "session");
            assert_eq!(explanation.candidates[1].reason, format!("'{id}' served this session last"));
        }
    }
}

fn state() -> impl Strategy<Value = State> {
    let state = prop_oneof![
        6 => Just(BackendState::Connected),
        1 => Just(BackendState::Connecting),
        1 => Just(BackendState::Disconnected),
    ];
    let models = prop::option::weighted(0.9, prop::collection::vec((0..3_u8, any::<bool>()), 0..3));
    (state, any::<bool>(), models, 0..4_usize, prop::option::of(1..500_u64)).prop_map(
        |(state, failing, models, in_flight, latency)| State {
            state: Some(state),
            failing,
            // One that is up has said what it has.
            models: models
                .or((state == BackendState::Connected).then(Vec::new))
                .map(|all| all.into_iter().map(|(n, loaded)| (format!("m{n}"), loaded)).collect()),
            in_flight,
            latency: latency.map(Duration::from_millis),
            error: None,
        },
    )
}

fn config() -> impl Strategy<Value = BackendConfig> {
    let max = prop::option::of(1..4_u32);
    (any::<bool>(), 0..2_u32, 1..4_u32, max, prop::bool::weighted(0.9)).prop_map(
        |(ollama, priority, weight, max, enabled)| BackendConfig {
            priority,
            enabled,
            weight: NonZeroU32::new(weight).unwrap(),
            max_concurrent: max.and_then(NonZeroU32::new),
            ..backend("", if ollama { BackendKind::Ollama } else { BackendKind::OpenAi })
        },
    )
}

proptest! {
    #[test]
    fn what_is_explained_is_what_is_done(
        all in prop::collection::vec((config(), state()), 0..6),
        (model, pin) in (prop::option::of(0..4_u8), prop::option::of(0..6_usize)),
        (openai, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let named = |(n, (config, _)): (usize, &(BackendConfig, State))| BackendConfig { id: format!("b{n}"), ..config.clone() };
        let backends: Vec<_> = all.iter().enumerate().map(named).collect();
        let states: Vec<_> = all.iter().filter(|(config, _)| config.enabled).map(|(_, state)| state.clone()).collect();
        let routing_policy = RoutingPolicy::PreferLocal;
        let world = World::new(BrokerConfig { backends, routing_policy, ..BrokerConfig::default() }, &states);
        let query = Query {
            path: if openai { "/v1/chat/completions" } else { "/api/chat" }.to_owned(),
            model: model.map(|n| format!("m{n}")),
            connection: pin.map(|n| format!("b{n}")),
            session: None,
        };
        let explanation = world.explain(&query, seed);
        let table = world.table();
        let draw = Draw { seed, now: Tick::of(world.now) };
        let wanted = Wanted {
            ingress: Ingress::Local,
            dialect: Dialect::of(&query.path),
            pin: query.connection.as_deref(),
            model: query.model.as_deref(),
            spread: if model.is_some() { Spread::Load(draw) } else { Spread::First },
            takes_slot: true,
            recall: None,
            tried: Tried::NONE,
        };
        let route = table.route(&wanted);
        let chosen = route.as_ref().ok().map(|route| route.backend.config.id.as_str());
        prop_assert_eq!(explanation.connection.as_deref(), chosen);
        prop_assert_eq!(explanation.refusal.is_some() || !explanation.waits_for.is_empty(), route.is_err());
        // Each is named once, and the first is the one that gets it or is waited for.
        let mut ids: Vec<_> = explanation.candidates.iter().map(|c| c.connection.as_str()).collect();
        if let Some(chosen) = chosen {
            prop_assert_eq!(ids[0], chosen);
            prop_assert_eq!(explanation.candidates[0].verdict, Verdict::Chosen);
            // Should it fail, the next one is the one that is tried.
            let servers = vec![Arc::clone(&table.backend(chosen).unwrap().upstream)];
            let tried = Tried { servers, stays_home: false };
            let next = table.route(&Wanted { tried: &tried, ..wanted });
            let told = explanation.candidates.iter().find(|c| c.verdict == Verdict::Next);
            let next = next.as_ref().ok().map(|route| route.backend.config.id.as_str());
            prop_assert_eq!(told.map(|told| told.connection.as_str()), next);
        }
        if let Err(NoRoute::Full(index)) = route {
            prop_assert_eq!(ids[0], table.backends[index].config.id.as_str());
            let waiting = table.waiting_candidates(&wanted);
            prop_assert!(waiting[0].backend.config.id == ids[0]);
        }
        prop_assert!(explanation.candidates.iter().all(|c| !c.reason.is_empty() && !c.reason.ends_with('.')));
        ids.sort_unstable();
        let all: Vec<_> = (0..all.len()).map(|n| format!("b{n}")).collect();
        prop_assert_eq!(ids, all);
    }
}
