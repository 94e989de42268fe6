//! Every command of `tunnelctl`, with a daemon and without: exit code, answer and talk, as kept in `snapshots/commands/`.

mod cases;
mod trial;
mod world;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Latencies, Masks, ScriptedDoor, binaries, compare, measured, scenario, skipped};
use futures_util::StreamExt as _;
use serde_json::Value;

use self::{
    cases::{CASES, Case},
    world::{Running, Situation, Stage},
};

/// A person who looks again and again does not wait.
const MOST_FOR_STATUS: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(15);
/// Verbs that are tried at once, each by a command after the other: more only take each other's time.
const AT_ONCE: usize = 4;

#[test]
fn every_command_says_what_happened_and_ends_with_the_right_code() -> Result<()> {
    scenario(async |lab| {
        let begun = Instant::now();
        let tunnelctl = binaries::tunnelctl()?;
        let stage = Arc::new(Stage::set(lab).await?);
        let shared = lab.folder("shared", "tunneld.log")?;
        let shared = Arc::new(stage.daemon(&shared, "desk", &stage.token).await?);
        let pages = CASES.iter().map(|case| {
            let folder = lab.folder(&case.verb.replace(' ', "-"), "daemon/tunneld.log");
            let (stage, shared, tunnelctl) = (Arc::clone(&stage), Arc::clone(&shared), tunnelctl.clone());
            async move {
                let page = Page { case, tunnelctl, folder: folder?, stage };
                page.write(shared).await.with_context(|| format!("tunnelctl {}", case.verb))
            }
        });
        let pages: Vec<_> = pages.collect();
        let (mut n_lines, mut failures) = (0, Vec::new());
        let mut written = futures_util::stream::iter(pages).buffer_unordered(AT_ONCE);
        while let Some(page) = written.next().await {
            match page {
                Ok(n) => n_lines += n,
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        ensure!(failures.is_empty(), "{} of {} pages:\n{}", failures.len(), CASES.len(), failures.join("\n"));
        measured(
            "commands as kept in snapshots",
            format!(
                "{n_lines} command lines of {} verbs, {:.1} s",
                CASES.len(),
                begun.elapsed().as_secs_f64()
            ),
        );
        Ok(())
    })
}

/// What one verb says in all situations; one file.
struct Page {
    case: &'static Case,
    tunnelctl: PathBuf,
    folder: PathBuf,
    stage: Arc<Stage>,
}

impl Page {
    /// Tries all lines of the verb and compares them with the file; returns how many there were.
    async fn write(self, shared: Arc<Running>) -> Result<usize> {
        let taken = |port: &&u16| TcpStream::connect((Ipv4Addr::LOCALHOST, **port)).is_ok();
        if let Some(port) = self.case.ports.iter().find(taken) {
            let why = format!("a program of this machine has port {port}");
            skipped(&format!("tunnelctl {}", self.case.verb), &why)?;
            return Ok(0);
        }
        let own = if self.case.changes {
            let device = format!("desk-{}", self.case.verb.replace(' ', "-"));
            Some(self.stage.daemon(&self.folder.join("daemon"), &device, &self.stage.others_token).await?)
        } else {
            None
        };
        world::write_files(&self.folder.join("files"), &self.stage.others_token)?;
        tokio::task::spawn_blocking(move || {
            let running = own.as_ref().unwrap_or(&shared);
            let mut text = format!("tunnelctl {}\n", self.case.verb);
            let mut n_lines = 0;
            for situation in Situation::ALL {
                text.push_str(&format!("\n=== {}\n", situation.title()));
                for json in [false, true] {
                    for line in self.case.lines {
                        n_lines += 1;
                        text.push_str(&self.try_line(line, json, situation, running, n_lines)?);
                    }
                }
            }
            let name = format!("{}.txt", self.case.verb.replace(' ', "-"));
            compare(&binaries::package_dir().join("snapshots/commands").join(name), &text)?;
            Ok(n_lines)
        })
        .await?
    }

    fn try_line(
        &self,
        line: &str,
        json: bool,
        situation: Situation,
        running: &Running,
        number: usize,
    ) -> Result<String> {
        let scratch = self.folder.join(format!("{number}"));
        let home = match situation {
            Situation::Running => running.daemon.dir().to_owned(),
            Situation::Absent | Situation::OtherServer | Situation::Refused => scratch.join("home"),
        };
        let files = self.folder.join("files");
        let form = if json { "json" } else { "text" };
        let words: Vec<String> = line
            .replace("{files}", &files.display().to_string())
            .replace("{form}", form)
            .replace("{server}", &self.stage.server.url())
            .replace("{request}", &running.request)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let mut command = world::at_home(&self.tunnelctl, &home, &self.stage.programs)?;
        match situation {
            Situation::Running => {}
            Situation::Absent => drop(command.args(["--url", &self.stage.absent])),
            Situation::OtherServer => drop(command.args(["--url", &self.stage.other.url()])),
            Situation::Refused => drop(command.args(["--url", &self.stage.refusing.url()])),
        }
        command.args(self.case.verb.split(' ')).args(&words);
        if json {
            command.arg("--json");
        }
        let outcome = trial::run(command, self.case.input, trial::goes_on(&words), &scratch)?;
        let masks = self.masks(running, &home, &files);
        let shown = format!("tunnelctl {} {line}", self.case.verb).replace("{form}", form);
        let told = trial::told(self.case, json, &outcome, &masks).with_context(|| shown.clone())?;
        Ok(format!("\n$ {}{}\n{told}", shown.trim_end(), if json { " --json" } else { "" }))
    }

    fn masks(&self, running: &Running, home: &Path, files: &Path) -> Masks {
        let mut masks = self.stage.masks();
        masks.add(home.display(), "home");
        masks.add(files.display(), "files");
        masks.add(&running.request, "request");
        masks.add(running.daemon.api().port(), "control port");
        masks.add(running.daemon.gateway().port(), "gateway port");
        masks
    }
}

#[test]
fn no_command_is_left_out() -> Result<()> {
    let tunnelctl = binaries::tunnelctl()?;
    let mut verbs = BTreeSet::new();
    collect(&tunnelctl, &mut Vec::new(), &mut verbs)?;
    let tried: BTreeSet<String> = CASES.iter().map(|case| case.verb.to_owned()).collect();
    let missing: Vec<_> = verbs.difference(&tried).collect();
    ensure!(missing.is_empty(), "tunnelctl has {missing:?}, of which e2e/commands/cases.rs says nothing");
    let gone: Vec<_> = tried.difference(&verbs).collect();
    ensure!(gone.is_empty(), "e2e/commands/cases.rs has {gone:?}, which tunnelctl has not");
    Ok(())
}

/// Adds each verb without verbs of its own, as the help pages list them.
fn collect(tunnelctl: &Path, path: &mut Vec<String>, verbs: &mut BTreeSet<String>) -> Result<()> {
    let output = Command::new(tunnelctl).args(&*path).arg("--help").output()?;
    let page = String::from_utf8(output.stdout)?;
    let listed = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<String> = listed
        .take_while(|line| line.starts_with("  "))
        // A description that is wrapped goes on further to the right.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    if names.is_empty() {
        ensure!(!path.is_empty(), "the help page lists no commands: {page}");
        verbs.insert(path.join(" "));
    }
    for name in names {
        path.push(name);
        collect(tunnelctl, path, verbs)?;
        path.pop();
    }
    Ok(())
}

/// The scripted refusal above is what a daemon really says to another user's process.
#[test]
fn a_real_daemon_refuses_another_user_with_the_same_words() -> Result<()> {
    scenario(async |lab| {
        if !rustix::process::geteuid().is_root() {
            return skipped("another user's tunnelctl", "needs root, to be another user");
        }
        let daemon = lab.daemon(e2e::DaemonOptions::default()).await?;
        let door = ScriptedDoor::refusing().await?;
        // Where any user may look.
        let folder = tempfile::Builder::new().prefix("e2e-stranger-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let tunnelctl = folder.path().join("tunnelctl");
        std::fs::copy(binaries::tunnelctl()?, &tunnelctl)?;
        let ask = async |url: String| -> Result<(Option<i32>, String)> {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&tunnelctl);
            command.args(["--url", &url, "status"]).env_clear().current_dir("/");
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace(&url, "URL");
            Ok((output.status.code(), said))
        };
        let real = ask(format!("http://{}", daemon.api())).await?;
        let scripted = ask(door.url()).await?;
        ensure!(real.0 == Some(5), "{real:?}");
        ensure!(real == scripted, "really {real:?}, scripted {scripted:?}");
        let real = refusal(daemon.api().port()).await?;
        let scripted = refusal(door.port()).await?;
        ensure!(real == scripted, "really {real}, scripted {scripted}");
        Ok(())
    })
}

/// The answer that another user gets, without what is new in each.
async fn refusal(port: u16) -> Result<Value> {
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; \
         printf 'GET /api/status HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "bash", "-c", &ask]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let answer = String::from_utf8(output.stdout)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer}"))?;
    ensure!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut body: Value = serde_json::from_str(body).with_context(|| format!("no error: {body}"))?;
    for new in ["request_id", "timestamp"] {
        ensure!(body.get(new).is_some_and(Value::is_string), "{body}");
        body[new] = Value::Null;
    }
    Ok(body)
}

#[test]
fn a_status_comes_at_once() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let took = times(&world.daemon).await?;
        let build = if binaries::optimised() { "release" } else { "dev build" };
        measured("tunnelctl status, process and all", format!("{took} ({build})"));
        let median = took.percentile(50.0);
        ensure!(!binaries::optimised() || median <= MOST_FOR_STATUS, "half of them take {median:?} and more");
        Ok(())
    })
}

/// How long `tunnelctl status` takes from its start to its end, by the control socket.
async fn times(daemon: &e2e::Daemon) -> Result<Latencies> {
    let (tunnelctl, home) = (binaries::tunnelctl()?, daemon.dir().to_owned());
    tokio::task::spawn_blocking(move || {
        let mut took = Latencies::default();
        for _ in 0..e2e::soak_count(20, 200) {
            let mut command = world::at_home(&tunnelctl, &home, Path::new("/"))?;
            command.arg("status");
            let begin = Instant::now();
            let output = command.output()?;
            took.record(begin.elapsed());
            ensure!(output.status.success(), "{output:?}");
        }
        Ok(took)
    })
    .await?
}
