//! Where the plugins' sockets are.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
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
        let folder = tag(options).map_or_else(|| "plugins".to_owned(), |tag| format!("plugins-{tag}"));
        Self(runtime.or_else(state).unwrap_or_default().join(folder))
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

/// Tells one daemon of a user from another, by its state directory, which no two share; none for the usual one.
pub(super) fn tag(options: &Options) -> Option<String> {
    /// Bytes of the digest that are kept.
    const BYTES: usize = 4;
    let own = paths::state_dir(options.state_dir.as_deref(), |name| options.var(name))?;
    let usual = paths::state_dir(None, |name| options.var(name).filter(|_| name == "HOME"));
    if usual.as_ref() == Some(&own) {
        return None;
    }
    let own = std::path::absolute(&own).unwrap_or(own);
    let digest = digest(&SHA256, own.as_os_str().as_bytes());
    Some(digest.as_ref().iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect())
}

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

/// Folders that each plugin has empty, or of its own.
const CLOSED: [&str; 5] = ["/run", "/home", "/root", "/tmp", "/var/tmp"];

/// Returns the daemon's own folders: its state with the sealed secrets, and where its configuration and its login are.
pub(super) fn private(options: &Options) -> Vec<PathBuf> {
    let state = paths::state_dir(options.state_dir.as_deref(), |name| options.var(name));
    let config = paths::config_file(options.config.as_deref(), |name| options.var(name), Path::exists);
    let files = config.map(|file| file.path).into_iter().chain(options.token_file.clone());
    let folders = files.filter_map(|file| Some(std::path::absolute(file).ok()?.parent()?.to_owned()));
    state.into_iter().chain(folders).chain(options.var("CREDENTIALS_DIRECTORY").map(PathBuf::from)).collect()
}

/// Returns those of the daemon's own folders that a plugin would see. One that its entry names is meant to be seen. Blocks.
pub(super) fn exposed(private: &[PathBuf], home: Option<&Path>, spec: &PluginSpec) -> Vec<PathBuf> {
    let named = spec.sandbox.read_paths.iter().chain(&spec.sandbox.write_paths);
    let opened: Vec<PathBuf> = named.filter_map(|path| path.canonicalize().ok()).collect();
    let closed: Vec<&Path> = CLOSED.iter().map(Path::new).chain(home).collect();
    let is_exposed = |folder: &PathBuf| {
        // A file of ours in `/etc` or below `/usr` does not take the system away from a program.
        let is_ours = folder.components().count() > 2 && !folder.starts_with("/usr");
        let is_closed = closed.iter().any(|closed| folder.starts_with(closed));
        let is_opened = opened.iter().any(|opened| folder.starts_with(opened));
        is_ours && !opened.contains(folder) && (is_opened || !is_closed)
    };
    let there =
        private.iter().filter_map(|folder| folder.canonicalize().ok()).filter(|folder| folder.is_dir());
    there.filter(is_exposed).collect::<BTreeSet<_>>().into_iter().collect()
}

fn executable(program: &Path) -> io::Result<()> {
    if !std::fs::metadata(program)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use tunnel_api::config::SandboxConfig;

    use super::*;

    #[test]
    fn each_daemon_of_a_user_has_plugins_of_its_own() {
        let of = |state: Option<&str>| {
            let env = [("HOME", "/home/me"), ("XDG_RUNTIME_DIR", "/run/user/1")];
            let env = env.map(|(name, value)| (name.into(), value.into())).to_vec();
            let state_dir = state.map(PathBuf::from);
            let options = Options { state_dir, env, ..Options::default() };
            (tag(&options), Place::of(&options).0)
        };
        assert_eq!(of(None), (None, "/run/user/1/tunneld/plugins".into()));
        assert_eq!(of(Some("/home/me/.local/state/cloudtolocalllm")), of(None));
        let (one, two) = (of(Some("/srv/one")), of(Some("/srv/two")));
        assert!(one.0.as_ref().is_some_and(|tag| tag.len() == 8) && one.0 != two.0 && one.1 != two.1);
    }

    #[test]
    fn folders_of_the_daemon_are_hidden_wherever_they_lie() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let root = place.path().canonicalize().unwrap();
        let (state, config) = (root.join("data/state"), root.join("etc"));
        std::fs::create_dir_all(&state).unwrap();
        std::fs::create_dir(&config).unwrap();
        let options = Options {
            state_dir: Some(state.clone()),
            config: Some(config.join("c.json")),
            token_file: Some("/usr/token".into()),
            ..Options::default()
        };
        let private = private(&options);
        let exposed = |home: Option<&Path>, opened: &[&Path]| {
            let sandbox = SandboxConfig {
                read_paths: opened.iter().map(|&path| path.to_owned()).collect(),
                ..SandboxConfig::default()
            };
            let folder = PathBuf::new();
            let spec = PluginSpec {
                id: "p".to_owned(),
                program: String::new(),
                arguments: Vec::new(),
                sandbox,
                socket: folder.clone(),
                folder,
            };
            exposed(&private, home, &spec)
        };
        // The checkout that the tests run in may lie in a home.
        let closed = CLOSED.iter().any(|closed| root.starts_with(closed));
        if !closed {
            assert_eq!(exposed(None, &[]), [state.clone(), config]);
        }
        assert!(exposed(Some(&root), &[]).is_empty(), "the home is an empty folder");
        assert_eq!(exposed(Some(&root), &[&root.join("data")]), std::slice::from_ref(&state));
        assert!(exposed(Some(&root), &[&state]).is_empty(), "it is named itself");
    }

    #[test]
    fn address_is_the_socket() {
        let place = Place(PathBuf::from("/run/user/1000/tunneld/plugins"));
        assert_eq!(place.url("a.b_c-1").as_str(), "unix:///run/user/1000/tunneld/plugins/a.b_c-1/http.sock");
        // An odd folder survives the way through an address.
        let odd = Place(PathBuf::from("/tmp/a b/ü"));
        assert!(odd.url("x").as_str().starts_with("unix:///tmp/a%20b/%C3%BC"));
    }
}
