//! Writes the reference of all keys as Markdown, inside a frame that is written by hand.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use tunnel_api::Config;

const FRAME: &str = include_str!("frame.md");
/// Line of the frame that the keys take the place of.
const KEYS: &str = "<!-- keys -->\n";

pub(crate) fn reference(schema: &Value) -> String {
    let mut text = String::new();
    for key in in_order() {
        describe(&mut text, &key, &schema["properties"][&key], Some(&variable(&key)), false);
    }
    assert_eq!(FRAME.matches(KEYS).count(), 1);
    FRAME.replace(KEYS, text.trim_start_matches('\n'))
}

/// The keys in the order of the type's fields, which puts what belongs together together.
fn in_order() -> Vec<String> {
    let text = Config::default().to_json();
    let top = text.lines().filter_map(|line| line.strip_prefix("  \"")?.split_once("\": "));
    top.map(|(key, _)| key.to_owned()).collect()
}

fn describe(text: &mut String, key: &str, schema: &Value, variable: Option<&str>, required: bool) {
    let level = if variable.is_some() { "###" } else { "####" };
    let mut facts = vec![kind(schema)];
    match schema.get("default") {
        Some(default @ (Value::Object(_) | Value::Array(_)))
            if !is_empty(default) && keys(schema).is_some() => {}
        Some(default) => facts.push(format!("default `{default}`")),
        None if required => facts.push("must be given".to_owned()),
        None => {}
    }
    facts.extend(variable.map(|name| format!("`{name}`")));
    write!(text, "\n{level} `{key}`\n\n{}\n\n{}\n", facts.join(" · "), description(schema)).unwrap();
    let choices = schema["oneOf"].as_array().into_iter().flatten();
    for (index, choice) in choices.enumerate() {
        let blank = if index == 0 { "\n" } else { "" };
        writeln!(text, "{blank}- `{}`: {}", choice["const"].as_str().unwrap(), description(choice)).unwrap();
    }
    for (of, at) in [(schema, "."), (&schema["items"], "[].")] {
        for (below, schema) in keys(of).into_iter().flatten() {
            describe(text, &format!("{key}{at}{below}"), schema, None, is_required(of, below));
        }
    }
}

fn is_required(of: &Value, key: &str) -> bool {
    of["required"].as_array().is_some_and(|required| required.iter().any(|name| name == key))
}

fn keys(schema: &Value) -> Option<&Map<String, Value>> {
    schema["properties"].as_object()
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap()
}

/// What a value looks like, for people.
fn kind(schema: &Value) -> String {
    if let Some(choices) = schema["oneOf"].as_array() {
        return words(choices.iter().map(|choice| &choice["const"]));
    }
    if let Some(choices) = schema["enum"].as_array() {
        return words(choices.iter());
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        // A pattern beside words only allows other spellings of them.
        let shown = choices.iter().filter(|choice| choice["type"] != "string");
        return shown.map(kind).collect::<Vec<_>>().join(", or ");
    }
    let (name, nullable) = match &schema["type"] {
        Value::Array(types) => (types[0].as_str().unwrap(), true),
        name => (name.as_str().unwrap(), false),
    };
    let name = match name {
        "integer" => "whole number",
        "boolean" => "true or false",
        "string" => "text",
        "array" if keys(&schema["items"]).is_some() => "list of objects",
        "array" => "list of texts",
        "object" if keys(schema).is_none() => "object of texts",
        other => other,
    };
    let bounds = match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        (Some(least), Some(most)) if most < u64::from(u32::MAX) => format!(" {least}–{most}"),
        (Some(least), _) => format!(" from {least}"),
        _ => String::new(),
    };
    format!("{name}{bounds}{}", if nullable { " or null" } else { "" })
}

fn words<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let quoted: Vec<String> = values.map(|value| format!("`{value}`")).collect();
    quoted.join(", ")
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    let mut name = String::from("TUNNELD_");
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}
