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
    let paths = paths(&request)?;
    let ExplainRequest { model, connection, session, .. } = request;
    let mut asked = Asked { path: String::new(), model, connection, session };
    let found = first_taken(paths, |path| {
        asked.path = path;
        api.broker.explain(&asked)
    });
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

/// Returns the path that is asked about, and where none is given the one to fall back on.
fn paths(request: &ExplainRequest) -> Result<(String, Option<String>), ApiError> {
    let (ollama, openai) = (|| "/api/chat".to_owned(), || "/v1/chat/completions".to_owned());
    let bad = |sentence| Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence));
    match (&request.path, request.dialect.as_deref()) {
        (Some(path), _) if path.starts_with('/') => Ok((path.clone(), None)),
        (Some(_), _) => bad("path must begin with a slash, such as /api/chat or /v1/chat/completions"),
        (None, None) => Ok((ollama(), Some(openai()))),
        (None, Some("ollama")) => Ok((ollama(), None)),
        (None, Some("openai")) => Ok((openai(), None)),
        (None, Some(_)) => bad("dialect must be ollama or openai"),
    }
}

/// Explains the first path, or the second where the model can be had by that alone: not each server speaks both APIs.
fn first_taken(
    (path, instead): (String, Option<String>),
    mut explain: impl FnMut(String) -> tunnel_broker::Explanation,
) -> tunnel_broker::Explanation {
    let first = explain(path);
    let (Some(refusal), Some(instead)) = (&first.refusal, instead) else { return first };
    let second = explain(instead);
    if second.refusal.is_none() || refusal.code == "wrong_api" { second } else { first }
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
            paths(&request).ok().map(|(path, instead)| (path, instead.is_some()))
        };
        let (ollama, openai) = ("/api/chat".to_owned(), "/v1/chat/completions".to_owned());
        assert_eq!(asked(None, None), Some((ollama.clone(), true)));
        assert_eq!(asked(None, Some("ollama")), Some((ollama, false)));
        assert_eq!(asked(None, Some("openai")), Some((openai, false)));
        assert_eq!(asked(Some("/v1/embeddings"), Some("ollama")), Some(("/v1/embeddings".to_owned(), false)));
        assert_eq!((asked(Some("chat"), None), asked(None, Some("mcp"))), (None, None));
    }

    #[test]
    fn without_a_path_the_api_is_the_one_by_which_the_model_can_be_had() {
        let explained = |code: Option<&'static str>| tunnel_broker::Explanation {
            connection: None,
            model: None,
            resolved_by: None,
            waits_for: Vec::new(),
            refusal: code.map(|code| tunnel_broker::Refusal { status: 400, code, message: String::new() }),
            queue_position: None,
            candidates: Vec::new(),
        };
        for (ollama, openai, told) in [
            (None, Some("unused"), None),
            (Some("wrong_api"), None, None),
            (Some("wrong_api"), Some("backend_down"), Some("backend_down")),
            (Some("backend_down"), None, None),
            (Some("model_not_found"), Some("model_not_found"), Some("model_not_found")),
            (Some("backend_down"), Some("wrong_api"), Some("backend_down")),
        ] {
            let paths = ("/api/chat".to_owned(), Some("/v1/chat/completions".to_owned()));
            let explain = |path: String| explained(if path == "/api/chat" { ollama } else { openai });
            assert_eq!(
                first_taken(paths, explain).refusal.map(|refusal| refusal.code),
                told,
                "{ollama:?} {openai:?}"
            );
            let only = first_taken(("/api/chat".to_owned(), None), explain);
            assert_eq!(only.refusal.map(|refusal| refusal.code), ollama, "it was asked for by its path");
        }
    }
}
