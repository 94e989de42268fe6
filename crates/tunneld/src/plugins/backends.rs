//! The broker's configuration: what the file says of the backends, and what plugins say of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tunnel_broker::{BackendKind, Broker, BrokerConfig};

use super::describe::Description;

/// Puts the two together and gives them to the broker. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Backends {
    broker: Broker,
    /// Held while the broker is told, so that the last word is the newest.
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    config: BrokerConfig,
    said: BTreeMap<String, Description>,
}

impl Backends {
    /// `config` is what the broker was started with.
    pub(crate) fn new(broker: Broker, config: BrokerConfig) -> Self {
        Self { broker, known: Arc::new(Mutex::new(Known { config, said: BTreeMap::new() })) }
    }

    /// Takes over what the configuration says now.
    pub(crate) fn configure(&self, config: BrokerConfig) {
        self.change(|known| known.config = config);
    }

    /// Takes over what a plugin says of itself. It is remembered while the plugin is down.
    pub(super) fn described(&self, id: &str, description: Description) {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).said.get(id) != Some(&description) {
            self.change(|known| drop(known.said.insert(id.to_owned(), description)));
        }
    }

    /// Forgets a plugin whose entry is gone or another one now: what the former has said is not said of the new one.
    pub(super) fn forget(&self, id: &str) {
        self.change(|known| drop(known.said.remove(id)));
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        self.broker.reconfigure(joined(&known));
    }
}

fn joined(known: &Known) -> BrokerConfig {
    let mut config = known.config.clone();
    for backend in &mut config.backends {
        // The entry of an id may have become one of another type before its plugin is forgotten.
        let is_plugin = backend.kind == BackendKind::Plugin;
        if let Some(description) = known.said.get(&backend.id).filter(|_| is_plugin) {
            backend.profile = Arc::clone(&description.profile);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use tunnel_broker::{BackendConfig, Profile};

    use super::*;

    fn known(kind: BackendKind) -> Known {
        let backend = BackendConfig::new("p", kind, "http://127.0.0.1:1".parse().unwrap());
        let profile = Profile::of_plugin(br#"{"protocol": 1, "name": "mine", "api": ["ollama"]}"#).unwrap();
        let said = BTreeMap::from([("p".to_owned(), Description { profile: Arc::new(profile) })]);
        Known { config: BrokerConfig { backends: vec![backend], ..BrokerConfig::default() }, said }
    }

    #[test]
    fn what_a_plugin_has_said_is_not_said_of_a_server_that_takes_its_id() {
        assert_eq!(joined(&known(BackendKind::Plugin)).backends[0].profile.product, "mine");
        let server = known(BackendKind::Vllm);
        assert_eq!(joined(&server).backends, server.config.backends);
    }
}
