/// The paths that POST asks a model at.
pub const PATHS_THAT_ASK: &[&str] = &[
    // Ollama.
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    // OpenAI, and what other servers have added beside it.
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/reranking",
    "/v1/score",
    "/v1/moderations",
    "/v1/audio/speech",
    "/v1/images/generations",
    // Anthropic.
    "/v1/messages",
    "/v1/messages/count_tokens",
    // LM Studio.
    "/api/v0/chat/completions",
    "/api/v0/completions",
    "/api/v0/embeddings",
    // llama.cpp, vLLM.
    "/chat/completions",
    "/completions",
    "/completion",
    "/infill",
    "/embeddings",
    "/embedding",
    "/rerank",
    "/reranking",
    "/score",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];

/// Tells whether a POST to a path does nothing but ask the model that its JSON body names. The path is in its normal form.
///
/// What a desktop opens to callers from the tunnel, and what a key for some models may do, is this one list. Paths whose
/// bodies are forms (`/v1/audio/transcriptions`, `/v1/images/edits`) are not in it: their models are not found.
pub fn asks_a_model(path: &str) -> bool {
    PATHS_THAT_ASK.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_asked_not_managed() {
        assert!(asks_a_model("/api/chat") && asks_a_model("/v1/messages/count_tokens"));
        for path in [
            "/api/pull",
            "/api/create",
            "/models/load",
            "/v1/files",
            "/slots/0",
            "/api/chat/",
            "/API/chat",
            "",
        ] {
            assert!(!asks_a_model(path), "{path}");
        }
    }
}
