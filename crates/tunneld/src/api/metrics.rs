//! `GET /api/metrics`, and `GET /metrics` for Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use tunnel_api::Metrics;
use tunnel_api::metrics::{ApiServerMetrics, Distribution, Figures, Percentiles, Throughput, TunnelMetrics};
use tunnel_broker::{MetricsSnapshot, Outcome, Totals};
use tunnel_runtime::metrics::{Exposition, page as write_page};

use super::Api;
use super::error::ApiError;

pub(super) async fn metrics(State(api): State<Api>) -> Result<Json<Metrics>, ApiError> {
    api.require_metrics()?;
    Ok(Json(body(&api)))
}

pub(super) async fn page(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    api.require_metrics()?;
    let accept = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let exposition = Exposition::of_accept(accept);
    Ok(([(CONTENT_TYPE, exposition.content_type())], write_page(&api.page, exposition)))
}

/// When the API last answered, in milliseconds since the epoch; 0 before the first answer.
#[derive(Debug, Default)]
pub(crate) struct LastAnswer(AtomicI64);

impl LastAnswer {
    pub(super) fn now(&self) {
        self.0.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Timestamp> {
        let at = self.0.load(Ordering::Relaxed);
        Timestamp::from_millisecond(at).ok().filter(|_| at != 0)
    }
}

impl Api {
    /// Refuses where metrics are switched off.
    pub(super) fn require_metrics(&self) -> Result<(), ApiError> {
        if self.config.state().config.enable_metrics {
            return Ok(());
        }
        let sentence = "metrics are switched off; set enableMetrics to true";
        Err(ApiError::new(StatusCode::NOT_FOUND, "metrics_disabled", sentence))
    }
}

/// Joins what broker, store and kernel say.
pub(super) fn body(api: &Api) -> Metrics {
    let measured = api.broker.metrics();
    let totals = *api.store.totals().borrow();
    let resources = api.resources.read();
    let status = api.status.borrow().clone();
    let api_total = totals.api.ok + totals.api.failed;
    let connections = status.connections.values();
    let last_error = status.tunnel_manager.error.clone().or_else(|| {
        connections.clone().find_map(|connection| connection.error.clone().filter(|_| !connection.connected))
    });
    Metrics {
        api_server: ApiServerMetrics {
            total_requests: api_total,
            successful_requests: totals.api.ok,
            error_requests: totals.api.failed,
            success_rate: if api_total == 0 { 1.0 } else { totals.api.ok as f64 / api_total as f64 },
            last_request: api.last_answer.get(),
        },
        tunnel_metrics: TunnelMetrics {
            connected_count: connections.clone().filter(|connection| connection.connected).count(),
            total_connections: connections.count(),
            start_time: api.started_at,
            total_requests: totals.llm.requests,
            successful_requests: totals.llm.requests.saturating_sub(totals.llm.failed),
            failed_requests: totals.llm.failed,
            requests_per_second: measured.rates.requests_per_s,
            average_latency: measured.latency.as_ref().map_or(0.0, |latency| ms(latency.mean)),
            last_error,
            memory_usage_mb: resources.memory_bytes as f64 / f64::from(1 << 20),
            cpu_usage_percent: resources.cpu_percent,
        },
        latency: latency(&measured),
        time_to_first_token: time_to_first_token(&measured),
        connections: measured
            .connections
            .iter()
            .map(|of| (of.id.to_string(), figures(&of.totals, &of.latency, &of.time_to_first_token)))
            .collect(),
        models: measured
            .models
            .iter()
            .map(|of| (of.name.to_string(), figures(&of.totals, &of.latency, &of.time_to_first_token)))
            .collect(),
        throughput: Throughput {
            requests_per_s: measured.rates.requests_per_s,
            bytes_in_per_s: measured.rates.bytes_in_per_s,
            bytes_out_per_s: measured.rates.bytes_out_per_s,
            tokens_per_s: measured.rates.tokens_per_s,
        },
        error_rate: measured.totals.error_rate(),
        resources,
        uptime: api.started.elapsed().as_secs(),
        timestamp: Timestamp::now(),
    }
}

fn figures(totals: &Totals, latency: &Measured, first: &Measured) -> Figures {
    let seconds = totals.duration.as_secs_f64();
    let rate = totals.completion_tokens as f64 / seconds;
    Figures {
        requests: totals.requests(),
        failed: totals.of(Outcome::Failed),
        prompt_tokens: totals.prompt_tokens,
        completion_tokens: totals.completion_tokens,
        tokens_per_s: (seconds > 0.0).then(|| (rate * 100.0).round() / 100.0),
        bytes_in: totals.bytes_in,
        bytes_out: totals.bytes_out,
        latency: latency.as_ref().map(percentiles).unwrap_or_default(),
        time_to_first_token: first.as_ref().map(percentiles).unwrap_or_default(),
    }
}

fn latency(measured: &MetricsSnapshot) -> Distribution {
    let connections = measured.connections.iter().map(|connection| (&connection.id, &connection.latency));
    distribution(measured.latency.as_ref(), connections)
}

fn time_to_first_token(measured: &MetricsSnapshot) -> Distribution {
    let connections =
        measured.connections.iter().map(|connection| (&connection.id, &connection.time_to_first_token));
    distribution(measured.time_to_first_token.as_ref(), connections)
}

type Measured = Option<tunnel_broker::Percentiles>;

fn distribution<'a>(
    all: Option<&tunnel_broker::Percentiles>,
    connections: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a Measured)>,
) -> Distribution {
    let connections: BTreeMap<String, Percentiles> = connections
        .filter_map(|(id, measured)| Some((id.to_string(), percentiles(measured.as_ref()?))))
        .collect();
    Distribution { all: all.map(percentiles).unwrap_or_default(), connections }
}

fn percentiles(measured: &tunnel_broker::Percentiles) -> Percentiles {
    Percentiles {
        p50_ms: Some(ms(measured.p50)),
        p95_ms: Some(ms(measured.p95)),
        p99_ms: Some(ms(measured.p99)),
    }
}

/// Milliseconds with two places: more is noise to a reader.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}
