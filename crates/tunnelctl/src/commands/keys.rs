//! `tunnelctl keys`: keys for apps.

use jiff::Timestamp;
use serde_json::json;
use tunnel_api::config::{PathRule, RemotePaths};
use tunnel_api::{Key, KeyLimits, KeyReach, KeyRequest, Keys, WantedLimits, local_key_id};
use tunnel_client::{Client, exit};

use crate::cli::KeysVerb;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Look, Output};
use crate::refusal::Refusal;

pub(super) async fn run(client: &Client, verb: &KeysVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        KeysVerb::Create {
            local,
            name,
            device,
            models,
            scopes,
            paths,
            requests_per_minute,
            tokens_per_minute,
            concurrent,
            expires,
        } => {
            let request = KeyRequest {
                reach: if *local { KeyReach::Local } else { KeyReach::Remote },
                name: name.clone(),
                scopes: scopes.clone(),
                device: device.clone(),
                models: models.clone(),
                paths: reached(paths)?,
                limits: WantedLimits {
                    requests_per_minute: *requests_per_minute,
                    tokens_per_minute: *tokens_per_minute,
                    concurrent: *concurrent,
                },
                expires_in: expires.map(|seconds| seconds.get()),
            };
            create(client, &request, output).await
        }
        KeysVerb::List => list(client, output).await,
        KeysVerb::Revoke { id } => revoke(client, id, output).await,
    }
}

/// Reads what a key may reach: one word, or rules.
fn reached(paths: &[String]) -> Result<RemotePaths, Refusal> {
    let rules = match paths {
        [] => return Ok(RemotePaths::Inference),
        [word] if word == "inference" => return Ok(RemotePaths::Inference),
        [word] if word == "all" => return Ok(RemotePaths::All),
        rules => rules.iter().map(|rule| rule.parse::<PathRule>()).collect::<Result<_, _>>(),
    };
    rules.map(RemotePaths::Rules).map_err(|bad| {
        Refusal::new(exit::USAGE, format!("--paths takes inference, all, or rules; one of these is {bad}"))
    })
}

/// Prints the key and nothing else, so that it can be handed on.
async fn create(client: &Client, request: &KeyRequest, output: &Output) -> anyhow::Result<u8> {
    let new = client.create_key(request).await?;
    if output.wants_json() {
        output.json(json!(new))?;
        return Ok(exit::OK);
    }
    output.answer(&format!("{}\n", new.token))?;
    let until = new.key.expires_at.map_or_else(String::new, |at| format!(" until {}", minute(at)));
    if new.key.reach == KeyReach::Local {
        output.talk(
            "apps send it to this machine's gateway, as Authorization: Bearer KEY, or as their API key",
        );
    }
    output.talk(&format!(
        "it holds{until} and is not shown again; to make it void: tunnelctl keys revoke {}",
        new.key.id
    ));
    Ok(exit::OK)
}

async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let keys = client.keys().await?;
    if output.wants_json() {
        output.json(json!(keys))?;
    } else if keys.keys.is_empty() {
        output.talk("no key was made from this machine; to make one: tunnelctl keys create --name NAME");
    } else {
        output.table(&table(&keys, Timestamp::now()))?;
    }
    Ok(exit::OK)
}

async fn revoke(client: &Client, id: &str, output: &Output) -> anyhow::Result<u8> {
    let key = client.revoke_key(local_key_id(id).unwrap_or(id)).await?;
    if output.wants_json() {
        output.json(json!(key))?;
    } else {
        output.done(&format!("the key {} is void", key.id))?;
    }
    Ok(exit::OK)
}

fn table(keys: &Keys, now: Timestamp) -> Table {
    let mut table = Table::new(vec![
        Column::long("ID"),
        Column::long("NAME"),
        Column::text("REACH"),
        Column::text("STATE"),
        Column::text("EXPIRES"),
        Column::text("USED").extra(),
        Column::long("LIMITS").extra(),
        Column::text("CREATED").extra(),
        Column::long("DEVICE").extra(),
        Column::long("MODELS").extra(),
        Column::long("SCOPES").extra(),
    ]);
    for key in &keys.keys {
        let state = state(key, now);
        let paint = if state == GOOD { Look::bold } else { |_: &Look, text: &str| text.to_owned() };
        let all = |text: String| if text.is_empty() { "all".to_owned() } else { text };
        table.row(vec![
            Cell::painted(&key.id, paint),
            Cell::new(key.name.clone().unwrap_or_default()),
            Cell::new(reach(key)),
            Cell::new(state),
            Cell::new(key.expires_at.map_or_else(|| "never".to_owned(), minute)),
            Cell::new(key.last_used_at.map(minute).unwrap_or_default()),
            Cell::new(limits(&key.limits)),
            Cell::new(day(key.created_at)),
            Cell::new(all(key.device.clone().unwrap_or_default())),
            Cell::new(all(key.models.join(", "))),
            Cell::new(key.scopes.join(", ")),
        ]);
    }
    table
}

fn reach(key: &Key) -> &'static str {
    match key.reach {
        KeyReach::Local => "local",
        KeyReach::Remote => "remote",
        KeyReach::Unknown => "unknown",
    }
}

fn limits(limits: &KeyLimits) -> String {
    let KeyLimits { requests_per_minute, tokens_per_minute, concurrent } = limits;
    let told = [
        requests_per_minute.map(|n| format!("{n} requests/min")),
        tokens_per_minute.map(|n| format!("{n} tokens/min")),
        concurrent.map(|n| format!("{n} at once")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

/// A key that holds.
const GOOD: &str = "good";

fn state(key: &Key, now: Timestamp) -> &'static str {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        (None, _) => GOOD,
    }
}

/// Says which keys outlive a logout; `None` if there are none.
pub(super) fn left_behind(keys: &Keys, now: Timestamp) -> Option<String> {
    // Local ones have nothing to do with the login.
    let remote = keys.keys.iter().filter(|key| key.reach != KeyReach::Local);
    let n = remote.filter(|key| state(key, now) == GOOD).count();
    let what = match n {
        0 => return None,
        1 => "1 key for apps that was made here still holds; to make it void".to_owned(),
        n => format!("{n} keys for apps that were made here still hold; to make them void"),
    };
    Some(format!("{what}: tunnelctl login, then tunnelctl keys list and tunnelctl keys revoke ID"))
}

/// The end of a key: one may hold for an hour.
fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%MZ").to_string()
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn key_that_is_over_is_told_from_one_that_holds() {
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let key = |id: &str, expires_at, revoked_at| Key {
            id: id.to_owned(),
            scopes: vec!["inference".to_owned()],
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            expires_at,
            revoked_at,
            ..Key::default()
        };
        let keys = Keys {
            keys: vec![
                Key { name: Some("editor".to_owned()), models: vec!["m".to_owned()], ..key("a", None, None) },
                Key {
                    reach: KeyReach::Local,
                    limits: KeyLimits { concurrent: NonZeroU32::new(2), ..KeyLimits::default() },
                    last_used_at: at("2026-01-03T04:05:00Z"),
                    ..key("tk_1", None, None)
                },
                key("b", at("2026-01-31T00:00:00Z"), None),
                key("c", at("2026-12-31T00:00:00Z"), at("2026-01-02T00:00:00Z")),
            ],
            ..Keys::default()
        };
        let text = table(&keys, at("2026-02-01T00:00:00Z").unwrap()).text(&Look::plain(), None);
        assert_eq!(
            text,
            "ID    NAME    REACH   STATE    EXPIRES            USED               LIMITS     CREATED     DEVICE  MODELS  SCOPES\n\
             a     editor  remote  good     never                                 none       2026-01-01  all     m       inference\n\
             tk_1          local   good     never              2026-01-03 04:05Z  2 at once  2026-01-01  all     all     inference\n\
             b             remote  expired  2026-01-31 00:00Z                     none       2026-01-01  all     all     inference\n\
             c             remote  revoked  2026-12-31 00:00Z                     none       2026-01-01  all     all     inference\n"
        );
        let left = left_behind(&keys, at("2026-02-01T00:00:00Z").unwrap()).unwrap();
        assert!(left.starts_with("1 key for apps"), "{left}");
        assert_eq!(left_behind(&Keys::default(), Timestamp::now()), None);
    }
}
