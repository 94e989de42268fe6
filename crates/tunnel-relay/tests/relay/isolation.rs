//! Two tenants do at random what tenants do, at the same time and over the same connections. Whatever the one does, the
//! other's requests come to what a model of the other's own actions says, and not a byte crosses.
//!
//! `SOAK=1` does 100,000 operations; `ISOLATION_SEED` repeats a run's choices.

mod desk;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunnel_relay::{AddressLimits, Settings, Tier};
use tunnel_transport::{CloseCode, Closed, DialError, Session};

use self::desk::{Desk, Facts, Violations, own_model};
use self::model::{Ask, Expected, Live, Model, SHARED, Told, Wish};
use crate::harness::{PATIENCE, TestRelay};

/// The same names for both tenants.
const DEVICES: [&str; 3] = ["desk", "desk-1", "d"];

/// Subjects that a careless reader could take for one another.
const PAIRS: [(&str, &str); 6] = [
    ("acme", "acme:desk"),
    ("google:1", "google:11"),
    ("a", "A"),
    ("bob", "bob\", token=\"x\", sub=\"bob"),
    ("x/desk", "x"),
    ("us er", "us"),
];

/// What both tenants use.
struct World {
    relay: TestRelay,
    /// Shared, as behind a proxy that keeps its connections.
    connections: [tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>; 3],
    driving: Mutex<JoinSet<()>>,
    /// The sessions that each tenant has opened lately, for the other to try its luck with.
    opened: Mutex<[Vec<Session>; 2]>,
    /// What each tenant's requests may be made with: the token of its login, and the keys that it has made lately.
    keys: Mutex<[Vec<Key>; 2]>,
    violations: Violations,
}

impl World {
    async fn send(&self, nth: usize, request: &Request<Full<Bytes>>) -> (StatusCode, HeaderMap, String) {
        let mut slot = self.connections[nth].lock().await;
        for _ in 0..3 {
            let mut sender = match slot.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.connect().await,
            };
            // A connection whose last request was refused before its body was read may just be closing.
            if sender.ready().await.is_err() {
                continue;
            }
            let Ok(response) =
                timeout(PATIENCE, sender.send_request(request.clone())).await.expect("an answer")
            else {
                continue;
            };
            let (head, body) = response.into_parts();
            let Ok(body) = timeout(PATIENCE, body.collect()).await.expect("the whole answer") else {
                continue;
            };
            *slot = Some(sender);
            let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            return (head.status, head.headers, text);
        }
        panic!("no answer in three attempts");
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.relay.addr).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.driving.lock().unwrap().spawn(async move { drop(connection.await) });
        sender
    }
}

/// A token, as its owner and the other tenant know it.
#[derive(Clone, Debug)]
struct Key {
    id: String,
    token: String,
}

/// How the relay is to show a device.
#[derive(Debug)]
enum Shown {
    Offline,
    /// With this model, or without any list of models.
    Online(Option<String>),
}

impl Shown {
    fn is(&self, device: &Value) -> bool {
        let models = device["models"].as_array();
        match self {
            Self::Offline => device["online"] == false,
            Self::Online(Some(own)) => {
                models.is_some_and(|models| models.iter().any(|model| model["name"] == **own))
            }
            Self::Online(None) => device["online"] == true && models.is_none(),
        }
    }
}

/// One tenant: what it has, and what it must see.
struct Tenant {
    index: usize,
    subject: String,
    canary: String,
    foreign_canary: String,
    world: Arc<World>,
    rng: StdRng,
    token: String,
    model: Model,
    desks: BTreeMap<&'static str, Desk>,
    generation: u64,
}

impl Tenant {
    fn new(
        index: usize,
        world: &Arc<World>,
        subjects: (&str, &str),
        canaries: &[String; 2],
        seed: u64,
    ) -> Self {
        let subject = if index == 0 { subjects.0 } else { subjects.1 };
        let token = world.relay.token(subject, "tunnel inference account");
        let claims = token.split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let id = claims["jti"].as_str().unwrap().to_owned();
        world.keys.lock().unwrap()[index].push(Key { id, token: token.clone() });
        Self {
            index,
            subject: subject.to_owned(),
            canary: canaries[index].clone(),
            foreign_canary: canaries[1 - index].clone(),
            world: Arc::clone(world),
            rng: StdRng::seed_from_u64(seed + index as u64),
            token,
            model: Model::default(),
            desks: BTreeMap::new(),
            generation: 0,
        }
    }

    async fn step(&mut self) {
        let device = *DEVICES.choose(&mut self.rng).unwrap();
        match self.rng.random_range(0..100_u8) {
            0..8 => self.dial(device, None).await,
            8..12 => self.cut(device).await,
            12..15 => self.resume(device).await,
            15..18 => self.resume_foreign(device).await,
            18..21 => {
                let foreign = self.foreign_session();
                if foreign.is_some() {
                    self.dial(device, foreign).await;
                }
            }
            21..23 => self.revoke_foreign().await,
            23..24 => self.revoke_own().await,
            24..30 => self.list_devices().await,
            30..45 => self.ask(Wish::List).await,
            45..55 => self.ask(Wish::Version).await,
            55..62 => self.ask(Wish::Post).await,
            _ => {
                let model = self.some_model();
                self.ask(Wish::Model(&model)).await;
            }
        }
        let violations = std::mem::take(&mut *self.world.violations.lock().unwrap());
        assert!(violations.is_empty(), "{violations:#?}");
    }

    fn foreign_session(&mut self) -> Option<Session> {
        self.world.opened.lock().unwrap()[1 - self.index].choose(&mut self.rng).cloned()
    }

    /// A model of one of the own sessions, one that all may have, the other tenant's, or nobody's.
    fn some_model(&mut self) -> String {
        let generation = self.rng.random_range(self.generation.saturating_sub(4)..=self.generation);
        match self.rng.random_range(0..8_u8) {
            0..3 => own_model(&self.canary, generation),
            3..6 => SHARED.to_owned(),
            6 => "nobodys".to_owned(),
            _ => format!("{}x", self.canary),
        }
    }

    /// Dials as a device: takes it over, or, with the other tenant's session to stand beside, moves.
    async fn dial(&mut self, device: &'static str, beside: Option<Session>) {
        self.generation += 1;
        let generation = self.generation;
        let told = self.rng.random_bool(0.8).then(|| {
            let mut models = vec![(own_model(&self.canary, generation), self.rng.random())];
            if self.rng.random() {
                models.push((SHARED.to_owned(), self.rng.random()));
            }
            Told { models, preferred: self.rng.random_bool(0.2) }
        });
        let connector = self.world.relay.connector(&self.token, device);
        let dialled = match &beside {
            Some(session) => connector.migrate(session.id()).await,
            None => connector.dial().await,
        };
        let facts = Facts {
            subject: self.subject.clone(),
            canary: self.canary.clone(),
            foreign_canary: self.foreign_canary.clone(),
            generation,
            told: told.clone(),
            violations: Arc::clone(&self.world.violations),
        };
        let desk = Desk::serve(dialled.unwrap(), connector, facts);
        let session = desk.session.clone();
        if let Some(mut old) = self.desks.insert(device, desk) {
            let expected = if beside.is_some() { CloseCode::Restarting } else { CloseCode::Replaced };
            assert_eq!(old.closed().await.code, expected);
        }
        {
            let opened = &mut self.world.opened.lock().unwrap()[self.index];
            opened.push(session);
            if opened.len() > 8 {
                opened.remove(0);
            }
        }
        let own = told.is_some().then(|| own_model(&self.canary, generation));
        self.model.serve(device, Live { generation, told });
        self.until(device, Shown::Online(own)).await;
    }

    async fn cut(&mut self, device: &'static str) {
        let Some(mut desk) = self.desks.remove(device) else { return };
        desk.session.close(Closed::new(CloseCode::ShuttingDown, "the desktop shuts down"));
        desk.closed().await;
        self.model.lose(device);
        self.until(device, Shown::Offline).await;
    }

    async fn resume(&self, device: &'static str) {
        if let Some(desk) = self.desks.get(device) {
            desk.connector.resume(&desk.session).await.unwrap();
        }
    }

    /// With the other tenant's session id, and its handle even: nothing comes of it.
    async fn resume_foreign(&mut self, device: &'static str) {
        let Some(session) = self.foreign_session() else { return };
        let resumed = self.world.relay.connector(&self.token, device).resume(&session).await;
        assert!(matches!(resumed, Err(DialError::SessionGone)), "{resumed:?}");
    }

    /// The id proves whose it is, so the relay does not take the order, and the other's token goes on.
    async fn revoke_foreign(&mut self) {
        let other = 1 - self.index;
        let key = self.world.keys.lock().unwrap()[other].choose(&mut self.rng).cloned().unwrap();
        assert_eq!(self.revoke(&key.id).await, StatusCode::BAD_REQUEST, "{} has tried {key:?}", self.subject);
        let status = self.status_with(&key.token).await;
        // Its owner may just have revoked it, and has said so before.
        let is_kept = self.world.keys.lock().unwrap()[other].iter().any(|kept| kept.id == key.id);
        assert!(status == StatusCode::OK || !is_kept, "{} has revoked {key:?}: {status}", self.subject);
    }

    /// All but the login's own.
    async fn revoke_own(&mut self) {
        let key = {
            let keys = &mut self.world.keys.lock().unwrap()[self.index];
            if keys.len() < 2 {
                return;
            }
            keys.remove(self.rng.random_range(1..keys.len()))
        };
        assert_eq!(self.status_with(&key.token).await, StatusCode::OK, "{} had {key:?}", self.subject);
        assert_eq!(self.revoke(&key.id).await, StatusCode::NO_CONTENT, "{} had {key:?}", self.subject);
        assert_eq!(self.status_with(&key.token).await, StatusCode::UNAUTHORIZED, "{key:?}");
    }

    async fn revoke(&mut self, id: &str) -> StatusCode {
        let request = self.request(Method::DELETE, &format!("/_tunnel/v1/tokens/{id}"), &self.token);
        let (status, _, text) = self.send(&request.body(Full::default()).unwrap()).await;
        self.look(&text);
        status
    }

    /// Asks for something harmless, and returns how that is answered.
    async fn status_with(&mut self, token: &str) -> StatusCode {
        let request = self.request(Method::GET, "/_tunnel/v1/devices", token);
        self.send(&request.body(Full::default()).unwrap()).await.0
    }

    async fn list_devices(&mut self) {
        let bound = self.rng.random_bool(0.3).then(|| *DEVICES.choose(&mut self.rng).unwrap());
        let token = self.key(bound, None).await;
        let listed = self.devices(&token).await;
        let listed = listed
            .iter()
            .map(|device| (device["name"].as_str().unwrap().to_owned(), device["online"].as_bool().unwrap()));
        let expected = self.model.listed(bound).into_iter().map(|(name, online)| (name.to_owned(), online));
        assert_eq!(listed.collect::<BTreeMap<_, _>>(), expected.collect());
    }

    async fn devices(&mut self, token: &str) -> Vec<Value> {
        let request = self.request(Method::GET, "/_tunnel/v1/devices", token);
        let (status, _, text) = self.send(&request.body(Full::default()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        self.look(&text);
        let list: Value = serde_json::from_str(&text).unwrap();
        list["devices"].as_array().unwrap().clone()
    }

    /// Waits until the relay shows a device as it is by now.
    async fn until(&mut self, device: &str, wanted: Shown) {
        let token = self.token.clone();
        let deadline = Instant::now() + PATIENCE;
        while !self.devices(&token).await.iter().any(|shown| shown["name"] == device && wanted.is(shown)) {
            assert!(Instant::now() < deadline, "{device} is not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Has a key made, bound to a device, to models, or to both. One that is bound to nothing is the login's.
    async fn key(&mut self, bound: Option<&str>, models: Option<&[String]>) -> String {
        if bound.is_none() && models.is_none() {
            return self.token.clone();
        }
        let wanted =
            json!({ "scopes": ["inference"], "device": bound, "models": models, "expires_in": 3_600 });
        let request = self.request(Method::POST, "/_tunnel/v1/tokens", &self.token);
        let (status, _, text) = self.send(&request.body(Full::from(wanted.to_string())).unwrap()).await;
        assert_eq!(status, StatusCode::CREATED, "{text}");
        self.look(&text);
        let made: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(made["subject"], *self.subject);
        let [id, token] = ["id", "token"].map(|field| made[field].as_str().unwrap().to_owned());
        let keys = &mut self.world.keys.lock().unwrap()[self.index];
        if keys.len() > 8 {
            keys.remove(1);
        }
        keys.push(Key { id, token: token.clone() });
        token
    }

    /// Sends one request, and holds its answer against the model.
    async fn ask(&mut self, wish: Wish<'_>) {
        let bound = self.rng.random_bool(0.15).then(|| *DEVICES.choose(&mut self.rng).unwrap());
        let models = self.rng.random_bool(0.25).then(|| vec![SHARED.to_owned(), self.some_model()]);
        let named = match self.rng.random_range(0..4_u8) {
            0 => Some(*DEVICES.choose(&mut self.rng).unwrap()),
            1 if self.rng.random_bool(0.2) => Some("nowhere"),
            _ => None,
        };
        let token = self.key(bound, models.as_deref()).await;
        let (method, path) = match wish {
            Wish::Version => (Method::GET, "/api/version"),
            Wish::List => {
                (Method::GET, *["/api/tags", "/v1/models", "/api/ps"].choose(&mut self.rng).unwrap())
            }
            Wish::Post => (Method::POST, "/v1/chat/completions"),
            Wish::Model(_) => {
                (Method::POST, *["/v1/chat/completions", "/api/chat"].choose(&mut self.rng).unwrap())
            }
        };
        let body = match wish {
            Wish::Version | Wish::List => String::new(),
            Wish::Post => json!({ "prompt": self.canary }).to_string(),
            Wish::Model(model) => json!({ "prompt": self.canary, "model": model }).to_string(),
        };
        let by_path = self.rng.random();
        let target = match named {
            Some(device) if by_path => format!("/d/{device}{path}"),
            _ => path.to_owned(),
        };
        let mut request = self.request(method, &target, &token).header("x-canary", &self.canary);
        if let Some(device) = named.filter(|_| !by_path) {
            request = request.header("tunnel-device", device);
        }
        let expected = self.model.expect(&Ask { bound, models: models.as_deref(), named, wish });
        let (status, headers, text) = self.send(&request.body(Full::from(body)).unwrap()).await;
        self.look(&text);
        let about = || {
            format!("{wish:?} {target} {named:?} {bound:?} {models:?}: {status} {text}\n{:#?}", self.model)
        };
        match expected {
            Expected::Refused(code) => {
                let answered = headers.get("tunnel-error").map(|code| code.to_str().unwrap());
                assert_eq!(answered, Some(code), "{}", about());
            }
            Expected::OneOf(generations) => {
                assert_eq!(status, StatusCode::OK, "{}", about());
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["canary"], *self.canary, "{}", about());
                let generation = answer["generation"].as_u64().unwrap();
                assert!(generations.contains(&generation), "{generations:?} {}", about());
                let (device, _) =
                    self.model.online().find(|(_, live)| live.generation == generation).unwrap();
                assert_eq!(headers["tunnel-device"], device, "{}", about());
            }
            Expected::All(generations) => {
                assert_eq!(status, StatusCode::OK, "{}", about());
                let mut names: BTreeSet<String> =
                    generations.iter().map(|generation| own_model(&self.canary, *generation)).collect();
                names.insert(SHARED.to_owned());
                if let Some(models) = &models {
                    names.retain(|name| models.contains(name));
                }
                assert_eq!(names_in(&text), names, "{}", about());
            }
        }
    }

    fn request(&self, method: Method, target: &str, token: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(target).header("host", "relay.test");
        request.header("authorization", format!("Bearer {token}"))
    }

    async fn send(&mut self, request: &Request<Full<Bytes>>) -> (StatusCode, HeaderMap, String) {
        let nth = self.rng.random_range(0..self.world.connections.len());
        self.world.send(nth, request).await
    }

    fn look(&self, text: &str) {
        assert!(!text.contains(&self.foreign_canary), "{} was sent: {text}", self.subject);
    }
}

fn names_in(list: &str) -> BTreeSet<String> {
    let list: Value = serde_json::from_str(list).unwrap();
    let (entries, key) = match list.get("models") {
        Some(models) => (models, "name"),
        None => (&list["data"], "id"),
    };
    entries.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn nothing_crosses_between_tenants_whatever_they_do() {
    let soak = std::env::var_os("SOAK").is_some_and(|value| value == "1");
    let seed = std::env::var("ISOLATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("ISOLATION_SEED={seed}");
    let (worlds, steps) = if soak { (10, 5_000) } else { (2, 500) };
    for nth in 0..worlds {
        let world = Arc::new(World {
            // What the model says must be answered at once, not after a device might have come.
            relay: TestRelay::with(
                Settings {
                    device_wait: Duration::ZERO,
                    // Two tenants dial here as often as thousands would, and one address brings the tokens that they lost.
                    default_tier: Tier { dials_per_minute: None, ..Tier::default() },
                    address: AddressLimits { refused_tokens_per_minute: None, ..AddressLimits::default() },
                    ..Settings::default()
                },
                Duration::from_secs(20),
            )
            .await,
            connections: Default::default(),
            driving: Mutex::default(),
            opened: Mutex::default(),
            keys: Mutex::default(),
            violations: Violations::default(),
        });
        let seed = seed.wrapping_add(nth);
        let subjects = PAIRS[usize::try_from(seed % PAIRS.len() as u64).unwrap()];
        let canaries = [(); 2].map(|()| format!("canary{:032x}", rand::random::<u128>()));
        let mut tenants = JoinSet::new();
        for index in 0..2 {
            let mut tenant = Tenant::new(index, &world, subjects, &canaries, seed.wrapping_mul(2));
            tenants.spawn(async move {
                for _ in 0..steps {
                    tenant.step().await;
                }
            });
        }
        while let Some(done) = tenants.join_next().await {
            done.unwrap();
        }
        assert_eq!(*world.violations.lock().unwrap(), Vec::<String>::new());
    }
    println!("measured: operations = {}", worlds * 2 * steps);
}
