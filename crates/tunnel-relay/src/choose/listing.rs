//! The lists of models that a device can be asked for.

/// A path that answers with a list of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// Ollama's `/api/tags`: what is on disk.
    Tags,
    /// Ollama's `/api/ps`: what is in memory.
    Running,
    /// OpenAI's `/v1/models`.
    Models,
}

impl Listing {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/api/tags" => Some(Self::Tags),
            "/api/ps" => Some(Self::Running),
            "/v1/models" => Some(Self::Models),
            _ => None,
        }
    }
}
