//! What an app is pointed at: the gateway and a model.

use std::fmt;

use serde_json::{Map, Value};
use tunnel_api::connection::Api;
use tunnel_api::{Config, Model, Status};

use crate::cli::App;
use crate::commands::service::RESTART;
use crate::output::clean;

/// Stands for a model where there is none: nobody takes it for a name.
const PLACEHOLDER: &str = "REPLACE-WITH-A-MODEL";

/// What an app is pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where the gateway is, without a path.
    gateway: String,
    pub(super) model: String,
    found: Found,
    /// Whether it is there only until a restart, or, by an older daemon, only after one.
    gateway_moves: Option<String>,
}

/// What is known of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It can be asked.
    There,
    /// It was asked for by name, and no connection has it now.
    NotNow,
    /// There is none at all, though model servers are connected.
    NoModels,
    /// There is none at all, and no model server either.
    NoServers,
}

/// Why an app cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    GatewayClosed,
    /// It is to be open, and is not.
    GatewayStuck,
    OddName,
    /// Connections that speak OpenAI's API have the model, and no others.
    OtherApi {
        model: String,
        connections: String,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GatewayClosed => f.write_str(
                "the gateway is closed, where apps reach the models; open it with: \
                 tunnelctl config set enableGateway true",
            ),
            Self::GatewayStuck => f.write_str(
                "the gateway could not be opened, where apps reach the models; see what is in its way with: \
                 tunnelctl doctor",
            ),
            Self::OddName => f.write_str(
                "a model's name cannot hold control characters; see the names with: tunnelctl models list",
            ),
            Self::OtherApi { model, connections } => write!(
                f,
                "Ollama's API does not reach {model}: it is on {connections}, where OpenAI's is spoken; \
                 set up another app, such as: tunnelctl connect curl"
            ),
        }
    }
}

impl Target {
    /// Chooses the model that was asked for, or the one that answers soonest.
    pub(super) fn choose(
        config: &Map<String, Value>,
        models: &[Model],
        status: &Status,
        app: App,
        wanted: Option<&str>,
    ) -> Result<Self, Unusable> {
        if wanted.is_some_and(|name| clean(name) != name) {
            return Err(Unusable::OddName);
        }
        let wanted_open = config.get("enableGateway") != Some(&Value::Bool(false));
        let port =
            config.get("gatewayPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or_else(|| Config::default().gateway_port.get());
        let Some(gateway) = status.gateway_url(wanted_open.then_some(port)) else {
            return Err(if wanted_open { Unusable::GatewayStuck } else { Unusable::GatewayClosed });
        };
        let gateway_moves = gateway_moves(status, port);
        let target = |model: &str, found| Self {
            gateway: gateway.clone(),
            model: model.to_owned(),
            found,
            gateway_moves: gateway_moves.clone(),
        };
        let speaks_ollama = |model: &Model| {
            model
                .connections
                .iter()
                .any(|id| status.connections.get(id).is_some_and(|connection| connection.speaks(Api::Ollama)))
        };
        let model = match wanted {
            // As in requests: no tag means `latest`.
            Some(wanted) => models
                .iter()
                .find(|model| model.name == wanted || model.name.strip_suffix(":latest") == Some(wanted)),
            None => models.iter().filter(|model| clean(&model.name) == model.name).min_by_key(|model| {
                let unreachable = app == App::Ollama && !speaks_ollama(model);
                (unreachable, is_no_chat(&model.name), !model.loaded)
            }),
        };
        match (model, wanted) {
            (Some(model), _) if app == App::Ollama && !speaks_ollama(model) => Err(Unusable::OtherApi {
                model: model.name.clone(),
                connections: model.connections.join(", "),
            }),
            (Some(model), wanted) => Ok(target(wanted.unwrap_or(&model.name), Found::There)),
            (None, Some(wanted)) => Ok(target(wanted, Found::NotNow)),
            (None, None) => {
                let server = |id: &String| id != tunnel_api::connection::CLOUD_ID;
                let servers = status.connections.iter().any(|(id, there)| server(id) && there.connected);
                Ok(target(PLACEHOLDER, if servers { Found::NoModels } else { Found::NoServers }))
            }
        }
    }

    /// Returns the base address of OpenAI's API.
    pub(super) fn openai(&self) -> String {
        format!("{}/v1", self.ollama())
    }

    /// Returns the base address of Ollama's API.
    pub(super) fn ollama(&self) -> String {
        self.gateway.clone()
    }

    pub(super) fn is_placeholder(&self) -> bool {
        matches!(self.found, Found::NoModels | Found::NoServers)
    }

    /// Returns what to know, or to do first.
    pub(super) fn notes(&self) -> Vec<String> {
        let model = match self.found {
            Found::There => None,
            Found::NotNow => Some(format!(
                "no connection has {} now; see the names with: tunnelctl models list",
                self.model
            )),
            Found::NoModels => Some(format!(
                "there is no model yet: get one, such as with: ollama pull llama3.2; its name replaces {PLACEHOLDER}"
            )),
            Found::NoServers => Some(format!(
                "no model server is connected: look for one with: tunnelctl connections detect --add; \
                 the name of one of its models replaces {PLACEHOLDER}"
            )),
        };
        model.into_iter().chain(self.gateway_moves.clone()).collect()
    }
}

fn gateway_moves(status: &Status, port: u16) -> Option<String> {
    let waits = status.config.restart_required.iter().any(|key| key == "gatewayPort");
    waits.then(|| match status.gateway {
        Some(_) => {
            format!("this address holds until tunneld restarts; from then on the gateway is on port {port}")
        }
        None => format!("the gateway's port holds after a restart; {RESTART}"),
    })
}

/// Tells whether a model is one of those that cannot chat, as far as its name says: nothing else does.
fn is_no_chat(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["embed", "rerank", "bge-", "whisper"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use tunnel_api::{Connection, Gateway};

    use tunnel_api::connection::ConnectionKind;

    use super::*;

    fn model(name: &str, connection: &str, loaded: bool) -> Model {
        Model { name: name.to_owned(), connections: vec![connection.to_owned()], loaded, ..Model::default() }
    }

    fn status() -> Status {
        let connection = |id: &str, kind| {
            (id.to_owned(), Connection { id: id.to_owned(), kind, connected: true, ..Connection::default() })
        };
        let connections =
            [connection("ollama", ConnectionKind::Ollama), connection("lab", ConnectionKind::Openai)].into();
        Status { connections, ..Status::default() }
    }

    fn choose(models: &[Model], app: App, wanted: Option<&str>) -> Result<Target, Unusable> {
        Target::choose(&Config::default().to_map(), models, &status(), app, wanted)
    }

    #[test]
    fn model_that_is_loaded_and_can_chat_comes_first() {
        let models =
            [model("a", "ollama", false), model("nomic-embed-text", "ollama", true), model("b", "lab", true)];
        let chosen = |app| choose(&models, app, None).unwrap().model;
        assert_eq!(chosen(App::Curl), "b");
        assert_eq!(chosen(App::Ollama), "a", "b is not reached by Ollama's API");
        assert_eq!(choose(&models[1..2], App::Curl, None).unwrap().model, "nomic-embed-text");
    }

    #[test]
    fn model_that_was_asked_for_is_taken_there_or_not() {
        let models = [model("llama3.2:latest", "ollama", false)];
        let there = choose(&models, App::Zed, Some("llama3.2")).unwrap();
        assert_eq!((there.model.as_str(), there.notes()), ("llama3.2", vec![]));
        let missing = choose(&models, App::Zed, Some("other")).unwrap();
        assert_eq!(missing.model, "other");
        assert!(missing.notes()[0].contains("no connection has other now"), "{:?}", missing.notes());
        assert_eq!(choose(&models, App::Zed, Some("a\nb")), Err(Unusable::OddName));
    }

    #[test]
    fn model_of_another_api_is_no_help_to_ollama() {
        let models = [model("m", "lab", true)];
        assert!(matches!(choose(&models, App::Ollama, None), Err(Unusable::OtherApi { .. })));
        assert!(matches!(choose(&models, App::Ollama, Some("m")), Err(Unusable::OtherApi { .. })));
        assert!(choose(&models, App::Python, Some("m")).is_ok());
    }

    #[test]
    fn nothing_to_name_is_plainly_marked() {
        let target = choose(&[], App::Curl, None).unwrap();
        assert_eq!(target.model, PLACEHOLDER);
        assert!(target.is_placeholder() && target.notes()[0].contains("ollama pull"));
        let alone = Target::choose(&Map::new(), &[], &Status::default(), App::Curl, None).unwrap();
        assert!(alone.notes()[0].contains("connections detect --add"));
        // A name that could steer a terminal is never chosen.
        assert!(choose(&[model("a\x1b[2J", "lab", true)], App::Curl, None).unwrap().is_placeholder());
    }

    #[test]
    fn port_is_the_one_in_force() {
        let mut config = Config::default().to_map();
        config.insert("gatewayPort".to_owned(), Value::from(4711));
        let target = Target::choose(&config, &[], &status(), App::Curl, None).unwrap();
        assert_eq!(target.openai(), "http://127.0.0.1:4711/v1");
        // Another program has that port, so the gateway stayed where it was.
        let at = |url: Option<&str>| Status {
            gateway: Some(Gateway { url: url.map(str::to_owned), lan_url: None }),
            ..status()
        };
        let open = at(Some("http://127.0.0.1:11435"));
        let target = Target::choose(&config, &[], &open, App::Curl, None).unwrap();
        assert_eq!(target.openai(), "http://127.0.0.1:11435/v1");
        let stuck = Target::choose(&config, &[], &at(None), App::Curl, None);
        assert_eq!(stuck, Err(Unusable::GatewayStuck));
        config.insert("enableGateway".to_owned(), Value::Bool(false));
        for closed in [at(None), status()] {
            let closed = Target::choose(&config, &[], &closed, App::Curl, None);
            assert_eq!(closed, Err(Unusable::GatewayClosed));
        }
    }
}
