//! `/admin/v1`: who is here, what applies, and the orders of an operator.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, middleware};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tunnel_transport::SessionId;

use crate::admin::guard;
use crate::admin::problem::Problem;
use crate::admin::revocation::Revocation;
use crate::admin::views::{self, SessionView};
use crate::audit::Event;
use crate::registry::restarting;
use crate::relay::Shared;

/// Most items of one answer.
const PAGE_MAX: usize = 1_000;
/// Most tenants that are looked through for those at their limit.
const TENANTS_MAX: usize = 100_000;

type Relay = State<Arc<Shared>>;
type Answer = Result<Response, Problem>;

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/tenants", get(tenants))
        .route("/sessions", get(sessions))
        .route("/sessions/{id}", delete(close))
        .route("/limits", get(limits))
        .route("/config", get(config))
        .route("/drain", post(drain))
        .route("/revocations", post(revoke))
        .route("/audit/tail", get(tail))
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "not_found", "The admin API has no such address.")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This address takes another method; the header Allow says which.",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(shared), guard::check))
}

/// Which part of a long list.
#[derive(Debug, Deserialize)]
struct Page {
    /// The `next` of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
    }
}

/// Answers with JSON that nothing on the way keeps: it names people.
fn answer(body: &impl Serialize) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn tenants(State(shared): Relay, Query(page): Query<Page>) -> Response {
    let subjects = shared.registry.subjects();
    let (subjects, next) =
        views::page(subjects, |subject| subject.to_string(), page.after.as_deref(), page.limit());
    let tenants = views::tenants(&shared.registry, subjects);
    answer(&json!({ "tenants": tenants, "next": next }))
}

async fn sessions(State(shared): Relay, Query(page): Query<Page>) -> Response {
    let key = |tunnel: &Arc<crate::registry::Tunnel>| tunnel.session.id().to_string();
    let (tunnels, next) = views::page(shared.registry.tunnels(), key, page.after.as_deref(), page.limit());
    let sessions: Vec<SessionView> = tunnels.iter().map(|tunnel| SessionView::of(tunnel)).collect();
    answer(&json!({ "sessions": sessions, "next": next }))
}

/// Closes a session: its streams break off. The desktop may dial again; to keep it away, revoke its token first.
async fn close(State(shared): Relay, Path(id): Path<String>) -> Answer {
    let found = id
        .parse::<SessionId>()
        .ok()
        .and_then(|id| shared.registry.tunnels().into_iter().find(|tunnel| tunnel.session.id() == id));
    let Some(tunnel) = found else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_session",
            "There is no session with this id now. Those that there are: GET /admin/v1/sessions",
        ));
    };
    // The id stays out of the log: whoever knows it and a token of the subject could resume the session.
    shared.audit.note(&Event::Admin { action: "close_session", subject: Some(&tunnel.subject), detail: "" });
    tunnel.session.close(restarting(1));
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn limits(State(shared): Relay) -> Response {
    let mut subjects = shared.registry.subjects();
    subjects.truncate(TENANTS_MAX);
    let tenants = views::tenants(&shared.registry, subjects);
    let settings = shared.settings();
    let at_limit = views::at_limit(&settings, &tenants);
    answer(&json!({
        "tiers": views::tiers(&settings),
        "address": {
            "requests_per_minute": settings.address.requests_per_minute,
            "burst": settings.address.burst,
            "max_connections": settings.address.max_connections,
            "refused_tokens_per_minute": settings.address.refused_tokens_per_minute,
        },
        "n_at_limit": at_limit.len(),
        "at_limit": &at_limit[..at_limit.len().min(PAGE_MAX)],
    }))
}

/// Says what is in force. Secrets and the names of files that hold them are not among it.
async fn config(State(shared): Relay) -> Response {
    let settings = shared.settings();
    let state = shared.reload.state();
    let issuers: Vec<&str> = settings.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    answer(&json!({
        "loaded_at": state.loaded_at,
        "faults": state.faults,
        "version": env!("CARGO_PKG_VERSION"),
        "issuers": issuers,
        "tiers": views::tiers(&settings).into_keys().collect::<Vec<_>>(),
        "tls": settings.edge.tls.is_some(),
        "trusted_proxies": settings.edge.trusted_proxies,
        "proxy_header": settings.edge.proxy_header.as_str(),
        "allowed_origins": settings.edge.allowed_origins,
    }))
}

/// Begins the orderly end, as SIGTERM does. The process ends with it.
async fn drain(State(shared): Relay) -> Response {
    shared.audit.note(&Event::Admin { action: "drain", subject: None, detail: "" });
    shared.draining.cancel();
    (StatusCode::ACCEPTED, answer(&json!({ "draining": true }))).into_response()
}

async fn revoke(State(shared): Relay, body: Bytes) -> Answer {
    let until = Revocation::read(&body)?.carry_out(&shared).await?;
    Ok(answer(&json!({ "kept_until": until })))
}

#[derive(Debug, Deserialize)]
struct Last {
    n: Option<usize>,
}

async fn tail(State(shared): Relay, Query(last): Query<Last>) -> Answer {
    let n = last.n.unwrap_or(100).clamp(1, PAGE_MAX);
    let lines: Vec<Value> = shared.audit.tail(n).await.map_err(|error| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "audit_unreadable",
            format!(
                "The audit log cannot be read now: {error}. Look at the disk of the relay's data directory."
            ),
        )
    })?;
    Ok(answer(&json!({ "lines": lines })))
}
