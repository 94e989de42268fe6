//! What a request from the tunnel may reach.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::rule::Rejection;
use super::section::Section;

/// What a request from the tunnel, or with a key, may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RemotePaths {
    /// Chat, generate, embeddings, model listing and showing, version.
    #[default]
    Inference,
    /// Everything that a backend has.
    All,
    /// What one of these rules allows; nothing when empty.
    Rules(Vec<PathRule>),
}

/// One method, or each, on one path, or all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    method: Option<String>,
    path: String,
}

impl PathRule {
    /// Returns the method in upper case. None: each.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Returns the path. A `*` at its end, always after a `/`, stands for everything below it.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A text that is not a rule for paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPathRule;

impl fmt::Display for BadPathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a method and a path such as \"POST /api/chat\" or \"* /v1/*\"")
    }
}

impl std::error::Error for BadPathRule {}

impl FromStr for PathRule {
    type Err = BadPathRule;

    fn from_str(text: &str) -> Result<Self, BadPathRule> {
        let (method, path) = text.trim().split_once(' ').ok_or(BadPathRule)?;
        let path = path.trim_start();
        let method = match method {
            "*" => None,
            // A token of RFC 9110, as far as methods are made of it.
            method if method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') && !method.is_empty() => {
                Some(method.to_ascii_uppercase())
            }
            _ => return Err(BadPathRule),
        };
        // The path is compared with a normalised one, in which none of these is left.
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '%' | '?' | '#' | '\\' | ';');
        let fixed = path.strip_suffix("/*").unwrap_or(path);
        let segments_fit = !fixed.contains("//") && !fixed.split('/').any(|part| matches!(part, "." | ".."));
        if !path.starts_with('/') || fixed.contains('*') || path.contains(odd) || !segments_fit {
            return Err(BadPathRule);
        }
        Ok(Self { method, path: path.to_owned() })
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method().unwrap_or("*"), self.path)
    }
}

impl Serialize for PathRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for RemotePaths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inference => serializer.serialize_str("inference"),
            Self::All => serializer.serialize_str("all"),
            Self::Rules(rules) => rules.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RemotePaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The rule's own words: the parser's would repeat what was sent.
        let bad = || D::Error::custom("not inference, all, or a list such as [\"POST /api/chat\"]");
        match Value::deserialize(deserializer)? {
            Value::Array(rules) => {
                let rules = rules.iter().map(|rule| rule.as_str().and_then(|text| text.parse().ok()));
                rules.collect::<Option<_>>().map(Self::Rules).ok_or_else(bad)
            }
            word => named(&word).map_err(|_| bad()),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RemotePaths {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RemotePaths".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        super::schema::remote_paths(generator)
    }
}

pub(super) fn remote_paths(top: &mut Section<'_>, default: RemotePaths) -> RemotePaths {
    const KEY: &str = "remotePaths";
    match top.value(KEY) {
        Some(Value::Array(_)) => RemotePaths::Rules(top.list(KEY, Vec::new(), path_rule)),
        _ => top.read(KEY, default, named),
    }
}

fn named(value: &Value) -> Result<RemotePaths, Rejection> {
    match value.as_str() {
        Some("inference") => Ok(RemotePaths::Inference),
        Some("all") => Ok(RemotePaths::All),
        _ => Err("Remote paths must be inference, all, or a list such as [\"POST /api/chat\"]".into()),
    }
}

fn path_rule(value: &Value) -> Result<PathRule, Rejection> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        "Remote path must be a method and a path such as \"POST /api/chat\" or \"* /v1/*\"".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_a_method_and_a_path() {
        let rule: PathRule = "post /api/chat".parse().unwrap();
        assert_eq!((rule.method(), rule.path()), (Some("POST"), "/api/chat"));
        let rule: PathRule = "* /v1/*".parse().unwrap();
        assert_eq!((rule.method(), rule.path()), (None, "/v1/*"));
        assert_eq!(rule.to_string(), "* /v1/*");
        assert!("GET /*".parse::<PathRule>().is_ok());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [r#""inference""#, r#""all""#, r#"[]"#, r#"["POST /api/chat","* /v1/*"]"#] {
            let paths: RemotePaths = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&paths).unwrap(), text);
        }
        for text in [r#""some""#, r#"["/api/chat"]"#, "[1]", "null"] {
            assert!(serde_json::from_str::<RemotePaths>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_could_be_misread_is_refused() {
        for text in [
            "",
            "/api/chat",
            "POST",
            "POST api",
            "P0ST /x",
            "GET /a/*/b",
            "GET /a*",
            "GET /%2e",
            "GET /a?b",
            "GET /a/../b",
            "GET //a",
            "GET /a b",
            "GET /a;b",
            "GET /a\\b",
        ] {
            assert_eq!(text.parse::<PathRule>(), Err(BadPathRule), "{text}");
        }
    }
}
