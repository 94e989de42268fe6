//! `/api/config` through the router.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use http::header::{ETAG, IF_MATCH};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;

/// An API with a configuration file of its own.
struct Configured {
    fixture: Fixture,
    directory: tempfile::TempDir,
    /// What the sink was given.
    tokens: Arc<Mutex<Vec<(String, String)>>>,
}

fn configured(text: Option<&str>, env: &[(&str, &str)]) -> Configured {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().to_owned();
    if let Some(text) = text {
        fs::create_dir_all(file(&home).parent().unwrap()).unwrap();
        fs::write(file(&home), text).unwrap();
    }
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let env = env.chain([("HOME".into(), home.into())]).collect();
    let tokens: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let sink = {
        let tokens = Arc::clone(&tokens);
        TokenSink::new(move |relay, token| {
            tokens.lock().unwrap().push((relay.to_string(), token.expose_secret().to_owned()));
            async { Ok(()) }
        })
    };
    let fixture = fixture_of(Options { env, ..Options::default() }, sink);
    Configured { fixture, directory, tokens }
}

fn file(home: &std::path::Path) -> PathBuf {
    home.join(".config/cloudtolocalllm/tunnel_config.json")
}

impl Configured {
    fn text(&self) -> String {
        fs::read_to_string(file(self.directory.path())).unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (StatusCode, http::HeaderMap, Value) {
        self.fixture.send(with_body(method, path, body)).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.send("GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }
}

fn with_body(method: &str, path: &str, body: &str) -> Request<Body> {
    let mut request = request(method, path);
    *request.body_mut() = Body::from(body.to_owned());
    request
}

#[tokio::test]
async fn configuration_is_every_key_as_it_is_in_force() {
    let configured = configured(Some(r#"{ "maxRetries": 2 }"#), &[("TUNNELD_LOG_LEVEL", "WARN")]);
    let mut expected = Value::Object(tunnel_api::Config::default().to_map());
    expected["maxRetries"] = json!(2);
    expected["logLevel"] = json!("WARN");
    assert_eq!(configured.get("/api/config").await, expected);
    let origins = configured.get("/api/config/origins").await;
    let path = file(configured.directory.path()).display().to_string();
    assert_eq!(origins["file"], json!(path));
    assert_eq!(origins["origins"]["maxRetries"], json!({ "from": "file", "name": path }));
    assert_eq!(origins["origins"]["logLevel"], json!({ "from": "environment", "name": "TUNNELD_LOG_LEVEL" }));
    assert_eq!(origins["origins"]["queue.maxWait"], json!({ "from": "default", "name": null }));
}

#[tokio::test]
async fn patch_is_in_force_at_once_and_tells_what_wins() {
    let text = "{\n    \"maxRetries\": 2,\n    \"logLevel\": \"INFO\"\n}\n";
    let configured = configured(Some(text), &[("TUNNELD_LOG_LEVEL", "WARN")]);
    let patch = r#"{"maxRetries": 4, "logLevel": "DEBUG", "gatewayPort": 4000}"#;
    let (status, headers, body) = configured.send("PATCH", "/api/config", patch).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        keys(&body),
        set("message status changed file backup overridden restart_required config timestamp")
    );
    assert_eq!((&body["changed"], &body["config"]["maxRetries"]), (&json!(true), &json!(4)));
    assert_eq!(body["overridden"], json!([{ "key": "logLevel", "by": "TUNNELD_LOG_LEVEL" }]));
    assert_eq!(
        configured.text(),
        "{\n    \"maxRetries\": 4,\n    \"logLevel\": \"DEBUG\",\n    \"gatewayPort\": 4000\n}\n"
    );
    assert_eq!(configured.get("/api/config").await, body["config"]);
    let (_, shown, _) = configured.send("GET", "/api/config", "").await;
    assert_eq!(shown[ETAG], headers[ETAG]);
}

#[tokio::test]
async fn faults_are_told_all_at_once_and_nothing_is_written() {
    let configured = configured(None, &[]);
    let text = r#"{"ollamaPort": 0, "logLevel": "LOUD", "olamaHost": "x"}"#;
    for (method, path) in [("PUT", "/api/config"), ("PATCH", "/api/config")] {
        let (status, _, body) = configured.send(method, path, text).await;
        assert_eq!((status, &body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("config_invalid")));
        assert_eq!(keys(&body), set("error code status_code request_id timestamp faults"));
        let told: Vec<&str> =
            body["faults"].as_array().unwrap().iter().map(|fault| fault["key"].as_str().unwrap()).collect();
        assert_eq!(told, ["ollamaPort", "logLevel", "olamaHost"], "{method}");
    }
    let (status, _, body) = configured.send("POST", "/api/config/validate", text).await;
    assert_eq!((status, &body["valid"]), (StatusCode::OK, &json!(false)));
    assert_eq!(body["faults"].as_array().unwrap().len(), 3);
    assert_eq!(body["faults"][2]["did_you_mean"], "ollamaHost");
    let (_, _, body) = configured.send("POST", "/api/config/validate", "{}").await;
    assert_eq!(keys(&body), set("valid faults overridden timestamp"));
    assert_eq!(body["valid"], true);
    assert!(!file(configured.directory.path()).exists());
}

#[tokio::test]
async fn bodies_that_are_none_are_refused() {
    let configured = configured(None, &[]);
    let routes =
        [("PUT", ""), ("PATCH", ""), ("POST", "/validate"), ("POST", "/restore"), ("POST", "/import")];
    for (method, path) in routes {
        let path = format!("/api/config{path}");
        for body in ["", " ", "{", "[1]", "null", "\"x\""] {
            let (status, _, answer) = configured.send(method, &path, body).await;
            let expected = (StatusCode::BAD_REQUEST, &json!("bad_request"));
            assert_eq!((status, &answer["code"]), expected, "{method} {path} {body:?}");
        }
        let (status, _, answer) = configured.send(method, &path, &" ".repeat(MAX_BODY_BYTES + 1)).await;
        let expected = (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"));
        assert_eq!((status, &answer["code"]), expected, "{method} {path}");
    }
    let mut request = request("PUT", "/api/config");
    *request.body_mut() = Body::from(vec![0xff, 0xfe]);
    assert_eq!(configured.fixture.send(request).await.0, StatusCode::BAD_REQUEST);
    for (method, path, allow) in
        [("POST", "/api/config", "GET,HEAD,PUT,PATCH"), ("GET", "/api/config/reload", "POST")]
    {
        let (status, headers, _) = configured.send(method, path, "{}").await;
        assert_eq!((status, headers[ALLOW].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, allow));
    }
}

#[tokio::test]
async fn copies_are_listed_and_put_back_by_name_only() {
    let configured = configured(Some(r#"{ "maxRetries": 2 }"#), &[]);
    let (_, _, made) = configured.send("POST", "/api/config/backup", "").await;
    let name = made["name"].as_str().unwrap().to_owned();
    configured.send("PUT", "/api/config", r#"{ "maxRetries": 3 }"#).await;
    let list = configured.get("/api/config/backups").await;
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    assert_eq!(list["backups"][1]["name"], json!(name));
    let restore = |name: &str| json!({ "name": name }).to_string();
    let outside = configured.directory.path().join("secret.json");
    fs::write(&outside, "{}").unwrap();
    for bad in ["../tunnel_config.json", "/etc/passwd", "..", "", "x", outside.to_str().unwrap()] {
        let (status, _, body) = configured.send("POST", "/api/config/restore", &restore(bad)).await;
        assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{bad}");
    }
    for bad in [r#"{"name": 7}"#, r#"{"name": "x", "path": "/etc/passwd"}"#, "{}"] {
        assert_eq!(
            configured.send("POST", "/api/config/restore", bad).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
    let (status, _, body) = configured.send("POST", "/api/config/restore", &restore(&name)).await;
    assert_eq!((status, &body["config"]["maxRetries"]), (StatusCode::OK, &json!(2)), "{body}");
    assert_eq!(configured.text(), r#"{ "maxRetries": 2 }"#);
}

#[tokio::test]
async fn change_for_another_version_is_refused() {
    let configured = configured(Some("{}"), &[]);
    let (_, headers, _) = configured.send("GET", "/api/config", "").await;
    let patch = |etag: &HeaderValue, body: &str| {
        let mut request = with_body("PATCH", "/api/config", body);
        request.headers_mut().insert(IF_MATCH, etag.clone());
        configured.fixture.send(request)
    };
    let etag = headers[ETAG].clone();
    assert_eq!(patch(&etag, r#"{"maxRetries": 2}"#).await.0, StatusCode::OK);
    let (status, _, body) = patch(&etag, r#"{"maxRetries": 3}"#).await;
    assert_eq!((status, &body["code"]), (StatusCode::PRECONDITION_FAILED, &json!("config_changed")));
}

#[tokio::test]
async fn file_with_faults_is_left_alone() {
    let configured = configured(Some("{}"), &[]);
    fs::write(file(configured.directory.path()), "{ \"logLevel\": \"LOUD\" }").unwrap();
    for (method, path) in [("PATCH", "/api/config"), ("PUT", "/api/config"), ("POST", "/api/config/import")] {
        let (status, _, body) = configured.send(method, path, "{}").await;
        assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("config_file_invalid")), "{path}");
    }
    let (status, _, body) = configured.send("POST", "/api/config/reload", "").await;
    assert_eq!((status, &body["faults"][0]["key"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("logLevel")));
    assert_eq!(configured.text(), "{ \"logLevel\": \"LOUD\" }");
}

#[tokio::test]
async fn without_a_home_there_is_no_place_to_write() {
    let fixture = fixture_of(Options::default(), TokenSink::none());
    let (status, _, body) = fixture.send(with_body("PATCH", "/api/config", "{}")).await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("config_no_place")));
    let (status, body) = fixture.get("/api/config/backups").await;
    assert_eq!((status, &body["backups"]), (StatusCode::OK, &json!([])));
}

#[tokio::test]
async fn imported_token_goes_to_the_store_and_nowhere_else() {
    let configured = configured(Some("{\n  \"maxRetries\": 2\n}\n"), &[]);
    let original = json!({
        "local_ollama": { "host": "gpu.lan", "port": 11500, "enabled": true },
        "cloud_proxy": { "api_base_url": "https://relay.example.org", "auth_token": "canary-7f3a", "enabled": true },
    });
    let (status, _, body) = configured.send("POST", "/api/config/import", &original.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!((&body["token_stored"], &body["config"]["ollamaHost"]), (&json!(true), &json!("gpu.lan")));
    assert_eq!(body["imported"].as_array().unwrap().len(), 5);
    let expected = ("https://relay.example.org".to_owned(), "canary-7f3a".to_owned());
    assert_eq!(*configured.tokens.lock().unwrap(), [expected], "it is for the relay of the same file");
    assert!(!body.to_string().contains("canary") && !configured.text().contains("canary"));
    assert!(configured.text().contains("\"maxRetries\": 2"));
}

#[tokio::test]
async fn faulty_import_stores_no_token() {
    let configured = configured(None, &[]);
    let original = json!({
        "local_ollama": { "port": 70000 },
        "cloud_proxy": { "auth_token": "canary-7f3a" },
    });
    let (status, _, body) = configured.send("POST", "/api/config/import", &original.to_string()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["faults"][0]["key"], "local_ollama.port");
    assert!(!body.to_string().contains("canary"));
    assert!(configured.tokens.lock().unwrap().is_empty());
    assert!(!file(configured.directory.path()).exists());
}

#[tokio::test]
async fn token_without_a_store_stops_the_import() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { env: vec![("HOME".into(), directory.path().into())], ..Options::default() };
    let fixture = fixture_of(options, TokenSink::none());
    let body = r#"{"local_ollama": {"port": 1}, "cloud_proxy": {"auth_token": "canary-7f3a"}}"#;
    let (status, _, body) = fixture.send(with_body("POST", "/api/config/import", body)).await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("secret_store_unavailable"))
    );
    assert!(!file(directory.path()).exists());
}

#[tokio::test]
async fn schema_is_served_as_one() {
    let configured = configured(None, &[]);
    let (status, headers, body) = configured.send("GET", "/api/config/schema", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/schema+json");
    assert_eq!(body["properties"]["ollamaPort"]["maximum"], 65535);
}

/// Waits until these connections are shown, here and in the list, and until no warning is about another one.
async fn connections_are(configured: &Configured, expected: &[&str]) {
    let shown = async {
        loop {
            let status = configured.get("/api/status").await;
            let list = configured.get("/api/connections").await;
            let listed: BTreeSet<&str> = list["connections"]
                .as_array()
                .unwrap()
                .iter()
                .map(|connection| connection["id"].as_str().unwrap())
                .collect();
            let warned = |id: &str| {
                let about = |warning: &Value| warning["message"].as_str().unwrap().starts_with(id);
                status["warnings"].as_array().unwrap().iter().any(about)
            };
            let gone = ["lab", "ollama"].into_iter().filter(|id| !expected.contains(id));
            if keys(&status["connections"]) == listed
                && listed.iter().eq(expected)
                && !gone.into_iter().any(warned)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, shown).await.unwrap_or_else(|_| panic!("{expected:?} is not shown"));
}

#[tokio::test]
async fn connection_that_is_switched_off_is_gone_and_comes_back_when_it_is_switched_on() {
    // Nobody listens there, and nothing has to: what is down is shown too.
    let configured = configured(Some(r#"{ "ollamaPort": 1 }"#), &[]);
    let patch = async |lab: bool, ollama: bool| {
        let lab = json!({ "id": "lab", "type": "openai", "url": "http://127.0.0.1:1", "enabled": lab });
        let patch = json!({ "connections": [lab], "enableLocalOllama": ollama }).to_string();
        let (status, _, body) = configured.send("PATCH", "/api/config", &patch).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    };
    patch(true, true).await;
    connections_are(&configured, &["cloud", "lab", "ollama"]).await;
    patch(false, true).await;
    connections_are(&configured, &["cloud", "ollama"]).await;
    let (status, _, body) = configured.send("POST", "/api/connections/lab/test", "").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("unknown_connection")));
    patch(true, false).await;
    connections_are(&configured, &["cloud", "lab"]).await;
    patch(false, false).await;
    connections_are(&configured, &["cloud"]).await;
    patch(true, true).await;
    connections_are(&configured, &["cloud", "lab", "ollama"]).await;
    let kept: Value = serde_json::from_str(&configured.text()).unwrap();
    assert_eq!(kept["connections"][0]["id"], "lab", "the entry itself stays in the file throughout");
}

#[tokio::test]
async fn one_entry_of_what_a_variable_sets_is_not_changed_in_the_file() {
    let variables = [("TUNNELD_ALIASES", r#"{ "fast": "m" }"#), ("TUNNELD_KEEP_WARM", r#"["m"]"#)];
    let configured = configured(Some(r#"{ "aliases": { "fast": "n" } }"#), &variables);
    let before = configured.text();
    for (method, path, by) in [
        ("PUT", "/api/models/aliases/other", "TUNNELD_ALIASES"),
        ("DELETE", "/api/models/aliases/fast", "TUNNELD_ALIASES"),
        ("PUT", "/api/models/warm/n", "TUNNELD_KEEP_WARM"),
        ("DELETE", "/api/models/warm/m", "TUNNELD_KEEP_WARM"),
    ] {
        let (status, _, body) = configured.send(method, path, r#"{ "target": "m" }"#).await;
        assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("set_by_environment")), "{path}");
        assert!(body["error"].as_str().unwrap().contains(by), "{body}");
    }
    assert_eq!(configured.text(), before);
}
