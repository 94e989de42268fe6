//! The figures for Prometheus, written from the ledger when somebody asks: nothing is counted twice.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::buckets::Buckets;
use super::{Ledger, Live};
use crate::broker::Ingress;
use crate::finished::Outcome;
use crate::shared::Shared;

/// Shows one broker on a page of metrics.
pub(crate) struct Page(pub(crate) Arc<Shared>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.books.look(|ledger, live, _| ledger.encode(live, &mut encoder))?;
        let help = "Whether a backend can be used";
        let mut up = encoder.encode_descriptor("backend_up", help, None, MetricType::Gauge)?;
        for backend in &self.0.table.load().backends {
            let label = [("backend", &*backend.label)];
            up.encode_family(&label)?.encode_gauge(&u64::from(backend.is_up()))?;
        }
        let help = "Requests that wait for a free slot of a backend, or for its model";
        let mut queued = encoder.encode_descriptor("queued", help, None, MetricType::Gauge)?;
        for backend in &self.0.table.load().backends {
            let label = [("backend", &*backend.label)];
            queued.encode_family(&label)?.encode_gauge(&(backend.upstream.slots.n_queued() as u64))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Ledger {
    fn encode(&self, live: &[Live], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pairs = || {
            self.models.iter().enumerate().flat_map(|(model, account)| {
                account.pairs.iter().map(move |pair| {
                    let backend = self.connection_labels.name(pair.connection);
                    (&**backend, &**self.model_labels.name(model), pair)
                })
            })
        };

        let help = "LLM requests, by how they ended";
        let mut requests = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (backend, model, pair) in pairs() {
            for (door, counts) in Ingress::ALL.into_iter().zip(pair.outcomes) {
                for (outcome, count) in Outcome::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                    let labels = [
                        ("ingress", door.as_str()),
                        ("backend", backend),
                        ("model", model),
                        ("outcome", outcome.as_str()),
                    ];
                    counter(requests.encode_family(&labels)?, count)?;
                }
            }
        }

        let help = "Tokens of LLM requests that are over: as servers say, else chunks of streamed answers";
        let mut tokens = encoder.encode_descriptor("tokens", help, None, MetricType::Counter)?;
        for (backend, model, pair) in pairs() {
            for (direction, count) in [("prompt", pair.prompt_tokens), ("completion", pair.completion_tokens)]
            {
                let labels = [("direction", direction), ("backend", backend), ("model", model)];
                counter(tokens.encode_family(&labels)?, count)?;
            }
        }

        let help = "Bytes of the bodies of LLM requests: in from callers, out to callers";
        let mut bytes = encoder.encode_descriptor("bytes", help, None, MetricType::Counter)?;
        let bytes_in = self.totals.bytes_in + live.iter().map(|request| request.bytes_in).sum::<u64>();
        let bytes_out = self.totals.bytes_out + live.iter().map(|request| request.bytes_out).sum::<u64>();
        for (direction, count) in [("in", bytes_in), ("out", bytes_out)] {
            counter(bytes.encode_family(&[("direction", direction)])?, count)?;
        }

        let help = "LLM requests that run now";
        let mut running = encoder.encode_descriptor("requests_in_flight", help, None, MetricType::Gauge)?;
        running.encode_gauge(&(live.len() as u64))?;

        let help = "From the arrival of an LLM request to the first chunk of a streamed answer";
        let seconds = Some(&Unit::Seconds);
        let mut first =
            encoder.encode_descriptor("time_to_first_token", help, seconds, MetricType::Histogram)?;
        for (place, account) in self.connections.iter().enumerate() {
            if account.first_tokens.count() > 0 {
                let labels = [("backend", &**self.connection_labels.name(place))];
                histogram(first.encode_family(&labels)?, &account.first_tokens)?;
            }
        }

        let help = "How long LLM requests waited for a free slot, of those that had to wait";
        let mut waits = encoder.encode_descriptor("queue_wait", help, seconds, MetricType::Histogram)?;
        for (place, account) in self.connections.iter().enumerate() {
            if account.waits.count() > 0 {
                let labels = [("backend", &**self.connection_labels.name(place))];
                histogram(waits.encode_family(&labels)?, &account.waits)?;
            }
        }

        let help = "From the arrival of an LLM request to the end of its answer";
        let mut durations =
            encoder.encode_descriptor("request_duration", help, seconds, MetricType::Histogram)?;
        for (place, account) in self.connections.iter().enumerate() {
            for (door, by_outcome) in Ingress::ALL.into_iter().zip(&account.durations) {
                for (outcome, buckets) in Outcome::ALL.into_iter().zip(by_outcome) {
                    let Some(buckets) = buckets else { continue };
                    let labels = [
                        ("ingress", door.as_str()),
                        ("backend", &**self.connection_labels.name(place)),
                        ("outcome", outcome.as_str()),
                    ];
                    histogram(durations.encode_family(&labels)?, buckets)?;
                }
            }
        }
        Ok(())
    }
}

fn counter(mut encoder: MetricEncoder<'_>, count: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn histogram(mut encoder: MetricEncoder<'_>, buckets: &Buckets) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(buckets.sum_s(), buckets.count(), &buckets.each(), None)
}
