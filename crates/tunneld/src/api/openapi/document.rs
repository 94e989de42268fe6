//! Writes operations as an OpenAPI 3.1 document.

use http::{Method, StatusCode};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use tunnel_api::ErrorBody;

/// One method of one path.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Value>,
    body: Option<(bool, &'static str, Shape, Value)>,
    answers: Vec<(StatusCode, &'static str, Content)>,
    errors: Vec<(StatusCode, &'static str)>,
}

type Shape = fn(&mut SchemaGenerator) -> Schema;

enum Content {
    Json(Shape),
    Text(&'static str),
    As(&'static str),
    Nothing,
}

impl Operation {
    pub(super) fn new(method: Method, path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            tag,
            summary,
            description: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub(super) fn about(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    pub(super) fn query(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description, "schema": schema,
        }));
        self
    }

    pub(super) fn header(mut self, name: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string" },
        }));
        self
    }

    pub(super) fn path_parameter(mut self, name: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": { "type": "string", "minLength": 1 },
        }));
        self
    }

    /// It takes a JSON body that looks like this.
    pub(super) fn takes<T: JsonSchema>(mut self, description: &'static str, example: Value) -> Self {
        self.body = Some((true, description, |generator| generator.subschema_for::<T>(), example));
        self
    }

    /// Like [`Operation::takes`]; without a body it takes the defaults.
    pub(super) fn takes_if_wanted<T: JsonSchema>(
        mut self,
        description: &'static str,
        example: Value,
    ) -> Self {
        self.body = Some((false, description, |generator| generator.subschema_for::<T>(), example));
        self
    }

    /// Its 200 is this type.
    pub(super) fn answers<T: JsonSchema>(self, description: &'static str) -> Self {
        self.answers_with::<T>(StatusCode::OK, description)
    }

    /// Its good answer has another status than 200, and is this type.
    pub(super) fn answers_with<T: JsonSchema>(
        mut self,
        status: StatusCode,
        description: &'static str,
    ) -> Self {
        let shape: Shape = |generator| generator.subschema_for::<T>();
        self.answers.push((status, description, Content::Json(shape)));
        self
    }

    /// Its 200 is text of this type.
    pub(super) fn answers_text(mut self, content_type: &'static str, description: &'static str) -> Self {
        self.answers.push((StatusCode::OK, description, Content::Text(content_type)));
        self
    }

    /// Its 200 is JSON of this media type.
    pub(super) fn answers_as(mut self, content_type: &'static str, description: &'static str) -> Self {
        self.answers.push((StatusCode::OK, description, Content::As(content_type)));
        self
    }

    pub(super) fn answers_nothing(mut self, status: StatusCode, description: &'static str) -> Self {
        self.answers.push((status, description, Content::Nothing));
        self
    }

    /// It may be answered with this error.
    pub(super) fn fails(mut self, status: StatusCode, when: &'static str) -> Self {
        self.errors.push((status, when));
        self
    }

    fn write(self, generator: &mut SchemaGenerator, requests: &mut SchemaGenerator) -> Value {
        let mut responses = Map::new();
        for (status, description, content) in self.answers {
            let mut response = json!({ "description": description });
            match content {
                Content::Json(shape) => {
                    response["content"] = json!({ "application/json": { "schema": shape(generator) } });
                }
                Content::Text(content_type) => {
                    response["content"] = json!({ content_type: { "schema": { "type": "string" } } });
                }
                Content::As(content_type) => {
                    response["content"] = json!({ content_type: { "schema": {} } });
                }
                Content::Nothing => {}
            }
            responses.insert(status.as_str().to_owned(), response);
        }
        let refused = (
            StatusCode::FORBIDDEN,
            "Another user's process, a foreign `Host`, or a web page without a right.",
        );
        for (status, when) in self.errors.into_iter().chain([refused]) {
            let schema = generator.subschema_for::<ErrorBody>();
            let content = json!({ "application/json": { "schema": schema } });
            responses.insert(status.as_str().to_owned(), json!({ "description": when, "content": content }));
        }
        let mut operation = json!({
            "tags": [self.tag], "summary": self.summary, "operationId": operation_id(&self.method, self.path),
            "responses": responses,
        });
        if !self.description.is_empty() {
            operation["description"] = self.description.into();
        }
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if let Some((required, description, shape, example)) = self.body {
            operation["requestBody"] = json!({
                "required": required, "description": description,
                "content": { "application/json": { "schema": shape(requests), "example": example } },
            });
        }
        operation
    }
}

fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(['/', '.', '-', '{', '}', '_']).filter(|word| !word.is_empty() && *word != "api");
    std::iter::once(method.as_str().to_ascii_lowercase())
        .chain(words.map(|word| word[..1].to_uppercase() + &word[1..]))
        .collect()
}

/// Returns the whole document as it stands in the file.
pub(super) fn document(operations: Vec<Operation>, tags: &[(&str, &str)]) -> String {
    let settings = || {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings
    };
    // What we send has all of its fields; what we are sent may leave out those with a default.
    let mut generator = SchemaGenerator::new(settings().for_serialize());
    let mut requests = SchemaGenerator::new(settings().for_deserialize());
    let mut paths = Map::new();
    for operation in operations {
        let (path, method) = (operation.path.to_owned(), operation.method.as_str().to_ascii_lowercase());
        let written = operation.write(&mut generator, &mut requests);
        let methods = paths.entry(path).or_insert_with(|| Value::Object(Map::new()));
        methods[method] = written;
    }
    let mut schemas = generator.take_definitions(true);
    for (name, schema) in requests.take_definitions(true) {
        let same = schemas.get(&name).is_none_or(|known| *known == schema);
        assert!(same, "{name} is sent and taken, and is not the same both ways: give it two types");
        schemas.insert(name, schema);
    }
    let tags: Vec<Value> =
        tags.iter().map(|(name, about)| json!({ "name": name, "description": about })).collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tunneld's local API",
            "version": tunnel_api::API_VERSION,
            "description": "The control API of tunneld, on its socket and its loopback port. It is open to processes of the \
                            user who runs tunneld, and to no others; there is no key. Each answer carries \
                            `Tunneld-Version` and `X-Request-Id`. Times are RFC 3339 in UTC. An error is an `ErrorBody`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost:8765", "description": "The control port (`apiServerPort`)." }],
        "tags": tags,
        "paths": paths,
        "components": { "schemas": schemas },
    });
    // Cannot fail: it is a value already.
    serde_json::to_string_pretty(&document).expect("a JSON value can be written") + "\n"
}
