//! The answer of `GET /api/metrics`: what was measured, of real requests only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything that is measured, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Metrics {
    /// The control API's own requests.
    pub api_server: ApiServerMetrics,
    /// LLM requests and the process, with the names of the original system.
    pub tunnel_metrics: TunnelMetrics,
    /// From a request's arrival to the end of its answer, successful LLM requests since the start.
    pub latency: Distribution,
    /// From a request's arrival to the first part of its answer.
    pub time_to_first_token: Distribution,
    /// By connection, those that had requests since the start.
    pub connections: BTreeMap<String, Figures>,
    /// By model, those that had requests since the start; beyond 128 of them `other`.
    pub models: BTreeMap<String, Figures>,
    /// What passes now.
    pub throughput: Throughput,
    /// Share of failures among the LLM requests that a model server was asked since the start, 0 to 1.
    pub error_rate: f64,
    /// What the process uses.
    pub resources: Resources,
    /// Time since the daemon started, in seconds.
    pub uptime: u64,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// The control API's own requests, without the probes `/livez` and `/readyz`. Kept over restarts; what is shown never
/// goes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApiServerMetrics {
    /// Answered requests.
    pub total_requests: u64,
    /// Those answered with a status below 400.
    pub successful_requests: u64,
    /// Those answered with a status of 400 or above.
    pub error_requests: u64,
    /// Share of the successful ones, 0 to 1; 1 when there were none.
    pub success_rate: f64,
    /// When the last one was answered, of this run.
    pub last_request: Option<Timestamp>,
}

/// LLM requests and the process, with the names of the original system. Kept over restarts but for rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelMetrics {
    /// Connections that are up, the cloud among them.
    pub connected_count: usize,
    /// Connections that there are.
    pub total_connections: usize,
    /// When the daemon started.
    pub start_time: Timestamp,
    /// LLM requests.
    pub total_requests: u64,
    /// The others.
    pub successful_requests: u64,
    /// Those that failed, or that no model server could be asked, such as for an unknown model.
    pub failed_requests: u64,
    /// LLM requests a second, over the last minute.
    pub requests_per_second: f64,
    /// Mean of `latency`, in milliseconds; 0 when there were none.
    pub average_latency: f64,
    /// What keeps the tunnel or a connection from its work, as one sentence.
    pub last_error: Option<String>,
    /// Resident memory, in MiB.
    #[serde(rename = "memoryUsageMB")]
    pub memory_usage_mb: f64,
    /// Share of one processor since the last reading, in percent.
    pub cpu_usage_percent: f64,
}

/// LLM requests of one connection or model since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Figures {
    /// All of them, however they ended.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Tokens that were read.
    pub prompt_tokens: u64,
    /// Tokens that were made.
    pub completion_tokens: u64,
    /// Tokens made a second of the requests' own time, waits included. None without requests.
    pub tokens_per_s: Option<f64>,
    /// Bytes of the requests' bodies.
    pub bytes_in: u64,
    /// Bytes of the answers.
    pub bytes_out: u64,
    /// Percentiles of the whole request.
    pub latency: Percentiles,
    /// Percentiles of the time to the first part of the answer.
    pub time_to_first_token: Percentiles,
}

/// Percentiles over all connections, and of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Distribution {
    /// Over all connections.
    #[serde(flatten)]
    pub all: Percentiles,
    /// By connection, those that had requests.
    pub connections: BTreeMap<String, Percentiles>,
}

/// Percentiles, in milliseconds. None when there was nothing to measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Percentiles {
    /// Half are below.
    pub p50_ms: Option<f64>,
    /// 95 % are below.
    pub p95_ms: Option<f64>,
    /// 99 % are below.
    pub p99_ms: Option<f64>,
}

/// What passes now, over the last minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Throughput {
    /// LLM requests a second.
    pub requests_per_s: f64,
    /// Bytes a second from callers.
    pub bytes_in_per_s: f64,
    /// Bytes a second to callers.
    pub bytes_out_per_s: f64,
    /// Completion tokens a second.
    pub tokens_per_s: f64,
}

/// What the process uses, read from `/proc/self`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resources {
    /// Resident memory.
    pub memory_bytes: u64,
    /// Share of one processor since the last reading, in percent.
    pub cpu_percent: f64,
    /// Open file descriptors.
    pub open_fds: u64,
}
