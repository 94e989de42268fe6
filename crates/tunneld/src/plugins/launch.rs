//! Starting a program, in a sandbox where that can be had.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::PluginSpec;
use super::child::Child;
use super::place::{UnfitError, prepare, tag};
use super::unit::{Unit, UnitError, own_unit};
use crate::config::Options;
use crate::daemon::chain;
use crate::secrets::SessionBus;

/// Starts programs. What it needs to know is found once; whether there is a systemd is asked at each start.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(super) bus: SessionBus,
    pub(super) home: Option<PathBuf>,
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
        let checked = spec.clone();
        match tokio::task::spawn_blocking(move || prepare(&checked)).await {
            Ok(prepared) => prepared?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        let no_systemd = match Unit::start(self, spec).await {
            Ok(unit) => {
                self.had_systemd.store(true, Ordering::Relaxed);
                return Ok(Launched { running: Running::Unit(Box::new(unit)), unsandboxed: None });
            }
            Err(error) if error.is_absence() && !self.had_systemd.load(Ordering::Relaxed) => chain(&error),
            // A systemd that refuses must not end in a program without a sandbox.
            Err(error) => return Err(LaunchError::Unit(error)),
        };
        if spec.sandbox.required {
            return Err(LaunchError::NoSandbox(no_systemd));
        }
        let child = Child::start(self, spec).map_err(LaunchError::Spawn)?;
        Ok(Launched { running: Running::Child(child), unsandboxed: Some(no_systemd) })
    }

    /// One that finds nothing of this machine.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            bus: SessionBus::none(),
            home: None,
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
