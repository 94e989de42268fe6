//! Where the daemon is.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// The control port when the configuration does not move it.
pub const DEFAULT_PORT: u16 = 8765;

/// One of the daemon's doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// The control socket at this path.
    Socket(PathBuf),
    /// The control port at this `http` address.
    Url(Url),
    /// The control port at its default place, because there is no socket.
    DefaultPort {
        /// Where the socket would most likely be.
        no_socket: PathBuf,
    },
}

impl Door {
    /// Looks for the daemon of this user: the control socket if there is one, else the default control port.
    ///
    /// `env` looks up a variable: `|name| std::env::var_os(name)`.
    pub fn find(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut places = tunnel_api::paths::api_sockets(env, uid());
        // A socket that nobody listens on any more is found out when it is asked.
        match places.iter().position(|path| path.exists()) {
            Some(found) => Self::Socket(places.swap_remove(found)),
            None => Self::DefaultPort { no_socket: places.into_iter().next().unwrap_or_default() },
        }
    }

    /// Returns what to do when nobody answers here.
    pub(crate) fn step_to_run(&self) -> &'static str {
        match self {
            // No daemon of ours makes it; somebody has named it.
            Self::Url(_) => {
                "is that its address? leave --url out to ask at the usual place, or start it: tunnelctl start"
            }
            Self::Socket(_) | Self::DefaultPort { .. } => "start it with: tunnelctl start",
        }
    }

    /// Returns what the paths of requests are put behind; never ends with a slash.
    pub(crate) fn base(&self) -> String {
        match self {
            // The name goes into the Host header; on the socket any is taken.
            Self::Socket(_) => "http://localhost".to_owned(),
            Self::Url(url) => url.as_str().trim_end_matches('/').to_owned(),
            Self::DefaultPort { .. } => format!("http://127.0.0.1:{DEFAULT_PORT}"),
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Url(_) => f.write_str(&self.base()),
            Self::DefaultPort { no_socket } => {
                write!(f, "{} ({} is not there)", self.base(), no_socket.display())
            }
        }
    }
}

/// Returns the user that this process acts for; that of files which it makes, hence of its entry in /proc.
fn uid() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |entry| entry.uid())
}

/// A text that names no door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUrl;

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must look like http://127.0.0.1:8765 or unix:///run/user/1000/tunneld/api.sock")
    }
}

impl std::error::Error for BadUrl {}

impl FromStr for Door {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Socket(path.into()));
        }
        let url = Url::parse(text).map_err(|_| BadUrl)?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() == "http" && url.has_host() && plain { Ok(Self::Url(url)) } else { Err(BadUrl) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_sockets_are_doors() {
        let door: Door = "http://127.0.0.1:9000/".parse().unwrap();
        assert_eq!(door.base(), "http://127.0.0.1:9000");
        let door: Door = "unix:///run/x.sock".parse().unwrap();
        assert_eq!(door, Door::Socket("/run/x.sock".into()));
        for text in
            ["https://h", "127.0.0.1:8765", "unix://x", "http://u:p@h", "http://h/?k=1", "", "http://"]
        {
            assert_eq!(text.parse::<Door>(), Err(BadUrl), "{text}");
        }
    }

    #[test]
    fn socket_is_used_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| directory.path().as_os_str().to_owned());
        let path = directory.path().join("tunneld/api.sock");
        assert_eq!(Door::find(env), Door::DefaultPort { no_socket: path.clone() });
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(Door::find(env), Door::Socket(path));
    }
}
