//! `tunnelctl connections remove`, `enable` and `disable`.

use serde_json::json;
use tunnel_client::{Client, exit};

use super::change::{change, tell_limits};
use super::entries::{switched, without};
use crate::output::Output;

pub(super) async fn remove(client: &Client, id: &str, output: &Output) -> anyhow::Result<u8> {
    let ((), answer) = change(client, |config| Ok((without(config, id)?, ()))).await?;
    let limited = tell_limits(answer.as_ref(), output);
    if output.wants_json() {
        output.json(json!({ "id": id, "removed": true, "configuration": answer }))?;
    } else if !limited {
        output.done(&format!("{id} is removed; requests that run on it may finish"))?;
    }
    Ok(exit::OK)
}

pub(super) async fn switch(client: &Client, id: &str, on: bool, output: &Output) -> anyhow::Result<u8> {
    let ((), answer) = change(client, |config| Ok((switched(config, id, on)?, ()))).await?;
    let limited = tell_limits(answer.as_ref(), output);
    let state = if on { "enabled" } else { "disabled" };
    if output.wants_json() {
        let changed = answer.as_ref().is_some_and(|answer| answer.changed);
        output.json(json!({ "id": id, "enabled": on, "changed": changed, "configuration": answer }))?;
    } else if limited {
        // What was told is all there is to tell.
    } else if answer.is_none() {
        output.done(&format!("{id} is {state} already"))?;
    } else if on {
        output.done(&format!("{id} is enabled; to see how it stands: tunnelctl connections test {id}"))?;
    } else {
        output.done(&format!("{id} is disabled; to use it again: tunnelctl connections enable {id}"))?;
    }
    Ok(exit::OK)
}
