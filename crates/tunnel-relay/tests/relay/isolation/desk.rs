//! A desktop that tells who it is, and looks whether what comes to it is its tenant's.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_transport::{Closed, Connector, Desktop, PRESENCE_PATH, Session};

use super::model::{SHARED, Told};
use crate::harness::PATIENCE;

/// What went wrong anywhere.
pub(super) type Violations = Arc<Mutex<Vec<String>>>;

/// Who a desktop belongs to.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) subject: String,
    /// Stands in each request and each answer of its tenant.
    pub(super) canary: String,
    pub(super) foreign_canary: String,
    pub(super) generation: u64,
    pub(super) told: Option<Told>,
    pub(super) violations: Violations,
}

/// One session of a device.
pub(super) struct Desk {
    pub(super) session: Session,
    pub(super) connector: Connector,
    serving: JoinSet<Closed>,
}

impl Desk {
    pub(super) fn serve(desktop: Desktop, connector: Connector, facts: Facts) -> Self {
        let Desktop { session, server } = desktop;
        let facts = Arc::new(facts);
        let mut serving = JoinSet::new();
        serving.spawn(server.serve(service_fn(move |request| answer(request, Arc::clone(&facts)))));
        Self { session, connector, serving }
    }

    pub(super) async fn closed(&mut self) -> Closed {
        timeout(PATIENCE, self.serving.join_next()).await.expect("the session ends").unwrap().unwrap()
    }
}

/// The model that only this session has.
pub(super) fn own_model(canary: &str, generation: u64) -> String {
    format!("{canary}-{generation}")
}

async fn answer(request: Request<Incoming>, facts: Arc<Facts>) -> Result<Response<Said>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let (own, generation) = (own_model(&facts.canary, facts.generation), facts.generation);
    if path == PRESENCE_PATH {
        let Some(told) = &facts.told else { return Ok(said(404, None, false)) };
        let models = told.models.iter().map(|(name, loaded)| json!({ "name": name, "loaded": loaded }));
        let line =
            json!({ "models": models.collect::<Vec<_>>(), "preferred": told.preferred, "in_flight": 0 });
        return Ok(said(200, Some(format!("{line}\n")), true));
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = format!("{head:?} {}", String::from_utf8_lossy(&body));
    let caller =
        head.headers.get("tunnel-caller").and_then(|caller| caller.to_str().ok()).unwrap_or_default();
    let escaped = facts.subject.replace('\\', "\\\\").replace('"', "\\\"");
    let is_ours = caller.starts_with(&format!("sub=\"{escaped}\", token=\""));
    let lists = matches!(path.as_str(), "/api/tags" | "/v1/models" | "/api/ps");
    if !is_ours || text.contains(&facts.foreign_canary) || !(lists || text.contains(&facts.canary)) {
        facts.violations.lock().unwrap().push(format!("{} got: {text}", facts.subject));
    }
    let answer = match path.as_str() {
        "/api/tags" | "/api/ps" => json!({ "models": [{ "name": own }, { "name": SHARED }] }),
        "/v1/models" => json!({ "object": "list", "data": [{ "id": own }, { "id": SHARED }] }),
        _ => json!({ "canary": facts.canary, "generation": generation }),
    };
    Ok(said(200, Some(answer.to_string()), false))
}

fn said(status: u16, text: Option<String>, stays_open: bool) -> Response<Said> {
    let body = Said { text: text.map(Bytes::from), stays_open };
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

/// An answer that may stay open after its text.
struct Said {
    text: Option<Bytes>,
    stays_open: bool,
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.text.take() {
            Some(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
            None if self.stays_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}
