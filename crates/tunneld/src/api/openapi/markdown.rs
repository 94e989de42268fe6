//! Writes the OpenAPI document for people: `docs/local-api.md`.

use std::fmt::Write;

use serde_json::{Map, Value};

const HEAD: &str = include_str!("frame.md");

/// Returns the reference.
pub(super) fn markdown(document: &Value) -> String {
    let mut text = HEAD.to_owned();
    let tags = document["tags"].as_array().cloned().unwrap_or_default();
    for tag in &tags {
        let name = tag["name"].as_str().unwrap_or_default();
        let _ = write!(text, "\n## {name}\n\n{}\n", tag["description"].as_str().unwrap_or_default());
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"][0] == name {
                    write_operation(&mut text, method, path, operation);
                }
            }
        }
    }
    text.push_str("\n## Types\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        write_type(&mut text, name, schema);
    }
    text
}

fn write_operation(text: &mut String, method: &str, path: &str, operation: &Value) {
    let say = |key: &str| operation[key].as_str().unwrap_or_default();
    let _ = write!(text, "\n### `{} {path}`\n\n{}.", method.to_uppercase(), say("summary"));
    if !say("description").is_empty() {
        let _ = write!(text, " {}", say("description"));
    }
    text.push('\n');
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    if !parameters.is_empty() {
        text.push_str("\n| parameter | in | type | |\n|---|---|---|---|\n");
    }
    for parameter in parameters {
        let say = |key: &str| parameter[key].as_str().unwrap_or_default();
        let kind = shape(&parameter["schema"]);
        let _ = writeln!(
            text,
            "| `{}` | {} | {kind} | {} |",
            say("name"),
            say("in"),
            one_line(say("description"))
        );
    }
    if let Some(body) = operation.get("requestBody") {
        let content = &body["content"]["application/json"];
        let about = body["description"].as_str().unwrap_or_default();
        let _ = write!(text, "\nTakes {}: {about}", shape(&content["schema"]));
        let _ = write!(text, "\n\n```json\n{}\n```\n", content["example"]);
    }
    text.push_str("\n| status | answer |\n|---|---|\n");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let json = &response["content"]["application/json"]["schema"];
        let kind = if json.is_null() { String::new() } else { format!("{} · ", shape(json)) };
        let about = one_line(response["description"].as_str().unwrap_or_default());
        let _ = writeln!(text, "| {status} | {kind}{about} |");
    }
}

fn write_type(text: &mut String, name: &str, schema: &Value) {
    let _ = write!(text, "\n### {name}\n\n{}\n", paragraphs(schema));
    if let Some(properties) = schema["properties"].as_object() {
        text.push_str("\n| field | type | |\n|---|---|---|\n");
        write_fields(text, properties);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        let value = variant.get("const").map(Value::to_string).unwrap_or_else(|| shape(variant));
        let _ = writeln!(text, "- `{value}`: {}", one_line(&paragraphs(variant)));
    }
}

fn write_fields(text: &mut String, properties: &Map<String, Value>) {
    for (field, schema) in properties {
        let _ = writeln!(text, "| `{field}` | {} | {} |", shape(schema), one_line(&paragraphs(schema)));
    }
}

fn paragraphs(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

/// Names a type in a few words.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(choices) = schema[key].as_array() {
            return choices.iter().map(shape).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ");
    }
    let name = |kind: &str| match kind {
        "array" => format!("array of {}", shape(&schema["items"])),
        "object" => match schema.get("additionalProperties") {
            Some(of @ Value::Object(_)) => format!("map to {}", shape(of)),
            _ => "object".to_owned(),
        },
        "string" => match schema["format"].as_str() {
            Some("date-time") => "time".to_owned(),
            _ => "string".to_owned(),
        },
        kind => kind.to_owned(),
    };
    match &schema["type"] {
        Value::String(kind) => name(kind),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
