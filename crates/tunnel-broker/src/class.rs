//! Which requests ask a model for something. Pure.

use http::Method;

/// What an LLM request asks for. Only these are measured: lists, versions and the management of models are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointClass {
    /// A conversation: `/api/chat`, `/v1/chat/completions`, `/v1/messages`.
    Chat,
    /// The continuation of a text: `/api/generate`, `/v1/completions`, llama.cpp's `/completion` and `/infill`.
    Completion,
    /// OpenAI's `/v1/responses`.
    Responses,
    /// Embeddings.
    Embedding,
    /// Ranking, counting and applying what a model knows of words, speech, images, moderation.
    Other,
}

impl EndpointClass {
    /// Returns none for what is not asked of a model.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if *method != Method::POST {
            return None;
        }
        match path {
            "/api/chat"
            | "/v1/chat/completions"
            | "/api/v0/chat/completions"
            | "/chat/completions"
            | "/v1/messages" => Some(Self::Chat),
            "/api/generate"
            | "/v1/completions"
            | "/api/v0/completions"
            | "/completions"
            | "/completion"
            | "/infill" => Some(Self::Completion),
            "/v1/responses" => Some(Self::Responses),
            "/api/embed" | "/api/embeddings" | "/v1/embeddings" | "/api/v0/embeddings" | "/embeddings"
            | "/embedding" => Some(Self::Embedding),
            "/v1/rerank"
            | "/v1/reranking"
            | "/rerank"
            | "/reranking"
            | "/v1/score"
            | "/score"
            | "/v1/messages/count_tokens"
            | "/tokenize"
            | "/detokenize"
            | "/apply-template"
            | "/v1/moderations"
            | "/v1/audio/speech"
            | "/v1/audio/transcriptions"
            | "/v1/audio/translations"
            | "/v1/images/generations"
            | "/v1/images/edits"
            | "/v1/images/variations" => Some(Self::Other),
            _ => None,
        }
    }

    /// Tells whether a request counts as load, takes a slot and waits for one, and whether its outcome says how the server
    /// answers. `class`: its own. What loads no model onto a GPU does not, and neither does what is no question to a
    /// model, such as a download, however long it takes.
    pub(crate) fn takes_slot(class: Option<Self>, path: &str, names_model: bool) -> bool {
        match path {
            "/api/show" | "/v1/messages/count_tokens" | "/tokenize" | "/detokenize" | "/apply-template" => {
                false
            }
            // A path that is not known here, whose body names a model, is a question as well.
            _ => class.is_some() || names_model,
        }
    }

    /// Tells whether the streams of a path end with a mark, as the API has it: `[DONE]`, or `"done":true`.
    pub(crate) fn marks_its_end(path: &str) -> bool {
        matches!(
            path,
            "/api/chat"
                | "/api/generate"
                | "/v1/chat/completions"
                | "/v1/completions"
                | "/api/v0/chat/completions"
                | "/api/v0/completions"
        )
    }

    /// The name in records: `chat`, `completion`, `responses`, `embedding`, `other`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Responses => "responses",
            Self::Embedding => "embedding",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_versions_and_management_are_not_asked_of_a_model() {
        for (method, path, class) in [
            (Method::POST, "/api/chat", Some(EndpointClass::Chat)),
            (Method::POST, "/api/generate", Some(EndpointClass::Completion)),
            (Method::POST, "/v1/responses", Some(EndpointClass::Responses)),
            (Method::POST, "/v1/embeddings", Some(EndpointClass::Embedding)),
            (Method::POST, "/v1/audio/speech", Some(EndpointClass::Other)),
            (Method::GET, "/api/chat", None),
            (Method::GET, "/v1/responses", None),
            (Method::GET, "/api/tags", None),
            (Method::GET, "/v1/models", None),
            (Method::GET, "/api/version", None),
            (Method::POST, "/api/show", None),
            (Method::POST, "/api/pull", None),
            (Method::DELETE, "/api/delete", None),
            (Method::POST, "/v1/files", None),
            (Method::POST, "/api/chat/", None),
        ] {
            assert_eq!(EndpointClass::of(&method, path), class, "{method} {path}");
        }
    }

    #[test]
    fn whatever_asks_a_model_is_counted() {
        for path in tunnel_sniff::PATHS_THAT_ASK.iter().filter(|path| **path != "/api/show") {
            assert!(EndpointClass::of(&Method::POST, path).is_some(), "{path}");
        }
    }
}
