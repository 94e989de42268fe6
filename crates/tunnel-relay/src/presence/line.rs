//! One line of what a desktop says. Pure.

use serde::{Deserialize, Serialize};
use tunnel_sniff::compare_models;
use tunnel_transport::printable;

/// Most models of one desktop.
const MODELS_MAX: usize = 512;
/// Longest name of a model, in bytes.
const NAME_MAX_BYTES: usize = 256;

/// What a desktop has, by its own word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Sorted as [`compare_models`] does.
    models: Box<[Offered]>,
    /// Requests that it works on, those of its own gateway included.
    pub(crate) in_flight: u32,
    /// Whether its owner wants it to be asked first.
    pub(crate) preferred: bool,
}

/// A model of a desktop.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Offered {
    pub(crate) name: Box<str>,
    /// Whether it is in memory, so that it answers at once.
    #[serde(default)]
    pub(crate) loaded: bool,
}

#[derive(Deserialize)]
struct Line {
    models: Vec<Offered>,
    #[serde(default)]
    in_flight: u32,
    #[serde(default)]
    preferred: bool,
}

impl Presence {
    /// Reads a line; `None` when it breaks the bounds, or is not one.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let Line { mut models, in_flight, preferred } = serde_json::from_slice(line).ok()?;
        if models.len() > MODELS_MAX || !models.iter().all(|model| is_name(&model.name)) {
            return None;
        }
        models.sort_by(|a, b| compare_models(&a.name, &b.name));
        Some(Self { models: models.into(), in_flight, preferred })
    }

    pub(crate) fn models(&self) -> &[Offered] {
        &self.models
    }

    /// Tells whether the desktop has a model and, if so, whether it is in memory.
    ///
    /// Names that mean the same for Ollama are the same here. Where they are not for the desktop, it says so itself.
    pub(crate) fn find(&self, model: &str) -> Option<bool> {
        let from = self.models.partition_point(|offered| compare_models(&offered.name, model).is_lt());
        let same =
            self.models[from..].iter().take_while(|offered| compare_models(&offered.name, model).is_eq());
        same.map(|offered| offered.loaded).reduce(|any, loaded| any || loaded)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && printable(name) == name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_tells_models_load_and_preference() {
        let line = br#"{"models":[{"name":"qwen3:8b"},{"name":"llama3","loaded":true}],"in_flight":2,"preferred":true,"x":1}"#;
        let presence = Presence::parse(line).unwrap();
        assert_eq!((presence.in_flight, presence.preferred), (2, true));
        assert_eq!(presence.find("Llama3:latest"), Some(true));
        assert_eq!(presence.find("qwen3:8b"), Some(false));
        assert_eq!(presence.find("qwen3"), None);
        assert_eq!(Presence::parse(br#"{"models":[]}"#).unwrap().find("x"), None);
    }

    #[test]
    fn of_two_spellings_one_in_memory_is_enough() {
        let line = br#"{"models":[{"name":"a:latest","loaded":true},{"name":"A"},{"name":"b"}]}"#;
        assert_eq!(Presence::parse(line).unwrap().find("a"), Some(true));
    }

    #[test]
    fn lines_beyond_the_bounds_are_none() {
        let models = |n: usize, name: &str| {
            let models: Vec<_> = (0..n).map(|_| json!({ "name": name })).collect();
            json!({ "models": models }).to_string()
        };
        assert!(Presence::parse(models(MODELS_MAX, &"x".repeat(NAME_MAX_BYTES)).as_bytes()).is_some());
        let bad = [
            models(MODELS_MAX + 1, "x"),
            models(1, &"x".repeat(NAME_MAX_BYTES + 1)),
            models(1, ""),
            models(1, "a\u{1b}[2J"),
            models(1, "a\u{202e}b"),
            "{}".to_owned(),
            "[]".to_owned(),
            r#"{"models":[1]}"#.to_owned(),
            r#"{"models":[],"in_flight":-1}"#.to_owned(),
            r#"{"models":[]"#.to_owned(),
            String::new(),
        ];
        for line in bad {
            assert_eq!(Presence::parse(line.as_bytes()), None, "{line}");
        }
    }
}
