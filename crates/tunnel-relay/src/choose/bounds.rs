//! Keys that hold for some models only: which requests they may make at all. Pure.

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method};
use tunnel_sniff::{Fault, asks_a_model, with_tag};

use super::listing::Listing;
use crate::error::Refusal;

/// The models of a token: names, or beginnings of names that end with `*`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a>(pub(crate) &'a [String]);

/// What a request with such a token asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// A list, which is to show the token's models only.
    List(Listing),
    /// Something about one model, which was found to be one of the token's.
    Model(String),
    /// Something that concerns no model.
    Nothing,
    /// What its body says.
    Body,
}

impl Bounds<'_> {
    /// Tells whether the token holds for a model.
    ///
    /// A name without a tag means `:latest`, in the token as in the request. Otherwise it is the very name: a server
    /// may take `LLAMA3` for `llama3`, the token does not.
    pub(crate) fn allow(self, model: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning) || with_tag(model).starts_with(beginning),
            None => pattern == model || with_tag(pattern) == with_tag(model),
        })
    }

    /// Checks what can be checked of a request before its body.
    ///
    /// Only what is known to concern the models that it names is let through: the rest might tell of others, or make
    /// one out of another.
    pub(crate) fn ask(self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Asks, Refusal> {
        if matches!(*method, Method::GET | Method::HEAD) {
            if let Some(listing) = Listing::of(path) {
                return Ok(Asks::List(listing));
            }
            if matches!(path, "/" | "/api/version") {
                return Ok(Asks::Nothing);
            }
            return match path.strip_prefix("/v1/models/").and_then(decoded) {
                Some(model) if self.allow(&model) => Ok(Asks::Model(model)),
                Some(_) => Err(not_among_them()),
                None => Err(Refusal::ModelNotAllowed {
                    why: "The token holds for some models only, and this path is not known to concern them alone.",
                }),
            };
        }
        if *method != Method::POST || !asks_a_model(path) {
            return Err(Refusal::ModelNotAllowed {
                why: "The token holds for some models only, and this is not known to only ask a model something: it \
                      might change or make models. Use a token without such a bound.",
            });
        }
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(Refusal::ModelNotAllowed {
                why: "The token holds for some models only, and which one a compressed body names is not read here. \
                      Send the body uncompressed.",
            });
        }
        Ok(Asks::Body)
    }

    /// Checks what was found in a body.
    pub(crate) fn check(self, model: Option<&str>) -> Result<(), Refusal> {
        match model {
            Some(model) if self.allow(model) => Ok(()),
            Some(_) => Err(not_among_them()),
            None => Err(Refusal::ModelNotAllowed {
                why: "The token holds for some models only, and no model was found in the first 1048576 bytes of the \
                      body. Put the member \"model\" first.",
            }),
        }
    }
}

/// Says why a body was not taken.
pub(crate) fn fault(fault: Fault) -> Refusal {
    Refusal::ModelNotAllowed {
        why: match fault {
            Fault::NotJson => {
                "The token holds for some models only, and the body is not a JSON object that names its model."
            }
            Fault::Several => {
                "The token holds for some models only, and servers differ in which one the body names. Send the member \
                 \"model\", in these letters and once, and no \"name\" or \"models\"."
            }
            Fault::NotText | Fault::TooLong => {
                "The token holds for some models only, and what the body has for \"model\" is no model's name."
            }
            Fault::TooDeep => {
                "The token holds for some models only, and the body is nested too deep to be looked through for \
                 others."
            }
        },
    }
}

/// Says why a body was broken off of which the beginning was taken.
pub(crate) fn ambiguous_later() -> Refusal {
    Refusal::ModelNotAllowed {
        why: "The token holds for some models only, and the body names a model again after its first 1048576 bytes, or \
              is not JSON there. It was broken off, and the model server has not seen its end. Send the member \
              \"model\" once, and first.",
    }
}

fn not_among_them() -> Refusal {
    Refusal::ModelNotAllowed {
        why: "The token does not hold for this model. GET /v1/models shows those that it holds for; a key for another \
              one is made with: tunnelctl keys create",
    }
}

/// Returns the model that the rest of a path names; `None` when the path could be read in two ways.
pub(super) fn decoded(rest: &str) -> Option<String> {
    let mut name = Vec::with_capacity(rest.len());
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    let name = String::from_utf8(name).ok()?;
    let steps = name.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    (!steps && !name.contains(['%', '\\', ';', '?', '#']) && !name.chars().any(char::is_control))
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(models: &[&str], method: &Method, path: &str) -> Result<Asks, &'static str> {
        let models: Vec<String> = models.iter().map(|model| (*model).to_owned()).collect();
        Bounds(&models).ask(method, path, &HeaderMap::new()).map_err(|refusal| refusal.code())
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        let models = ["llama3".to_owned(), "qwen*".to_owned(), "m:8b".to_owned(), "x:*".to_owned()];
        let bounds = Bounds(&models);
        for model in ["llama3", "llama3:latest", "qwen", "qwen3:8b", "m:8b", "x", "x:latest", "x:1"] {
            assert!(bounds.allow(model), "{model}");
        }
        for model in
            ["llama3:8b", "LLAMA3", "llama", "m", "m:latest", "Qwen3", "", "gpu/qwen3", "xx", " llama3"]
        {
            assert!(!bounds.allow(model), "{model}");
        }
        assert!(!Bounds(&[]).allow("llama3"));
    }

    #[test]
    fn only_what_concerns_its_models_passes_without_a_body() {
        let get = |path| ask(&["llama3", "org/a:b"], &Method::GET, path);
        assert_eq!(get("/api/tags"), Ok(Asks::List(Listing::Tags)));
        assert_eq!(get("/api/version"), Ok(Asks::Nothing));
        assert_eq!(get("/v1/models/llama3"), Ok(Asks::Model("llama3".into())));
        assert_eq!(get("/v1/models/org%2Fa:b"), Ok(Asks::Model("org/a:b".into())));
        for path in [
            "/v1/models/other",
            "/v1/models/",
            "/v1/models/../llama3",
            "/v1/models/llama3%2f..%2Fother",
            "/v1/models/llama3%252f",
            "/v1/models/llama3%00",
            "/v1/models/llama3;x",
            "/v1//models",
            "/api/tags/",
            "/props",
            "/api/blobs/sha256:1",
        ] {
            assert_eq!(get(path), Err("not_allowed"), "{path}");
        }
    }

    #[test]
    fn models_are_asked_never_changed_and_bodies_not_compressed() {
        let post = |path| ask(&["llama3"], &Method::POST, path);
        for path in [
            "/api/chat",
            "/api/show",
            "/v1/chat/completions",
            "/v1/embeddings",
            "/v1/messages/count_tokens",
            "/api/v0/chat/completions",
            "/tokenize",
        ] {
            assert_eq!(post(path), Ok(Asks::Body), "{path}");
        }
        for (method, path) in [
            (&Method::DELETE, "/api/delete"),
            (&Method::DELETE, "/v1/models/other"),
            (&Method::PUT, "/api/chat"),
            (&Method::PATCH, "/v1/chat/completions"),
            (&Method::OPTIONS, "/api/chat"),
        ] {
            assert_eq!(ask(&["llama3"], method, path), Err("not_allowed"), "{method} {path}");
        }
        for path in [
            "/api/create",
            "/api/chat/",
            "/API/chat",
            "/v1/files",
            "/v1/fine_tuning/jobs",
            "/v1/models/other",
            "/models/load",
            "/v1/audio/transcriptions",
            "/API/copy",
            "/api/pull",
            "/api/blobs/x",
            "/api/%63reate",
            "/api//create",
            "/x/../api/create",
        ] {
            assert_eq!(post(path), Err("not_allowed"), "{path}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(Bounds(&[]).ask(&Method::POST, "/api/chat", &headers).is_err());
    }
}
