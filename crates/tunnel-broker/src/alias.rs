//! Names of the user's own for models, and what a name in a request means. Pure.

use tunnel_sniff::compare_models;

use crate::catalog::split_pin;
use crate::decide::shorten;
use crate::error::Failure;
use crate::profile::Side;
use crate::table::Table;

/// The user's own names for models, each with what it stands for: `<model>` or `<connection>/<model>`.
///
/// Case does not matter, and a name without a tag has the tag `:latest`, as with Ollama. Of two entries that are then
/// the same the first one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases(Vec<Alias>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) target: String,
}

impl FromIterator<(String, String)> for Aliases {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(entries: I) -> Self {
        let mut all: Vec<Alias> = entries.into_iter().map(|(name, target)| Alias { name, target }).collect();
        all.sort_by(|a, b| compare_models(&a.name, &b.name));
        all.dedup_by(|later, first| compare_models(&later.name, &first.name).is_eq());
        Self(all)
    }
}

impl Aliases {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Alias> {
        self.0.iter()
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Alias> {
        let at = self.0.binary_search_by(|alias| compare_models(&alias.name, name)).ok()?;
        self.0.get(at)
    }
}

/// What a name in a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning<'a> {
    /// The only backend that will do.
    pub(crate) pin: Option<&'a str>,
    pub(crate) model: &'a str,
    /// The user's own name by which the model was asked for, as it is configured and without a pin.
    pub(crate) alias: Option<&'a str>,
}

impl<'a> Meaning<'a> {
    /// Reads a name: as a model that [counts](Table::knows), else as an alias, else as `<connection>/<model>`, else as it
    /// stands.
    ///
    /// `pin` is what the request says beside it, in a header; the name cannot say otherwise.
    pub(crate) fn of(table: &'a Table, name: &'a str, pin: Option<&'a str>) -> Self {
        let aliases = &table.settings.aliases;
        let plain = Self { pin, model: name, alias: None };
        // Most names are this; and a model whose whole name is known is meant as it stands: names may have slashes.
        if (aliases.is_empty() && !name.contains('/')) || table.knows(name, pin) {
            return plain;
        }
        if let Some(meaning) = aliases.find(name).and_then(|alias| Self::of_alias(table, alias, pin)) {
            return meaning;
        }
        let Some(pinned) = Self::pinned(table, name, pin) else { return plain };
        let alias = aliases.find(pinned.model).filter(|_| !table.knows(pinned.model, pinned.pin));
        alias.and_then(|alias| Self::of_alias(table, alias, pinned.pin)).unwrap_or(pinned)
    }

    /// Reads the name of a model that is to be deleted or sent elsewhere. The user's own names are none of its: it would
    /// be another model that is gone.
    pub(crate) fn managed(table: &'a Table, name: &'a str, pin: Option<&'a str>) -> Result<Self, Failure> {
        let meaning = Self::of(table, name, pin);
        match meaning.alias {
            Some(alias) => Err(Failure::IsAlias { alias: shorten(alias), model: shorten(meaning.model) }),
            None => Ok(meaning),
        }
    }

    /// None when the alias is of another backend than the one that is wanted.
    pub(crate) fn of_alias(table: &'a Table, alias: &'a Alias, pin: Option<&'a str>) -> Option<Self> {
        let target = alias.target.as_str();
        let named = Some(alias.name.as_str());
        let whole = Self { pin, model: target, alias: named };
        if table.knows(target, pin) {
            return Some(whole);
        }
        match split_id(table, target) {
            Some(_) => Self::pinned(table, target, pin).map(|meaning| Self { alias: named, ..meaning }),
            None => Some(whole),
        }
    }

    fn pinned(table: &Table, name: &'a str, pin: Option<&'a str>) -> Option<Self> {
        let (id, model) = split_id(table, name).filter(|(id, _)| pin.is_none_or(|pin| pin == *id))?;
        Some(Self { pin: Some(id), model, alias: None })
    }
}

/// Splits `<connection>/<model>`. None where there is no such connection; and where it is one in the cloud that does not
/// have the model, while another has one of the whole name: services call theirs `openai/gpt-4o`. What is meant for a
/// local connection goes to no other, whatever lists say.
fn split_id<'a>(table: &Table, name: &'a str) -> Option<(&'a str, &'a str)> {
    let (id, model) = split_pin(name).filter(|(id, _)| table.backend(id).is_some())?;
    let is_local = table.backend(id).is_some_and(|backend| backend.profile().side == Side::Local);
    let is_meant = is_local || table.catalog.find(name).is_empty() || table.has(id, model);
    is_meant.then_some((id, model))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::{BackendConfig, BackendKind, BrokerConfig};
    use crate::upstream::Upstream;

    /// Two backends: `a` has `qwen3:8b` and `org/big`, `b` has `llama3:latest`.
    fn table(aliases: &[(&str, &str)]) -> Table {
        let url: url::Url = "http://127.0.0.1:1".parse().unwrap();
        let backend = |id: &str, models: &[&str]| BackendConfig {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..BackendConfig::new(id, BackendKind::Ollama, url.clone())
        };
        let backends = vec![backend("a", &["qwen3:8b", "org/big"]), backend("b", &["llama3:latest"])];
        let new = |config: &BackendConfig| {
            Arc::new(Upstream::new(config, None, Arc::default(), CancellationToken::new()))
        };
        let upstreams: Vec<_> = backends.iter().map(new).collect();
        let aliases =
            aliases.iter().map(|(name, target)| ((*name).to_owned(), (*target).to_owned())).collect();
        Table::new(Arc::new(BrokerConfig { backends, aliases, ..BrokerConfig::default() }), &upstreams)
    }

    fn read<'a>(table: &'a Table, name: &'a str, pin: Option<&'a str>) -> (Option<&'a str>, &'a str, bool) {
        let Meaning { pin, model, alias } = Meaning::of(table, name, pin);
        (pin, model, alias.is_some())
    }

    #[test]
    fn a_name_is_a_model_then_an_alias_then_a_pin() {
        let table = table(&[
            ("gpt-4o", "qwen3:8b"),
            ("Fast", "b/llama3"),
            ("llama3", "qwen3:8b"),
            ("a/x", "llama3"),
            ("gone", "nobody:1"),
            ("elsewhere", "c/m"),
        ]);
        for (name, meaning) in [
            ("gpt-4o", (None, "qwen3:8b", true)),
            ("GPT-4o:latest", (None, "qwen3:8b", true)),
            ("gpt-4o:7b", (None, "gpt-4o:7b", false)),
            ("fast", (Some("b"), "llama3", true)),
            // A model that is really called so comes first, by any of its names.
            ("llama3", (None, "llama3", false)),
            ("Llama3:latest", (None, "Llama3:latest", false)),
            ("org/big", (None, "org/big", false)),
            ("a/x", (None, "llama3", true)),
            ("a/qwen3:8b", (Some("a"), "qwen3:8b", false)),
            ("a/gpt-4o", (Some("a"), "qwen3:8b", true)),
            ("a/fast", (Some("a"), "fast", false)),
            ("gone", (None, "nobody:1", true)),
            // No such backend: a model with a slash.
            ("elsewhere", (None, "c/m", true)),
            ("c/m", (None, "c/m", false)),
            ("nope", (None, "nope", false)),
        ] {
            assert_eq!(read(&table, name, None), meaning, "{name}");
        }
        assert_eq!(read(&table, "gpt-4o", Some("b")), (Some("b"), "qwen3:8b", true));
        assert_eq!(read(&table, "fast", Some("a")), (Some("a"), "fast", false), "it is the other backend's");
        assert_eq!(read(&table, "fast", Some("b")), (Some("b"), "llama3", true));
    }

    #[test]
    fn what_only_the_cloud_lists_comes_after_what_is_configured() {
        let url: url::Url = "http://127.0.0.1:1".parse().unwrap();
        let backend = |id: &str, kind, models: &[&str]| BackendConfig {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..BackendConfig::new(id, kind, url.clone())
        };
        let backends = vec![
            backend("a", BackendKind::Ollama, &["qwen3:8b", "llama3"]),
            backend("acct", BackendKind::Cloud, &["gpt-4o", "llama3", "acct/own", "a/qwen3:8b", "a/big"]),
        ];
        let new = |config: &BackendConfig| {
            Arc::new(Upstream::new(config, None, Arc::default(), CancellationToken::new()))
        };
        let upstreams: Vec<_> = backends.iter().map(new).collect();
        let aliases =
            [("gpt-4o", "qwen3:8b"), ("llama3", "qwen3:8b"), ("mine", "a/qwen3:8b"), ("out", "acct/gpt-4o")];
        let aliases =
            aliases.map(|(name, target)| (name.to_owned(), target.to_owned())).into_iter().collect();
        let table =
            Table::new(Arc::new(BrokerConfig { backends, aliases, ..BrokerConfig::default() }), &upstreams);
        for (name, meaning) in [
            ("gpt-4o", (None, "qwen3:8b", true)),
            ("llama3", (None, "llama3", false)),
            ("mine", (Some("a"), "qwen3:8b", true)),
            ("a/qwen3:8b", (Some("a"), "qwen3:8b", false)),
            ("a/big", (Some("a"), "big", false)),
            ("acct/own", (None, "acct/own", false)),
            ("acct/gpt-4o", (Some("acct"), "gpt-4o", false)),
            ("out", (Some("acct"), "gpt-4o", true)),
        ] {
            assert_eq!(read(&table, name, None), meaning, "{name}");
        }
        assert_eq!(
            read(&table, "gpt-4o", Some("acct")),
            (Some("acct"), "gpt-4o", false),
            "it is asked for there"
        );
    }

    #[test]
    fn an_alias_goes_by_its_own_name_however_it_was_asked_for() {
        let table = table(&[("Big", "qwen3:8b"), ("fast", "b/llama3")]);
        for (name, alias) in [
            ("a/big", Some("Big")),
            ("BIG:latest", Some("Big")),
            ("fast", Some("fast")),
            ("a/qwen3:8b", None),
        ] {
            assert_eq!(Meaning::of(&table, name, None).alias, alias, "{name}");
        }
    }

    #[test]
    fn without_aliases_only_slashes_mean_something() {
        let table = table(&[]);
        assert_eq!(read(&table, "nope", None), (None, "nope", false));
        assert_eq!(read(&table, "b/nope", None), (Some("b"), "nope", false));
        assert_eq!(read(&table, "b/nope", Some("a")), (Some("a"), "b/nope", false));
    }
}
