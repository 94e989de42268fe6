//! What is told of a change of the configuration, and of one that is refused.

use std::fmt::Display;

use serde_json::{Map, Value, json};
use tunnel_api::config::Fault;
use tunnel_api::config_api::ConfigAnswer;
use tunnel_client::{Error, exit};

use super::keys::{self, Difference};
use crate::commands::service::RESTART;
use crate::output::Output;

/// Tells what a change has changed, from what was in force before.
pub(super) fn changed(
    before: &Map<String, Value>,
    answer: &ConfigAnswer,
    output: &Output,
) -> anyhow::Result<u8> {
    changed_at(None, before, answer, output)
}

/// The same, where the change was of one key: it is told even if what is in force stays as it was.
pub(super) fn changed_at(
    key: Option<&str>,
    before: &Map<String, Value>,
    answer: &ConfigAnswer,
    output: &Output,
) -> anyhow::Result<u8> {
    let differences = keys::differences(before, &answer.config);
    if output.wants_json() {
        let mut told = serde_json::to_value(answer)?;
        told["changes"] = as_json(&differences, "old", "new");
        output.json(told)?;
        return Ok(exit::OK);
    }
    for difference in &differences {
        output.done(&line(difference, output))?;
    }
    if differences.is_empty() {
        let stays =
            key.filter(|_| answer.changed).and_then(|key| Some((key, keys::find(&answer.config, key)?)));
        match stays {
            Some((key, value)) => {
                let value = keys::shown(value);
                output.done(&arrow(key, &value, &value, output))?;
            }
            None => output.done(&answer.message)?,
        }
    }
    notes(answer, output);
    Ok(exit::OK)
}

/// Tells what was done, and what belongs to it.
pub(super) fn done(answer: &ConfigAnswer, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(serde_json::to_value(answer)?)?;
    } else {
        output.done(&answer.message)?;
        notes(answer, output);
    }
    Ok(exit::OK)
}

/// Tells what keeps a change from having its effect.
pub(super) fn notes(answer: &ConfigAnswer, output: &Output) {
    for overridden in &answer.overridden {
        output.talk(&format!("{} has no effect as long as ${} is set", overridden.key, overridden.by));
    }
    if !answer.restart_required.is_empty() {
        output.talk(&format!(
            "takes effect after a restart: {}; {RESTART}",
            answer.restart_required.join(", ")
        ));
    }
    if let Some(backup) = &answer.backup {
        output.talk(&format!(
            "the file as it was is kept; put it back with: tunnelctl config restore {backup}"
        ));
    }
}

/// Tells why a change was refused: the faults, one a line. An error of another kind stays one.
///
/// Programs get it as every failure, faults and all.
pub(super) fn refused(error: Error, output: &Output) -> anyhow::Result<u8> {
    match &error {
        Error::Refused(body) if !body.faults.is_empty() && !output.wants_json() => {
            faults(&body.faults, output);
            Ok(error.exit_code())
        }
        Error::Refused(body) if body.code == "config_file_invalid" && !output.wants_json() => {
            output.error(&body.error);
            output.talk("mend it with: tunnelctl config edit");
            Ok(error.exit_code())
        }
        Error::Refused(_)
        | Error::NotRunning { .. }
        | Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::NotReady(_)
        | Error::WaitOver(_)
        | Error::Timeout { .. }
        | Error::Lost { .. }
        | Error::Setup(_) => Err(error.into()),
    }
}

pub(super) fn faults(faults: &[Fault], output: &Output) {
    faults.iter().for_each(|fault| output.error(&fault.to_string()));
}

/// Returns one line: `queue.maxWait: 60 → 30`.
pub(super) fn line(difference: &Difference, output: &Output) -> String {
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), keys::shown);
    let (old, new) = (shown(&difference.old), shown(&difference.new));
    arrow(&difference.key, &old, &new, output)
}

fn arrow(key: &str, old: impl Display, new: impl Display, output: &Output) -> String {
    format!("{key}: {old} {} {new}", output.look().arrow())
}

/// Returns the differences as a list of objects; the two names say what they are differences between.
pub(super) fn as_json(differences: &[Difference], old: &str, new: &str) -> Value {
    differences
        .iter()
        .map(|difference| json!({ "key": difference.key, old: difference.old, new: difference.new }))
        .collect()
}
