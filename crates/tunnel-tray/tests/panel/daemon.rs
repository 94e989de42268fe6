//! A scripted daemon: answers over HTTP from a table, says over `/ws` what it is told to, and writes down what it
//! was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message as Frame;

/// Ends when dropped.
pub(crate) struct Daemon {
    _serving: JoinSet<()>,
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

struct Shared {
    /// `METHOD /path body`, and what came over `/ws`.
    asked: Mutex<Vec<String>>,
    /// By `METHOD /path`.
    answers: Mutex<HashMap<String, (u16, Value)>>,
    status: Mutex<Value>,
    /// How often the configuration was changed, which is its version.
    n_changes: Mutex<u32>,
    says: broadcast::Sender<String>,
    /// Whether it leaves notifications to the tray.
    leaves_notifications: bool,
}

impl Daemon {
    pub(crate) async fn start(status: Value) -> Self {
        Self::start_as(status, true).await
    }

    pub(crate) async fn start_as(status: Value, leaves_notifications: bool) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), status, leaves_notifications).await
    }

    /// In the place of one that was dropped.
    pub(crate) async fn start_at(address: SocketAddr, status: Value, leaves_notifications: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = json!({
            "enableLocalOllama": true, "enableCloudProxy": true, "showNotifications": true,
            "autoStartOnBoot": false, "gatewayPort": 11435, "enableGateway": true,
            "connections": [
                { "id": "gpu", "type": "openai", "url": "http://gpu:8000", "enabled": false },
                { "id": "npu", "type": "openai", "url": "http://npu:8000", "enabled": false },
            ],
        });
        let answers = [
            ("GET /api/config", config),
            ("GET /api/auth", json!({ "authenticated": true, "subject": "alice" })),
            ("GET /api/requests", json!({ "requests": [] })),
        ];
        let answers = answers.map(|(what, answer)| (what.to_owned(), (200, answer)));
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            answers: Mutex::new(answers.into()),
            status: Mutex::new(status),
            n_changes: Mutex::default(),
            says: broadcast::Sender::new(2048),
            leaves_notifications,
        });
        let mut serving = JoinSet::new();
        let accepting = Arc::clone(&shared);
        serving.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                clients.spawn(serve(stream, Arc::clone(&accepting)));
            }
        });
        Self { _serving: serving, shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the configuration as it is.
    pub(crate) fn config(&self) -> Value {
        self.shared.answers.lock().unwrap()["GET /api/config"].1.clone()
    }

    pub(crate) fn answer(&self, what: &str, status: u16, body: Value) {
        self.shared.answers.lock().unwrap().insert(what.to_owned(), (status, body));
    }

    /// Says a new status to all.
    pub(crate) fn change(&self, status: Value) {
        self.shared.status.lock().unwrap().clone_from(&status);
        self.say(&message("status_update", &status));
    }

    pub(crate) fn say(&self, message: &Value) {
        let _n_heard = self.shared.says.send(message.to_string());
    }

    pub(crate) async fn was_asked(&self, what: &str) -> String {
        crate::eventually(what, || {
            self.shared.asked.lock().unwrap().iter().find(|asked| asked.starts_with(what)).cloned()
        })
        .await
    }

    pub(crate) fn n_asked(&self, what: &str) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(what)).count()
    }
}

fn message(kind: &str, data: &Value) -> Value {
    json!({ "type": kind, "seq": 1, "timestamp": "2026-01-01T00:00:00Z", "data": data })
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut begin = [0; 7];
    while stream.peek(&mut begin).await.unwrap() < begin.len() {
        tokio::task::yield_now().await;
    }
    if &begin == b"GET /ws" {
        return follow(stream, shared).await;
    }
    let mut text = Vec::new();
    let (head, length) = loop {
        if let Some(end) = text.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8(text.drain(..end + 4).collect()).unwrap();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            break (head, length.unwrap_or(0));
        }
        if stream.read_buf(&mut text).await.unwrap() == 0 {
            return;
        }
    };
    while text.len() < length {
        stream.read_buf(&mut text).await.unwrap();
    }
    let what = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let text = String::from_utf8(text).unwrap();
    shared.asked.lock().unwrap().push(format!("{what} {text}"));
    let is_change = what == "PATCH /api/config" && !shared.answers.lock().unwrap().contains_key(&what);
    let (status, body) = if is_change {
        change(&shared, &head, &text).await
    } else {
        let known = shared.answers.lock().unwrap().get(&what).cloned();
        known.unwrap_or((200, json!({ "status": "success" })))
    };
    let version = *shared.n_changes.lock().unwrap();
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status} X\r\ntunneld-version: {}\r\ncontent-type: application/json\r\netag: \"{version}\"\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        env!("CARGO_PKG_VERSION"),
        body.len(),
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// Changes the configuration if it still is the version that was meant, after long enough for others to read it.
async fn change(shared: &Shared, head: &str, change: &str) -> (u16, Value) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut n_changes = shared.n_changes.lock().unwrap();
    let meant = head.lines().find_map(|line| {
        line.split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("if-match"))
            .map(|(_, value)| value.trim())
    });
    if meant.is_some_and(|meant| meant != format!("\"{n_changes}\"")) {
        return (412, json!({ "error": "another version", "code": "changed", "status_code": 412 }));
    }
    let change: serde_json::Map<String, Value> = serde_json::from_str(change).unwrap();
    let mut answers = shared.answers.lock().unwrap();
    answers.get_mut("GET /api/config").unwrap().1.as_object_mut().unwrap().extend(change);
    *n_changes += 1;
    (200, json!({ "status": "success" }))
}

async fn follow(stream: TcpStream, shared: Arc<Shared>) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let mut says = shared.says.subscribe();
    let first = message("status_update", &shared.status.lock().unwrap());
    socket.send(Frame::text(first.to_string())).await.unwrap();
    loop {
        tokio::select! {
            said = says.recv() => {
                if socket.send(Frame::text(said.unwrap())).await.is_err() {
                    return;
                }
            }
            frame = socket.next() => match frame {
                Some(Ok(Frame::Text(text))) => {
                    let command: Value = serde_json::from_str(&text).unwrap();
                    let name = command["command"].as_str().unwrap().to_owned();
                    let mut answer = json!({ "id": command["id"], "status": "success" });
                    if name == "TAKE_NOTIFICATIONS" && !shared.leaves_notifications {
                        answer = json!({ "id": command["id"], "error": "none such", "code": "unknown_command" });
                    }
                    shared.asked.lock().unwrap().push(format!("WS {name} {text}"));
                    socket.send(Frame::text(answer.to_string())).await.unwrap();
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}
