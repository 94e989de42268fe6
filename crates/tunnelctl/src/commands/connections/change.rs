//! Changing the configuration so that two who do it at once lose nothing.

use std::time::Duration;

use serde_json::{Map, Value};
use tunnel_api::config_api::ConfigAnswer;
use tunnel_client::{Client, Error, exit};

use crate::output::Output;
use crate::refusal::Refusal;

/// How often a change is tried while others change the file at the same moment.
const TRIES: u32 = 5;
/// Wait before the next try: the daemon reads a file that was edited after 200 ms of rest.
const PAUSE: Duration = Duration::from_millis(300);

/// What the daemon answers when the file is another version than the change was made for.
const ANOTHER_VERSION: u16 = 412;
/// What it answers when the file has faults, whatever the change.
const FILE_INVALID: &str = "config_file_invalid";

/// Changes the configuration by `edit`, which gets the newest version and returns the keys to change.
///
/// When another change comes in between, `edit` is asked anew. Nothing is sent when it changes no key. Also returns
/// the daemon's answer, if it was asked.
pub(super) async fn change<T>(
    client: &Client,
    edit: impl Fn(&Map<String, Value>) -> Result<(Map<String, Value>, T), Refusal>,
) -> anyhow::Result<(T, Option<ConfigAnswer>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let newest = client.versioned_config().await?;
        let (keys, told) = edit(&newest.keys)?;
        if keys.is_empty() {
            return Ok((told, None));
        }
        match client.patch_config_of(newest.version.as_ref(), &keys).await {
            Ok(answer) => return Ok((told, Some(answer))),
            Err(Error::Refused(body)) if body.status_code == ANOTHER_VERSION && tries < TRIES => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(Error::Refused(body)) if body.code == FILE_INVALID => {
                let sentence = format!("{}; mend it with: tunnelctl config edit", body.error);
                return Err(Refusal::new(exit::CONFLICT, sentence).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells what keeps a change that was written from being in force; false when nothing does.
pub(super) fn tell_limits(answer: Option<&ConfigAnswer>, output: &Output) -> bool {
    let overridden = answer.map_or(&[][..], |answer| &answer.overridden);
    for overridden in overridden {
        output.talk(&format!(
            "it is written, but without effect as long as ${} sets {}",
            overridden.by, overridden.key
        ));
    }
    !overridden.is_empty()
}
