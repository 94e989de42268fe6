//! What the relay counts, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Page;
use tunnel_runtime::metrics::Exposition;

use crate::registry::Counts;

/// How a forwarded request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The device's answer was passed on in full, whatever it said.
    Ok,
    /// The caller hung up first.
    CallerGone,
    /// The device broke its response off.
    BrokenOff,
    /// The session was lost during the response.
    TunnelLost,
    /// The device fell silent during the response.
    IdleTimeout,
}

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Ok, "ok"),
    (Outcome::CallerGone, "caller_gone"),
    (Outcome::BrokenOff, "broken_off"),
    (Outcome::TunnelLost, "tunnel_lost"),
    (Outcome::IdleTimeout, "idle_timeout"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The relay's counters. Label values are fixed words, never a caller's.
#[derive(Debug)]
pub(crate) struct Metrics {
    page: Page,
    requests: Family<OutcomeLabel, Counter>,
    /// The counters of [`OUTCOMES`], looked up once.
    ended: [Counter; OUTCOMES.len()],
    bytes_in: Counter<u64, AtomicU64>,
    bytes_out: Counter<u64, AtomicU64>,
    pub(crate) dials: Counter,
    pub(crate) resumes: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) migrations: Counter,
    sessions: Gauge,
    streams: Gauge,
    devices: Gauge,
    pub(crate) connections: Gauge,
    cut_off: Family<ReasonLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut page = Page::with_prefix("tunnel_relay");
        let requests = Family::<OutcomeLabel, Counter>::default();
        let bytes = Family::<DirectionLabel, Counter<u64, AtomicU64>>::default();
        let (dials, resumes) = (Counter::default(), Counter::default());
        let (takeovers, migrations) = (Counter::default(), Counter::default());
        let (sessions, streams) = (Gauge::default(), Gauge::default());
        let (devices, connections) = (Gauge::default(), Gauge::default());
        page.register("requests", "Requests of callers, by how they ended", requests.clone());
        page.register("body_bytes", "Bytes of bodies: in from callers, out to callers", bytes.clone());
        page.register("dials", "Tunnel sessions that were opened", dials.clone());
        page.register("resumes", "Tunnel sessions that got a new socket", resumes.clone());
        page.register("takeovers", "Tunnel sessions that a newer dial displaced", takeovers.clone());
        page.register("migrations", "Tunnel sessions that were dialled beside another", migrations.clone());
        page.register("sessions", "Tunnel sessions now", sessions.clone());
        page.register("streams", "Requests under way now", streams.clone());
        page.register("devices_online", "Devices with a session now", devices.clone());
        page.register("connections", "Connections to the public address now", connections.clone());
        let cut_off = Family::<ReasonLabel, Counter>::default();
        page.register(
            "connections_cut_off",
            "Connections that were closed for what they did, by reason",
            cut_off.clone(),
        );
        let label = |(_, outcome)| OutcomeLabel { outcome };
        Self {
            ended: OUTCOMES.map(|outcome| requests.get_or_create_owned(&label(outcome))),
            bytes_in: bytes.get_or_create_owned(&DirectionLabel { direction: "in" }),
            bytes_out: bytes.get_or_create_owned(&DirectionLabel { direction: "out" }),
            page,
            requests,
            dials,
            resumes,
            takeovers,
            migrations,
            sessions,
            streams,
            devices,
            connections,
            cut_off,
        }
    }

    /// Counts a request whose response was begun.
    pub(crate) fn count(&self, outcome: Outcome) {
        for (counter, (known, _)) in self.ended.iter().zip(OUTCOMES) {
            if known == outcome {
                counter.inc();
            }
        }
    }

    /// Counts a request that the relay answered itself.
    pub(crate) fn refused(&self, code: &'static str) {
        self.requests.get_or_create(&OutcomeLabel { outcome: code }).inc();
    }

    /// Counts a connection that was closed for what it did, or for how long it did nothing.
    pub(crate) fn cut_off(&self, reason: &'static str) {
        self.cut_off.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn bytes_in(&self, n: usize) {
        self.bytes_in.inc_by(n as u64);
    }

    pub(crate) fn bytes_out(&self, n: usize) {
        self.bytes_out.inc_by(n as u64);
    }

    /// Writes the page.
    pub(crate) fn page(&self, counts: Counts, exposition: Exposition) -> String {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.sessions.set(gauge(counts.sessions));
        self.streams.set(gauge(counts.streams));
        self.devices.set(gauge(counts.devices_online));
        tunnel_runtime::metrics::page(&self.page, exposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_counters_as_their_samples_are_named() {
        let metrics = Metrics::new();
        metrics.count(Outcome::Ok);
        metrics.refused("device_offline");
        metrics.bytes_out(7);
        let counts = Counts { sessions: 2, streams: 3, devices_online: 1 };
        let page = metrics.page(counts, Exposition::Text);
        for line in [
            "# TYPE tunnel_relay_requests_total counter",
            "tunnel_relay_requests_total{outcome=\"ok\"} 1",
            "tunnel_relay_requests_total{outcome=\"caller_gone\"} 0",
            "tunnel_relay_requests_total{outcome=\"device_offline\"} 1",
            "tunnel_relay_body_bytes_total{direction=\"out\"} 7",
            "# TYPE tunnel_relay_sessions gauge",
            "tunnel_relay_sessions 2",
            "tunnel_relay_streams 3",
            "tunnel_relay_devices_online 1",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("EOF"));
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(page.contains(&format!("# TYPE {name} ")), "{name} has no type");
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }

    #[test]
    fn openmetrics_ends_with_its_mark() {
        let page = Metrics::new().page(Counts::default(), Exposition::OpenMetrics);
        assert!(page.ends_with("# EOF\n"));
        assert!(page.contains("# TYPE tunnel_relay_requests counter\n"));
    }
}
