//! What the relay counts, for Prometheus.

mod first_byte;
mod words;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as Page;
use tunnel_runtime::metrics::Exposition;

use crate::registry::Counts;
use crate::tls::TlsStatus;
use first_byte::FirstByte;
use words::Words;

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
    /// The caller's token was revoked during the response.
    Revoked,
    /// The caller left the response unread for too long.
    CallerStalled,
}

const OUTCOMES: [(Outcome, &str); 7] = [
    (Outcome::Ok, "ok"),
    (Outcome::CallerGone, "caller_gone"),
    (Outcome::BrokenOff, "broken_off"),
    (Outcome::TunnelLost, "tunnel_lost"),
    (Outcome::IdleTimeout, "idle_timeout"),
    (Outcome::Revoked, "revoked"),
    (Outcome::CallerStalled, "caller_stalled"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
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
    /// Settings that were taken over, and those that had faults.
    reloads: [Counter; 2],
    /// What is wrong with the settings file: until it is mended, what is in force is older.
    pub(crate) config_faults: Gauge,
    /// Keys of issuers that were fetched, and those that were not.
    key_fetches: [Counter; 2],
    /// By what came of it: `ok`, `error`, `timeout`.
    pub(crate) tls_handshakes: Words,
    /// No sample where there is no certificate: an alert on its end must not take that for 1970.
    certificate: Family<SourceLabel, Gauge>,
    pub(crate) dials: Counter,
    pub(crate) resumes: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) migrations: Counter,
    sessions: Gauge,
    streams: Gauge,
    devices: Gauge,
    pub(crate) connections: Gauge,
    first_byte: FirstByte,
    /// By the code of the answer.
    pub(crate) refused_tokens: Words,
    /// By the code of the answer.
    pub(crate) limit_hits: Words,
    /// Lines of the audit log that were handed to the system.
    pub(crate) audit_lines: Counter,
    /// Events that no line of the audit log tells of.
    pub(crate) audit_lost: Counter,
    cut_off: Family<ReasonLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut page = Page::with_prefix("tunnel_relay");
        let requests = Family::<OutcomeLabel, Counter>::default();
        let bytes = Family::<DirectionLabel, Counter<u64, AtomicU64>>::default();
        let reloads = Family::<ResultLabel, Counter>::default();
        let config_faults = Gauge::default();
        page.register(
            "config_faults",
            "Faults of the settings file as it is now, which keep it from being taken over",
            config_faults.clone(),
        );
        let key_fetches = Family::<ResultLabel, Counter>::default();
        let certificate = Family::<SourceLabel, Gauge>::default();
        let (dials, resumes) = (Counter::default(), Counter::default());
        let (takeovers, migrations) = (Counter::default(), Counter::default());
        let (sessions, streams) = (Gauge::default(), Gauge::default());
        let (devices, connections) = (Gauge::default(), Gauge::default());
        page.register("requests", "Requests of callers, by how they ended", requests.clone());
        page.register("body_bytes", "Bytes of bodies: in from callers, out to callers", bytes.clone());
        page.register(
            "config_reloads",
            "Settings files that were read anew, by what came of it",
            reloads.clone(),
        );
        page.register(
            "key_fetches",
            "Times that an issuer was asked for its keys, by what came of it",
            key_fetches.clone(),
        );
        let tls_handshakes = Words::register(
            &mut page,
            "tls_handshakes",
            "TLS handshakes on the public address, by what came of it",
            "result",
            &["ok", "error", "timeout"],
        );
        page.register(
            "certificate_not_after_seconds",
            "End of the public address's certificate, in seconds since 1970, by where it comes from",
            certificate.clone(),
        );
        page.register("dials", "Tunnel sessions that were opened", dials.clone());
        page.register("resumes", "Tunnel sessions that got a new socket", resumes.clone());
        page.register("takeovers", "Tunnel sessions that a newer dial displaced", takeovers.clone());
        page.register("migrations", "Tunnel sessions that were dialled beside another", migrations.clone());
        page.register("sessions", "Tunnel sessions now", sessions.clone());
        page.register("streams", "Requests under way now", streams.clone());
        page.register("devices_online", "Devices with a session now", devices.clone());
        page.register("connections", "Connections to the public address now", connections.clone());
        let first_byte = FirstByte::default();
        page.register(
            "first_byte_seconds",
            "Time from a request to the head of its response",
            first_byte.clone(),
        );
        let refused_tokens = Words::register(
            &mut page,
            "refused_tokens",
            "Tokens that were not taken, by the answer's code",
            "code",
            &["token_missing", "token_invalid", "token_expired"],
        );
        let limit_hits = Words::register(
            &mut page,
            "limit_hits",
            "Requests over a limit, by the answer's code",
            "code",
            &[
                "rate_limited",
                "too_many_streams",
                "too_much_waiting",
                "too_many_devices",
                "body_too_large",
                "upload_too_slow",
            ],
        );
        let (audit_lines, audit_lost) = (Counter::default(), Counter::default());
        page.register("audit_lines", "Lines that the audit log got", audit_lines.clone());
        page.register("audit_lost", "Security events that are not in the audit log", audit_lost.clone());
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.register("build", "The program's version", Info::new(version));
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
            reloads: ["ok", "error"].map(|result| reloads.get_or_create_owned(&ResultLabel { result })),
            config_faults,
            key_fetches: ["ok", "error"]
                .map(|result| key_fetches.get_or_create_owned(&ResultLabel { result })),
            tls_handshakes,
            certificate,
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
            first_byte,
            refused_tokens,
            limit_hits,
            audit_lines,
            audit_lost,
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

    /// Notes how long a caller waited for the head of a response.
    pub(crate) fn first_byte(&self, waited: Duration) {
        self.first_byte.observe(waited);
    }

    /// Counts a settings file that was taken over, or that was not.
    pub(crate) fn reloaded(&self, taken_over: bool) {
        let [ok, error] = &self.reloads;
        if taken_over { ok } else { error }.inc();
    }

    /// Counts a fetch of an issuer's keys that brought some, or that did not.
    pub(crate) fn keys_fetched(&self, good: bool) {
        let [ok, error] = &self.key_fetches;
        if good { ok } else { error }.inc();
    }

    pub(crate) fn bytes_in(&self, n: usize) {
        self.bytes_in.inc_by(n as u64);
    }

    pub(crate) fn bytes_out(&self, n: usize) {
        self.bytes_out.inc_by(n as u64);
    }

    /// Writes the page.
    pub(crate) fn page(&self, counts: Counts, tls: &TlsStatus, exposition: Exposition) -> String {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.sessions.set(gauge(counts.sessions));
        self.streams.set(gauge(counts.streams));
        self.devices.set(gauge(counts.devices_online));
        for source in ["files", "acme"] {
            match tls.not_after.filter(|_| tls.source == source) {
                Some(end) => {
                    let end = i64::try_from(end).unwrap_or(i64::MAX);
                    self.certificate.get_or_create(&SourceLabel { source }).set(end);
                }
                None => {
                    self.certificate.remove(&SourceLabel { source });
                }
            }
        }
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
        let page = metrics.page(counts, &TlsStatus::default(), Exposition::Text);
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
            let sample = line.split(['{', ' ']).next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
            let name = of_histogram.unwrap_or(sample);
            assert!(page.contains(&format!("# TYPE {name} ")), "{name} has no type");
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }

    #[test]
    fn waits_are_in_the_bucket_that_they_belong_to() {
        let metrics = Metrics::new();
        for ms in [10, 50, 51, 400_000] {
            metrics.first_byte(Duration::from_millis(ms));
        }
        metrics.refused_tokens.inc("token_expired");
        let page = metrics.page(Counts::default(), &TlsStatus::default(), Exposition::Text);
        for line in [
            "# TYPE tunnel_relay_first_byte_seconds histogram",
            "tunnel_relay_first_byte_seconds_bucket{le=\"0.05\"} 2",
            "tunnel_relay_first_byte_seconds_bucket{le=\"0.1\"} 3",
            "tunnel_relay_first_byte_seconds_bucket{le=\"300.0\"} 3",
            "tunnel_relay_first_byte_seconds_bucket{le=\"+Inf\"} 4",
            "tunnel_relay_first_byte_seconds_count 4",
            "tunnel_relay_first_byte_seconds_sum 400.111",
            "tunnel_relay_refused_tokens_total{code=\"token_expired\"} 1",
            "tunnel_relay_limit_hits_total{code=\"rate_limited\"} 0",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn a_certificate_has_an_end_where_there_is_one() {
        let metrics = Metrics::new();
        let shown = |source: &'static str, not_after| {
            let status = TlsStatus { source, not_after, ..TlsStatus::default() };
            let page = metrics.page(Counts::default(), &status, Exposition::Text);
            let samples = page.lines().filter(|line| line.starts_with("tunnel_relay_certificate"));
            samples.map(str::to_owned).collect::<Vec<_>>()
        };
        let of = |source, end| {
            [format!("tunnel_relay_certificate_not_after_seconds{{source=\"{source}\"}} {end}")]
        };
        assert!(shown("off", None).is_empty());
        assert_eq!(shown("files", Some(1_900_000_000)), of("files", 1_900_000_000_u64));
        assert!(shown("acme", None).is_empty(), "none was issued yet");
        assert_eq!(shown("acme", Some(1_950_000_000)), of("acme", 1_950_000_000_u64));
    }

    #[test]
    fn openmetrics_ends_with_its_mark() {
        let page = Metrics::new().page(Counts::default(), &TlsStatus::default(), Exposition::OpenMetrics);
        assert!(page.ends_with("# EOF\n"));
        assert!(page.contains("# TYPE tunnel_relay_requests counter\n"));
    }
}
