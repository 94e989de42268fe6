//! Reading lists of models as a profile says. Pure.

use std::collections::HashSet;

use serde_json::Value;

use super::{Listed, Listing};
use crate::profile::{Loaded, ModelList};

/// Most entries of a list that count. The largest accounts have some hundreds.
pub(super) const MOST_MODELS: usize = 5000;

/// Returns the entries of a list. None when the answer is no such list.
pub(super) fn entries(list: &ModelList, answer: &[u8]) -> Option<Vec<Value>> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    match answer.get_mut(&*list.entries)?.take() {
        Value::Array(entries) => Some(entries),
        // Go writes an empty list as null.
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

/// Keeps the first [`MOST_MODELS`] entries, and tells whether there were more.
pub(super) fn bound(entries: &mut Vec<Value>) -> bool {
    let is_cut = entries.len() > MOST_MODELS;
    entries.truncate(MOST_MODELS);
    is_cut
}

/// Adds the models of a list that have not been listed yet. An entry without a name is skipped.
pub(super) fn add(listing: &mut Listing, list: &ModelList, entries: Vec<Value>) {
    let mut known: HashSet<String> = listing.models.iter().map(|model| model.name.clone()).collect();
    let fresh = entries.into_iter().filter_map(|entry| {
        let name = name_of(list, &entry)?.to_owned();
        let is_new = known.insert(name.clone());
        let loaded = is_loaded(&list.loaded, &entry);
        let size_bytes = list.size.as_deref().and_then(|at| entry.pointer(at)).and_then(Value::as_u64);
        is_new.then_some(Listed { name, loaded, size_bytes, api: list.api, entry })
    });
    let fresh: Vec<Listed> = fresh.collect();
    listing.models.extend(fresh);
}

/// Notes which models are in memory, from a list of those alone.
pub(super) fn mark(listing: &mut Listing, list: &ModelList, entries: Vec<Value>) {
    let names: HashSet<&str> = entries.iter().filter_map(|entry| name_of(list, entry)).collect();
    for model in &mut listing.models {
        model.loaded |= names.contains(&*model.name);
    }
    listing.running = entries;
}

fn name_of<'a>(list: &ModelList, entry: &'a Value) -> Option<&'a str> {
    list.names.iter().find_map(|member| entry.get(&**member)).and_then(Value::as_str)
}

fn is_loaded(loaded: &Loaded, entry: &Value) -> bool {
    match loaded {
        Loaded::Elsewhere => false,
        Loaded::All => true,
        Loaded::Told { at, values } => {
            let told = entry.pointer(at).and_then(Value::as_str);
            told.is_none_or(|told| values.iter().any(|value| value == told))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{self, Profile};

    macro_rules! recorded {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/recorded/", $name, ".json")).as_slice()
        };
    }

    /// The models in the answer to the `at`-th way to ask: name, whether in memory, size.
    fn read(profile: &Profile, at: usize, answer: &[u8]) -> Vec<(String, bool, Option<u64>)> {
        let list = &profile.lists.all()[at];
        let mut listing = Listing::default();
        add(&mut listing, list, entries(list, answer).unwrap());
        listing.models.into_iter().map(|model| (model.name, model.loaded, model.size_bytes)).collect()
    }

    fn model(name: &str, loaded: bool, size: Option<u64>) -> (String, bool, Option<u64>) {
        (name.to_owned(), loaded, size)
    }

    #[test]
    fn ollamas_answers_are_read() {
        let (list, running) = (&profile::OLLAMA.lists.all()[0], profile::OLLAMA.running.as_ref().unwrap());
        let mut listing = Listing::default();
        add(&mut listing, list, entries(list, recorded!("ollama-tags")).unwrap());
        assert_eq!((listing.models[0].loaded, listing.models[0].size_bytes), (false, Some(98_363_007)));
        mark(&mut listing, running, entries(running, recorded!("ollama-ps")).unwrap());
        assert!(listing.models[0].loaded);
        assert_eq!(listing.running[0]["size_vram"], 0);
        assert_eq!(entries(list, br#"{"models":null}"#), Some(Vec::new()));
        assert_eq!(entries(list, b"<html>"), None);
        assert_eq!(entries(list, b"{}"), None);
    }

    #[test]
    fn a_list_counts_up_to_its_bound_and_each_name_once() {
        let list = &profile::OLLAMA.lists.all()[0];
        let all: Vec<Value> =
            (0..MOST_MODELS + 9).map(|n| serde_json::json!({ "name": format!("m{}", n / 2) })).collect();
        let answer = serde_json::json!({ "models": all }).to_string();
        let bounded = || {
            let mut entries = entries(list, answer.as_bytes()).unwrap();
            assert!(bound(&mut entries) && !bound(&mut entries));
            entries
        };
        let mut listing = Listing::default();
        add(&mut listing, list, bounded());
        add(&mut listing, list, bounded());
        assert_eq!(listing.models.len(), MOST_MODELS / 2);
        mark(&mut listing, list, bounded());
        assert!(listing.models.iter().all(|model| model.loaded));
    }

    #[test]
    fn llama_cpps_answers_are_read_with_one_model_and_with_several() {
        let one = [model("smollm2:135m", true, Some(96_576_768))];
        assert_eq!(read(&profile::LLAMACPP, 0, recorded!("llamacpp-models")), one);
        assert_eq!(read(&profile::OPENAI, 0, recorded!("llamacpp-models")), one);
        let states = read(&profile::LLAMACPP, 0, recorded!("llamacpp-router-models"));
        assert_eq!(states.iter().map(|model| model.1).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[test]
    fn vllms_model_is_in_memory() {
        let one = [model("Qwen/Qwen2.5-1.5B-Instruct", true, None)];
        assert_eq!(read(&profile::VLLM, 0, recorded!("vllm-models")), one);
    }

    #[test]
    fn lm_studio_tells_which_models_are_in_memory_where_it_can() {
        let own = read(&profile::LMSTUDIO, 0, recorded!("lmstudio-v0-models"));
        assert_eq!(own[0], model("qwen2-vl-7b-instruct", false, None));
        assert_eq!(own[1], model("meta-llama-3.1-8b-instruct", true, None));
        let plain = read(&profile::LMSTUDIO, 1, recorded!("lmstudio-v1-models"));
        assert_eq!(plain.len(), 2);
        let own = &profile::LMSTUDIO.lists.all()[0];
        assert_eq!(entries(own, recorded!("lmstudio-unknown-path")), None);
    }

    #[test]
    fn an_account_with_both_lists_has_each_model_once() {
        let [ollama, openai] = profile::CLOUD.lists.all() else { panic!("two lists") };
        let mut listing = Listing::default();
        add(&mut listing, ollama, entries(ollama, recorded!("ollama-tags")).unwrap());
        add(&mut listing, openai, entries(openai, recorded!("ollama-v1-models")).unwrap());
        add(&mut listing, openai, entries(openai, recorded!("openai-models")).unwrap());
        let names: Vec<&str> = listing.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["smollm2:135m", "gpt-4o", "gpt-4o-mini"]);
    }
}
