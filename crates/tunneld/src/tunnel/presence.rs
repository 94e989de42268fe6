//! What the relay is told of this desktop while a session is open: its models, and how busy it is.
//!
//! One line of JSON for each change. Where a user has several desktops, the relay sends a request where its model is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tunnel_broker::{BackendStatus, Broker, Ingress};
use tunnel_transport::{Session, printable};

use super::settings::Settings;

/// The lines, for as long as the session takes requests.
pub(super) type PresenceBody = UnsyncBoxBody<Bytes, Infallible>;

/// Least time between two lines.
const SAY_EVERY: Duration = Duration::from_millis(500);
/// Least time between two lines that differ in the count of requests only: the relay counts its own.
const SAY_LOAD_EVERY: Duration = Duration::from_secs(2);
/// Most models that are told, and the longest name: what a relay takes.
const MODELS_MAX: usize = 512;
const NAME_MAX_BYTES: usize = 256;

/// Answers the relay's question. The answer ends when the session drains or is over, so that it holds up neither.
pub(super) fn tell(
    broker: Broker,
    settings: watch::Receiver<Arc<Settings>>,
    session: Session,
) -> Response<PresenceBody> {
    let backends = broker.status();
    let teller = Teller { backends, broker, settings, session, told: None };
    let lines = stream::unfold(teller, |mut teller| async move {
        let session = teller.session.clone();
        tokio::select! {
            biased;
            () = session.draining() => None,
            line = teller.next() => Some((Ok(Frame::data(line)), teller)),
        }
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

struct Teller {
    broker: Broker,
    backends: watch::Receiver<Arc<Vec<BackendStatus>>>,
    settings: watch::Receiver<Arc<Settings>>,
    session: Session,
    told: Option<(Instant, Presence)>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Presence {
    models: Vec<Model>,
    in_flight: usize,
    preferred: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Model {
    name: String,
    loaded: bool,
}

impl Teller {
    /// Waits until there is something new to tell, and for the next line's time.
    async fn next(&mut self) -> Bytes {
        if let Some((told_at, _)) = self.told {
            sleep_until(told_at + SAY_EVERY).await;
        }
        let mut models = self.models();
        let presence = loop {
            let broker = self.broker.clone();
            // Before the look: a change right after it is heard, too.
            let load_changes = broker.load_changes();
            let preferred = self.settings.borrow_and_update().preferred;
            let now = Presence { models, in_flight: broker.in_flight(), preferred };
            let Some((told_at, told)) = &self.told else { break now };
            let load_differs = now.in_flight != told.in_flight;
            let load_due = *told_at + SAY_LOAD_EVERY;
            if now.models != told.models
                || now.preferred != told.preferred
                || (load_differs && Instant::now() >= load_due)
            {
                break now;
            }
            models = now.models;
            tokio::select! {
                () = sleep_until(load_due), if load_differs => {}
                () = load_changes, if !load_differs => {}
                // The broker and the configuration outlive the tunnel.
                Ok(()) = self.backends.changed() => models = self.models(),
                Ok(()) = self.settings.changed() => {}
            }
        };
        // Cannot fail: text, numbers and flags.
        let mut line = serde_json::to_vec(&presence).expect("a list of models is JSON");
        line.push(b'\n');
        self.told = Some((Instant::now(), presence));
        line.into()
    }

    fn models(&mut self) -> Vec<Model> {
        self.backends.mark_unchanged();
        let offered = self.broker.models_for(Ingress::Tunnel).into_iter();
        let fits = |name: &str| !name.is_empty() && name.len() <= NAME_MAX_BYTES && printable(name) == name;
        offered
            .filter(|model| fits(&model.name))
            .take(MODELS_MAX)
            .map(|model| Model { name: model.name, loaded: model.loaded })
            .collect()
    }
}
