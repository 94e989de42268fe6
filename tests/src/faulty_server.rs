//! A model server that lists its models in peace and fails in one way each time it is asked to use one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    Api, Script,
    raw_backend::{answer, read_request},
};

/// How many tokens of a stream come before it fails.
const TOKENS_BEFORE: u64 = 3;
/// A queue that takes nobody for so long is full.
const FULL_AFTER: Duration = Duration::from_millis(300);

/// A way to fail. Where an answer had begun, part of it has come by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nobody listens any more: [`FaultyServer::fall`] begins it.
    Refuse,
    /// Whoever connects hears nothing at all: [`FaultyServer::fall`] begins it.
    BlackHole,
    /// Silence where the head should come.
    HangBeforeHead,
    /// Silence in the middle of the answer.
    HangMidway,
    /// A reset where the head should come.
    ResetBeforeHead,
    /// A reset in the middle of the answer.
    ResetMidway,
    /// A 500 in the words of the API.
    ServerError,
    /// Something that is no HTTP.
    NotHttp,
    /// A chunk whose size is no number, in the middle of the answer.
    BadChunk,
    /// JSON that is none, in an answer that HTTP finds complete.
    BadJson,
    /// The end of the connection in the middle of the answer.
    Truncated,
    /// The end of the connection in the middle of a line of a stream.
    TruncatedInLine,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Refuse,
        Self::BlackHole,
        Self::HangBeforeHead,
        Self::HangMidway,
        Self::ResetBeforeHead,
        Self::ResetMidway,
        Self::ServerError,
        Self::NotHttp,
        Self::BadChunk,
        Self::BadJson,
        Self::Truncated,
        Self::TruncatedInLine,
    ];

    /// Its name in messages, ids and models.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::BlackHole => "black-hole",
            Self::HangBeforeHead => "hang-before-head",
            Self::HangMidway => "hang-midway",
            Self::ResetBeforeHead => "reset-before-head",
            Self::ResetMidway => "reset-midway",
            Self::ServerError => "server-error",
            Self::NotHttp => "not-http",
            Self::BadChunk => "bad-chunk",
            Self::BadJson => "bad-json",
            Self::Truncated => "truncated",
            Self::TruncatedInLine => "truncated-in-line",
        }
    }

    /// Tells whether the caller has part of the answer when it happens.
    pub fn is_midway(self) -> bool {
        match self {
            Self::HangMidway
            | Self::ResetMidway
            | Self::BadChunk
            | Self::Truncated
            | Self::TruncatedInLine => true,
            Self::Refuse
            | Self::BlackHole
            | Self::HangBeforeHead
            | Self::ResetBeforeHead
            | Self::ServerError
            | Self::NotHttp
            | Self::BadJson => false,
        }
    }
}

/// A running one. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultyServer {
    addr: SocketAddr,
    fault: Fault,
    asked: Arc<AtomicUsize>,
    tasks: Mutex<JoinSet<()>>,
    /// What keeps a black hole full.
    filling: Mutex<Option<Filling>>,
}

/// A listener that nobody accepts from, and who waits there.
type Filling = (TcpListener, Vec<TcpStream>);

impl FaultyServer {
    /// Starts one with these models; it speaks the API of Ollama and that of OpenAI.
    pub async fn start(fault: Fault, models: Vec<String>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (counter, models) = (Arc::clone(&asked), Arc::new(models));
        tasks.spawn(async move {
            // Ends with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, models) = (Arc::clone(&counter), Arc::clone(&models));
                connections.spawn(async move {
                    // Whoever asked may leave when it likes.
                    drop(serve(stream, fault, &models, &counter).await);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, fault, asked, tasks: Mutex::new(tasks), filling: Mutex::default() })
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How it fails.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// How often it was asked to use a model.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Closes its listener and its connections, for the faults that begin before a request: from now on connecting is
    /// refused, or leads nowhere.
    pub async fn fall(&self) -> Result<()> {
        if !matches!(self.fault, Fault::Refuse | Fault::BlackHole) {
            return Ok(());
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if self.fault == Fault::BlackHole {
            let filling = fill(self.addr).await?;
            *self.filling.lock().unwrap_or_else(PoisonError::into_inner) = Some(filling);
        }
        Ok(())
    }
}

/// Listens without accepting and fills the queue: the kernel then drops whatever asks to connect.
async fn fill(addr: SocketAddr) -> Result<Filling> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let (listener, mut waiting) = (socket.listen(1)?, Vec::new());
    while let Ok(stream) = tokio::time::timeout(FULL_AFTER, TcpStream::connect(addr)).await {
        waiting.push(stream?);
    }
    Ok((listener, waiting))
}

async fn serve(mut stream: TcpStream, fault: Fault, models: &[String], asked: &AtomicUsize) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some((head, (body, _))) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let target = head.split(' ').nth(1).unwrap_or_default();
        if head.starts_with("GET ") {
            stream.write_all(&listing(target, models)).await?;
            continue;
        }
        let request: Value = serde_json::from_slice(&body).context("the request's body")?;
        let Some(asks) = Asked::of(target, &request) else {
            stream.write_all(&answer("{}")).await?;
            continue;
        };
        asked.fetch_add(1, Ordering::Relaxed);
        return fail(stream, fault, &asks).await;
    }
}

fn listing(target: &str, models: &[String]) -> Vec<u8> {
    let path = target.split('?').next().unwrap_or_default();
    let each = |shape: fn(&String) -> Value| models.iter().map(shape).collect::<Vec<_>>();
    let body = match path {
        "/api/tags" | "/api/ps" => json!({"models": each(|name| json!({"name": name, "model": name}))}),
        "/v1/models" => {
            json!({"object": "list", "data": each(|name| json!({"id": name, "object": "model"}))})
        }
        "/api/version" => json!({"version": "0.12.0"}),
        _ => json!({"status": "ok"}),
    };
    answer(&body.to_string())
}

/// What was asked for.
struct Asked {
    api: Api,
    model: String,
    streamed: bool,
}

impl Asked {
    fn of(path: &str, request: &Value) -> Option<Self> {
        let apis = [Api::OllamaChat, Api::OllamaGenerate, Api::OpenAiChat, Api::OpenAiCompletions];
        let api = apis.into_iter().find(|api| api.path() == path)?;
        let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(!api.is_sse());
        Some(Self { api, model: request.get("model")?.as_str()?.to_owned(), streamed })
    }

    /// Part of an answer and the head that promises more, or a whole head and body whose JSON is none.
    fn beginning(&self, fault: Fault) -> String {
        let content_type = match (self.streamed, self.api.is_sse()) {
            (false, _) => "application/json",
            (true, true) => "text/event-stream",
            (true, false) => "application/x-ndjson",
        };
        let script = Script::default().seed(0xfa);
        let mut text = if self.streamed {
            (0..TOKENS_BEFORE).map(|index| script.chunk(self.api, &self.model, index)).collect()
        } else {
            format!("{{\"model\":\"{}\",\"id\":\"part\",", self.model)
        };
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let framing = |how: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{how}\r\n\r\n");
        match fault {
            Fault::BadJson => {
                text.push_str(if self.streamed && self.api.is_sse() {
                    "data: {\"id\":\n\n"
                } else {
                    "{\"id\":\n"
                });
                format!("{}{text}", framing(&format!("content-length: {}", text.len())))
            }
            Fault::TruncatedInLine if self.streamed => {
                text.push_str(if self.api.is_sse() { "data: {\"choi" } else { "{\"mod" });
                format!("{}{}", framing("transfer-encoding: chunked"), chunk(&text))
            }
            Fault::BadChunk => format!("{}{}zz\r\n", framing("transfer-encoding: chunked"), chunk(&text)),
            _ if self.streamed => format!("{}{}", framing("transfer-encoding: chunked"), chunk(&text)),
            _ => format!("{}{text}", framing(&format!("content-length: {}", text.len() + 500))),
        }
    }
}

async fn fail(mut stream: TcpStream, fault: Fault, asked: &Asked) -> Result<()> {
    match fault {
        // The first two listen until they are told to fall; who comes before gets the nearest thing.
        Fault::Refuse | Fault::ResetBeforeHead => stream.set_zero_linger()?,
        Fault::BlackHole | Fault::HangBeforeHead => std::future::pending().await,
        Fault::NotHttp => stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await?,
        Fault::ServerError => {
            let error = if asked.api.is_sse() {
                json!({"error": {"message": "scripted failure", "type": "api_error", "param": null, "code": null}})
            } else {
                json!({"error": "scripted failure"})
            };
            let body = error.to_string();
            let head = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json";
            let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await?;
        }
        Fault::HangMidway => {
            stream.write_all(asked.beginning(fault).as_bytes()).await?;
            std::future::pending::<()>().await;
        }
        Fault::ResetMidway => {
            stream.write_all(asked.beginning(fault).as_bytes()).await?;
            // A reset throws away what the peer has not read yet: let it read the beginning.
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.set_zero_linger()?;
        }
        Fault::BadChunk | Fault::BadJson | Fault::Truncated | Fault::TruncatedInLine => {
            stream.write_all(asked.beginning(fault).as_bytes()).await?;
        }
    }
    Ok(())
}
