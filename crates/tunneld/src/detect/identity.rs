//! Which program answers like this: pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use tunnel_api::detect::Product;
use tunnel_transport::printable;

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) product: Product,
    pub(super) version: Option<String>,
    pub(super) models: Vec<String>,
}

/// What a server can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// OpenAI's list of models: everybody has it.
    Models,
    OllamaVersion,
    OllamaRoot,
    OllamaTags,
    LlamaProps,
    VllmVersion,
    LmStudioModels,
}

impl Question {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Models => "/v1/models",
            Self::OllamaVersion => "/api/version",
            Self::OllamaRoot => "/",
            Self::OllamaTags => "/api/tags",
            Self::LlamaProps => "/props",
            Self::VllmVersion => "/version",
            Self::LmStudioModels => "/api/v0/models",
        }
    }
}

/// An answer, as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// Whether its status is a success.
    pub(super) ok: bool,
    /// Whether it asks for a key.
    pub(super) wants_key: bool,
    /// It carries headers that only we send.
    pub(super) ours: bool,
    /// The header `Server`.
    pub(super) server: Option<String>,
    pub(super) body: Bytes,
}

/// What one server was asked, and what it answered; None stands for no answer.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeMap<Question, Option<Reply>>);

/// What follows from the answers so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ask(Question),
    Found(Identity),
    /// No model server, or one that cannot be told.
    Nobody,
}

/// A model in OpenAI's list.
struct Listed {
    name: String,
    owner: Option<String>,
}

impl Heard {
    pub(super) fn note(&mut self, question: Question, reply: Option<Reply>) {
        self.0.insert(question, reply);
    }

    pub(super) fn next(&self) -> Step {
        self.judge().unwrap_or_else(Step::Ask)
    }

    /// Judges what is there. The error is the question that has to be asked first.
    fn judge(&self) -> Result<Step, Question> {
        let Some(first) = self.answer(Question::Models)? else { return Ok(Step::Nobody) };
        if first.ours {
            return Ok(Step::Nobody);
        }
        let list = openai_list(first);
        // Before the owners: in Ollama anybody may own a model, also somebody called vllm.
        if let Some(ollama) = self.ollama()? {
            return Ok(Step::Found(ollama));
        }
        let names = || list.iter().flatten().map(|model| model.name.clone()).collect();
        let owned_by = |owner| {
            list.iter().flatten().any(|model| model.owner.as_deref().is_some_and(|name| name == owner))
        };
        let found = |product, version| Ok(Step::Found(Identity { product, version, models: names() }));
        // While it loads its model it lists nothing; who it is, it says all the same.
        if owned_by("llamacpp") || first.server.as_deref() == Some("llama.cpp") {
            return found(Product::LlamaCpp, self.version(Question::LlamaProps, "build_info")?);
        }
        if owned_by("vllm") {
            return found(Product::Vllm, self.version(Question::VllmVersion, "version")?);
        }
        if owned_by("organization_owner") {
            return found(Product::LmStudio, None);
        }
        if first.wants_key && self.is_vllm()? {
            return found(Product::Vllm, self.version(Question::VllmVersion, "version")?);
        }
        if list.is_none() {
            return Ok(Step::Nobody);
        }
        let product = if self.is_lm_studio()? { Product::LmStudio } else { Product::Other };
        found(product, None)
    }

    fn ollama(&self) -> Result<Option<Identity>, Question> {
        let Some(version) = self.version(Question::OllamaVersion, "version")? else { return Ok(None) };
        let root = self.answer(Question::OllamaRoot)?;
        if !root.is_some_and(|reply| reply.ok && reply.body.trim_ascii() == b"Ollama is running") {
            return Ok(None);
        }
        let tags = self.json(Question::OllamaTags)?;
        let models = tags.as_ref().and_then(|tags| tags.get("models")?.as_array());
        let models = models.into_iter().flatten().filter_map(|model| text(model, "name")).collect();
        Ok(Some(Identity { product: Product::Ollama, version: Some(version), models }))
    }

    /// LM Studio's own list says of each model who publishes it and whether it is loaded. Without a model only the
    /// path tells, to which nobody else answers with a list.
    fn is_lm_studio(&self) -> Result<bool, Question> {
        let own = self.json(Question::LmStudioModels)?;
        let list = own.as_ref().and_then(entries);
        Ok(list.is_some_and(|models| {
            models.iter().all(|model| model.get("publisher").is_some() || model.get("state").is_some())
        }))
    }

    /// vLLM asks for its key below `/v1` alone; its version is all that `/version` tells, and 401 there is its own form.
    fn is_vllm(&self) -> Result<bool, Question> {
        let refused = self.answer(Question::Models)?.map(|reply| &reply.body);
        let refused: Option<Value> = refused.and_then(|body| serde_json::from_slice(body).ok());
        let version = self.json(Question::VllmVersion)?;
        let only_version =
            version.as_ref().and_then(Value::as_object).is_some_and(|answer| answer.len() == 1);
        Ok(only_version
            && refused.is_some_and(|answer| answer == serde_json::json!({ "error": "Unauthorized" })))
    }

    /// Returns the text under `key` of an answer.
    fn version(&self, question: Question, key: &str) -> Result<Option<String>, Question> {
        Ok(self.json(question)?.as_ref().and_then(|answer| text(answer, key)))
    }

    fn json(&self, question: Question) -> Result<Option<Value>, Question> {
        let reply = self.answer(question)?.filter(|reply| reply.ok && !reply.ours);
        Ok(reply.and_then(|reply| serde_json::from_slice(&reply.body).ok()))
    }

    fn answer(&self, question: Question) -> Result<Option<&Reply>, Question> {
        self.0.get(&question).map(Option::as_ref).ok_or(question)
    }
}

fn openai_list(reply: &Reply) -> Option<Vec<Listed>> {
    let answer: Value = serde_json::from_slice(&reply.body).ok().filter(|_| reply.ok)?;
    let listed = |model: &Value| Some(Listed { name: text(model, "id")?, owner: text(model, "owned_by") });
    Some(entries(&answer)?.iter().filter_map(listed).collect())
}

/// Returns the entries of `{"object": "list", "data": […]}`.
fn entries(answer: &Value) -> Option<&Vec<Value>> {
    answer.get("data")?.as_array().filter(|_| answer.get("object").is_some_and(|kind| kind == "list"))
}

/// Returns a text out of an answer, fit to be shown: somebody else wrote it.
fn text(object: &Value, key: &str) -> Option<String> {
    Some(printable(object.get(key)?.as_str()?)).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a server that answers `answers`, and 404 to all else, be asked until it is known.
    fn judged(server: Option<&str>, answers: &[(&str, &str)]) -> (Step, Vec<&'static str>) {
        let mut heard = Heard::default();
        let mut asked = Vec::new();
        loop {
            let Step::Ask(question) = heard.next() else { return (heard.next(), asked) };
            asked.push(question.path());
            assert!(asked.len() < 10, "asks for ever: {asked:?}");
            let answer = answers.iter().find(|(path, _)| *path == question.path());
            let body = answer.map_or("{\"error\":\"not found\"}", |(_, body)| body).to_owned();
            let server = server.map(str::to_owned);
            heard.note(
                question,
                Some(Reply {
                    ok: answer.is_some(),
                    wants_key: false,
                    ours: false,
                    server,
                    body: body.into(),
                }),
            );
        }
    }

    fn found(product: Product, version: Option<&str>, models: &[&str]) -> Step {
        let models = models.iter().map(|name| (*name).to_owned()).collect();
        Step::Found(Identity { product, version: version.map(str::to_owned), models })
    }

    const OLLAMA: [(&str, &str); 3] = [
        ("/api/version", r#"{"version":"0.12.0"}"#),
        ("/", "Ollama is running"),
        ("/api/tags", r#"{"models":[{"name":"smollm2:135m","model":"smollm2:135m","size":98363007}]}"#),
    ];

    #[test]
    fn recorded_ollama_is_known_with_its_models_whoever_owns_them() {
        let list = r#"{"object":"list","data":[{"id":"smollm2:135m","object":"model","created":1795255008,"owned_by":"library"}]}"#;
        for owner in ["library", "vllm", "llamacpp", "organization_owner"] {
            let list = list.replace("library", owner);
            let answers = [&OLLAMA[..], &[("/v1/models", list.as_str())]].concat();
            assert_eq!(judged(None, &answers).0, found(Product::Ollama, Some("0.12.0"), &["smollm2:135m"]));
        }
        // One without OpenAI's API, and one without models: Go writes an empty list as null.
        assert_eq!(judged(None, &OLLAMA).0, found(Product::Ollama, Some("0.12.0"), &["smollm2:135m"]));
        let empty = [OLLAMA[0], OLLAMA[1], ("/api/tags", r#"{"models":null}"#)];
        assert_eq!(judged(None, &empty).0, found(Product::Ollama, Some("0.12.0"), &[]));
    }

    #[test]
    fn program_that_only_has_a_version_is_no_ollama() {
        let version = [("/api/version", r#"{"version":"1.0"}"#), ("/", "<html>")];
        assert_eq!(judged(None, &version).0, Step::Nobody);
        assert_eq!(judged(None, &[("/", "Ollama is running")]).0, Step::Nobody);
    }

    #[test]
    fn recorded_llama_server_is_known_also_while_it_loads() {
        let list = r#"{"models":[{"name":"smollm2:135m"}],"object":"list","data":[{"id":"smollm2:135m","object":"model","created":1795298075,"owned_by":"llamacpp","meta":{}}]}"#;
        let answers = [("/v1/models", list), ("/props", r#"{"build_info":"b6641-abc"}"#)];
        for server in [None, Some("llama.cpp")] {
            assert_eq!(
                judged(server, &answers).0,
                found(Product::LlamaCpp, Some("b6641-abc"), &["smollm2:135m"])
            );
        }
        assert_eq!(judged(Some("llama.cpp"), &[]).0, found(Product::LlamaCpp, None, &[]));
    }

    #[test]
    fn vllm_and_lm_studio_are_known_by_who_owns_their_models() {
        let list = |owner| {
            format!(r#"{{"object":"list","data":[{{"id":"qwen","object":"model","owned_by":"{owner}"}}]}}"#)
        };
        let vllm = list("vllm");
        let answers = [("/v1/models", vllm.as_str()), ("/version", r#"{"version":"0.6.3"}"#)];
        assert_eq!(judged(None, &answers).0, found(Product::Vllm, Some("0.6.3"), &["qwen"]));
        let studio = list("organization_owner");
        assert_eq!(judged(None, &[("/v1/models", &studio)]).0, found(Product::LmStudio, None, &["qwen"]));
    }

    #[test]
    fn vllm_with_a_key_is_known_by_its_refusal_and_its_version() {
        let reply = |ok, body: &'static str| Reply {
            ok,
            wants_key: !ok,
            ours: false,
            server: None,
            body: Bytes::from_static(body.as_bytes()),
        };
        let judged = |refusal, version| {
            let mut heard = Heard::default();
            heard.note(Question::Models, Some(reply(false, refusal)));
            heard.note(Question::OllamaVersion, None);
            heard.note(Question::VllmVersion, Some(reply(true, version)));
            heard.next()
        };
        let (refusal, version) = (r#"{"error":"Unauthorized"}"#, r#"{"version":"0.6.3"}"#);
        assert_eq!(judged(refusal, version), found(Product::Vllm, Some("0.6.3"), &[]));
        assert_eq!(judged(refusal, "<html>"), Step::Nobody);
        assert_eq!(judged(r#"{"detail":"log in"}"#, version), Step::Nobody, "anybody has a version");
    }

    #[test]
    fn lm_studio_says_200_to_all_and_is_known_by_its_own_list() {
        let odd = r#"{"error":"Unexpected endpoint or method. Returning 200 anyway"}"#;
        for (own, models) in [
            (r#"{"object":"list","data":[]}"#, vec![]),
            (r#"{"object":"list","data":[{"id":"q","publisher":"x","state":"loaded"}]}"#, vec!["q"]),
        ] {
            let list = own.replace("publisher", "made_by");
            let answers =
                [("/v1/models", list.as_str()), ("/api/v0/models", own), ("/api/version", odd), ("/", odd)];
            assert_eq!(judged(None, &answers).0, found(Product::LmStudio, None, &models), "{own}");
        }
    }

    #[test]
    fn others_are_known_by_openais_list_alone() {
        let list = r#"{"object":"list","data":[{"id":"a\u001b[2J"},{"no":"id"},{"id":""}]}"#;
        let odd = r#"{"error":"Unexpected endpoint"}"#;
        for own in [odd, list] {
            let answers = [("/v1/models", list), ("/api/v0/models", own)];
            assert_eq!(judged(None, &answers).0, found(Product::Other, None, &["a[2J"]), "{own}");
        }
        for strange in [r#"{"data":[]}"#, r#"{"object":"list","data":{}}"#, "[]", "<html>", ""] {
            assert_eq!(judged(None, &[("/v1/models", strange)]).0, Step::Nobody, "{strange}");
        }
    }

    #[test]
    fn what_does_not_answer_or_is_ours_is_asked_nothing_more() {
        let mut heard = Heard::default();
        heard.note(Question::Models, None);
        assert_eq!(heard.next(), Step::Nobody);
        let list = Bytes::from_static(br#"{"object":"list","data":[]}"#);
        heard.note(
            Question::Models,
            Some(Reply { ok: true, wants_key: false, ours: true, server: None, body: list }),
        );
        assert_eq!(heard.next(), Step::Nobody);
    }

    #[test]
    fn nobody_is_asked_more_than_it_takes() {
        assert_eq!(judged(None, &[]).1, ["/v1/models", "/api/version"]);
        assert_eq!(judged(None, &OLLAMA).1, ["/v1/models", "/api/version", "/", "/api/tags"]);
        assert_eq!(judged(Some("llama.cpp"), &[]).1, ["/v1/models", "/api/version", "/props"]);
    }
}
