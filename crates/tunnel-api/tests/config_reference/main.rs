//! The schema file and `docs/configuration.md` say what the types say, and the types do what they say.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

mod bounds;
mod judge;
mod markdown;

use std::path::PathBuf;

use tunnel_api::Config;

#[test]
fn schema_file_is_the_types() {
    let schema = format!("{:#}\n", Config::schema());
    agree("dist/tunnel_config.schema.json", &schema);
}

#[test]
fn reference_is_the_schema() {
    agree("docs/configuration.md", &markdown::reference(&Config::schema()));
}

#[test]
fn what_the_reference_says_must_be_given_is_what_is_refused_without() {
    use serde_json::{Value, json};
    let reference = markdown::reference(&Config::schema());
    let takes = |entry: &Value| {
        let config = json!({ "connections": [entry] });
        Config::check(config.as_object().unwrap()).is_ok()
    };
    let whole = [
        json!({ "id": "p", "type": "plugin", "url": "http://127.0.0.1:1" }),
        json!({ "id": "p", "type": "plugin", "command": ["/opt/p"] }),
    ];
    assert!(whole.iter().all(takes));
    let schema = Config::schema();
    for key in schema["properties"]["connections"]["items"]["properties"].as_object().unwrap().keys() {
        let without = |entry: &Value| {
            let mut entry = entry.clone();
            entry.as_object_mut().unwrap().remove(key);
            entry
        };
        let heading = format!("`connections[].{key}`\n\n");
        let facts = reference.split_once(&heading).unwrap().1.lines().next().unwrap();
        let needed = !whole.iter().any(|entry| takes(&without(entry)));
        assert_eq!(facts.contains("must be given"), needed, "{key}: {facts}");
    }
}

#[test]
fn schema_takes_the_shipped_example() {
    let example = include_str!("../../../../dist/tunnel_config.example.json");
    let example = serde_json::from_str(example).unwrap();
    assert!(judge::takes(&Config::schema(), &example));
}

/// Compares a file of the repository with what it should say; with `UPDATE_DOCS` set, writes it.
fn agree(path: &str, expected: &str) {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| !value.is_empty()) {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is not what the types say; write it anew: cargo xtask docs");
}
