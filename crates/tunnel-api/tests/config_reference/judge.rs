//! Judges values by a schema: the keywords that ours uses, no more. An unknown keyword fails the test.

use regex_automata::dfa::regex::Regex;
use regex_automata::util::syntax;
use serde_json::Value;

/// Tells whether the schema takes the value.
pub(crate) fn takes(schema: &Value, value: &Value) -> bool {
    if let Value::Bool(all) = schema {
        return *all;
    }
    schema.as_object().unwrap().iter().all(|(keyword, wanted)| match keyword.as_str() {
        "type" => match wanted {
            Value::Array(types) => types.iter().any(|wanted| is(value, wanted.as_str().unwrap())),
            wanted => is(value, wanted.as_str().unwrap()),
        },
        "minimum" => value.as_f64().is_none_or(|value| value >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|value| value <= wanted.as_f64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| matches(wanted.as_str().unwrap(), text)),
        "enum" => wanted.as_array().unwrap().contains(value),
        "const" => wanted == value,
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| takes(schema, value)),
        "oneOf" => wanted.as_array().unwrap().iter().filter(|schema| takes(schema, value)).count() == 1,
        "not" => !takes(wanted, value),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| takes(wanted, item))),
        "properties" => value.as_object().is_none_or(|keys| {
            keys.iter().all(|(key, value)| wanted.get(key).is_none_or(|schema| takes(schema, value)))
        }),
        // Names that the schema does not know, each with a value as this says.
        "additionalProperties" if wanted.is_object() => {
            value.as_object().is_none_or(|keys| keys.values().all(|value| takes(wanted, value)))
        }
        "additionalProperties" => {
            let known = &schema["properties"];
            let others = |keys: &serde_json::Map<String, Value>| {
                keys.iter().filter(|(key, _)| known.get(key).is_none()).all(|(_, value)| takes(wanted, value))
            };
            value.as_object().is_none_or(others)
        }
        "required" => value.as_object().is_none_or(|keys| {
            wanted.as_array().unwrap().iter().all(|key| keys.contains_key(key.as_str().unwrap()))
        }),
        "$schema" | "$id" | "title" | "description" | "default" | "format" => true,
        unknown => panic!("{unknown}: a keyword that this judge does not know"),
    })
}

fn is(value: &Value, wanted: &str) -> bool {
    match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}: no type"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    // Bytes: the samples are ASCII, and tables of Unicode are not wanted for them.
    let syntax = syntax::Config::new().unicode(false).utf8(false);
    Regex::builder().syntax(syntax).build(pattern).unwrap().is_match(text)
}
