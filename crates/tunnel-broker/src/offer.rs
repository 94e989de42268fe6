//! The names that can be asked for, as people see them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alias::Meaning;
use crate::backend::Backend;
use crate::broker::Ingress;
use crate::status::{AliasStatus, OfferedModel};
use crate::table::Table;

/// Returns the names of the models that are up and open to that door, and the aliases of such, by name.
pub(crate) fn offered(table: &Table, ingress: Ingress) -> Vec<OfferedModel> {
    let mut offered: BTreeMap<String, OfferedModel> = BTreeMap::new();
    let usable = |backend: &&Arc<Backend>| backend.is_up() && backend.takes_from(ingress);
    for backend in table.backends.iter().filter(usable) {
        for model in backend.models() {
            let entry = offered.entry(model.name.clone()).or_insert_with(|| OfferedModel {
                name: model.name,
                connections: Vec::new(),
                loaded: false,
                size_bytes: None,
                alias_of: None,
                kept_warm: false,
            });
            entry.connections.push(backend.config.id.clone());
            entry.loaded |= model.loaded;
            entry.size_bytes = entry.size_bytes.or(model.size_bytes);
        }
    }
    for wanted in &table.settings.keep_warm {
        for name in real_names(table, &Meaning::of(table, wanted, None)) {
            if let Some(model) = offered.get_mut(&name) {
                model.kept_warm = true;
            }
        }
    }
    let aliased: Vec<OfferedModel> = table
        .settings
        .aliases
        .iter()
        .filter_map(|alias| {
            if table.knows(&alias.name, None) {
                return None;
            }
            let meaning = Meaning::of_alias(table, alias, None)?;
            let real = real_names(table, &meaning).into_iter().find_map(|name| offered.get(&name))?;
            let fits = |id: &&String| meaning.pin.is_none_or(|pin| pin == *id);
            let connections: Vec<String> = real.connections.iter().filter(fits).cloned().collect();
            let target = Some(real.name.clone());
            (!connections.is_empty()).then(|| OfferedModel {
                name: alias.name.clone(),
                connections,
                alias_of: target,
                ..real.clone()
            })
        })
        .collect();
    offered.retain(|name, _| !table.is_alias(name, None));
    for alias in aliased {
        offered.entry(alias.name.clone()).or_insert(alias);
    }
    offered.into_values().collect()
}

/// Returns all aliases, by name.
pub(crate) fn aliases(table: &Table) -> Vec<AliasStatus> {
    let status = |alias: &crate::alias::Alias| {
        let shadowed = table.knows(&alias.name, None);
        let means = Meaning::of_alias(table, alias, None).filter(|_| !shadowed);
        AliasStatus {
            name: alias.name.clone(),
            target: alias.target.clone(),
            available: means.is_some_and(|meaning| !real_names(table, &meaning).is_empty()),
            shadowed,
        }
    };
    table.settings.aliases.iter().map(status).collect()
}

/// Returns the names in the catalogue that backends which are up have for this.
fn real_names(table: &Table, meaning: &Meaning<'_>) -> Vec<String> {
    let served = table.catalog.find(meaning.model).iter().filter(|served| {
        let backend = &table.backends[served.backend];
        backend.is_up() && meaning.pin.is_none_or(|pin| pin == backend.config.id)
    });
    served.map(|served| served.name.text.to_string()).collect()
}
