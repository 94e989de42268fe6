//! A user who exists for one scenario only, with a real systemd, session bus, journal and loopback of his own.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{binaries, model_server::ModelServer, namespaces::forbidden};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A session that runs. Dropping it ends everything in it; so does the end of this process, whichever way.
#[derive(Debug)]
pub struct UserSession {
    /// Its standard input holds the session: when that is closed, the session ends.
    keeper: Child,
    first_pid: u32,
}

impl UserSession {
    /// Says why there cannot be such a session here, if so.
    pub fn obstacle() -> Option<String> {
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if !root {
            return Some("needs root, to make namespaces with a user of their own".to_owned());
        }
        let missing: Vec<&str> = [
            ("/lib/systemd/systemd", "systemd"),
            ("/lib/systemd/systemd-journald", "systemd"),
            ("/usr/lib/systemd/user/dbus.socket", "dbus-user-session"),
            ("/usr/bin/dbus-daemon", "dbus"),
            ("/usr/bin/nsenter", "util-linux"),
            ("/etc/machine-id", "a machine-id"),
        ]
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .map(|(_, package)| *package)
        .collect();
        if !missing.is_empty() {
            return Some(format!("needs {}; `cargo xtask setup` installs it", missing.join(", ")));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let unified = mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(2);
            // In a container it may be there for reading only.
            fields.next() == Some("cgroup2")
                && fields.next().is_some_and(|options| options.split(',').any(|option| option == "rw"))
        });
        if !unified {
            return Some("needs the unified hierarchy of control groups, writable".to_owned());
        }
        let options = ["--mount", "--pid", "--cgroup", "--ipc", "--net", "--uts", "--fork"];
        forbidden(
            &options,
            "mount --make-rprivate /; mount -t proc proc /proc; ip link set lo up; hostname probe",
        )
    }

    /// Begins a session in which the programs under test are at `/srv/bin`, this test program at
    /// `/srv/program`, and the real model server, where it is installed, at `/srv/model`.
    pub fn begin() -> Result<Self> {
        let programs = binaries::tunneld()?;
        let programs = programs.parent().context("a program lies in a folder")?;
        let mut keeper = Command::new(Self::script())
            .arg("begin")
            .env("SESSION_BIN", programs)
            .env("SESSION_PROGRAM", std::env::current_exe()?)
            .env("SESSION_MODEL", ModelServer::dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a session")?;
        let stdout = keeper.stdout.take().context("its output is piped")?;
        let (said, hear) = mpsc::channel();
        // Ends with the session, of which this is the other end.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let mut session = Self { keeper, first_pid: 0 };
        let line = hear.recv_timeout(START_LIMIT).context("the session does not begin; see above")?;
        let pid = line.strip_prefix("ready ").with_context(|| format!("the session said: {line}"))?;
        session.first_pid = pid.parse()?;
        Ok(session)
    }

    /// Returns a command that the user runs in the session.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first_pid.to_string()]);
        command.args(["--mount", "--pid", "--cgroup", "--ipc", "--net", "--uts", "--"]);
        command.args(["/srv/session.sh", "enter", program]).stdin(Stdio::null());
        command
    }

    /// Runs a program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<Output> {
        self.command(program).args(arguments).output().with_context(|| format!("running {program}"))
    }

    /// Runs a line of shell and returns what it prints; fails if it does.
    pub fn sh(&self, line: &str) -> Result<String> {
        let output = self.run("bash", &["-c", line])?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{line}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(stdout)
    }

    /// Runs a line of shell and returns what it prints, however it ends.
    pub fn ask(&self, line: &str) -> String {
        let output = self.run("bash", &["-c", line]);
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    /// Writes a file as the user, making its folders.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let script = r#"path=${1/#~/$HOME}; mkdir -p "$(dirname "$path")" && cat > "$path""#;
        let mut child =
            self.command("bash").args(["-c", script, "write", path]).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input is piped")?.write_all(text.as_bytes())?;
        let status = child.wait()?;
        ensure!(status.success(), "writing {path} in the session: {status}");
        Ok(())
    }

    /// What the journal has of this session, for the message of a scenario that failed.
    pub fn journal(&self) -> String {
        self.ask("journalctl --user --no-pager --lines=60 --output=short-precise")
    }

    fn script() -> PathBuf {
        binaries::package_dir().join("session/session.sh")
    }
}

impl Drop for UserSession {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Its first process has nothing to wait for, and the kernel kills the others with it.
        let _ended = self.keeper.wait();
    }
}
