//! Processes that end with this one, however it ends.
//!
//! Each is one of our own roles, and a role ends when its standard input does. A foreign program runs below
//! the role `exec`, which passes the end on as a signal to that one process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running role; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    child: Child,
}

impl Role {
    /// Starts `bench role …` and returns it with the address that it prints first.
    pub(crate) fn serve(arguments: &[String]) -> anyhow::Result<(Self, SocketAddr)> {
        let (role, line) = Self::start(arguments, Stdio::inherit())?;
        let addr = line.parse().with_context(|| format!("{} did not start", role.name))?;
        Ok((role, addr))
    }

    /// Starts a foreign program, its output in `log`; `uid` is whom it runs as.
    pub(crate) fn exec(
        program: &Path,
        arguments: &[&str],
        uid: Option<u32>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut all = vec!["exec".to_owned(), "--log".to_owned(), log.display().to_string()];
        if let Some(uid) = uid {
            all.extend(["--uid".to_owned(), uid.to_string()]);
        }
        all.extend(["--".to_owned(), program.display().to_string()]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let (mut role, line) = Self::start(&all, Stdio::inherit())?;
        role.name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(line.starts_with("pid "), "{} did not start", role.name);
        Ok(role)
    }

    fn start(arguments: &[String], stderr: Stdio) -> anyhow::Result<(Self, String)> {
        let name = arguments.first().map(String::as_str).unwrap_or_default().to_owned();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("role")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("starting role {name}"))?;
        let stdout = child.stdout.take().context("the role has no standard output")?;
        let role = Self { name, child };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok((role, line.trim().to_owned()))
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}", self.name),
        }
    }

    /// Returns the processor time that it and its descendants have used so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of_tree(self.child.id())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It is our own child and not yet waited for, so the id is still its own.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Blocks until standard input ends, which is when the parent does.
pub(crate) fn wait_for_parent() {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer), Ok(n) if n > 0) {}
}

/// The role `exec`: runs a program until it ends or the parent does.
pub(crate) fn exec(
    program: &str,
    arguments: &[String],
    uid: Option<u32>,
    log: &Path,
) -> anyhow::Result<ExitCode> {
    let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "pid {}", child.id())?;
    stdout.flush()?;
    let ends = std::thread::spawn(wait_for_parent);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if ends.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(pid) = Pid::from_raw(i32::try_from(child.id())?) {
        kill_process(pid, Signal::TERM)?;
    }
    let begin = Instant::now();
    while child.try_wait()?.is_none() {
        if begin.elapsed() > Duration::from_secs(3) {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(ExitCode::SUCCESS)
}

fn cpu_of_tree(root: u32) -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else { return Duration::ZERO };
    let processes: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name may hold anything, so count from its closing bracket: state, parent, …, utime, stime.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
            let parent: u32 = fields.get(1)?.parse().ok()?;
            let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
            Some((pid, parent, ticks))
        })
        .collect();
    let (mut ticks, mut family) = (0, vec![root]);
    while let Some(member) = family.pop() {
        for (pid, parent, used) in &processes {
            if *pid == member {
                ticks += used;
            }
            if *parent == member {
                family.push(*pid);
            }
        }
    }
    // 100 a second on every Linux that matters here.
    Duration::from_millis(ticks * 10)
}
