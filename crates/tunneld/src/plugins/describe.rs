//! What a plugin says of itself: `GET /_plugin`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tunnel_transport::Socket;
use url::Url;

use crate::exchange::exchange;

/// The protocol that this daemon speaks with plugins.
const PROTOCOL: u64 = 1;
/// What a plugin may speak; one of them is enough.
const APIS: [&str; 2] = ["openai", "ollama"];
/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(2);
/// A description has some hundred bytes.
const MAX_BYTES: usize = 64 * 1024;

/// What a plugin has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    api: Vec<String>,
}

impl Description {
    /// Tells whether it has this API.
    pub(super) fn speaks(&self, api: &str) -> bool {
        self.api.iter().any(|spoken| spoken == api)
    }
}

/// The part of an answer that decides whether the program is a plugin that can be used.
#[derive(Debug, Deserialize)]
struct Answer {
    protocol: u64,
    #[serde(default)]
    api: Vec<String>,
}

/// Where a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Socket(PathBuf),
    Network { host: String, port: u16 },
}

impl At {
    /// Returns the place of an address; `None` for one that is asked over TLS: it is no program on this machine.
    pub(super) fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            // The path of a `file` address is one of a disk, and no other kind's is taken for one.
            "unix" => {
                Url::parse(&format!("file://{}", url.path())).ok()?.to_file_path().ok().map(Self::Socket)
            }
            "http" => {
                let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
                Some(Self::Network { host, port: url.port_or_known_default()? })
            }
            _ => None,
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Network { host, port } => Box::new(TcpStream::connect((host.as_str(), *port)).await?),
        })
    }
}

/// Why a program is not ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReady {
    #[error("nothing listens there: {0}")]
    NoSocket(#[source] io::Error),
    #[error("it does not answer GET /_plugin")]
    NoAnswer,
    #[error("it answers GET /_plugin with {0}")]
    Status(StatusCode),
    #[error("its answer to GET /_plugin is not the JSON object that describes a plugin")]
    NoDescription,
    #[error("it speaks version {0} of the plugin protocol, and this tunneld speaks version {PROTOCOL}")]
    OtherProtocol(u64),
    #[error("it names no API that tunneld knows; `api` must hold \"openai\" or \"ollama\"")]
    NoApi,
}

impl NotReady {
    /// Tells whether waiting can help. What a program says of itself does not change.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoSocket(_) | Self::NoAnswer => true,
            // It may load something first, and say so.
            Self::Status(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::NoDescription | Self::OtherProtocol(_) | Self::NoApi => false,
        }
    }
}

/// Asks once whether a plugin that we understand is there.
pub(super) async fn ask(at: &At) -> Result<Description, NotReady> {
    let asked = async {
        let stream = at.connect().await.map_err(NotReady::NoSocket)?;
        let request = Request::get("/_plugin")
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| NotReady::NoAnswer)?;
        let answer = exchange(stream, request, MAX_BYTES).await.map_err(|_| NotReady::NoAnswer)?;
        if answer.status() != StatusCode::OK {
            return Err(NotReady::Status(answer.status()));
        }
        judge(answer.body())
    };
    timeout(LIMIT, asked).await.unwrap_or(Err(NotReady::NoAnswer))
}

fn judge(body: &[u8]) -> Result<Description, NotReady> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| NotReady::NoDescription)?;
    if answer.protocol != PROTOCOL {
        return Err(NotReady::OtherProtocol(answer.protocol));
    }
    let description = Description { api: answer.api };
    if APIS.iter().any(|api| description.speaks(api)) { Ok(description) } else { Err(NotReady::NoApi) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_is_judged_by_protocol_and_api_and_unknown_fields_are_left_alone() {
        let judged = |body: &str| judge(body.as_bytes()).map(drop).map_err(|error| error.to_string());
        assert_eq!(judged(r#"{"protocol": 1, "api": ["new", "openai"], "name": "x", "colour": 7}"#), Ok(()));
        for (body, why) in [
            (r#"{"protocol": 2, "api": {"other": "shape"}}"#, "not the JSON object"),
            (r#"{"protocol": 2, "api": ["openai"]}"#, "version 2 of the plugin protocol"),
            (r#"{"protocol": 1, "api": []}"#, "names no API"),
            (r#"{"protocol": 1}"#, "names no API"),
            (r#"{"api": ["openai"]}"#, "not the JSON object"),
            ("hello", "not the JSON object"),
        ] {
            let told = judged(body).unwrap_err();
            assert!(told.contains(why), "{body}: {told}");
        }
    }

    #[test]
    fn only_what_time_can_mend_is_waited_for() {
        assert!(NotReady::NoAnswer.may_pass());
        assert!(NotReady::Status(StatusCode::SERVICE_UNAVAILABLE).may_pass());
        assert!(!NotReady::Status(StatusCode::NOT_FOUND).may_pass());
        assert!(!NotReady::OtherProtocol(2).may_pass());
    }
}
