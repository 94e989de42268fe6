//! `GET` and `POST /api/explain`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tunnel_api::explain::{Candidate, ExplainRequest, Explanation, Refusal, ResolvedBy, Verdict};
use tunnel_broker::{Considered, Query as Asked};

use super::Api;
use super::body::Body;
use super::error::ApiError;
use super::query::Query;
use crate::view;

pub(super) async fn posted(
    State(api): State<Api>,
    Body(request): Body<ExplainRequest>,
) -> Result<Json<Explanation>, ApiError> {
    explain(&api, request)
}

pub(super) async fn asked(
    State(api): State<Api>,
    Query(request): Query<ExplainRequest>,
) -> Result<Json<Explanation>, ApiError> {
    explain(&api, request)
}

fn explain(api: &Api, request: ExplainRequest) -> Result<Json<Explanation>, ApiError> {
    let path = path(&request)?;
    let ExplainRequest { model, connection, session, .. } = request;
    let found = api.broker.explain(&Asked { path, model, connection, session });
    let refusal = found.refusal.map(|refusal| Refusal {
        status: refusal.status,
        code: refusal.code.to_owned(),
        message: refusal.message,
    });
    Ok(Json(Explanation {
        connection: found.connection,
        model: found.model,
        resolved_by: found.resolved_by.map(|by| match by {
            tunnel_broker::ResolvedBy::Exact => ResolvedBy::Exact,
            tunnel_broker::ResolvedBy::Alias => ResolvedBy::Alias,
            tunnel_broker::ResolvedBy::Pinned => ResolvedBy::Pinned,
        }),
        waits_for: found.waits_for,
        refusal,
        queue_position: found.queue_position.map(|n| n as u64),
        candidates: found.candidates.into_iter().map(candidate).collect(),
        timestamp: Timestamp::now(),
    }))
}

fn path(request: &ExplainRequest) -> Result<String, ApiError> {
    let bad = |sentence| Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence));
    match (&request.path, request.dialect.as_deref()) {
        (Some(path), _) if path.starts_with('/') => Ok(path.clone()),
        (Some(_), _) => bad("path must begin with a slash, such as /api/chat or /v1/chat/completions"),
        (None, None | Some("ollama")) => Ok("/api/chat".to_owned()),
        (None, Some("openai")) => Ok("/v1/chat/completions".to_owned()),
        (None, Some(_)) => bad("dialect must be ollama or openai"),
    }
}

fn candidate(considered: Considered) -> Candidate {
    Candidate {
        connection: considered.connection,
        verdict: match considered.verdict {
            tunnel_broker::Verdict::Chosen => Verdict::Chosen,
            tunnel_broker::Verdict::Next => Verdict::Next,
            tunnel_broker::Verdict::Later => Verdict::Later,
            tunnel_broker::Verdict::Full => Verdict::Full,
            tunnel_broker::Verdict::Excluded => Verdict::Excluded,
        },
        code: considered.code.to_owned(),
        reason: considered.reason,
        health: considered.health.to_owned(),
        side: considered.side.as_str().to_owned(),
        priority: considered.priority,
        loaded: considered.loaded,
        in_flight: considered.in_flight as u64,
        queued: Some(considered.queued as u64),
        latency_ewma_ms: considered.latency.map(|latency| view::milliseconds(latency.as_secs_f64())),
        weight: considered.weight,
        share: considered.share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_is_told_by_the_path_or_by_its_name() {
        let asked = |path: Option<&str>, dialect: Option<&str>| {
            let request = ExplainRequest {
                path: path.map(str::to_owned),
                dialect: dialect.map(str::to_owned),
                ..ExplainRequest::default()
            };
            super::path(&request).ok()
        };
        assert_eq!(asked(None, None).as_deref(), Some("/api/chat"));
        assert_eq!(asked(None, Some("openai")).as_deref(), Some("/v1/chat/completions"));
        assert_eq!(asked(Some("/v1/embeddings"), Some("ollama")).as_deref(), Some("/v1/embeddings"));
        assert_eq!((asked(Some("chat"), None), asked(None, Some("mcp"))), (None, None));
    }
}
