//! What a caller with a key may reach: paths and models. Pure, but for the body that is watched on its way.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tunnel_sniff::{Fault, StrictScan, asks_a_model, with_tag};

use crate::body::BoxError;
use crate::catalog::Catalog;
use crate::error::Failure;
use crate::path::Endpoint;
use crate::policy::RemotePaths;

/// What a request may reach, by the word of its front door: an extension of the request, in an [`Arc`].
///
/// It narrows what the door itself allows, and widens nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerScope {
    /// The paths that are open to the caller.
    pub paths: RemotePaths,
    /// The models that it may ask: names as a caller may write them, without a tag for `:latest`, or beginnings of names
    /// that end with `*`. Empty: all.
    pub models: Vec<String>,
}

impl CallerScope {
    /// Tells whether only some models are open.
    pub(crate) fn is_bounded(&self) -> bool {
        !self.models.is_empty()
    }

    /// Tells whether a model is open, by one of its names.
    ///
    /// Otherwise than a server, it tells capitals apart: what the key's maker wrote is what is meant.
    pub(crate) fn allows(&self, model: &str) -> bool {
        self.models.is_empty()
            || self.models.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => model.starts_with(beginning) || with_tag(model).starts_with(beginning),
                None => pattern == model || with_tag(pattern) == with_tag(model),
            })
    }

    /// Judges what shows before the body. Only what is known to concern the models that it names is let through: the
    /// rest might tell of others, or make one out of another.
    pub(crate) fn check_head(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Failure> {
        if !self.is_bounded() {
            return Ok(());
        }
        match Endpoint::of(method, path) {
            Endpoint::Root | Endpoint::Tags | Endpoint::Running | Endpoint::Version | Endpoint::Models => {
                Ok(())
            }
            // The name is looked up first: it may have another one.
            Endpoint::Model(_) => Ok(()),
            Endpoint::Named if asks_a_model(path) => {
                // A server might unpack what is not read here.
                if headers.contains_key(CONTENT_ENCODING) {
                    Err(Failure::BodyNotInScope(COMPRESSED))
                } else {
                    Ok(())
                }
            }
            Endpoint::Named | Endpoint::Management | Endpoint::Unnamed => {
                Err(Failure::BodyNotInScope(OTHER_PATH))
            }
        }
    }

    /// Judges the model that a request names, without a pin. It may be open by the name that the caller uses or by that
    /// under which it is listed.
    pub(crate) fn check_model(&self, model: Option<&str>, catalog: &Catalog) -> Result<(), Failure> {
        if !self.is_bounded() {
            return Ok(());
        }
        let Some(model) = model else { return Err(Failure::BodyNotInScope(NO_MODEL)) };
        let listed = || catalog.find(model).iter().any(|served| self.allows(&served.name.text));
        if self.allows(model) || listed() { Ok(()) } else { Err(Failure::ModelNotInScope) }
    }

    /// Leaves those entries of a list whose model is open.
    pub(crate) fn keep(&self, entries: &mut Vec<Value>, name_of: fn(&Value) -> Option<&str>) {
        if self.is_bounded() {
            entries.retain(|entry| name_of(entry).is_some_and(|name| self.allows(name)));
        }
    }
}

const COMPRESSED: &str = "which model a compressed body names is not read here; send the body uncompressed";
const OTHER_PATH: &str = "this path is not known to concern the models that it names alone";
const NO_MODEL: &str = "the body names no model; put the member \"model\" first";

/// Says why a body was not taken.
fn explain(fault: Fault) -> &'static str {
    match fault {
        Fault::NotJson => "the body is not a JSON object",
        Fault::Several => {
            "servers differ in which model the body names; send the member \"model\", in these letters and once, and no \
             \"name\" or \"models\""
        }
        Fault::NotText | Fault::TooLong => "what the body has for \"model\" is no model's name",
        Fault::TooDeep => "the body is nested too deep to be looked through",
    }
}

/// A body that breaks off where two readers could see different models in it.
pub(crate) struct Watched<B> {
    body: B,
    scan: StrictScan,
    found: Found,
}

/// What was found wrong with a watched body; shared with who reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<OnceLock<Fault>>);

impl Found {
    /// Returns the failure to tell in the place of one that only says that the body broke off.
    pub(crate) fn instead_of(&self, failure: Failure) -> Failure {
        self.0.get().map_or(failure, |fault| Failure::BodyNotInScope(explain(*fault)))
    }
}

#[derive(Debug)]
struct Ambiguous;

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body may name several models")
    }
}

impl Error for Ambiguous {}

impl<B> Watched<B> {
    pub(crate) fn new(body: B) -> (Self, Found) {
        let found = Found::default();
        (Self { body, scan: StrictScan::default(), found: found.clone() }, found)
    }

    fn fail(&self, fault: Fault) -> BoxError {
        // The first one stays.
        self.found.0.set(fault).ok();
        Box::new(Ambiguous)
    }
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(polled) => polled.map(|frame| frame.map_err(Into::into)),
            Poll::Pending => return Poll::Pending,
        };
        let judged = match &polled {
            Some(Ok(frame)) => match frame.data_ref().map_or(Ok(()), |data| this.scan.push(data)) {
                // Broken off before its end, so that nobody reads it as a whole.
                Ok(()) if this.body.is_end_stream() && !this.scan.is_complete() => Err(Fault::NotJson),
                judged => judged,
            },
            Some(Err(_)) => Ok(()),
            None if this.scan.is_complete() => Ok(()),
            None => Err(Fault::NotJson),
        };
        Poll::Ready(match judged {
            Ok(()) => polled,
            Err(fault) => Some(Err(this.fail(fault))),
        })
    }

    fn is_end_stream(&self) -> bool {
        // An empty body is no object, and is to be asked for its end.
        self.scan.is_complete() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use serde_json::json;

    use super::*;

    fn scope(models: &[&str]) -> CallerScope {
        CallerScope {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..CallerScope::default()
        }
    }

    #[test]
    fn models_are_names_or_beginnings_of_names() {
        let scope = scope(&["llama3", "qwen*", "m:8b"]);
        for model in ["llama3", "llama3:latest", "qwen", "qwen3:8b", "m:8b"] {
            assert!(scope.allows(model), "{model}");
        }
        for model in ["llama3:8b", "LLAMA3", "m", "m:latest", "Qwen3", "", "gpu/qwen3"] {
            assert!(!scope.allows(model), "{model}");
        }
        assert!(CallerScope::default().allows("anything"));
    }

    #[test]
    fn only_what_concerns_the_models_of_the_scope_passes() {
        let head = |method: &Method, path: &str| {
            scope(&["m"]).check_head(method, path, &HeaderMap::new()).map_err(|failure| failure.code())
        };
        for path in ["/", "/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/m"] {
            assert_eq!(head(&Method::GET, path), Ok(()), "{path}");
        }
        for path in ["/api/chat", "/api/show", "/v1/embeddings", "/tokenize"] {
            assert_eq!(head(&Method::POST, path), Ok(()), "{path}");
        }
        for (method, path) in [
            (Method::POST, "/api/pull"),
            (Method::DELETE, "/api/delete"),
            (Method::POST, "/api/chat/"),
            (Method::POST, "/v1/audio/transcriptions"),
            (Method::GET, "/props"),
            (Method::PUT, "/api/chat"),
        ] {
            assert_eq!(head(&method, path), Err("model_not_allowed"), "{method} {path}");
            assert!(CallerScope::default().check_head(&method, path, &HeaderMap::new()).is_ok());
        }
        let mut packed = HeaderMap::new();
        packed.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(scope(&["m"]).check_head(&Method::POST, "/api/chat", &packed).is_err());
    }

    #[test]
    fn lists_show_what_is_open_and_entries_without_a_name_to_nobody() {
        let list = json!([{ "name": "m:latest" }, { "name": "other" }, { "id": "m" }]);
        let mut entries = list.as_array().unwrap().clone();
        scope(&["m"]).keep(&mut entries, |entry| entry.get("name")?.as_str());
        assert_eq!(entries, [json!({ "name": "m:latest" })]);
    }

    async fn read(text: &'static str) -> (bool, &'static str) {
        let (body, found) = Watched::new(Full::from(text));
        let whole = body.collect().await.is_ok();
        (whole, found.instead_of(Failure::NotFound).code())
    }

    #[tokio::test]
    async fn body_that_two_readers_could_differ_on_breaks_off() {
        assert_eq!(read(r#"{"model":"m","messages":[{"name":"x"}]}"#).await, (true, "not_found"));
        for text in [
            r#"{"model":"m","model":"other"}"#,
            r#"{"model":"m","name":"other"}"#,
            r#"{"model":"m","MODEL":"other"}"#,
            r#"{"model":"m"}{"model":"other"}"#,
            r#"{"model":"m""#,
            "[]",
            "",
        ] {
            assert_eq!(read(text).await, (false, "model_not_allowed"), "{text}");
        }
    }
}
