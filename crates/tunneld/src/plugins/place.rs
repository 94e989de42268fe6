//! Where the plugins' sockets are.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tunnel_api::paths;
use url::Url;

use super::PluginSpec;
use crate::config::Options;

/// The folder above the plugins' own folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(PathBuf);

/// Longest path of a socket: `sun_path` of unix(7) without the NUL at its end.
const LONGEST_SOCKET: usize = 107;

impl Place {
    /// In the runtime directory, else in the state directory. Neither has to be there yet.
    pub(crate) fn of(options: &Options) -> Self {
        let set = |name| options.var(name).filter(|value| !value.is_empty());
        let runtime = set("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("tunneld"));
        let state = || paths::state_dir(options.state_dir.as_deref(), |name| options.var(name));
        Self(runtime.or_else(state).unwrap_or_default().join("plugins"))
    }

    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// A folder each: a plugin can write in its own, and must not be able to sit down in the place of another.
    pub(super) fn socket(&self, id: &str) -> PathBuf {
        self.folder(id).join("http.sock")
    }

    /// Returns the address under which the broker finds the plugin.
    pub(crate) fn url(&self, id: &str) -> Url {
        let mut url: Url = UNIX.clone();
        url.set_path(&self.socket(id).to_string_lossy());
        url
    }
}

static UNIX: std::sync::LazyLock<Url> =
    std::sync::LazyLock::new(|| Url::parse("unix:///").expect("it is an address"));

/// Why a program cannot be started as it is configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnfitError {
    #[error("its program {program} cannot be executed: {source}")]
    Program { program: String, source: io::Error },
    #[error("{} in its sandbox does not exist", .0.display())]
    NoSuchPath(PathBuf),
    #[error("its socket would be at {}, a path of more than {LONGEST_SOCKET} bytes; give it a shorter id", .0.display())]
    TooLong(PathBuf),
    #[error("its folder {} cannot be made: {source}", .path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// Makes the folder, takes away the socket of an earlier run, and checks what only a disk can tell. Blocks.
pub(super) fn prepare(spec: &PluginSpec) -> Result<(), UnfitError> {
    if spec.socket.as_os_str().len() > LONGEST_SOCKET {
        return Err(UnfitError::TooLong(spec.socket.clone()));
    }
    executable(Path::new(&spec.program))
        .map_err(|source| UnfitError::Program { program: spec.program.clone(), source })?;
    let named = spec.sandbox.read_paths.iter().chain(&spec.sandbox.write_paths);
    // What cannot be looked at may be there all the same: the daemon has a sandbox too.
    if let Some(missing) = named.into_iter().find(|path| path.try_exists().is_ok_and(|there| !there)) {
        return Err(UnfitError::NoSuchPath(missing.clone()));
    }
    let failed = |source| UnfitError::Folder { path: spec.folder.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&spec.folder).map_err(failed)?;
    match std::fs::remove_file(&spec.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn executable(program: &Path) -> io::Result<()> {
    if !std::fs::metadata(program)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_the_socket() {
        let place = Place(PathBuf::from("/run/user/1000/tunneld/plugins"));
        assert_eq!(place.url("a.b_c-1").as_str(), "unix:///run/user/1000/tunneld/plugins/a.b_c-1/http.sock");
        // An odd folder survives the way through an address.
        let odd = Place(PathBuf::from("/tmp/a b/ü"));
        assert!(odd.url("x").as_str().starts_with("unix:///tmp/a%20b/%C3%BC"));
    }
}
