//! Several desktops of one account behind one URL.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tunnel_relay::auth::{Grant, Scopes};
use tunnel_relay::{EdgeSettings, Settings, Tier};

use crate::harness::{Desk, Seen, TestRelay, eventually, json_of, now};

fn says(models: &[(&str, bool)], preferred: bool) -> String {
    let models: Vec<Value> =
        models.iter().map(|(name, loaded)| json!({ "name": name, "loaded": loaded })).collect();
    json!({ "models": models, "in_flight": 0, "preferred": preferred }).to_string() + "\n"
}

async fn desk(relay: &TestRelay, device: &str, presence: Option<String>, answers: &[(&str, Value)]) -> Desk {
    let token = relay.token("alice", "tunnel");
    let desktop = relay.connector(&token, device).dial().await.unwrap();
    let seen = Seen::default();
    *seen.presence.lock().unwrap() = presence;
    let answers = answers.iter().map(|(path, answer)| ((*path).to_owned(), answer.to_string()));
    seen.answers.lock().unwrap().extend(answers);
    Desk::saying(relay, desktop, seen).await
}

async fn devices(relay: &TestRelay, token: &str) -> Value {
    let request = Request::get("/_tunnel/v1/devices").header("authorization", format!("Bearer {token}"));
    let response = relay.send(request, Bytes::new()).await;
    assert_eq!(response.status(), 200);
    json_of(response).await["devices"].clone()
}

/// Waits until so many devices have told their models.
async fn told(relay: &TestRelay, n: usize) {
    let token = relay.token("alice", "inference");
    eventually("the relay knows the models", async || {
        let devices = devices(relay, &token).await;
        devices.as_array().unwrap().iter().filter(|device| device["models"].is_array()).count() == n
    })
    .await;
}

async fn post(relay: &TestRelay, token: &str, path: &str, body: &str) -> (u16, String, Value) {
    let request = Request::post(path).header("authorization", format!("Bearer {token}"));
    let response = relay.send(request, Bytes::copy_from_slice(body.as_bytes())).await;
    let header = |name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let who = header("tunnel-device") + &header("tunnel-error");
    (response.status().as_u16(), who, json_of(response).await)
}

fn key(relay: &TestRelay, models: &[&str]) -> String {
    let grant = Grant {
        subject: "alice".into(),
        scopes: Scopes::parse("inference"),
        device: None,
        models: Some(models.iter().map(|model| (*model).to_owned()).collect()),
        tier: None,
        ttl: Duration::from_secs(60),
    };
    relay.issuer.issue(&grant, now()).unwrap()
}

#[tokio::test]
async fn a_request_goes_where_its_model_is_byte_for_byte() {
    let relay = TestRelay::start().await;
    let desk_a =
        desk(&relay, "a", Some(says(&[("llama3:latest", false), ("both", false)], false)), &[]).await;
    let desk_b = desk(&relay, "b", Some(says(&[("qwen3:8b", true), ("both", true)], true)), &[]).await;
    told(&relay, 2).await;
    let token = relay.token("alice", "inference");
    for (model, device) in
        [("llama3", "a"), ("LLAMA3:latest", "a"), ("qwen3:8b", "b"), ("both", "b"), ("other", "b")]
    {
        let body = json!({ "messages": ["x".repeat(100_000)], "model": model }).to_string();
        let (status, who, _) = post(&relay, &token, "/v1/chat/completions", &body).await;
        assert_eq!((status, who.as_str()), (200, device), "{model}");
        let desk = if device == "a" { &desk_a } else { &desk_b };
        assert_eq!(desk.seen.bodies.lock().unwrap().pop().unwrap(), body.as_bytes());
    }
    assert!(desk_a.seen.bodies.lock().unwrap().is_empty() && desk_b.seen.bodies.lock().unwrap().is_empty());

    // A long body, whose model comes first, and one whose model is not found in what is held.
    let long = "x".repeat(3 << 20);
    let first = format!("{{\"model\":\"llama3\",\"x\":\"{long}\"}}");
    assert_eq!(post(&relay, &token, "/api/chat", &first).await.1, "a");
    assert_eq!(desk_a.seen.bodies.lock().unwrap().pop().unwrap(), first.as_bytes());
    let last = format!("{{\"x\":\"{long}\",\"model\":\"llama3\"}}");
    assert_eq!(post(&relay, &token, "/api/chat", &last).await.1, "b", "the preferred one");
    assert_eq!(desk_b.seen.bodies.lock().unwrap().pop().unwrap(), last.as_bytes());

    // Without a model the preferred one answers, and a path may name the model as well.
    let get = async |path: &str| {
        let response = relay.call("alice", Request::get(path)).await;
        response.headers()["tunnel-device"].to_str().unwrap().to_owned()
    };
    assert_eq!(get("/api/version").await, "b");
    assert_eq!(get("/v1/models/llama3").await, "a");
    assert_eq!(get("/d/a/api/version").await, "a");
}

#[tokio::test]
async fn a_model_that_no_device_has_is_not_found_and_says_who_was_looked_at() {
    let relay = TestRelay::start().await;
    let _a = desk(&relay, "a", Some(says(&[("m", false)], false)), &[]).await;
    let _b = desk(&relay, "b", Some(says(&[("n", false)], false)), &[]).await;
    told(&relay, 2).await;
    let token = relay.token("alice", "inference");
    let (status, code, body) = post(&relay, &token, "/v1/chat/completions", r#"{"model":"x"}"#).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("model 'x' not found: none of your devices that are connected (a, b)"),
        "{body}"
    );
    // A device that does not tell what it has may have it.
    let _old = desk(&relay, "old", None, &[]).await;
    eventually("the old one is there", async || relay.relay().sessions() == 3).await;
    assert_eq!(post(&relay, &token, "/v1/chat/completions", r#"{"model":"x"}"#).await.1, "old");
    let (status, code, _) = post(&relay, &token, "/api/pull", "not json").await;
    assert_eq!((status, code.as_str()), (400, "device_required"));
}

#[tokio::test]
async fn lists_are_put_together_and_say_what_is_missing() {
    let relay = TestRelay::start().await;
    let tags = |names: &[&str]| json!({ "models": names.iter().map(|n| json!({ "name": n, "model": n })).collect::<Vec<_>>() });
    let _a = desk(&relay, "a", Some(says(&[], false)), &[("/api/tags", tags(&["x", "y"]))]).await;
    let _b = desk(&relay, "b", Some(says(&[], true)), &[("/api/tags", tags(&["z", "y"]))]).await;
    let broken = desk(&relay, "c", Some(says(&[], false)), &[("/api/tags", json!([]))]).await;
    told(&relay, 3).await;
    let response = relay.call("alice", Request::get("/api/tags")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["tunnel-device"], "b, a");
    assert_eq!(response.headers()["tunnel-devices-missing"], "c");
    let names = |list: &Value| -> Vec<String> {
        let models = list["models"].as_array().unwrap();
        models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&json_of(response).await), ["z", "y", "x"]);

    // A key for some models sees these only, also where one device is asked.
    let key = key(&relay, &["y"]);
    for (path, missing) in [("/api/tags", true), ("/d/a/api/tags", false)] {
        let request = Request::get(path).header("authorization", format!("Bearer {key}"));
        let response = relay.send(request, Bytes::new()).await;
        assert_eq!(response.headers().contains_key("tunnel-devices-missing"), missing);
        assert_eq!(names(&json_of(response).await), ["y"]);
    }
    drop(broken);
    // The echo of a path without a script is no list either.
    let response = relay.call("alice", Request::get("/api/ps")).await;
    assert!(response.status().is_server_error(), "{}", response.status());
    eventually("nothing is counted as running", async || relay.metric("tunnel_relay_streams").await == 0)
        .await;
}

#[tokio::test]
async fn a_key_for_some_models_gets_no_other_by_any_spelling() {
    let relay = TestRelay::start().await;
    let one = desk(&relay, "a", Some(says(&[("llama3", true), ("secret", true)], false)), &[]).await;
    told(&relay, 1).await;
    let key = key(&relay, &["llama3*"]);
    let mut others = Vec::new();
    for round in 0..2_u8 {
        let ok = post(&relay, &key, "/api/chat", r#"{"model":"llama3:latest","stream":false}"#).await;
        assert_eq!((ok.0, ok.1.as_str()), (200, "a"));
        for body in [
            r#"{"model":"secret"}"#,
            r#"{"model":"llama3","model":"secret"}"#,
            r#"{"model":"llama3","MODEL":"secret"}"#,
            r#"{"model":"llama3","n\u0061me":"secret"}"#,
            r#"{"model":["llama3"]}"#,
            // For most servers these name none, and the one that is loaded answers.
            r#"{"MODEL":"llama3"}"#,
            r#"{"name":"llama3"}"#,
            r#"{"prompt":"x"}"#,
            "model=llama3",
            "",
        ] {
            let (status, code, _) = post(&relay, &key, "/api/chat", body).await;
            assert_eq!((status, code.as_str()), (403, "not_allowed"), "{body}");
        }
        let long = "x".repeat(2 << 20);
        let late = format!("{{\"x\":\"{long}\",\"model\":\"llama3\"}}");
        assert_eq!(post(&relay, &key, "/api/chat", &late).await.0, 403);
        // Named first, and again beyond what is held: broken off before its end.
        let twice = format!("{{\"model\":\"llama3\",\"x\":\"{long}\",\"model\":\"secret\"}}");
        let before = one.seen.bodies.lock().unwrap().len();
        let (status, code, _) = post(&relay, &key, "/api/chat", &twice).await;
        assert_eq!((status, code.as_str()), (403, "not_allowed"));
        assert_eq!(one.seen.bodies.lock().unwrap().len(), before, "the device saw the end of it");
        let get = Request::get("/v1/models/secret").header("authorization", format!("Bearer {key}"));
        assert_eq!(relay.send(get, Bytes::new()).await.status(), 403);
        let delete = Request::builder().method(Method::DELETE).uri("/api/delete");
        let delete = delete.header("authorization", format!("Bearer {key}"));
        assert_eq!(relay.send(delete, Bytes::from_static(br#"{"name":"secret"}"#)).await.status(), 403);
        if round == 0 {
            // The same where several devices are to be chosen from.
            others.push(desk(&relay, "b", Some(says(&[("secret", true)], true)), &[]).await);
            told(&relay, 2).await;
        }
    }
}

#[tokio::test]
async fn a_desktop_that_says_nonsense_is_one_that_says_nothing() {
    let relay = TestRelay::start().await;
    let token = relay.token("alice", "tunnel");
    let good = says(&[("m", true)], false);
    let long = format!("{{\"models\":[],\"x\":\"{}\"}}\n", "x".repeat(300 * 1024));
    let endless = "x".repeat(1 << 20);
    let _good = desk(&relay, "good", Some(good.clone()), &[]).await;
    let mut others = Vec::new();
    for (device, said) in
        [("garbage", "{]\n".to_owned()), ("long", long), ("endless", endless), ("then", good + "{]\n")]
    {
        others.push(desk(&relay, device, Some(said), &[]).await);
    }
    // The sessions live on, and take requests.
    eventually("only one is known", async || {
        let devices = devices(&relay, &token).await;
        let known = |name: &str| {
            let device = devices.as_array().unwrap().iter().find(|device| device["name"] == name).unwrap();
            (device["online"].as_bool().unwrap(), device["models"].is_array())
        };
        known("good") == (true, true)
            && ["garbage", "long", "endless", "then"].iter().all(|name| known(name) == (true, false))
    })
    .await;
    for device in ["garbage", "long", "endless", "then"] {
        let path = format!("/d/{device}/api/version");
        assert_eq!(relay.call("alice", Request::get(path.as_str())).await.status(), 200);
    }
}

#[tokio::test]
async fn devices_are_listed_to_their_owner_and_one_to_a_token_that_is_bound_to_it() {
    let relay = TestRelay::start().await;
    let _a = desk(&relay, "a", Some(says(&[("m", true), ("n", false)], true)), &[]).await;
    let mut b = desk(&relay, "b", None, &[]).await;
    let _other = relay.desk("bob", "a").await;
    told(&relay, 1).await;
    b.session.close(tunnel_transport::Closed::new(tunnel_transport::CloseCode::ShuttingDown, "bye"));
    b.closed().await;
    eventually("b is offline", async || relay.relay().sessions() == 2).await;
    let listed = devices(&relay, &relay.token("alice", "tunnel")).await;
    let since = listed[0]["connected_since"].as_str().unwrap().to_owned();
    assert!(since.parse::<jiff::Timestamp>().is_ok());
    assert_eq!(
        listed,
        json!([
            { "name": "a", "online": true, "preferred": true, "connected_since": since, "in_flight": 0,
              "models": [{ "name": "m", "loaded": true }, { "name": "n", "loaded": false }] },
            { "name": "b", "online": false, "preferred": false, "connected_since": null, "in_flight": 0,
              "models": null },
        ])
    );
    let bound = relay.token_for("alice", "inference", Some("b"), now(), 60);
    assert_eq!(devices(&relay, &bound).await.as_array().unwrap().len(), 1);
    assert_eq!(devices(&relay, &key(&relay, &["n"])).await[0]["models"][0]["name"], "n");
    let listed = devices(&relay, &relay.token("bob", "tunnel")).await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["models"]), (1, &json!(null)));
    let response = relay.send(Request::get("/_tunnel/v1/devices"), Bytes::new()).await;
    assert_eq!(response.status(), 401);
    let post = relay.call("alice", Request::post("/_tunnel/v1/devices")).await;
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
}

#[tokio::test]
async fn a_list_that_nobody_reads_takes_its_place_until_it_is_given_up() {
    let edge = EdgeSettings { unread_timeout: Duration::from_secs(4), ..EdgeSettings::default() };
    let default_tier = Tier { max_streams: 1, ..Tier::default() };
    let relay =
        TestRelay::with(Settings { edge, default_tier, ..Settings::default() }, Duration::from_secs(5)).await;
    // Together more than sockets take.
    let mut desks = Vec::new();
    for d in 0..12 {
        let models: Vec<Value> =
            (0..900).map(|n| json!({ "name": format!("d{d}m{n}"), "x": "y".repeat(1_000) })).collect();
        let answers = [("/api/tags", json!({ "models": models }))];
        desks.push(desk(&relay, &format!("d{d}"), Some(says(&[], d == 0)), &answers).await);
    }
    told(&relay, 12).await;
    let token = relay.token("alice", "inference");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut unread = socket.connect(relay.addr).await.unwrap();
    let head = format!("GET /api/tags HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\n\r\n");
    unread.write_all(head.as_bytes()).await.unwrap();
    unread.readable().await.unwrap();
    let status = async || relay.call("alice", Request::get("/api/version")).await.status();
    assert_eq!(status().await, 429);
    eventually("the list is given up, and its place with it", async || status().await == 200).await;
    assert_eq!(relay.metric("tunnel_relay_connections_cut_off_total{reason=\"unread\"}").await, 1);
    // Who reads gets all of it.
    let list = json_of(relay.call("alice", Request::get("/api/tags")).await).await;
    assert_eq!(list["models"].as_array().unwrap().len(), 12 * 900);
}

#[tokio::test]
async fn the_last_piece_of_a_list_that_nobody_reads_is_given_up_too() {
    let edge = EdgeSettings { unread_timeout: Duration::from_secs(3), ..EdgeSettings::default() };
    let default_tier = Tier { max_streams: 1, ..Tier::default() };
    let relay =
        TestRelay::with(Settings { edge, default_tier, ..Settings::default() }, Duration::from_secs(5)).await;
    let tags = json!({ "models": [{ "name": "m" }] });
    let _a = desk(&relay, "a", Some(says(&[], true)), &[("/api/tags", tags.clone())]).await;
    let _b = desk(&relay, "b", Some(says(&[], false)), &[("/api/tags", tags)]).await;
    told(&relay, 2).await;
    let token = relay.token("alice", "inference");
    let socket = TcpStream::connect(relay.addr).await.unwrap();
    // Room for one byte: what is left of the only piece waits where nobody asks for more.
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(1).handshake::<_, Bytes>(socket).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async move { drop(connection.await) });
    let request = Request::get("http://r/api/tags").header("authorization", format!("Bearer {token}"));
    let (answer, _) = sender.ready().await.unwrap().send_request(request.body(()).unwrap(), true).unwrap();
    let unread = answer.await.unwrap();
    assert_eq!(unread.status(), 200);
    assert_eq!(relay.metric("tunnel_relay_streams").await, 0, "no device works on it");
    let status = async || relay.call("alice", Request::get("/api/version")).await.status();
    assert_eq!(status().await, 429, "the tenant's place is taken");
    eventually("it is given up", async || status().await == 200).await;
    assert_eq!(relay.metric("tunnel_relay_connections_cut_off_total{reason=\"unread\"}").await, 1);
    drop(unread);
}

#[tokio::test]
async fn what_was_read_of_bodies_counts_until_it_is_sent() {
    let relay = Arc::new(TestRelay::start().await);
    let desk_a = desk(&relay, "a", Some(says(&[("m", false)], false)), &[]).await;
    let _b = desk(&relay, "b", Some(says(&[("n", false)], false)), &[]).await;
    told(&relay, 2).await;
    let token = relay.token("alice", "inference");
    // To be held as a whole, since the model comes last; the desktop reads none of them.
    let body = Bytes::from(json!({ "a": "x".repeat(1_000_000), "model": "m" }).to_string());
    let mut sending = JoinSet::new();
    for n in 1..=60 {
        let (relay, body, token) = (Arc::clone(&relay), body.clone(), token.clone());
        sending.spawn(async move {
            let request = Request::post("/never").header("authorization", format!("Bearer {token}"));
            relay.send(request, body).await
        });
        let arrived = async || desk_a.seen.paths.lock().unwrap().len() == n;
        tokio::select! {
            answered = sending.join_next() => {
                let answer = answered.unwrap().unwrap();
                assert_eq!(answer.status(), 429);
                assert_eq!(answer.headers()["tunnel-error"], "too_much_waiting");
                assert!(answer.headers().contains_key("retry-after"));
                assert!(n > 32, "{n}");
                return;
            }
            () = eventually("the request arrives", arrived) => {}
        }
    }
    panic!("60 MB are held for one tenant");
}
