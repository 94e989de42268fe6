//! Starting a program, in a sandbox where that can be had.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::PluginSpec;
use super::child::Child;
use super::place::{UnfitError, exposed, prepare, private, tag};
use super::unit::{self, Unit, UnitError, own_unit};
use crate::config::Options;
use crate::daemon::chain;
use crate::secrets::SessionBus;

/// Starts programs. What it needs to know is found once; whether there is a systemd is asked at each start.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(super) bus: SessionBus,
    pub(super) home: Option<PathBuf>,
    /// Folders of the daemon's own, which no plugin is to look into: its state with the sealed secrets, its configuration.
    pub(super) private: Vec<PathBuf>,
    /// The socket that a systemd of the user's has for itself: where it is, there is a systemd, with or without a bus.
    pub(super) systemd: Option<PathBuf>,
    /// The unit that this daemon runs as; a plugin ends with it.
    pub(super) own_unit: Option<String>,
    /// Variables of the daemon's own that a child of it gets.
    pub(super) variables: Vec<(&'static str, std::ffi::OsString)>,
    /// What the names of its units begin with.
    pub(super) prefix: String,
    /// There was a systemd in this daemon's life. When it does not answer now it is in trouble, and what it has started may
    /// still run: nothing is started beside it.
    pub(super) had_systemd: Arc<AtomicBool>,
}

/// Variables that any program needs; a key that the user has exported is not for plugins.
pub(super) const PLAIN_VARIABLES: [&str; 8] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ"];

/// A program that runs. Dropping it ends a child at once, and leaves a unit to systemd.
pub(super) enum Running {
    Unit(Box<Unit>),
    Child(Child),
}

/// A program that was started.
pub(super) struct Launched {
    pub(super) running: Running,
    /// Why it has no sandbox, if so.
    pub(super) unsandboxed: Option<String>,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error(transparent)]
    Unfit(#[from] UnfitError),
    #[error("systemd does not start it: {}", chain(.0))]
    Unit(UnitError),
    /// systemd runs, and is out of reach: the session has just begun, or has no bus.
    #[error("its sandbox is systemd's to make, which cannot be asked yet: {0}")]
    NoBusYet(String),
    #[error("it must have a sandbox (sandbox.required), and there is none to be had: {0}")]
    NoSandbox(String),
    #[error("it could not be started: {0}")]
    Spawn(std::io::Error),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Exited(i32),
    Killed(i32),
    /// It needed more memory than it may have.
    OutOfMemory,
    /// systemd's sandbox could not be set up: the status that stands for the step.
    Sandbox(i32),
    /// Nobody can tell any more.
    Unknown(String),
}

impl Launcher {
    pub(crate) fn of(options: &Options) -> Self {
        let set = |name| options.var(name).filter(|value| !value.is_empty());
        Self {
            bus: SessionBus::of(options),
            home: set("HOME").map(PathBuf::from),
            private: private(options),
            systemd: set("XDG_RUNTIME_DIR").map(|runtime| PathBuf::from(runtime).join("systemd/private")),
            own_unit: own_unit(options),
            variables: PLAIN_VARIABLES.iter().filter_map(|name| Some((*name, set(name)?))).collect(),
            // None of another daemon's names begins as ours do.
            prefix: tag(options)
                .map_or_else(|| "tunneld-plugin-".to_owned(), |tag| format!("tunneld-{tag}-plugin-")),
            had_systemd: Arc::default(),
        }
    }

    /// The name under which systemd and the journal know a plugin.
    pub(super) fn unit(&self, id: &str) -> String {
        format!("{}{id}.service", self.prefix)
    }

    pub(super) async fn start(&self, spec: &PluginSpec) -> Result<Launched, LaunchError> {
        let (launcher, checked) = (self.clone(), spec.clone());
        let look = move || {
            prepare(&checked)?;
            let exposed = exposed(&launcher.private, launcher.home.as_deref(), &checked);
            Ok((exposed, launcher.has_systemd()))
        };
        let (private, systemd_runs) = match tokio::task::spawn_blocking(look).await {
            Ok(looked) => looked.map_err(LaunchError::Unfit)?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let no_systemd = match Unit::start(self, spec, &private).await {
            Ok(unit) => {
                return Ok(Launched { running: Running::Unit(Box::new(unit)), unsandboxed: None });
            }
            // A systemd that refuses must not end in a program without a sandbox.
            Err(error) if !error.is_absence() || self.had_systemd.load(Ordering::Relaxed) => {
                return Err(LaunchError::Unit(error));
            }
            // Nor one that the session bus has not come up for yet: what it has started may run, too.
            Err(error) if systemd_runs => return Err(LaunchError::NoBusYet(chain(&error))),
            Err(error) => chain(&error),
        };
        if spec.sandbox.required {
            return Err(LaunchError::NoSandbox(no_systemd));
        }
        let child = Child::start(self, spec).map_err(LaunchError::Spawn)?;
        Ok(Launched { running: Running::Child(child), unsandboxed: Some(no_systemd) })
    }

    fn has_systemd(&self) -> bool {
        self.systemd.as_ref().is_some_and(|socket| socket.exists())
    }

    /// Ends what may be left of a plugin that this daemon has started as a unit.
    pub(super) async fn clear(&self, id: &str) -> Result<(), UnitError> {
        if self.had_systemd.load(Ordering::Relaxed) { unit::clear(self, id).await } else { Ok(()) }
    }

    /// Looks for plugins of an earlier daemon that nobody wants, and ends them. Where there is no systemd there are none.
    pub(super) async fn end_leftovers(&self, wanted: &[PluginSpec]) -> Result<(), UnitError> {
        match unit::end_leftovers(self, wanted).await {
            Err(error) if error.is_absence() && !self.has_systemd() => Ok(()),
            ended => ended,
        }
    }

    /// One that finds nothing of this machine.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            bus: SessionBus::none(),
            home: None,
            private: Vec::new(),
            systemd: None,
            own_unit: None,
            variables: Vec::new(),
            prefix: "tunneld-plugin-".to_owned(),
            had_systemd: Arc::default(),
        }
    }

    /// Tells whether systemd ends the plugins when it ends the daemon.
    pub(super) fn is_bound(&self) -> bool {
        self.own_unit.is_some()
    }
}

impl LaunchError {
    /// What a person can do about it.
    pub(super) fn next_step(&self) -> &'static str {
        match self {
            Self::NoBusYet(_) => {
                "wait until the session is up; where that does not help, install the user's session bus \
                 (the package dbus-user-session, or dbus-broker)"
            }
            Self::Unfit(_) | Self::Unit(_) | Self::NoSandbox(_) | Self::Spawn(_) => {
                "mend its entry under connections in the config; it is tried again by itself"
            }
        }
    }
}

impl Running {
    /// Waits for its end. May be dropped and called anew.
    pub(super) async fn ended(&mut self) -> End {
        match self {
            Self::Unit(unit) => unit.ended().await,
            Self::Child(child) => child.ended().await,
        }
    }

    /// Ends it: politely first, then by force.
    pub(super) async fn stop(self) {
        match self {
            Self::Unit(unit) => unit.stop().await,
            Self::Child(child) => child.stop().await,
        }
    }

    /// What to look at when it fails.
    pub(super) fn log(&self) -> String {
        match self {
            Self::Unit(unit) => format!("see what it says: journalctl --user -u {}", unit.name()),
            Self::Child(_) => "see what it says in the daemon's own output".to_owned(),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(0) => f.write_str("it ended by itself, without an error"),
            Self::Exited(status) => write!(f, "it ended with exit status {status}"),
            Self::Killed(signal) => write!(f, "it was killed by signal {signal}"),
            Self::OutOfMemory => {
                f.write_str("it was killed for taking more memory than sandbox.memoryMB allows")
            }
            Self::Sandbox(status) => {
                write!(f, "systemd could not set up its sandbox (status {status} of systemd.exec(5))")
            }
            Self::Unknown(why) => write!(f, "nobody can tell whether it runs: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::config::SandboxConfig;

    use super::*;

    fn spec(folder: &std::path::Path) -> PluginSpec {
        PluginSpec {
            id: "p".to_owned(),
            program: "/bin/true".to_owned(),
            arguments: Vec::new(),
            sandbox: SandboxConfig::default(),
            folder: folder.to_owned(),
            socket: folder.join("http.sock"),
        }
    }

    #[tokio::test]
    async fn trouble_with_the_bus_is_no_reason_to_start_without_a_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path());
        let at = |name: &str| SessionBus::at(&format!("unix:path={}", folder.path().join(name).display()));
        let absent = Launcher { bus: at("none"), ..Launcher::none() };
        assert!(absent.start(&spec).await.unwrap().unsandboxed.is_some());
        // Systemd was there before: what it has started may still run.
        absent.had_systemd.store(true, Ordering::Relaxed);
        assert!(matches!(absent.start(&spec).await, Err(LaunchError::Unit(_))));
        // A systemd runs that has no bus yet.
        let private = folder.path().join("private");
        std::fs::write(&private, "").unwrap();
        let early = Launcher { bus: at("none"), systemd: Some(private.clone()), ..Launcher::none() };
        assert!(matches!(early.start(&spec).await, Err(LaunchError::NoBusYet(_))));
        std::fs::remove_file(private).unwrap();
        assert!(early.start(&spec).await.unwrap().unsandboxed.is_some());
        // Somebody listens, and is no bus.
        let listener = tokio::net::UnixListener::bind(folder.path().join("bus")).unwrap();
        let hangs_up = async {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream)
            }
        };
        let broken = Launcher { bus: at("bus"), ..Launcher::none() };
        tokio::select! {
            started = broken.start(&spec) => assert!(matches!(started, Err(LaunchError::Unit(_)))),
            () = hangs_up => {}
        }
    }
}
