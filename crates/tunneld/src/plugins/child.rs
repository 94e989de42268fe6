//! A plugin's program as a child of the daemon, where there is no systemd of the user's.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::PluginSpec;
use super::launch::{End, Launcher};

/// Time that it has to end after SIGTERM.
const POLITE: Duration = Duration::from_secs(5);
/// How often it is looked at where no signal tells that a child has ended.
const LOOK: Duration = Duration::from_secs(1);
/// Programs of util-linux that set what only a child itself can set.
const SETPRIV: &str = "/usr/bin/setpriv";
const PRLIMIT: &str = "/usr/bin/prlimit";
/// Bytes in what a configuration counts memory in.
const MIB: u64 = 1024 * 1024;

/// A running child, the leader of a process group. Dropping it kills the group.
pub(super) struct Child {
    child: std::process::Child,
    end: Option<End>,
}

impl Child {
    /// Starts the program. It writes to where the daemon writes.
    ///
    /// To be called on the thread that lives as long as the daemon: the kernel kills the program when that thread ends.
    pub(super) fn start(launcher: &Launcher, spec: &PluginSpec) -> io::Result<Self> {
        let (program, arguments) = command_line(spec, |helper| Path::new(helper).exists());
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(launcher.variables.iter().cloned());
        command.envs(&spec.sandbox.environment).env("TUNNEL_PLUGIN_SOCKET", &spec.socket);
        command.current_dir("/").process_group(0).stdin(Stdio::null());
        Ok(Self { child: command.spawn()?, end: None })
    }

    pub(super) async fn ended(&mut self) -> End {
        // Listened to before the first look, so that no end is missed.
        let mut children = signal(SignalKind::child()).ok();
        loop {
            if let Some(end) = self.look() {
                return end;
            }
            match &mut children {
                Some(children) => drop(timeout(LOOK, children.recv()).await),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(super) async fn stop(mut self) {
        self.signal(Signal::TERM);
        // The drop that follows kills what is left of the group.
        let _ended = timeout(POLITE, self.ended()).await;
    }

    fn look(&mut self) -> Option<End> {
        if self.end.is_none() {
            self.end = match self.child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                    (Some(code), _) => End::Exited(code),
                    (None, Some(signal)) => End::Killed(signal),
                    (None, None) => End::Unknown(status.to_string()),
                }),
                Err(error) => Some(End::Unknown(error.to_string())),
            };
        }
        self.end.clone()
    }

    fn leader(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader() {
            // A group that is gone has what it should have.
            let _sent = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Also after its own end: what it has started is still in the group.
        self.signal(Signal::KILL);
        if self.look().is_some() {
            return;
        }
        // Without it a zombie stays. One that is stuck in the kernel takes its time, which is not the daemon's.
        let leader = self.leader();
        let reap = move || {
            let _reaped = waitpid(leader, WaitOptions::empty());
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(reap)),
            Err(_) => reap(),
        }
    }
}

/// Returns the program to run and its arguments, with what helpers can add to it: no new privileges, a limit on memory,
/// and an end with the daemon, whichever way that ends.
fn command_line(spec: &PluginSpec, is_there: impl Fn(&str) -> bool) -> (String, Vec<String>) {
    let mut line = Vec::new();
    if is_there(SETPRIV) {
        line.extend([SETPRIV, "--no-new-privs", "--pdeathsig", "KILL", "--"].map(str::to_owned));
    }
    if is_there(PRLIMIT) {
        let bytes = u64::from(spec.sandbox.memory_mb.get()) * MIB;
        line.extend([PRLIMIT.to_owned(), format!("--data={bytes}"), "--".to_owned()]);
    }
    line.push(spec.program.clone());
    line.extend(spec.arguments.iter().cloned());
    let program = line.remove(0);
    (program, line)
}

#[cfg(test)]
mod tests {
    use tunnel_api::config::SandboxConfig;

    use super::*;

    fn spec(folder: &Path, script: &str) -> PluginSpec {
        PluginSpec {
            id: "p".to_owned(),
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            sandbox: SandboxConfig::default(),
            folder: folder.to_owned(),
            socket: folder.join("http.sock"),
        }
    }

    fn start(spec: &PluginSpec) -> Child {
        let launcher = Launcher { variables: vec![("PATH", "/usr/bin:/bin".into())], ..Launcher::none() };
        Child::start(&launcher, spec).unwrap()
    }

    #[test]
    fn helpers_are_used_where_they_are() {
        let spec = spec(Path::new("/f"), "true");
        let line = |helper: &'static str| {
            let (program, arguments) = command_line(&spec, |asked| asked == helper);
            format!("{program} {}", arguments.join(" "))
        };
        assert_eq!(line("none"), "/bin/sh -c true");
        assert_eq!(line(SETPRIV), "/usr/bin/setpriv --no-new-privs --pdeathsig KILL -- /bin/sh -c true");
        assert_eq!(line(PRLIMIT), "/usr/bin/prlimit --data=1073741824 -- /bin/sh -c true");
    }

    #[tokio::test]
    async fn end_is_told_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        for (script, end) in [
            ("exit 3", End::Exited(3)),
            ("kill -9 $$", End::Killed(9)),
            ("test \"$TUNNEL_PLUGIN_SOCKET\" != \"\" && test -z \"$CARGO\"", End::Exited(0)),
        ] {
            let mut child = start(&spec(folder.path(), script));
            let ended = timeout(Duration::from_secs(10), child.ended()).await;
            assert_eq!(ended.ok(), Some(end), "{script}");
        }
    }

    #[tokio::test]
    async fn what_it_has_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (note, spec) =
            (folder.path().join("pid"), spec(folder.path(), "sleep 600 & echo $! > pid.tmp; exec sleep 600"));
        let script =
            format!("cd {}; sleep 600 & echo $! > t; mv t pid; trap '' TERM; wait", folder.path().display());
        let child = start(&PluginSpec { arguments: vec!["-c".to_owned(), script], ..spec });
        let grandchild = loop {
            match std::fs::read_to_string(&note) {
                Ok(pid) => break pid.trim().to_owned(),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        // As the daemon's end would: nobody waits for politeness.
        drop(child);
        let state = format!("/proc/{grandchild}/stat");
        let ended = timeout(Duration::from_secs(10), async {
            // A zombie waits for its new parent.
            while std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(ended.await.is_ok());
    }
}
