//! What a path asks for. Pure.

use std::borrow::Cow;

use http::Method;

use crate::policy::model_id;

/// The API in which a caller speaks, and in which it must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/api/*`, and the root, which Ollama's clients ask.
    Ollama,
    /// `/v1/*`, and LM Studio's `/api/v0/*`.
    OpenAi,
    /// Any other path.
    Other,
}

impl Dialect {
    pub(crate) fn of(path: &str) -> Self {
        if path == "/v1" || path.starts_with("/v1/") || path.starts_with("/api/v0/") {
            Self::OpenAi
        } else if path == "/" || path == "/api" || path.starts_with("/api/") {
            Self::Ollama
        } else {
            Self::Other
        }
    }
}

/// What the broker does with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    /// Answers that the server runs.
    Root,
    /// Lists the models of all Ollama backends.
    Tags,
    /// Lists the models that Ollama backends have in memory.
    Running,
    /// Answers the version of the first Ollama backend.
    Version,
    /// Lists the models of all backends, as OpenAI does.
    Models,
    /// Describes one model, as OpenAI does.
    Model(Cow<'a, str>),
    /// Manages models: the body may name one that is not there yet.
    Management,
    /// Forwards by the model that the body names.
    Named,
    /// Forwards a request that names no model in a body.
    Unnamed,
}

impl<'a> Endpoint<'a> {
    pub(crate) fn of(method: &Method, path: &'a str) -> Self {
        if *method == Method::GET || *method == Method::HEAD {
            match path {
                "/" => return Self::Root,
                "/api/tags" => return Self::Tags,
                "/api/ps" => return Self::Running,
                "/api/version" => return Self::Version,
                "/v1/models" => return Self::Models,
                _ => {}
            }
            if let Some(id) = path.strip_prefix("/v1/models/").and_then(model_id) {
                return Self::Model(id);
            }
        }
        match path {
            "/api/pull" | "/api/push" | "/api/create" | "/api/copy" | "/api/delete" => Self::Management,
            blob if blob.starts_with("/api/blobs/") => Self::Management,
            _ if *method == Method::POST => Self::Named,
            _ => Self::Unnamed,
        }
    }
}

/// Tells whether what manages models goes to the backend that has the one that the body names: what deletes it or sends
/// it elsewhere. The others make models, or make them of several.
pub(crate) fn is_about_a_model(path: &str) -> bool {
    matches!(path, "/api/delete" | "/api/push")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_segments() {
        for (path, dialect) in [
            ("/", Dialect::Ollama),
            ("/api/chat", Dialect::Ollama),
            ("/apis", Dialect::Other),
            ("/api/v0/chat/completions", Dialect::OpenAi),
            ("/api/v0x", Dialect::Ollama),
            ("/v1/models", Dialect::OpenAi),
            ("/v1beta/x", Dialect::Other),
            ("//api/chat", Dialect::Other),
            ("*", Dialect::Other),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }

    #[test]
    fn listings_are_answered_here_and_the_rest_is_forwarded() {
        for (method, path, endpoint) in [
            (Method::GET, "/", Endpoint::Root),
            (Method::HEAD, "/api/tags", Endpoint::Tags),
            (Method::POST, "/api/tags", Endpoint::Named),
            (Method::GET, "/v1/models/a%2Fb%3A1", Endpoint::Model("a/b:1".into())),
            (Method::GET, "/v1/models/", Endpoint::Unnamed),
            (Method::DELETE, "/api/delete", Endpoint::Management),
            (Method::HEAD, "/api/blobs/sha256:0", Endpoint::Management),
            (Method::GET, "/api/chat", Endpoint::Unnamed),
            (Method::POST, "/v1/audio/speech", Endpoint::Named),
        ] {
            assert_eq!(Endpoint::of(&method, path), endpoint, "{method} {path}");
        }
    }
}
