//! Changing the configuration, and what is told of it.

use serde_json::{Map, Value};
use tunnel_api::config_api::ConfigAnswer;
use tunnel_client::{Client, Error, exit};

use crate::output::Output;
use crate::refusal::Refusal;

/// What the daemon answers when the file has faults, whatever the change.
const FILE_INVALID: &str = "config_file_invalid";

/// Changes the configuration as [`Client::change_config`] does; a file that has faults comes with the next step.
pub(super) async fn change<T>(
    client: &Client,
    edit: impl Fn(&Map<String, Value>) -> Result<(Map<String, Value>, T), Refusal>,
) -> anyhow::Result<(T, Option<ConfigAnswer>)> {
    let changed = client.change_config(|keys| edit(keys).map_err(anyhow::Error::from)).await;
    changed.map_err(|error| match error.downcast_ref() {
        Some(Error::Refused(body)) if body.code == FILE_INVALID => {
            let sentence = format!("{}; mend it with: tunnelctl config edit", body.error);
            Refusal::new(exit::CONFLICT, sentence).into()
        }
        _ => error,
    })
}

/// Tells what keeps a change that was written from being in force; false when nothing does.
pub(in crate::commands) fn tell_limits(answer: Option<&ConfigAnswer>, output: &Output) -> bool {
    let overridden = answer.map_or(&[][..], |answer| &answer.overridden);
    for overridden in overridden {
        output.talk(&format!(
            "it is written, but without effect as long as ${} sets {}",
            overridden.by, overridden.key
        ));
    }
    !overridden.is_empty()
}
