//! The page of metrics, from any registry, in either of the two text formats.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// Returns the format that a request's `Accept` headers ask for: OpenMetrics only when it is named, and not less welcome
    /// than plain text.
    pub fn of_accept<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0, 0.0);
        for part in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut words = part.split(';').map(str::trim);
            let quality = match words.next().unwrap_or_default() {
                media if media.eq_ignore_ascii_case("application/openmetrics-text") => &mut open_metrics,
                media if media.eq_ignore_ascii_case("text/plain") => &mut plain,
                _ => continue,
            };
            let q =
                words.find_map(|word| word.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f64>().ok());
            *quality = q.unwrap_or(0.0).max(*quality);
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Text }
    }

    /// The page's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes all that is registered.
pub fn page(registry: &Registry, exposition: Exposition) -> String {
    let mut page = String::new();
    text::encode(&mut page, registry).expect("a String takes any text");
    match exposition {
        Exposition::OpenMetrics => page,
        Exposition::Text => to_text_0_0_4(&page),
    }
}

/// Rewrites OpenMetrics as the older format.
///
/// There the help and the type of a counter carry the sample's full name with `_total`, `info` and `unknown` have
/// other names, units and exemplars do not exist, and nothing marks the end.
fn to_text_0_0_4(page: &str) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 16);
    let mut help = None;
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name)) => help = Some((name, words.next().unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name)) => {
                let (suffix, kind) = match words.next().unwrap_or_default() {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    push(&mut out, &["# HELP ", name, suffix, " ", text, "\n"]);
                }
                push(&mut out, &["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => push(&mut out, &[without_exemplar(line), "\n"]),
        }
    }
    out
}

/// Cuts off what follows the value of a sample after ` # `.
fn without_exemplar(sample: &str) -> &str {
    let has_labels = sample.find(['{', ' ']).is_some_and(|at| sample[at..].starts_with('{'));
    let end_of_labels = if has_labels { end_of_labels(sample) } else { 0 };
    match sample[end_of_labels..].find(" # ") {
        Some(at) => &sample[..end_of_labels + at],
        None => sample,
    }
}

/// Returns where the first `}` is that is not part of a label's value.
fn end_of_labels(sample: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let end = sample.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        byte == b'}' && !quoted
    });
    end.unwrap_or(0)
}

fn push(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::exemplar::CounterWithExemplar;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;

    type Labels = Vec<(String, String)>;

    fn labels(model: &str) -> Labels {
        vec![("model".to_owned(), model.to_owned())]
    }

    /// One metric of each kind, with labels that need care.
    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("test");
        let requests = Family::<Labels, Counter>::default();
        for model in ["plain", "a\"b", "a\\", "{a} # b", "new\nline"] {
            requests.get_or_create(&labels(model)).inc_by(3);
        }
        registry.register("requests", "Requests", requests);
        let up = Gauge::<i64>::default();
        up.set(-2);
        registry.register("level", "Level", up);
        let durations = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new([0.5, 1.0]));
        for seconds in [0.1, 0.6, 7.0] {
            durations.get_or_create(&labels("m")).observe(seconds);
        }
        registry.register_with_unit("request_duration", "How long", Unit::Seconds, durations);
        registry.register("build", "Build", Info::new([("version", "1")]));
        let traced = CounterWithExemplar::<Vec<(String, String)>>::default();
        traced.inc_by(4, Some(labels("} # x")), None);
        registry.register("traced", "Traced", traced);
        registry
    }

    #[test]
    fn the_older_format_names_things_as_it_does() {
        let page = page(&registry(), Exposition::Text);
        for line in [
            "# HELP test_requests_total Requests.",
            "# TYPE test_requests_total counter",
            r#"test_requests_total{model="{a} # b"} 3"#,
            r#"test_requests_total{model="a\"b"} 3"#,
            r#"test_requests_total{model="new\nline"} 3"#,
            "# TYPE test_level gauge",
            "test_level -2",
            "# TYPE test_request_duration_seconds histogram",
            r#"test_request_duration_seconds_bucket{le="1.0",model="m"} 2"#,
            r#"test_request_duration_seconds_bucket{le="+Inf",model="m"} 3"#,
            r#"test_request_duration_seconds_count{model="m"} 3"#,
            "# TYPE test_build_info gauge",
            r#"test_build_info{version="1"} 1"#,
            "test_traced_total 4",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("# UNIT") && !page.contains("# EOF"), "{page}");
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        let page = page(&registry(), Exposition::Text);
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = match promtool {
            Ok(promtool) => promtool,
            Err(error) if std::env::var_os("E2E_REQUIRE_REAL").is_none_or(|value| value != "1") => {
                println!("skipped: no promtool here: {error}");
                return;
            }
            Err(error) => panic!("no promtool: {error}"),
        };
        promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        let words = [said.stdout, said.stderr].concat();
        assert!(said.status.success() && words.is_empty(), "{}\n{page}", String::from_utf8_lossy(&words));
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let page = page(&registry(), Exposition::OpenMetrics);
        assert!(page.ends_with("# EOF\n") && page.contains("# TYPE test_requests counter\n"));
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, exposition) in [
            (None, Exposition::Text),
            (Some("*/*"), Exposition::Text),
            (Some("text/html, */*"), Exposition::Text),
            (Some("application/openmetrics-text"), Exposition::OpenMetrics),
            (Some(prometheus), Exposition::OpenMetrics),
            (Some("text/plain;q=0.9, application/openmetrics-text; q=0.1"), Exposition::Text),
            (Some("application/openmetrics-text;q=0"), Exposition::Text),
            (Some("application/openmetrics-text;q=x"), Exposition::Text),
        ] {
            assert_eq!(Exposition::of_accept(accept), exposition, "{accept:?}");
        }
    }
}
