//! The real program, with a directory of its own.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(20);

/// Where a daemon lives: configuration, state, runtime directory, two free ports.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    pub(crate) control: SocketAddr,
    pub(crate) gateway: SocketAddr,
}

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
}

impl Home {
    /// Makes a home whose Ollama is at `backend` and whose tunnel is switched off.
    pub(crate) fn new(backend: SocketAddr) -> Self {
        let home = Self {
            directory: tempfile::tempdir().unwrap(),
            control: free_address(),
            gateway: free_address(),
        };
        home.configure(json!({
            "ollamaHost": "127.0.0.1", "ollamaPort": backend.port(), "enableCloudProxy": false,
            "apiServerPort": home.control.port(), "gatewayPort": home.gateway.port(),
        }));
        home
    }

    /// Writes the configuration anew, these keys over those that it has.
    pub(crate) fn configure(&self, keys: Value) {
        let before = std::fs::read_to_string(self.config()).unwrap_or_else(|_| "{}".to_owned());
        let mut config: Map<String, Value> = serde_json::from_str(&before).unwrap();
        config.extend(keys.as_object().unwrap().clone());
        std::fs::write(self.config(), Value::Object(config).to_string()).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("tunnel_config.json")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("run/tunneld/api.sock")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunneld"));
        command.env_clear().env("XDG_RUNTIME_DIR", self.path().join("run"));
        command.arg("--config").arg(self.config()).arg("--state-dir").arg(self.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts the program and waits until its gateway answers.
    pub(crate) fn start(&self) -> Program {
        self.start_with(&mut self.command())
    }

    /// Starts the program as the service manager would with these sockets, which it does not have to bind.
    pub(crate) fn start_with_sockets(&self, sockets: &[OwnedFd]) -> Program {
        let program = self.command();
        let redirections: Vec<String> = sockets
            .iter()
            .enumerate()
            .map(|(index, fd)| format!("{}<&{}", 3 + index, fd.as_raw_fd()))
            .collect();
        let script = format!(
            "LISTEN_PID=$$ LISTEN_FDS={} exec \"$0\" \"$@\" {}",
            sockets.len(),
            redirections.join(" ")
        );
        let mut shell = Command::new("/bin/bash");
        shell.env_clear().args(["-c", &script]).arg(program.get_program()).args(program.get_args());
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = shell.spawn().unwrap();
        Program { child }
    }

    pub(crate) fn start_with(&self, command: &mut Command) -> Program {
        let mut program = Program { child: command.spawn().unwrap() };
        eventually("the gateway", || {
            assert!(program.child.try_wait().unwrap().is_none(), "the program has ended");
            std::net::TcpStream::connect(self.gateway).is_ok()
        });
        program
    }

    /// Runs the program to its end, which must come by itself.
    pub(crate) fn output(&self) -> Output {
        self.command().stderr(Stdio::piped()).output().unwrap()
    }
}

impl Program {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}
