//! Keys such as `queue.maxWait`, and the values below them.

use serde_json::{Map, Value};

/// One value that is another one than before.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) key: String,
    /// None: there was none.
    pub(super) old: Option<Value>,
    /// None: there is none any more.
    pub(super) new: Option<Value>,
}

/// Returns the value that a key names: members of objects by name, of lists by number, from 0.
pub(super) fn find<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = config.get(names.next()?)?;
    names.try_fold(first, |value, name| match value {
        Value::Object(members) => members.get(name),
        Value::Array(values) => values.get(name.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// Returns the merge patch that gives one key this value; null takes the key out.
pub(super) fn patch(key: &str, value: Value) -> Map<String, Value> {
    let (name, value) = match key.split_once('.') {
        Some((name, below)) => (name, Value::Object(patch(below, value))),
        None => (key, value),
    };
    Map::from_iter([(name.to_owned(), value)])
}

/// Returns every value with its key; a list is one value, and so is an empty object.
pub(super) fn leaves(config: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut leaves = Vec::new();
    for (name, value) in config {
        match value {
            Value::Object(members) if !members.is_empty() => {
                leaves.extend(
                    self::leaves(members).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            value => leaves.push((name.clone(), value)),
        }
    }
    leaves
}

/// Returns what differs from `old` to `new`, by key.
pub(super) fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Difference> {
    let (old, new) = (leaves(old), leaves(new));
    let value = |leaves: &[(String, &Value)], key: &str| {
        leaves.iter().find(|(name, _)| name == key).map(|(_, value)| (*value).clone())
    };
    let gone = old.iter().filter(|(key, _)| value(&new, key).is_none());
    let mut keys: Vec<&String> = new.iter().chain(gone).map(|(key, _)| key).collect();
    keys.sort();
    keys.into_iter()
        .map(|key| Difference { key: key.clone(), old: value(&old, key), new: value(&new, key) })
        .filter(|difference| difference.old != difference.new)
        .collect()
}

/// Returns the keys that may be meant by one that is not there.
pub(super) fn near(config: &Map<String, Value>, wanted: &str) -> Vec<String> {
    let leaves = leaves(config);
    let names: Vec<&str> = config
        .keys()
        .map(String::as_str)
        .chain(leaves.iter().map(|(key, _)| key.as_str()).filter(|key| key.contains('.')))
        .collect();
    // `maxWait` for `queue.maxWait`: the object was forgotten.
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let forgotten: Vec<String> =
        names.iter().filter(|name| last(name) == last(wanted)).map(|name| (*name).to_owned()).collect();
    if forgotten.is_empty() {
        tunnel_api::config::nearest(wanted, &names).map(str::to_owned).into_iter().collect()
    } else {
        forgotten
    }
}

/// Returns a value as people write it: a text without quotes, anything else as JSON on one line.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn config() -> Map<String, Value> {
        map(json!({
            "ollamaPort": 11434, "deviceName": null, "queue": { "maxWait": 60, "maxWaiting": 64 },
            "connections": [{ "id": "lab", "url": "http://lab" }],
        }))
    }

    #[test]
    fn keys_lead_into_objects_and_lists() {
        assert_eq!(find(&config(), "queue.maxWait"), Some(&json!(60)));
        assert_eq!(find(&config(), "connections.0.id"), Some(&json!("lab")));
        assert_eq!(find(&config(), "deviceName"), Some(&Value::Null));
        for key in ["", "queue.", "queue.maxwait", "connections.1", "connections.id", "ollamaPort.x", "."] {
            assert_eq!(find(&config(), key), None, "{key}");
        }
    }

    #[test]
    fn patch_nests_what_the_key_nests() {
        assert_eq!(Value::from(patch("ollamaPort", json!(1))), json!({ "ollamaPort": 1 }));
        assert_eq!(Value::from(patch("queue.maxWait", Value::Null)), json!({ "queue": { "maxWait": null } }));
    }

    #[test]
    fn differences_name_each_value_once_and_in_order() {
        let new = map(json!({
            "ollamaPort": 1, "deviceName": null, "queue": { "maxWait": 30, "maxWaiting": 64 }, "added": [],
        }));
        let differences = differences(&config(), &new);
        let keys: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
        assert_eq!(keys, ["added", "connections", "ollamaPort", "queue.maxWait"]);
        assert_eq!((&differences[0].old, &differences[1].new), (&None, &None));
        assert_eq!((&differences[3].old, &differences[3].new), (&Some(json!(60)), &Some(json!(30))));
    }

    #[test]
    fn misspelled_and_shortened_keys_are_recognised() {
        assert_eq!(near(&config(), "ollamPort"), ["ollamaPort"]);
        assert_eq!(near(&config(), "maxwait"), ["queue.maxWait"]);
        assert_eq!(near(&config(), "queue.maxWat"), ["queue.maxWait"]);
        assert!(near(&config(), "zzz").is_empty());
    }
}
