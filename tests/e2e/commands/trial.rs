//! One command line in one situation: run, bounded, and told as text.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::Masks;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cases::{Case, Json, Shape, Talk};

/// Longest time for a command that ends by itself, and for the first line of one that goes on.
const LIMIT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(5);
/// So much of an answer of which only the beginning is the same each time.
const FIRST_LINES: usize = 1;

/// What a command printed and how it ended.
#[derive(Debug)]
pub(super) struct Outcome {
    stdout: String,
    stderr: String,
    /// None if it went on until it was ended.
    code: Option<i32>,
}

/// Tells whether a line of a case is one that goes on until it is ended.
pub(super) fn goes_on(words: &[String]) -> bool {
    words.iter().any(|word| word == "-w" || word == "-f")
}

/// Runs a command to its end, or, if it goes on, until it has said its first line: all that is kept of it.
pub(super) fn run(mut command: Command, input: &str, goes_on: bool, scratch: &Path) -> Result<Outcome> {
    fs::create_dir_all(scratch)?;
    let (stdout, stderr) = (scratch.join("stdout"), scratch.join("stderr"));
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it may have ended already.
        drop(stdin.write_all(input.as_bytes()));
    }
    let code = if goes_on { end_after_a_line(&mut child, &stdout)? } else { await_end(&mut child)? };
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let outcome = Outcome { stdout: read(&stdout)?, stderr: read(&stderr)?, code };
    ensure!(
        goes_on || outcome.code.is_some(),
        "{command:?} did not end by itself: {}{}",
        outcome.stdout,
        outcome.stderr
    );
    Ok(outcome)
}

/// Waits for its end; none if that does not come by itself.
fn await_end(child: &mut Child) -> Result<Option<i32>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

/// Ends it with Ctrl-C's signal, as a person would, once a whole line stands in `stdout`; none if it went on until
/// then.
fn end_after_a_line(child: &mut Child, stdout: &Path) -> Result<Option<i32>> {
    let begin = Instant::now();
    while !fs::read(stdout)?.contains(&b'\n') {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("it has said nothing for {} s", LIMIT.as_secs());
        }
        thread::sleep(STEP);
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child has an id")?;
    // It may end in this very moment.
    let _ = kill_process(pid, Signal::INT);
    await_end(child)?;
    Ok(None)
}

/// The outcome as a person reads it, with what differs from run to run masked.
pub(super) fn told(case: &Case, json: bool, outcome: &Outcome, masks: &Masks) -> Result<String> {
    // One that goes on says the same in both forms where nobody looks: a line of JSON for each change.
    let goes_on = outcome.code.is_none() && outcome.stdout.starts_with('{');
    let answer = if goes_on || (json && case.json == Json::Ours) {
        let shape = if goes_on { Shape::Beginning } else { case.shape };
        objects(&outcome.stdout, &Case { shape, ..*case }, masks)?
    } else {
        masks.text(&shortened(&outcome.stdout, case.shape))
    };
    let mut text = String::new();
    for line in answer.lines() {
        text.push_str(format!("| {line}").trim_end());
        text.push('\n');
    }
    let talk = masks.text(&outcome.stderr);
    let mut talk: Vec<&str> = talk.lines().collect();
    if case.talk == Talk::InAnyOrder {
        talk.sort_unstable();
    }
    for line in talk {
        text.push_str(format!("! {line}").trim_end());
        text.push('\n');
    }
    match outcome.code {
        Some(code) => text.push_str(&format!("= {code}\n")),
        None => text.push_str("= goes on until Ctrl-C\n"),
    }
    Ok(text)
}

fn shortened(text: &str, shape: Shape) -> String {
    match shape {
        Shape::Whole => text.to_owned(),
        Shape::Beginning => {
            let mut first: String = text.split_inclusive('\n').take(FIRST_LINES).collect();
            if text.lines().count() > FIRST_LINES {
                first.push_str("(and more)\n");
            }
            first
        }
    }
}

/// The objects of a JSON answer; each says which form it has.
fn objects(stdout: &str, case: &Case, masks: &Masks) -> Result<String> {
    // What comes after the beginning may have been cut in the middle.
    let most = if case.shape == Shape::Beginning { 1 } else { usize::MAX };
    let objects = serde_json::Deserializer::from_str(stdout).into_iter::<Value>().take(most);
    let mut objects: Vec<Value> =
        objects.collect::<Result<_, _>>().with_context(|| format!("not JSON: {stdout}"))?;
    for object in &objects {
        ensure!(object["schema"] == "tunnelctl/v1", "an answer without its schema: {object}");
    }
    let mut text = String::new();
    for object in &mut objects {
        if case.shape == Shape::Beginning {
            for list in object.as_object_mut().into_iter().flat_map(|members| members.values_mut()) {
                if let Value::Array(elements) = list {
                    elements.truncate(1);
                }
            }
        }
        masks.json(object, case.numbers);
        text.push_str(&format!("{object:#}\n"));
    }
    Ok(text)
}
