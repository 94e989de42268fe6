//! The JSON Schema of a configuration file, out of the types above and their comments.
//!
//! Each function describes what a rule of the same kind in `rule.rs` takes. `tests/config_reference` probes both
//! with the same values, so they cannot drift apart.

use std::num::NonZeroU32;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::rule::NO_MAXIMUM;
use super::{Config, SCHEMA_KEY};

/// The name of a model: something in it, and no control characters.
const MODEL: &str = r"^[^\x00-\x1F\x7F-\x9F]*[^\x00-\x1F\x7F-\x9F\s][^\x00-\x1F\x7F-\x9F]*$";
/// Where the schema says it is from; nothing is fetched from there.
const ID: &str = "https://app.cloudtolocalllm.online/schemas/tunnel_config.schema.json";

impl Config {
    /// Returns the JSON Schema (draft 2020-12) of a configuration file.
    ///
    /// It knows each key on its own; what keys must be together (two ports that differ) only [`Config::check`]
    /// knows.
    pub fn schema() -> Value {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .with_transform(plain_text);
        let mut schema = settings.into_generator().into_root_schema_for::<Self>();
        schema.insert("$id".to_owned(), ID.into());
        schema.insert("title".to_owned(), "Configuration of tunneld".into());
        schema.insert("description".to_owned(), "Keys that are left out take their default.".into());
        schema.to_value()
    }
}

/// Adds the key by which an editor knows the schema.
pub(super) fn allow_naming_it(schema: &mut Schema) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let named =
            json_schema!({ "type": "string", "description": "The schema of this file, for editors." });
        properties.insert(SCHEMA_KEY.to_owned(), named.to_value());
    }
}

/// Turns the comments' Rust form into text: one line a paragraph, no escapes, no bounds of Rust's own integers.
fn plain_text(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let paragraphs: Vec<String> = text
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " ").replace("\\[", "[").replace("\\]", "]"))
            .collect();
        *text = paragraphs.join("\n\n");
    }
    transform_subschemas(&mut plain_text, schema);
}

pub(super) fn whole<const MIN: u64, const MAX: u64>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
}

pub(super) fn seconds<const MIN: u64, const MAX: u64>(generator: &mut SchemaGenerator) -> Schema {
    whole::<MIN, MAX>(generator)
}

pub(super) fn port(generator: &mut SchemaGenerator) -> Schema {
    whole::<1, 65535>(generator)
}

pub(super) fn positive(generator: &mut SchemaGenerator) -> Schema {
    whole::<1, NO_MAXIMUM>(generator)
}

pub(super) fn optional_positive(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["integer", "null"], "minimum": 1, "maximum": NO_MAXIMUM })
}

pub(super) fn percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
}

pub(super) fn line(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": r"^[^\x00-\x1F\x7F-\x9F]*$" })
}

pub(super) fn host(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": r"^\s*(?:[Hh][Tt][Tt][Pp][Ss]?://)?[^\s/?#@%\\]+/?\s*$" })
}

pub(super) fn http_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "uri", "pattern": r"^\s*[Hh][Tt][Tt][Pp][Ss]?://[^?#@]+$" })
}

pub(super) fn backend_url(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^\s*(?:[Hh][Tt][Tt][Pp][Ss]?|[Uu][Nn][Ii][Xx])://[^?#@]+$";
    json_schema!({ "type": "string", "format": "uri", "pattern": pattern })
}

pub(super) fn proxy_url(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^\s*(?:[Hh][Tt][Tt][Pp][Ss]?|[Ss][Oo][Cc][Kk][Ss]5[Hh]?)://[^?#@]+$";
    json_schema!({ "type": ["string", "null"], "format": "uri", "pattern": pattern })
}

pub(super) fn origins(_: &mut SchemaGenerator) -> Schema {
    let pattern =
        r"^[A-Za-z][A-Za-z0-9+.-]*://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?:\*|[0-9]{1,5}))?$";
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": pattern } })
}

/// Editors offer the words in capitals; each spelling is taken.
pub(super) fn log_level(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "enum": ["DEBUG", "INFO", "WARN", "ERROR", "TRACE"] },
        {
            "type": "string",
            "pattern": "^(?:[Dd][Ee][Bb][Uu][Gg]|[Ii][Nn][Ff][Oo]|[Ww][Aa][Rr][Nn]|[Ee][Rr][Rr][Oo][Rr]|[Tt][Rr][Aa][Cc][Ee])$",
        },
    ] })
}

pub(super) fn remote_paths(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^\s*(?:\*|[A-Za-z-]+) +/[^\s%?#\\;]*\s*$";
    json_schema!({ "anyOf": [
        { "enum": ["inference", "all"] },
        { "type": "array", "items": { "type": "string", "pattern": pattern } },
    ] })
}

pub(super) fn device_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "pattern": "^[a-z0-9-]{1,63}$" })
}

pub(super) fn ip(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^\s*(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\s*$";
    json_schema!({ "type": "string", "pattern": pattern })
}

pub(super) fn host_names(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^\s*[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\s*$";
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": pattern } })
}

pub(super) fn absolute_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "pattern": "^/" })
}

pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,63}$", "not": { "pattern": r"^\.+$" } })
}

pub(super) fn credential(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"], "pattern": "^[A-Za-z0-9._-]{1,63}$", "not": { "type": "string", "pattern": r"^(sk-|\.+$)" },
    })
}

pub(super) fn models(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": MODEL } })
}

pub(super) fn aliases(_: &mut SchemaGenerator) -> Schema {
    let model = json_schema!({ "type": "string", "pattern": MODEL });
    json_schema!({ "type": "object", "additionalProperties": model })
}

pub(super) fn command(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string" } })
}

pub(super) fn absolute_paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": r"^/[^:\n\r]+$" } })
}

pub(super) fn variables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
}

pub(super) fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

pub(super) fn yes() -> bool {
    true
}
