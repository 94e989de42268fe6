//! Processes that end with this one, however it ends: a second process of ours sees our end of a pipe close and
//! then ends them and removes their folder. It is in a process group of its own, which Ctrl-C does not reach.

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::run;

/// How long a process may take to end once it is asked to, and again once it is made to.
const PATIENCE: Duration = Duration::from_secs(3);

/// The near end; dropping it ends all that was started through it and waits for that.
#[derive(Debug)]
pub(crate) struct Sweeper {
    process: Child,
    orders: Mutex<Option<ChildStdin>>,
    started: Mutex<Vec<Arc<Mutex<Child>>>>,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    process: Arc<Mutex<Child>>,
    log: PathBuf,
}

impl Sweeper {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let mut process = Command::new(own)
            .arg("sweep")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the sweeper")?;
        let orders = Mutex::new(process.stdin.take());
        Ok(Self { process, orders, started: Mutex::default() })
    }

    /// Makes a folder that goes when we do.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        let name = format!("tunnel-demo-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Tokens and keys go there.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        self.order(&format!("folder {}", folder.display()))?;
        Ok(folder)
    }

    /// Starts `command` with its output in `log`.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        command: &mut Command,
        log: &Path,
    ) -> anyhow::Result<Running> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let process = command.spawn().with_context(|| format!("starting {name}"))?;
        self.order(&format!("process {}", process.id()))?;
        let process = Arc::new(Mutex::new(process));
        lock(&self.started).push(Arc::clone(&process));
        Ok(Running { name, process, log: log.to_path_buf() })
    }

    fn order(&self, line: &str) -> anyhow::Result<()> {
        let mut orders = lock(&self.orders);
        let pipe = orders.as_mut().context("the sweeper is closed")?;
        writeln!(pipe, "{line}").context("telling the sweeper")
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(lock(&self.orders).take());
        drop(self.process.wait());
        for process in lock(&self.started).drain(..) {
            drop(lock(&process).wait());
        }
    }
}

impl Running {
    /// Fails if it has ended.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match lock(&self.process).try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended: {status}; its last words:\n{}", self.name, run::tail(&self.log, 15))
            }
        }
    }
}

/// The far end: takes orders until the near end is gone, then ends and removes what they name.
pub(crate) fn sweep() -> anyhow::Result<ExitCode> {
    let (mut processes, mut folders) = (Vec::new(), Vec::new());
    for order in std::io::stdin().lock().lines() {
        match order?.split_once(' ') {
            Some(("process", id)) => processes.push(id.to_owned()),
            Some(("folder", folder)) => folders.push(PathBuf::from(folder)),
            _ => {}
        }
    }
    // Last started, first ended: the daemon takes its leave while the relay is there.
    for id in processes.iter().rev() {
        for signal in ["-TERM", "-KILL"] {
            let begin = Instant::now();
            if is_running(id) {
                run::succeeds("kill", &[signal, id]);
            }
            while is_running(id) && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    for folder in folders {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a process does anything yet; one that only waits to be collected by its parent does not.
fn is_running(id: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
