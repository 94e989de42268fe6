//! What a plugin says of itself: `GET /_plugin`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tunnel_broker::{PluginError, Profile, connect_socket};
use tunnel_transport::Socket;
use url::Url;

use crate::exchange::exchange;

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What a plugin has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    /// How the broker talks with it.
    pub(super) profile: Arc<Profile>,
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
            Self::Socket(path) => Box::new(connect_socket(path).await?),
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
    #[error(transparent)]
    Unusable(PluginError),
}

impl NotReady {
    /// Tells whether waiting can help. What a program says of itself does not change.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoSocket(_) | Self::NoAnswer => true,
            // It may load something first, and say so.
            Self::Status(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Unusable(_) => false,
        }
    }
}

/// Asks once whether a plugin that we understand is there.
pub(super) async fn ask(at: &At) -> Result<Description, NotReady> {
    let asked = async {
        let stream = at.connect().await.map_err(NotReady::NoSocket)?;
        let request = Request::get(Profile::DESCRIPTION_PATH)
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| NotReady::NoAnswer)?;
        let answer =
            exchange(stream, request, Profile::LARGEST_DESCRIPTION).await.map_err(|_| NotReady::NoAnswer)?;
        if answer.status() != StatusCode::OK {
            return Err(NotReady::Status(answer.status()));
        }
        judge(answer.body())
    };
    timeout(LIMIT, asked).await.unwrap_or(Err(NotReady::NoAnswer))
}

fn judge(body: &[u8]) -> Result<Description, NotReady> {
    let profile = Profile::of_plugin(body).map_err(NotReady::Unusable)?;
    Ok(Description { profile: Arc::new(profile) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_time_can_mend_is_waited_for() {
        assert!(NotReady::NoAnswer.may_pass());
        assert!(NotReady::Status(StatusCode::SERVICE_UNAVAILABLE).may_pass());
        assert!(!NotReady::Status(StatusCode::NOT_FOUND).may_pass());
        assert!(!NotReady::Unusable(PluginError::Protocol(2)).may_pass());
    }
}
