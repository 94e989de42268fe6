//! The settings of a plugin's unit: its sandbox. Pure.
//!
//! What systemd.exec(5) and systemd.resource-control(5) say of each is not repeated here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::zvariant::{Str, Value};

use crate::plugins::PluginSpec;
use crate::plugins::launch::{Launcher, PLAIN_VARIABLES};

/// Time that the program has to end after SIGTERM.
pub(super) const POLITE: Duration = Duration::from_secs(5);
/// Threads and processes; a model server on a large machine has some hundred.
const MOST_TASKS: u64 = 1024;
const MIB: u64 = 1024 * 1024;
/// `MS_REC`: a folder is shown with what is mounted in it.
const RECURSIVE: u64 = 16_384;
/// `EPERM`: a program that asks for too much can go on without it.
const EPERM: i32 = 1;

type Property = (&'static str, Value<'static>);
/// A folder that is shown: from, to, whether it may be missing, flags.
type Bind = (String, String, bool, u64);

/// Returns the settings for a program. `environment` is that of systemd itself, most of which it must not get; `private` are
/// folders of the daemon's own that it would see otherwise.
pub(super) fn properties(
    launcher: &Launcher,
    spec: &PluginSpec,
    environment: &[String],
    private: &[PathBuf],
) -> Vec<Property> {
    let mut all = service(launcher, spec, environment);
    all.extend(files(launcher, spec, private));
    all.extend(rights(spec));
    all
}

fn service(launcher: &Launcher, spec: &PluginSpec, environment: &[String]) -> Vec<Property> {
    let sandbox = &spec.sandbox;
    let mut line = vec![spec.program.clone()];
    line.extend(spec.arguments.iter().cloned());
    let given = sandbox.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let socket = format!("TUNNEL_PLUGIN_SOCKET={}", spec.socket.display());
    let names = environment.iter().filter_map(|variable| variable.split_once('=')).map(|(name, _)| name);
    // The user's shell may have told systemd of keys that are nobody's business.
    let unwanted: Vec<String> = names
        .filter(|name| !PLAIN_VARIABLES.contains(name) && !sandbox.environment.contains_key(*name))
        .map(str::to_owned)
        .collect();
    let mut all: Vec<Property> = vec![
        ("Description", text(format!("plugin {} of tunneld", spec.id))),
        ("Type", text("exec")),
        // `Ex`: a dollar sign in an argument is the program's own, as it is for a child.
        ("ExecStartEx", Value::new(vec![(spec.program.clone(), line, vec!["no-env-expand".to_owned()])])),
        ("Environment", Value::new(given.chain([socket]).collect::<Vec<_>>())),
        ("UnsetEnvironment", Value::new(unwanted)),
        ("WorkingDirectory", text("/")),
        ("SyslogIdentifier", text(format!("tunneld-plugin-{}", spec.id))),
        ("TimeoutStopUSec", Value::new(micros(POLITE))),
        // systemd forgets it when it has ended, and no sooner than we have read how.
        ("CollectMode", text("inactive-or-failed")),
        ("AddRef", Value::new(true)),
        ("MemoryMax", Value::new(u64::from(sandbox.memory_mb.get()) * MIB)),
        ("TasksMax", Value::new(MOST_TASKS)),
    ];
    if let Some(own) = &launcher.own_unit {
        // It ends with the daemon, whichever way that ends, and after it: running requests are finished first.
        all.push(("BindsTo", Value::new(vec![own.clone()])));
        all.push(("Before", Value::new(vec![own.clone()])));
    }
    all
}

/// What it sees of the disk: the system for reading, nothing of the homes, nothing of `/run` with its sockets of buses and
/// container engines, but what it was given.
fn files(launcher: &Launcher, spec: &PluginSpec, private: &[PathBuf]) -> Vec<Property> {
    let sandbox = &spec.sandbox;
    let hidden = launcher.home.iter().chain(private).map(PathBuf::as_path).chain([Path::new("/run")]);
    let hidden: Vec<(String, String)> = hidden.map(|path| (shown(path), "ro".to_owned())).collect();
    let program = PathBuf::from(&spec.program);
    let mut readable = vec![bind(&program)];
    readable.extend(sandbox.read_paths.iter().map(|path| bind(path)));
    if sandbox.network {
        // Where the names of hosts are looked up, behind a link in /etc.
        let resolver = |path: &str| (path.to_owned(), path.to_owned(), true, RECURSIVE);
        readable.extend(["/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"].map(resolver));
    }
    let mut writable = vec![bind(&spec.folder)];
    writable.extend(sandbox.write_paths.iter().map(|path| bind(path)));
    vec![
        // A user's systemd can mount nothing without it.
        ("PrivateUsers", Value::new(true)),
        ("ProtectSystem", text("strict")),
        ("ProtectHome", text("tmpfs")),
        ("TemporaryFileSystem", Value::new(hidden)),
        ("BindReadOnlyPaths", Value::new(readable)),
        ("BindPaths", Value::new(writable)),
        ("PrivateTmp", Value::new(true)),
        ("PrivateDevices", Value::new(!sandbox.devices)),
        ("PrivateIPC", Value::new(true)),
        ("ProtectControlGroups", Value::new(true)),
        ("ProtectKernelLogs", Value::new(true)),
        ("ProtectKernelModules", Value::new(true)),
        ("ProtectKernelTunables", Value::new(true)),
        ("UMask", Value::new(0o077_u32)),
    ]
}

fn rights(spec: &PluginSpec) -> Vec<Property> {
    let network = spec.sandbox.network;
    let families: &[&str] =
        if network { &["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"] } else { &["AF_UNIX"] };
    vec![
        ("NoNewPrivileges", Value::new(true)),
        ("CapabilityBoundingSet", Value::new(0_u64)),
        ("PrivateNetwork", Value::new(!network)),
        ("RestrictAddressFamilies", Value::new((true, texts(families)))),
        ("SystemCallFilter", Value::new((true, texts(&["@system-service"])))),
        ("SystemCallErrorNumber", Value::new(EPERM)),
        ("SystemCallArchitectures", Value::new(texts(&["native"]))),
        // None: it makes no namespaces of its own.
        ("RestrictNamespaces", Value::new(0_u64)),
        ("RestrictRealtime", Value::new(true)),
        ("RestrictSUIDSGID", Value::new(true)),
        ("LockPersonality", Value::new(true)),
        ("ProtectHostname", Value::new(true)),
        ("ProtectClock", Value::new(true)),
        ("KeyringMode", text("private")),
    ]
}

fn bind(path: &Path) -> Bind {
    (shown(path), shown(path), false, RECURSIVE)
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn text(text: impl Into<String>) -> Value<'static> {
    Value::Str(Str::from(text.into()))
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|&text| text.to_owned()).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tunnel_api::config::SandboxConfig;

    use super::*;

    fn made(sandbox: SandboxConfig, environment: &[&str]) -> BTreeMap<&'static str, String> {
        let spec = PluginSpec {
            id: "echo".to_owned(),
            program: "/home/me/echo".to_owned(),
            arguments: vec!["-v".to_owned()],
            sandbox,
            folder: "/run/user/1/tunneld/plugins/echo".into(),
            socket: "/run/user/1/tunneld/plugins/echo/http.sock".into(),
        };
        let launcher = Launcher {
            home: Some("/home/me".into()),
            own_unit: Some("tunneld.service".to_owned()),
            ..Launcher::none()
        };
        let environment: Vec<String> = environment.iter().map(|&variable| variable.to_owned()).collect();
        let all = properties(&launcher, &spec, &environment, &["/srv/tunneld".into()]);
        let n = all.len();
        let all: BTreeMap<_, _> = all.into_iter().map(|(name, value)| (name, value.to_string())).collect();
        assert_eq!(all.len(), n, "a setting is there twice");
        all
    }

    #[test]
    fn nothing_is_open_unless_it_is_named() {
        let closed = made(SandboxConfig::default(), &[]);
        assert_eq!(closed["PrivateNetwork"], "true");
        assert_eq!(closed["PrivateDevices"], "true");
        assert!(!closed["RestrictAddressFamilies"].contains("INET"), "{}", closed["RestrictAddressFamilies"]);
        assert!(
            closed["TemporaryFileSystem"].contains("/home/me")
                && closed["TemporaryFileSystem"].contains("/run")
                && closed["TemporaryFileSystem"].contains("/srv/tunneld")
        );
        assert!(!closed["BindReadOnlyPaths"].contains("/data") && !closed["BindPaths"].contains("/out"));
        assert!(closed["BindPaths"].contains("/run/user/1/tunneld/plugins/echo"));

        let open = SandboxConfig {
            network: true,
            devices: true,
            read_paths: vec!["/data".into()],
            write_paths: vec!["/out".into()],
            ..SandboxConfig::default()
        };
        let open = made(open, &[]);
        assert_eq!((open["PrivateNetwork"].as_str(), open["PrivateDevices"].as_str()), ("false", "false"));
        assert!(open["RestrictAddressFamilies"].contains("AF_INET6"));
        assert!(open["BindReadOnlyPaths"].contains("/data") && !open["BindReadOnlyPaths"].contains("/out"));
        assert!(open["BindPaths"].contains("/out"));
    }

    #[test]
    fn variables_of_the_users_session_are_kept_from_it() {
        let mut sandbox = SandboxConfig::default();
        sandbox.environment.insert("MODEL".to_owned(), "a b".to_owned());
        let made =
            made(sandbox, &["PATH=/bin", "OPENAI_API_KEY=sk-1", "MODEL=x", "DBUS_SESSION_BUS_ADDRESS=u"]);
        let unset = &made["UnsetEnvironment"];
        assert!(unset.contains("OPENAI_API_KEY") && unset.contains("DBUS_SESSION_BUS_ADDRESS"), "{unset}");
        assert!(!unset.contains("PATH") && !unset.contains("MODEL") && !unset.contains("sk-1"), "{unset}");
        assert!(
            made["Environment"].contains("MODEL=a b")
                && made["Environment"].contains("TUNNEL_PLUGIN_SOCKET=")
        );
    }

    #[test]
    fn arguments_are_given_as_they_are() {
        let made = made(SandboxConfig::default(), &[]);
        assert!(made["ExecStartEx"].contains("no-env-expand") && !made.contains_key("ExecStart"));
    }

    #[test]
    fn it_ends_with_the_daemon_and_after_it() {
        let made = made(SandboxConfig::default(), &[]);
        assert!(made["BindsTo"].contains("tunneld.service") && made["Before"].contains("tunneld.service"));
    }
}
