//! What `GET /metrics` shows beside the broker's figures: the tunnel, the process, the build.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;
use tunnel_api::{Status, TunnelState};
use tunnel_broker::Broker;

use crate::resources::SharedReading;
use crate::store::Store;

/// Registers all that is measured.
pub(crate) fn registry(
    broker: &Broker,
    status: watch::Receiver<Arc<Status>>,
    store: Store,
    resources: SharedReading,
) -> Registry {
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("tunneld");
    broker.register(ours);
    ours.register_collector(Box::new(Ours { status, store, broker: broker.clone() }));
    registry.register_collector(Box::new(Process(resources)));
    registry
}

struct Ours {
    status: watch::Receiver<Arc<Status>>,
    store: Store,
    broker: Broker,
}

impl Collector for Ours {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.status.borrow().clone();
        let up = u64::from(status.tunnel.state == TunnelState::Connected);
        gauge(&mut encoder, "tunnel_up", "Whether the tunnel to the relay is up", up)?;
        if let Some(rtt) = status.tunnel.rtt_ms {
            let help = "The latest round trip to the relay";
            let encoder =
                encoder.encode_descriptor("tunnel_rtt", help, Some(&Unit::Seconds), MetricType::Gauge)?;
            ConstGauge::new(rtt / 1e3).encode(encoder)?;
        }
        let help = "Sessions that were dialled anew";
        counter(&mut encoder, "tunnel_reconnects", help, status.tunnel.reconnects)?;
        counter(&mut encoder, "tunnel_resumes", "Links that were cut and came back", status.tunnel.resumes)?;
        gauge(&mut encoder, "warnings", "Warnings that are shown", status.warnings.len() as u64)?;
        let dropped = self.store.dropped();
        let help = "Records that found no room on their way to the database";
        counter(
            &mut encoder,
            "records_dropped",
            help,
            dropped.requests + dropped.events + self.broker.metrics().dropped_records,
        )?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let mut info =
            encoder.encode_descriptor("build_info", "The version that runs", None, MetricType::Gauge)?;
        ConstGauge::new(1_u64).encode(info.encode_family(&labels)?)
    }
}

/// With the names that every program's metrics page has.
struct Process(SharedReading);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = self.0.read();
        let help = "Memory that is in RAM";
        let memory = encoder.encode_descriptor(
            "process_resident_memory",
            help,
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        ConstGauge::new(read.memory_bytes).encode(memory)?;
        gauge(&mut encoder, "process_open_fds", "Open file descriptors", read.open_fds)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ours")
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}
