//! A person who knows nothing gets from `tunnelctl start` to a first answer by doing what the screens say.
//!
//! The transcript is `docs/first-steps.md`; it is compared with what happens here, and `UPDATE_DOCS=1` writes it.

use std::{
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Masks, ModelServer, REAL_MODEL, UserSession, binaries, compare_document, measured, skipped};

/// More than this is too much to ask of a beginner.
const MOST_COMMANDS: usize = 5;
const MODEL_LIMIT: Duration = Duration::from_secs(60);

/// What stands before and after the transcript.
const HEAD: &str = "\
# First steps

From nothing to a first answer. Each command is the one that the screen before it named; you need a model server such as
llama.cpp's or Ollama, and no relay. The model of this example is tiny: its answer is nothing to go by.

A test replays this page, with a real model server, each time the project is changed.
";
const TAIL: &str = "
That is all. `tunnelctl connect` lists the apps that can be set up the same way, `tunnelctl status` shows how things are, and
`tunnelctl doctor` looks for what is wrong. To reach your models from outside, see the part on the relay in
[operations.md](operations.md).
";

/// A command and what came of it.
struct Step {
    command: String,
    /// What a person sees: both streams as they came.
    screen: String,
    stdout: String,
    succeeded: bool,
}

#[test]
fn a_beginner_gets_an_answer_by_doing_what_the_screens_say() -> Result<()> {
    if let Some(why) = UserSession::obstacle() {
        return skipped("the first steps", &why);
    }
    if !ModelServer::dir().join("start.sh").exists() {
        return skipped("the first steps", "the real model server is not installed: cargo xtask setup");
    }
    let session = UserSession::begin()?;
    let mut model = Model::start(&session)?;
    let walked = walk(&session);
    model.end();
    let steps = walked.inspect_err(|_| show(&session))?;
    let last = steps.last().context("there are steps")?;
    // The answer is a stream of the real model's; which words it has is the model's business.
    ensure!(last.succeeded && last.screen.contains("content"), "no answer: {}", last.screen);
    measured("first steps, from `tunnelctl start` to an answer", format!("{} commands", steps.len()));
    ensure!(steps.len() <= MOST_COMMANDS, "{} commands", steps.len());
    compare_document(&binaries::workspace_dir().join("docs/first-steps.md"), &document(&steps))
}

#[expect(clippy::print_stderr, reason = "the journal explains the failure")]
fn show(session: &UserSession) {
    eprintln!("--- journal\n{}\n---", session.journal());
}

/// Does what each screen says until a model has answered.
fn walk(session: &UserSession) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut command = "tunnelctl start".to_owned();
    loop {
        let step = take(session, &command)?;
        let answered = command.starts_with("curl ");
        let next = next_command(&step);
        steps.push(step);
        if answered {
            return Ok(steps);
        }
        let told =
            || steps.iter().map(|step| format!("$ {}\n{}", step.command, step.screen)).collect::<String>();
        ensure!(steps.len() < 2 * MOST_COMMANDS, "it goes round in circles:\n{}", told());
        command = match next {
            Some(next) => next,
            None => bail!("the screen does not say how to go on:\n{}", told()),
        };
    }
}

/// Runs a command as the person would, in a shell.
fn take(session: &UserSession, command: &str) -> Result<Step> {
    // Both streams come in the order of their being written, and the answer alone as well: some of it is to be pasted.
    let script = format!("{{ {command}\n}} 2>&1 1> >(tee /tmp/stdout) | cat; exit \"${{PIPESTATUS[0]}}\"");
    let output = session.run("bash", &["-c", &script])?;
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    let stdout = session.ask("cat /tmp/stdout");
    Ok(Step { command: command.to_owned(), screen, stdout, succeeded: output.status.success() })
}

/// What the screen says to do next: what it gives to be pasted; else a command that has a line to itself; else one that a
/// line ends with, after a colon or an arrow.
fn next_command(step: &Step) -> Option<String> {
    if step.stdout.starts_with("curl ") {
        return Some(step.stdout.clone());
    }
    let lines = || step.screen.lines().map(str::trim);
    let alone = lines().find(|line| line.starts_with("tunnelctl ")).map(str::to_owned);
    alone.or_else(|| {
        lines().find_map(|line| {
            let at = [": tunnelctl ", "→ tunnelctl ", "-> tunnelctl "]
                .iter()
                .find_map(|begin| line.find(begin))?;
            let command = &line[at..];
            Some(command[command.find("tunnelctl")?..].to_owned())
        })
    })
}

/// The page: each command and its screen.
fn document(steps: &[Step]) -> String {
    let mut masks = Masks::default();
    masks.add(env!("CARGO_PKG_VERSION"), "version");
    let mut text = HEAD.to_owned();
    for step in steps {
        let screen =
            if step.command.starts_with("curl ") { beginning(&step.screen) } else { step.screen.clone() };
        text.push_str(&format!(
            "\n```console\n$ {}\n{}\n```\n",
            step.command.trim_end(),
            masks.text(screen.trim_end())
        ));
    }
    text.push_str(TAIL);
    text
}

/// The first line of an answer that never is the same twice.
fn beginning(screen: &str) -> String {
    let first = screen.lines().find(|line| line.contains("content")).map_or("", |line| {
        if line.starts_with("data: ") {
            "data: {\"choices\":[{…}], …}"
        } else {
            "{\"choices\":[{…}], …}"
        }
    });
    format!("{first}\n…")
}

/// The real model server, on its usual port in the session's own network.
struct Model(Child);

impl Model {
    fn start(session: &UserSession) -> Result<Self> {
        let mut command = session.command("/srv/model/start.sh");
        command.args(["8080", "-t", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut model = Self(command.spawn().context("starting the model server")?);
        let begun = Instant::now();
        while !session.ask("curl -s http://127.0.0.1:8080/v1/models").contains(REAL_MODEL) {
            if let Some(status) = model.0.try_wait()? {
                bail!("the model server ended at start: {status}");
            }
            ensure!(begun.elapsed() < MODEL_LIMIT, "the model is not loaded within {MODEL_LIMIT:?}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(model)
    }

    fn end(&mut self) {
        // It ends with the session at the latest.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
