//! `tunnelctl models warm`, `cool`, `alias` and `unalias`.

use serde_json::json;
use tunnel_api::AliasOrder;
use tunnel_api::config_api::ConfigAnswer;
use tunnel_client::{Client, exit};

use crate::cli::Which;
use crate::commands::connections::tell_limits;
use crate::output::Output;

pub(super) async fn warm(client: &Client, which: &Which, output: &Output) -> anyhow::Result<u8> {
    tell(&client.keep_warm(&named(which)).await?, output)
}

pub(super) async fn cool(client: &Client, which: &Which, output: &Output) -> anyhow::Result<u8> {
    tell(&client.let_cool(&named(which)).await?, output)
}

pub(super) async fn alias(client: &Client, name: &str, target: &str, output: &Output) -> anyhow::Result<u8> {
    tell(&client.set_alias(name, &AliasOrder { target: target.to_owned() }).await?, output)
}

pub(super) async fn unalias(client: &Client, name: &str, output: &Output) -> anyhow::Result<u8> {
    tell(&client.remove_alias(name).await?, output)
}

/// Names a model as the configuration does.
fn named(Which { model, on }: &Which) -> String {
    on.as_ref().map_or_else(|| model.clone(), |id| format!("{id}/{model}"))
}

fn tell(answer: &ConfigAnswer, output: &Output) -> anyhow::Result<u8> {
    let limited = tell_limits(Some(answer), output);
    if output.wants_json() {
        output.json(json!(answer))?;
    } else if !limited {
        output.done(&answer.message)?;
    }
    Ok(exit::OK)
}
