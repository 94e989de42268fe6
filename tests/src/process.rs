//! One real process: its log, its end, its memory and CPU.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::poll_until;

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now (`VmRSS`).
    pub rss: u64,
    /// The most since it started (`VmHWM`).
    pub peak: u64,
}

/// A child process whose stderr and stdout go to a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, appending what it prints to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("opening a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds what it printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal; no fault if it has ended meanwhile.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The process has not been waited for, so the id still is its own; one that just ended is no fault.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it at once (SIGKILL) and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .or_else(|error| if error.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) })?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns the exit status if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        poll_until(&what, limit, async || self.child.try_wait().ok().flatten()).await
    }

    /// Resident memory now and at its peak.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("reading /proc")?;
        let field = |name: &str| -> Result<u64> {
            let line =
                status.lines().find(|line| line.starts_with(name)).context("a live process has VmRSS")?;
            let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has a value")?.parse()?;
            Ok(kib * 1024)
        };
        Ok(Memory { rss: field("VmRSS:")?, peak: field("VmHWM:")? })
    }

    /// CPU time that it has used since it started, to 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("reading /proc")?;
        // The name in parentheses may hold spaces; utime and stime are the fields 14 and 15 of the line.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.get(11).context("utime")?.parse::<u64>()?
            + fields.get(12).context("stime")?.parse::<u64>()?;
        // USER_HZ is 100 on every Linux that we build for.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Number of open file descriptors.
    pub fn open_fds(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        crate::canary::check_process(&self.name, self.child.id());
        // Nothing can be done about a child that does not die.
        drop(self.kill());
    }
}

/// Says how a process ended, for messages.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
