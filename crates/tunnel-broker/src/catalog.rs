//! Which backend has which model. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;
use tunnel_sniff::with_tag;

use crate::profile::Names;

/// All models of all backends, by each name under which a caller may ask for them.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    by_name: HashMap<Box<str>, Vec<Served>>,
    /// By their names in lower case, those of servers that do not tell `Llama3` from `llama3`.
    folded: HashMap<Box<str>, Vec<Served>>,
}

/// A model on one backend.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The backend's place in the table.
    pub(crate) backend: usize,
    /// Whether it is in memory.
    pub(crate) loaded: bool,
    pub(crate) name: Arc<ModelName>,
}

/// A name from the catalogue: one that may be shown and logged, unlike what a caller sends.
#[derive(Debug)]
pub(crate) struct ModelName {
    pub(crate) text: Arc<str>,
    /// The same for `X-Tunnel-Model`; none for a name that no header can hold.
    pub(crate) header: Option<HeaderValue>,
}

impl ModelName {
    fn new(text: &str) -> Self {
        Self { text: text.into(), header: HeaderValue::from_str(text).ok() }
    }
}

impl Catalog {
    /// Adds one model of the backend with the index `backend`.
    pub(crate) fn add(&mut self, backend: usize, names: Names, name: &str, loaded: bool) {
        let served = Served { backend, loaded, name: Arc::new(ModelName::new(name)) };
        insert(&mut self.by_name, name, &served);
        if names.tags {
            // Without a tag `:latest` is meant, whichever of the two the backend lists.
            let full = with_tag(name);
            for alias in [full.as_str(), full.strip_suffix(":latest").unwrap_or(name)] {
                insert(&mut self.by_name, alias, &served);
            }
        }
        if names.folds_case {
            let full = if names.tags { with_tag(name) } else { name.to_owned() };
            insert(&mut self.folded, &full.to_ascii_lowercase(), &served);
        }
    }

    /// Returns the backends that have the model, or had it when they were last up; empty when none has.
    pub(crate) fn find(&self, name: &str) -> &[Served] {
        if let Some(served) = self.by_name.get(name) {
            return served;
        }
        let folded = self.folded.get(with_tag(name).to_ascii_lowercase().as_str());
        folded.map_or(&[], Vec::as_slice)
    }
}

fn insert(map: &mut HashMap<Box<str>, Vec<Served>>, name: &str, served: &Served) {
    let all = map.entry(name.into()).or_default();
    if !all.iter().any(|other| other.backend == served.backend) {
        all.push(served.clone());
    }
}

/// Splits `<id>/<model>`; None when there is no slash or nothing beside it.
pub(crate) fn split_pin(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(id, model)| !id.is_empty() && !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.add(0, Names::OLLAMA, "llama3:latest", false);
        catalog.add(0, Names::OLLAMA, "smollm2:135m", true);
        catalog.add(1, Names::EXACT, "Qwen/Qwen2", true);
        catalog.add(1, Names::EXACT, "llama3", true);
        catalog.add(2, Names::OLLAMA, "llama3", false);
        catalog
    }

    fn backends(name: &str) -> Vec<usize> {
        catalog().find(name).iter().map(|served| served.backend).collect()
    }

    #[test]
    fn a_name_without_a_tag_means_latest_for_ollama_only() {
        assert_eq!(backends("llama3"), [0, 1, 2]);
        assert_eq!(backends("llama3:latest"), [0, 2]);
        assert_eq!(backends("smollm2:135m"), [0]);
        assert!(backends("smollm2").is_empty());
    }

    #[test]
    fn case_matters_only_where_the_backend_cares() {
        assert_eq!(backends("SmolLM2:135M"), [0]);
        assert_eq!(backends("Qwen/Qwen2"), [1]);
        assert!(backends("qwen/qwen2").is_empty());
    }

    #[test]
    fn a_pin_is_the_part_before_the_first_slash() {
        assert_eq!(split_pin("gpu/Qwen/Qwen2"), Some(("gpu", "Qwen/Qwen2")));
        assert_eq!(split_pin("/x"), None);
        assert_eq!(split_pin("x/"), None);
        assert_eq!(split_pin("x"), None);
    }
}
