//! Each kind of server, as it answers in truth: scripted from recorded answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tunnel_broker::{
    BackendConfig, BackendKind, BackendState, BackendStatus, Credential, Ingress, Profile, Speaks,
};

use crate::support::*;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../recorded/", $name, ".json"))
    };
}

type Answers = &'static [(&'static str, u16, &'static str)];

/// A path, and the `authorization` it was asked with.
type Asked = (String, Option<String>);

/// A server that answers what is recorded, 404 to all else, and a chat with its own name and what it was sent.
struct Server {
    fake: Fake,
    /// What was asked, with its `authorization`.
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answers: Answers) -> Self {
        Self::wanting(None, answers).await
    }

    /// One that answers 401 to whoever does not send the token.
    async fn wanting(token: Option<&'static str>, answers: Answers) -> Self {
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let noting = Arc::clone(&asked);
        let fake = Fake::bare(move |mut exchange| {
            let sent = exchange.header("authorization").map(str::to_owned);
            noting.lock().unwrap().push((exchange.target.clone(), sent.clone()));
            async move {
                let body = exchange.body().await;
                let allowed =
                    token.is_none_or(|token| sent.is_some_and(|sent| sent == format!("Bearer {token}")));
                let answer = answers.iter().find(|(target, ..)| *target == exchange.target);
                match answer {
                    _ if !allowed => {
                        exchange.answer(401, "application/json", recorded!("openai-wrong-key")).await
                    }
                    Some((_, status, body)) => exchange.answer(*status, "application/json", body).await,
                    None if exchange.method == "POST" => {
                        let body = String::from_utf8_lossy(&body);
                        exchange.json(&json!({ "by": exchange.target, "body": body }).to_string()).await;
                    }
                    None => exchange.answer(404, "text/plain", "no such page").await,
                }
                Some(exchange)
            }
        })
        .await;
        Self { fake, asked }
    }

    fn config(&self, kind: BackendKind) -> BackendConfig {
        self.fake.config("x", kind)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(target, _)| target.clone()).collect()
    }
}

async fn seen(bench: &Bench) -> BackendStatus {
    bench.state("x", BackendState::Connected).await;
    bench.broker.snapshot().remove(0)
}

fn models(status: &BackendStatus) -> Vec<(&str, bool)> {
    status.models.iter().map(|model| (model.name.as_str(), model.loaded)).collect()
}

async fn error(bench: &Bench, state: BackendState) -> String {
    bench.state("x", state).await;
    bench.broker.snapshot().remove(0).error.unwrap_or_default()
}

#[tokio::test]
async fn an_ollama_is_asked_for_version_models_and_memory() {
    let server = Server::start(&[
        ("/api/version", 200, recorded!("ollama-version")),
        ("/api/tags", 200, recorded!("ollama-tags")),
        ("/api/ps", 200, recorded!("ollama-ps")),
    ])
    .await;
    let bench = start(settings(vec![server.config(BackendKind::Ollama)]));
    let status = seen(&bench).await;
    assert_eq!((models(&status), status.version.as_deref()), (vec![("smollm2:135m", true)], Some("0.12.0")));
    assert_eq!(server.asked(), ["/api/version", "/api/tags", "/api/ps"]);
    assert_eq!(bench.json(post("/api/chat", r#"{"model":"SmolLM2:135m"}"#)).await["by"], "/api/chat");
}

#[tokio::test]
async fn a_llama_cpp_tells_its_version_once_and_loads_before_it_is_up() {
    let loading = Server::start(&[("/health", 503, recorded!("llamacpp-loading"))]).await;
    let bench = start(settings(vec![loading.config(BackendKind::LlamaCpp)]));
    eventually("it loads", || bench.broker.snapshot()[0].error.as_deref() == Some("still loading its model"))
        .await;

    let server = Server::start(&[
        ("/health", 200, r#"{"status":"ok"}"#),
        ("/props", 200, recorded!("llamacpp-props")),
        ("/v1/models", 200, recorded!("llamacpp-models")),
    ])
    .await;
    let bench = start(settings(vec![server.config(BackendKind::LlamaCpp)]));
    let status = seen(&bench).await;
    assert_eq!(
        (models(&status), status.version.as_deref()),
        (vec![("smollm2:135m", true)], Some("b11669-Debian"))
    );
    let again = bench.broker.probe("x").await.unwrap();
    assert_eq!(again.version.as_deref(), Some("b11669-Debian"));
    assert_eq!(server.asked(), ["/health", "/props", "/v1/models", "/health", "/v1/models"]);
    assert_eq!(bench.text(chat("smollm2:135m")).await.0, StatusCode::BAD_REQUEST, "it has no /api");
}

#[tokio::test]
async fn a_vllm_whose_engine_is_dead_does_not_load() {
    let server = Server::start(&[
        ("/health", 200, ""),
        ("/version", 200, recorded!("vllm-version")),
        ("/v1/models", 200, recorded!("vllm-models")),
    ])
    .await;
    let bench = start(settings(vec![server.config(BackendKind::Vllm)]));
    let status = seen(&bench).await;
    assert_eq!(
        (models(&status), status.version.as_deref()),
        (vec![("Qwen/Qwen2.5-1.5B-Instruct", true)], Some("0.11.0"))
    );
    let listed = bench.json(get("/v1/models")).await;
    assert_eq!(listed["data"][0]["max_model_len"], 32768);

    let dead = Server::start(&[("/health", 503, "")]).await;
    let bench = start(settings(vec![dead.config(BackendKind::Vllm)]));
    assert_eq!(error(&bench, BackendState::Error).await, "/health was answered with status 503");
}

#[tokio::test]
async fn an_lm_studio_tells_what_is_in_memory_and_an_old_one_is_asked_the_old_way() {
    let server = Server::start(&[("/api/v0/models", 200, recorded!("lmstudio-v0-models"))]).await;
    let bench = start(settings(vec![server.config(BackendKind::LmStudio)]));
    let status = seen(&bench).await;
    assert_eq!(models(&status)[..2], [("qwen2-vl-7b-instruct", false), ("meta-llama-3.1-8b-instruct", true)]);
    assert_eq!(server.asked(), ["/api/v0/models"]);
    let described = bench.json(get("/v1/models/meta-llama-3.1-8b-instruct")).await;
    assert_eq!((&described["owned_by"], &described["created"]), (&json!("lmstudio-community"), &json!(0)));

    for unknown in [200, 404] {
        let old: Answers = match unknown {
            200 => &[
                ("/api/v0/models", 200, recorded!("lmstudio-unknown-path")),
                ("/v1/models", 200, recorded!("lmstudio-v1-models")),
            ],
            _ => &[("/v1/models", 200, recorded!("lmstudio-v1-models"))],
        };
        let old = Server::start(old).await;
        let bench = start(settings(vec![old.config(BackendKind::LmStudio)]));
        assert_eq!(models(&seen(&bench).await).len(), 2, "{unknown}");
    }
}

#[tokio::test]
async fn any_server_with_openais_api_will_do_for_the_general_kind() {
    let servers: [Answers; 4] = [
        &[("/v1/models", 200, recorded!("vllm-models")), ("/health", 200, "")],
        &[("/v1/models", 200, recorded!("lmstudio-v1-models"))],
        &[("/v1/models", 200, recorded!("llamacpp-models")), ("/health", 200, r#"{"status":"ok"}"#)],
        &[("/v1/models", 200, recorded!("openai-models"))],
    ];
    for answers in servers {
        let server = Server::start(answers).await;
        let bench = start(settings(vec![server.config(BackendKind::OpenAi)]));
        assert!(!seen(&bench).await.models.is_empty());
    }
}

#[tokio::test]
async fn a_plugin_behind_a_socket_is_asked_as_it_describes_itself() {
    let server = Server::start(&[
        ("/alive", 200, ""),
        ("/_plugin", 200, r#"{"protocol":1,"version":"7"}"#),
        ("/list", 200, recorded!("openai-models")),
    ])
    .await;
    let dir = std::env::temp_dir().join(format!("broker-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("my plugin.sock");
    drop(std::fs::remove_file(&path));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let addr = server.fake.addr;
    let bridge =
        tokio_util::task::AbortOnDropHandle::new(tokio_util::task::TaskTracker::new().spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(addr).await.unwrap();
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        }));
    let url = format!("unix://{}", path.to_str().unwrap().replace(' ', "%20")).parse().unwrap();
    let mut config = BackendConfig::new("x", BackendKind::Plugin, url);
    let description = br#"{"protocol":1,"name":"Mine","version":"7","health":"/alive","models":"/list"}"#;
    config.profile = Arc::new(Profile::of_plugin(description).unwrap());
    let bench = start(settings(vec![config]));
    let status = seen(&bench).await;
    assert_eq!((status.version.as_deref(), models(&status)[0]), (Some("7"), ("gpt-4o", true)));
    assert!(status.endpoint.starts_with("unix:///"), "{}", status.endpoint);
    let answer = bench.json(post("/v1/chat/completions", r#"{"model":"gpt-4o"}"#)).await;
    assert_eq!(answer["by"], "/v1/chat/completions");
    drop(bridge);
    eventually("the socket is closed", || bench.broker.in_flight() == 0).await;
    std::fs::remove_dir_all(&dir).unwrap();
    let (status, text) = bench.text(post("/v1/chat/completions", r#"{"model":"gpt-4o"}"#)).await;
    assert!(status.is_server_error() && text.contains("connection refused"), "{status} {text}");
}

const RELAY: Answers =
    &[("/api/tags", 200, recorded!("ollama-tags")), ("/v1/models", 200, recorded!("ollama-v1-models"))];

fn cloud(server: &Server, credential: &Credential) -> BackendConfig {
    BackendConfig { credential: Some(credential.clone()), ..server.config(BackendKind::Cloud) }
}

#[tokio::test]
async fn an_account_speaks_the_apis_whose_lists_it_answers() {
    let both = Server::start(RELAY).await;
    let bench = start(settings(vec![both.config(BackendKind::Cloud)]));
    let status = seen(&bench).await;
    assert_eq!(status.speaks, Speaks { ollama: true, openai: true, other: false });
    assert_eq!(models(&status), [("smollm2:135m", false)]);
    assert_eq!(bench.text(chat("smollm2:135m")).await.0, StatusCode::OK);

    let one = Server::start(&[("/v1/models", 200, recorded!("openai-models"))]).await;
    let bench = start(settings(vec![one.config(BackendKind::Cloud)]));
    assert_eq!(seen(&bench).await.speaks, Speaks { ollama: false, openai: true, other: false });
    assert_eq!(bench.text(chat("gpt-4o")).await.0, StatusCode::BAD_REQUEST, "it has no /api");
    assert_eq!(bench.text(post("/v1/chat/completions", r#"{"model":"gpt-4o"}"#)).await.0, StatusCode::OK);
    let (status, text) = bench.text(post("/v1/chat/completions", r#"{"model":"GPT-4o"}"#)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "its names are what they are: {text}");
}

#[tokio::test]
async fn the_secret_is_sent_to_its_own_connection_alone_and_a_new_one_from_then_on() {
    let (account, other) = (Server::wanting(Some("right"), RELAY).await, Server::start(RELAY).await);
    let credential = Credential::new("home");
    let near = BackendConfig { priority: 1, ..other.fake.config("near", BackendKind::OpenAi) };
    let bench = start(settings(vec![cloud(&account, &credential), near]));
    bench.state("near", BackendState::Connected).await;
    assert_eq!(account.asked(), Vec::<String>::new(), "nothing is asked before the secret is there");
    credential.missing("no secret named home");
    let told = error(&bench, BackendState::Error).await;
    assert_eq!(
        told,
        "unauthorised: no secret named home; store it with: tunnelctl connections credential set home"
    );
    assert_eq!(account.asked(), Vec::<String>::new());
    credential.set("wrong").unwrap();
    eventually("it refuses", || {
        let error = bench.broker.snapshot()[0].error.clone().unwrap_or_default();
        error
            .starts_with("unauthorised: /api/tags was answered with status 401; store a secret that it takes")
    })
    .await;
    credential.set("right").unwrap();
    seen(&bench).await;
    let own = http::Request::post("/api/chat")
        .header("authorization", "Bearer the-callers-own")
        .body(http_body_util::Full::new(bytes::Bytes::from(r#"{"model":"smollm2:135m"}"#)))
        .unwrap();
    assert_eq!(bench.text(own).await.0, StatusCode::OK);
    assert_eq!(account.asked.lock().unwrap().last().unwrap().1.as_deref(), Some("Bearer right"));
    assert!(other.asked.lock().unwrap().iter().all(|(_, sent)| sent.is_none()));
    credential.missing("no secret named home");
    error(&bench, BackendState::Error).await;
    let before = account.asked().len();
    let (status, text) = bench.text(chat("smollm2:135m")).await;
    assert!(status == 503 && text.contains("no secret named home; store it with"), "{status} {text}");
    assert_eq!(account.asked().len(), before);
}

#[tokio::test]
async fn what_comes_from_elsewhere_never_goes_to_the_cloud() {
    let account = Server::start(RELAY).await;
    let bench = start(settings(vec![account.config(BackendKind::Cloud)]));
    seen(&bench).await;
    let pinned = || post("/api/chat", r#"{"model":"x/smollm2:135m"}"#);
    for ingress in [Ingress::Tunnel, Ingress::Lan] {
        for request in [chat("smollm2:135m"), pinned(), get("/api/show"), get("/v1/models/smollm2:135m")] {
            let response = bench.send_from(ingress, request).await;
            assert!(
                response.status().is_client_error() || response.status().is_server_error(),
                "{response:?}"
            );
        }
        let mut named = chat("smollm2:135m");
        named.headers_mut().insert("x-tunnel-connection", "x".parse().unwrap());
        let response = bench.send_from(ingress, named).await;
        assert_eq!(response.extensions().get(), Some(&tunnel_broker::FailureCode("unknown_connection")));
        let listed = text(bench.send_from(ingress, get("/api/tags")).await).await;
        assert!(!listed.contains("smollm2"), "{listed}");
        assert!(bench.broker.models_for(ingress).is_empty());
    }
    assert_eq!(bench.broker.models_for(Ingress::Local).len(), 1);
    let asked = account.asked();
    assert!(asked.iter().all(|target| target == "/api/tags" || target == "/v1/models"), "{asked:?}");
    assert_eq!(bench.text(pinned()).await.0, StatusCode::OK, "this machine's own may");
}

#[tokio::test]
async fn an_account_is_asked_rarely_whatever_callers_do() {
    let account = Server::start(RELAY).await;
    let mut config = settings(vec![account.config(BackendKind::Cloud)]);
    config.probe_interval = Duration::from_millis(50);
    let bench = start(config);
    seen(&bench).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        bench.json(get("/v1/models")).await;
        assert_eq!(bench.text(chat("nobody-has-it")).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(account.asked().len(), 2, "one probe: two lists");
    bench.broker.probe("x").await.unwrap();
    assert_eq!(account.asked().len(), 4, "who orders it gets it");
}
