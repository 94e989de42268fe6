//! `autoStartOnBoot`, which must not fight with install and uninstall: the daemon carries a value that somebody has
//! set over to systemd.

use std::time::Duration;

use serde_json::{Map, Value};
use tunnel_api::config_api::{ConfigAnswer, Layer};
use tunnel_client::{Client, Error};

use crate::output::Output;

const KEY: &str = "autoStartOnBoot";
/// Longest wait for the daemon.
const LIMIT: Duration = Duration::from_secs(5);

/// Puts a value that was set to the opposite of `wanted` right, and says so. Where nobody has set one, none is set.
pub(super) async fn agree(client: &Client, wanted: bool, output: &Output) {
    let failed = match tokio::time::timeout(LIMIT, put_right(client, wanted)).await {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(answer))) => match answer.overridden.first() {
            None => {
                output.talk(&format!(
                    "{KEY} was {}; it is {wanted} now, so that it does not undo this",
                    !wanted
                ));
                return;
            }
            Some(overridden) => format!("${} sets it", overridden.by),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("tunneld did not answer within {} s", LIMIT.as_secs()),
    };
    output.talk(&format!(
        "it is not certain that {KEY} agrees: {failed}; make sure: tunnelctl config set {KEY} {wanted}"
    ));
}

async fn put_right(client: &Client, wanted: bool) -> Result<Option<ConfigAnswer>, Error> {
    // The daemon may have brought its socket with it a moment ago.
    let anew = client.found_anew(|name| std::env::var_os(name))?;
    let client = anew.as_ref().unwrap_or(client);
    let (config, origins) = tokio::try_join!(client.config(), client.config_origins())?;
    let is_said = origins.origins.get(KEY).is_some_and(|origin| origin.from != Layer::Default);
    if !is_said || config.get(KEY) == Some(&Value::Bool(wanted)) {
        return Ok(None);
    }
    client.patch_config(&Map::from_iter([(KEY.to_owned(), wanted.into())])).await.map(Some)
}
