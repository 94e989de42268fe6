//! What is known of each kind of model server: data, one file a kind.
//!
//! Whatever differs from server to server is asked of a [`Profile`]. A plugin describes itself while it runs, so a profile
//! can be built from texts that are not known beforehand, too.

use std::borrow::Cow;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::path::Dialect;

mod cloud;
mod llamacpp;
mod lmstudio;
mod ollama;
mod openai;
mod plugin;
#[cfg(test)]
mod tests;
mod vllm;

pub(crate) use cloud::PROFILE as CLOUD;
pub(crate) use llamacpp::PROFILE as LLAMACPP;
pub(crate) use lmstudio::PROFILE as LMSTUDIO;
pub(crate) use ollama::PROFILE as OLLAMA;
pub(crate) use openai::PROFILE as OPENAI;
pub(crate) use plugin::PROFILE as PLUGIN;
pub use plugin::PluginError;
pub(crate) use vllm::PROFILE as VLLM;

/// A text that is part of the program, or that a server sent.
pub type Text = Cow<'static, str>;

/// How to talk with one kind of model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The word in configuration and status, such as `llamacpp`.
    pub name: Text,
    /// What people call the server; fits into a sentence.
    pub product: Text,
    /// Whose machine it is on.
    pub side: Side,
    /// The APIs that it may speak. Where [`Lists::Every`] holds, those whose list it answers.
    pub speaks: Speaks,
    /// What tells whether it works, and whether it still loads its model. None: its list of models does.
    pub health: Option<HealthCheck>,
    /// Where it tells its version.
    pub version: Option<VersionCheck>,
    /// Where it lists its models.
    pub lists: Lists,
    /// The list of the models that are in memory, where that is a list of its own. May be missing (404).
    pub running: Option<ModelList>,
    /// Where its own metrics are.
    pub metrics: Option<Text>,
    /// Has it take a model into memory.
    pub load: Option<ModelCall>,
    /// Has it put a model out of memory.
    pub unload: Option<ModelCall>,
    /// What the names of its models mean.
    pub names: Names,
    /// The path that belongs to its API and not to where it is, as in `http://host/v1`.
    pub own_path: Option<Text>,
    /// What to do when it is down.
    pub start_step: Text,
    /// What to do when it has no models.
    pub no_models_step: Text,
    /// The oldest version that is recommended.
    pub recommended: Option<Recommended>,
    /// Where it listens unless it is told otherwise.
    pub usual_ports: Cow<'static, [u16]>,
    /// It is asked no more often than this, whatever is configured, unless somebody orders it: each question may cost.
    pub least_interval: Duration,
}

/// On which side of the network a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A server of the user's own, on this machine or near it.
    Local,
    /// An account elsewhere: what comes through the tunnel is never sent there, since it may be the tunnel's other end.
    Cloud,
}

impl Side {
    /// The name in documents: `local` or `cloud`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        }
    }
}

/// Which APIs a server understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Speaks {
    /// `/api/*` as Ollama has it.
    pub ollama: bool,
    /// `/v1/*`.
    pub openai: bool,
    /// Paths that are none of the two: those of the server itself.
    pub other: bool,
}

/// One of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// Ollama's.
    Ollama,
    /// OpenAI's.
    OpenAi,
}

/// What tells whether a server works. A server that does not know the path (4xx) is not asked again until it was down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Answered with a success when all is well.
    pub path: Text,
    /// The statuses that mean: it is there, and still loads its model.
    pub loading: Cow<'static, [u16]>,
    /// Whether the body must say so, too, in llama.cpp's words: a proxy before a server that is gone answers with the
    /// same status. A plugin, before which there is none, means what it describes.
    pub in_words: bool,
}

/// Where a server tells its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionCheck {
    /// Answered with a JSON object.
    pub path: Text,
    /// The member that holds the version.
    pub member: Text,
    /// Whether a server without it is another one than it should be. If so it is asked each time, and comes first; if
    /// not, once until the server was down.
    pub demanded: bool,
}

/// The lists of models that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lists {
    /// Ways to ask for the same list, the best one first: the first that the server knows counts.
    First(Cow<'static, [ModelList]>),
    /// The lists of several APIs. One has to be there; those that are there tell which APIs the server speaks.
    Every(Cow<'static, [ModelList]>),
}

/// A list of models, and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    /// Answered with a JSON object.
    pub path: Text,
    /// The API whose list it is: there an entry is passed on as it came.
    pub api: Api,
    /// The member that holds the entries.
    pub entries: Text,
    /// The members of an entry that may hold the model's name, the best one first.
    pub names: Cow<'static, [Text]>,
    /// JSON pointer to the size in bytes.
    pub size: Option<Text>,
    /// Which of the models are in memory.
    pub loaded: Loaded,
}

/// How a list tells which models are in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It does not: [`Profile::running`] does.
    Elsewhere,
    /// All that it lists are.
    All,
    /// Each entry tells. One that does not is in memory: such servers have one model, and have it there.
    Told {
        /// JSON pointer to a text.
        at: Text,
        /// The texts that mean that it is in memory.
        values: Cow<'static, [Text]>,
    },
}

/// A request about one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCall {
    /// Mostly `POST`.
    pub method: Method,
    /// Where it goes.
    pub path: Text,
    /// JSON in which `{model}` stands for the model's name and `{keep_alive}` for how long it is to stay in memory.
    pub body: Text,
    /// Whether a good answer comes when it is done. If not, it has only begun, and the list of models tells the end.
    pub answers_when_done: bool,
    /// JSON pointer to what a model's entry in the list must have for this to be possible. None: it always is.
    pub needs: Option<Text>,
}

/// What the names of models mean to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// Names end in a tag, and without one `:latest` is meant.
    pub tags: bool,
    /// `Llama3` and `llama3` are the same.
    pub folds_case: bool,
}

/// The oldest version of a server that answers everything as its documentation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recommended {
    /// Major, minor, patch.
    pub oldest: [u64; 3],
    /// How to get a newer one.
    pub update_step: Text,
}

impl Names {
    /// Names are what they are.
    pub const EXACT: Self = Self { tags: false, folds_case: false };
    /// As Ollama takes them.
    pub const OLLAMA: Self = Self { tags: true, folds_case: true };
}

impl Speaks {
    /// Everything: an Ollama speaks OpenAI's API, too.
    pub const BOTH: Self = Self { ollama: true, openai: true, other: true };
    /// OpenAI's API, and what the server has of its own.
    pub const OPENAI: Self = Self { ollama: false, openai: true, other: true };

    pub(crate) fn understands(self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Ollama => self.ollama,
            Dialect::OpenAi => self.openai,
            Dialect::Other => self.other,
        }
    }

    pub(crate) fn add(&mut self, api: Api) {
        match api {
            Api::Ollama => self.ollama = true,
            Api::OpenAi => self.openai = true,
        }
    }
}

impl Lists {
    pub(crate) fn all(&self) -> &[ModelList] {
        match self {
            Self::First(lists) | Self::Every(lists) => lists,
        }
    }
}

impl Profile {
    /// Tells whether each question to it may cost something.
    pub(crate) fn is_rarely_asked(&self) -> bool {
        !self.least_interval.is_zero()
    }
}

impl ModelCall {
    /// Returns the body for one model. `keep_alive` is written where the server takes it: a number of seconds, a text such
    /// as `5m`, or -1 for ever.
    pub fn body_for(&self, model: &str, keep_alive: &Value) -> String {
        // The model last: its name is data, and may hold anything.
        let body = self.body.replace("{keep_alive}", &keep_alive.to_string());
        body.replace("{model}", &Value::from(model).to_string())
    }
}

/// A call to llama.cpp's router, which lists how each model stands; a server with one model does not know it.
pub(crate) const fn router_call(path: &'static str) -> ModelCall {
    ModelCall {
        method: Method::POST,
        path: Text::Borrowed(path),
        body: Text::Borrowed(r#"{"model":{model}}"#),
        answers_when_done: false,
        needs: Some(Text::Borrowed("/status/value")),
    }
}

/// OpenAI's list, of which a server with one model lists what it has in memory.
pub(crate) const fn openai_list(path: &'static str, loaded: Loaded) -> ModelList {
    const NAMES: &[Text] = &[Text::Borrowed("id")];
    ModelList {
        path: Text::Borrowed(path),
        api: Api::OpenAi,
        entries: Text::Borrowed("data"),
        names: Cow::Borrowed(NAMES),
        size: Some(Text::Borrowed("/meta/size")),
        loaded,
    }
}

/// Ollama's list.
pub(crate) const fn ollama_list(path: &'static str, loaded: Loaded) -> ModelList {
    const NAMES: &[Text] = &[Text::Borrowed("name"), Text::Borrowed("model")];
    ModelList {
        path: Text::Borrowed(path),
        api: Api::Ollama,
        entries: Text::Borrowed("models"),
        names: Cow::Borrowed(NAMES),
        size: Some(Text::Borrowed("/size")),
        loaded,
    }
}

/// What llama.cpp's router says of each model; of one that sleeps it would have to load the weights again.
pub(crate) const ROUTER_STATE: Loaded = {
    const VALUES: &[Text] = &[Text::Borrowed("loaded")];
    Loaded::Told { at: Text::Borrowed("/status/value"), values: Cow::Borrowed(VALUES) }
};

/// What to do when a server that is described by its URL alone is down.
pub(crate) const START_STEP: Text =
    Text::Borrowed("start it, or mend its url under connections in the config");
/// What to do when such a server lists nothing.
pub(crate) const NO_MODELS_STEP: Text =
    Text::Borrowed("load a model there, or name its models under connections in the config");
