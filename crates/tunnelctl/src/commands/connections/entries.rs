//! The connections as the configuration has them. Pure.

use serde_json::{Map, Value, json};
use tunnel_api::connection::{CLOUD_ID, OLLAMA_ID};
use tunnel_client::exit;

use super::address;
use crate::refusal::Refusal;

/// The key of the configuration that holds the entries.
pub(super) const CONNECTIONS: &str = "connections";
/// The switch of the built-in connection `ollama`.
pub(super) const ENABLE_OLLAMA: &str = "enableLocalOllama";
/// The switch of the connection `cloud`.
pub(super) const ENABLE_CLOUD: &str = "enableCloudProxy";

/// Returns the entries, as they are.
pub(super) fn entries(config: &Map<String, Value>) -> Vec<Value> {
    config.get(CONNECTIONS).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Returns a text of an entry; empty when it has none.
pub(super) fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Tells whether an entry is used. It is unless it says otherwise.
pub(super) fn is_enabled(entry: &Value) -> bool {
    entry.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

/// Tells whether a switch of the configuration is on.
pub(super) fn is_on(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(true)
}

/// Returns the switch of a built-in connection.
pub(super) fn switch_of(id: &str) -> Option<&'static str> {
    match id {
        OLLAMA_ID => Some(ENABLE_OLLAMA),
        CLOUD_ID => Some(ENABLE_CLOUD),
        _ => None,
    }
}

/// Returns all ids, those of the built-in ones first. Ids that are switched off are taken, too.
pub(super) fn ids(config: &Map<String, Value>) -> Vec<String> {
    let mut ids = vec![OLLAMA_ID.to_owned(), CLOUD_ID.to_owned()];
    for entry in entries(config) {
        let id = text(&entry, "id");
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    ids
}

/// Returns the model servers that are switched off.
pub(in crate::commands) fn switched_off(config: &Map<String, Value>) -> Vec<String> {
    let entries = entries(config);
    let is_taken = entries.iter().any(|entry| text(entry, "id") == OLLAMA_ID);
    let built_in = (!is_on(config, ENABLE_OLLAMA) && !is_taken).then(|| OLLAMA_ID.to_owned());
    let off = entries.iter().filter(|entry| !is_enabled(entry)).map(|entry| text(entry, "id").to_owned());
    built_in.into_iter().chain(off).collect()
}

/// Returns the wish if it is free, else with the lowest number from 2 on that makes it free.
pub(super) fn free_id(wish: &str, taken: &[String]) -> String {
    let is_free = |id: &String| !taken.contains(id);
    std::iter::once(wish.to_owned())
        .chain((2..).map(|n| format!("{wish}-{n}")))
        .find(is_free)
        .expect("one more number than ids that are taken")
}

/// Returns the id of the entry that leads to this address already.
pub(super) fn leading_to(config: &Map<String, Value>, url: &str) -> Option<String> {
    let there = |entry: &Value| address::same(text(entry, "url"), url);
    entries(config).iter().find(|entry| there(entry)).map(|entry| text(entry, "id").to_owned())
}

/// Returns the change that puts entries behind those that there are.
pub(super) fn with(config: &Map<String, Value>, more: impl IntoIterator<Item = Value>) -> Map<String, Value> {
    let mut entries = entries(config);
    entries.extend(more);
    patch(CONNECTIONS, Value::Array(entries))
}

/// Returns the change that takes a connection out.
pub(super) fn without(config: &Map<String, Value>, id: &str) -> Result<Map<String, Value>, Refusal> {
    let mut entries = entries(config);
    let before = entries.len();
    entries.retain(|entry| text(entry, "id") != id);
    if entries.len() < before {
        return Ok(patch(CONNECTIONS, Value::Array(entries)));
    }
    match switch_of(id) {
        Some(_) => Err(Refusal::new(
            exit::CONFLICT,
            format!(
                "{id} is built in and cannot be removed; to leave it alone: tunnelctl connections disable {id}"
            ),
        )),
        None => Err(unknown(id, config)),
    }
}

/// Returns the change that has a connection used or not used; empty when it is so already.
pub(super) fn switched(
    config: &Map<String, Value>,
    id: &str,
    on: bool,
) -> Result<Map<String, Value>, Refusal> {
    let mut entries = entries(config);
    // An entry may have the name of the built-in one while that is switched off.
    if let Some(entry) = entries.iter_mut().find(|entry| text(entry, "id") == id) {
        if is_enabled(entry) == on {
            return Ok(Map::new());
        }
        entry["enabled"] = on.into();
        return Ok(patch(CONNECTIONS, Value::Array(entries)));
    }
    match switch_of(id) {
        Some(key) if is_on(config, key) == on => Ok(Map::new()),
        Some(key) => Ok(patch(key, on.into())),
        None => Err(unknown(id, config)),
    }
}

/// Returns that there is no such connection, and which there are.
pub(super) fn unknown(id: &str, config: &Map<String, Value>) -> Refusal {
    Refusal::new(
        exit::NOT_FOUND,
        format!("there is no connection {id}; there are: {}", ids(config).join(", ")),
    )
}

/// Returns an entry that says only what it must.
pub(super) fn entry(id: &str, kind: &str, url: &str) -> Value {
    json!({ "id": id, "type": kind, "url": url })
}

fn patch(key: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Map<String, Value> {
        let value = json!({
            "enableLocalOllama": true,
            "enableCloudProxy": false,
            "connections": [
                { "id": "lab", "type": "openai", "url": "http://10.0.0.2:8000/v1", "weight": 3, "later": "kept" },
                { "id": "old", "type": "ollama", "url": "http://10.0.0.3:11434", "enabled": false },
            ],
        });
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn new_entries_go_behind_those_that_stay_as_they_are() {
        let change = with(&config(), [entry("new", "ollama", "http://h:1")]);
        let written = change["connections"].as_array().unwrap();
        assert_eq!((change.len(), written.len()), (1, 3));
        assert_eq!(written[..2], entries(&config()));
        assert_eq!(written[2], json!({ "id": "new", "type": "ollama", "url": "http://h:1" }));
    }

    #[test]
    fn removing_takes_one_out_and_no_built_in_one() {
        let change = without(&config(), "old").unwrap();
        assert_eq!(change["connections"], json!([entries(&config())[0]]));
        assert_eq!(without(&config(), "ollama").unwrap_err().code(), exit::CONFLICT);
        let unknown = without(&config(), "nope").unwrap_err();
        assert_eq!(unknown.code(), exit::NOT_FOUND);
        assert_eq!(unknown.to_string(), "there is no connection nope; there are: ollama, cloud, lab, old");
    }

    #[test]
    fn switching_turns_the_built_in_ones_at_their_key_and_others_in_their_entry() {
        let change = |id, on| Value::Object(switched(&config(), id, on).unwrap());
        assert_eq!(change("ollama", false), json!({ "enableLocalOllama": false }));
        assert_eq!(change("cloud", true), json!({ "enableCloudProxy": true }));
        assert_eq!(change("old", true)["connections"][1]["enabled"], true);
        assert_eq!(change("lab", false)["connections"][0]["later"], "kept");
        for (id, on) in [("ollama", true), ("cloud", false), ("lab", true), ("old", false)] {
            assert_eq!(change(id, on), json!({}), "{id}");
        }
        assert_eq!(switched(&config(), "x", true).unwrap_err().code(), exit::NOT_FOUND);
    }

    #[test]
    fn entry_with_a_built_in_name_is_meant_before_the_built_in_one() {
        let mut config = config();
        config.insert("enableLocalOllama".to_owned(), false.into());
        config[CONNECTIONS][1]["id"] = "ollama".into();
        assert!(switched(&config, "ollama", true).unwrap().contains_key(CONNECTIONS));
        assert!(without(&config, "ollama").is_ok());
        assert_eq!(ids(&config), ["ollama", "cloud", "lab"]);
    }

    #[test]
    fn what_is_switched_off_is_known_by_its_id() {
        let mut config = config();
        assert_eq!(switched_off(&config), ["old"]);
        config.insert(ENABLE_OLLAMA.to_owned(), false.into());
        assert_eq!(switched_off(&config), ["ollama", "old"]);
        // The name is an entry's then.
        config[CONNECTIONS][0]["id"] = "ollama".into();
        assert_eq!(switched_off(&config), ["old"]);
    }

    #[test]
    fn ids_are_made_free_by_numbers() {
        let taken = ids(&config());
        assert_eq!(free_id("vllm", &taken), "vllm");
        assert_eq!(free_id("lab", &taken), "lab-2");
        assert_eq!(free_id("ollama", &["ollama".to_owned(), "ollama-2".to_owned()]), "ollama-3");
    }

    #[test]
    fn address_that_is_there_already_is_found() {
        assert_eq!(leading_to(&config(), "http://10.0.0.2:8000"), Some("lab".to_owned()));
        assert_eq!(leading_to(&config(), "http://10.0.0.2:8001"), None);
    }
}
