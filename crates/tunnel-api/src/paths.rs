//! Where the daemon keeps its things, for the daemon and for those who look for it.
//!
//! All functions are pure: the environment comes in as a look-up, such as `|name| std::env::var_os(name)`.
//! A base directory that is not absolute is ignored, as the XDG specification asks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the directories of ours below the XDG base directories.
const APP: &str = "cloudtolocalllm";
/// Name of the configuration file.
const CONFIG_FILE: &str = "tunnel_config.json";
/// The control socket below a runtime directory.
const SOCKET: &str = "tunneld/api.sock";

/// The configuration file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the user named it. A named file that is missing is an error, any other one is not.
    pub named: bool,
}

/// Returns the configuration file to read.
///
/// The first of: `flag` (`--config`) · `$TUNNELD_CONFIG` · `~/.cloudtolocalllm/tunnel_config.json` if it
/// `exists` · `$XDG_CONFIG_HOME/cloudtolocalllm/tunnel_config.json` (`~/.config` when that is unset). None when
/// there is neither a home nor any of the others: the defaults run.
pub fn config_file(
    flag: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> bool,
) -> Option<ConfigFile> {
    if let Some(path) = flag {
        return Some(ConfigFile { path: path.to_owned(), named: true });
    }
    if let Some(path) = env("TUNNELD_CONFIG").filter(|path| !path.is_empty()) {
        return Some(ConfigFile { path: path.into(), named: true });
    }
    let original = home(&env).map(|home| home.join(".cloudtolocalllm").join(CONFIG_FILE));
    if let Some(path) = original.filter(|path| exists(path)) {
        return Some(ConfigFile { path, named: false });
    }
    let path = base(&env, "XDG_CONFIG_HOME", ".config")?.join(APP).join(CONFIG_FILE);
    Some(ConfigFile { path, named: false })
}

/// Returns the directory that holds the daemon's state.
///
/// The first of: `flag` (`--state-dir`) · `$TUNNELD_STATE_DIR` · `$XDG_STATE_HOME/cloudtolocalllm`
/// (`~/.local/state` when that is unset). None when there is no home either: state is not kept.
pub fn state_dir(flag: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(path) = flag {
        return Some(path.to_owned());
    }
    if let Some(path) = env("TUNNELD_STATE_DIR").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    Some(base(&env, "XDG_STATE_HOME", ".local/state")?.join(APP))
}

/// Returns the path of the control socket in the runtime directory: `$XDG_RUNTIME_DIR/tunneld/api.sock`.
///
/// None when there is no such directory; see [`api_sockets`] for the places that are left.
pub fn api_socket(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(absolute(env("XDG_RUNTIME_DIR"))?.join(SOCKET))
}

/// Returns the places where the control socket of the user `uid` may be, the most likely one first.
///
/// That is [`api_socket`], or `/run/user/<uid>/tunneld/api.sock` when `$XDG_RUNTIME_DIR` is unset, as it is
/// under cron and sudo; then `api.sock` in the state directory, for a machine without a login manager.
pub fn api_sockets(env: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let usual = || Path::new("/run/user").join(uid.to_string()).join(SOCKET);
    let mut places = vec![api_socket(&env).unwrap_or_else(usual)];
    places.extend(state_dir(None, &env).map(|directory| directory.join("api.sock")));
    places
}

fn base(env: impl Fn(&str) -> Option<OsString>, variable: &str, below_home: &str) -> Option<PathBuf> {
    absolute(env(variable)).or_else(|| Some(home(&env)?.join(below_home)))
}

fn home(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    absolute(env("HOME"))
}

fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
    }

    #[test]
    fn flag_beats_variable_beats_original_place_beats_xdg() {
        let vars = [("TUNNELD_CONFIG", "/env.json"), ("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/cfg")];
        let all = |_: &Path| true;
        let none = |_: &Path| false;
        let path = |file: Option<ConfigFile>| file.map(|file| (file.path, file.named)).unwrap();

        assert_eq!(path(config_file(Some(Path::new("f.json")), env(&vars), all)), ("f.json".into(), true));
        assert_eq!(path(config_file(None, env(&vars), all)), ("/env.json".into(), true));
        assert_eq!(
            path(config_file(None, env(&vars[1..]), all)),
            ("/home/a/.cloudtolocalllm/tunnel_config.json".into(), false)
        );
        assert_eq!(
            path(config_file(None, env(&vars[1..]), none)),
            ("/cfg/cloudtolocalllm/tunnel_config.json".into(), false)
        );
        assert_eq!(
            path(config_file(None, env(&vars[1..2]), none)),
            ("/home/a/.config/cloudtolocalllm/tunnel_config.json".into(), false)
        );
    }

    #[test]
    fn without_a_home_the_defaults_run() {
        assert_eq!(config_file(None, env(&[]), |_| true), None);
        assert_eq!(state_dir(None, env(&[])), None);
        assert_eq!(api_socket(env(&[])), None);
    }

    #[test]
    fn relative_and_empty_base_directories_are_ignored() {
        let vars = [("XDG_STATE_HOME", "state"), ("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "")];
        assert_eq!(state_dir(None, env(&vars)), Some("/home/a/.local/state/cloudtolocalllm".into()));
        assert_eq!(api_socket(env(&vars)), None);
    }

    #[test]
    fn state_dir_flag_is_taken_as_it_is() {
        let vars = [("TUNNELD_STATE_DIR", "/var/x"), ("HOME", "/home/a")];
        assert_eq!(state_dir(Some(Path::new("/s")), env(&vars)), Some("/s".into()));
        assert_eq!(state_dir(None, env(&vars)), Some("/var/x".into()));
    }

    #[test]
    fn socket_is_in_the_runtime_directory() {
        let vars = [("XDG_RUNTIME_DIR", "/run/user/1000")];
        assert_eq!(api_socket(env(&vars)), Some("/run/user/1000/tunneld/api.sock".into()));
    }

    #[test]
    fn socket_is_looked_for_without_a_runtime_directory_too() {
        let vars = [("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/tmp/run")];
        let in_state = PathBuf::from("/home/a/.local/state/cloudtolocalllm/api.sock");
        assert_eq!(
            api_sockets(env(&vars[..1]), 1000),
            [PathBuf::from("/run/user/1000/tunneld/api.sock"), in_state.clone()]
        );
        assert_eq!(api_sockets(env(&vars), 1000), [PathBuf::from("/tmp/run/tunneld/api.sock"), in_state]);
        assert_eq!(api_sockets(env(&[]), 0), [PathBuf::from("/run/user/0/tunneld/api.sock")]);
    }
}
