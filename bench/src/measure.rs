//! What is measured on each way, column by column.

use std::time::Duration;

use crate::backend::Script;
use crate::engine::{self, Connections, Load, OpenStreams, quantile};
use crate::open_loop;
use crate::targets::{Scene, Target};

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    More,
    Less,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Column {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) better: Better,
    pub(crate) against: Against,
}

/// How a value is held against the reference's of the same round.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Against {
    /// Not at all: it is the instrument's own.
    Nothing,
    /// As a share of it.
    Ratio,
    /// As what is added to it, and the most that is to be added.
    Added { bar: f64 },
}

const fn more(key: &'static str, title: &'static str) -> Column {
    Column { key, title, better: Better::More, against: Against::Ratio }
}

const fn less(key: &'static str, title: &'static str) -> Column {
    Column { key, title, better: Better::Less, against: Against::Ratio }
}

const fn told(key: &'static str, title: &'static str, better: Better) -> Column {
    Column { key, title, better, against: Against::Nothing }
}

const fn added(key: &'static str, title: &'static str, bar: f64) -> Column {
    Column { key, title, better: Better::Less, against: Against::Added { bar } }
}

/// How long one measure lasts, before and while it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
    pub(crate) long_path: Duration,
    pub(crate) open_loop: Duration,
}

impl Lengths {
    pub(crate) const USUAL: Self = Self {
        warm_up: Duration::from_millis(200),
        length: Duration::from_millis(1200),
        long_path: Duration::from_secs(4),
        open_loop: Duration::from_secs(3),
    };
    pub(crate) const QUICK: Self = Self {
        warm_up: Duration::from_millis(100),
        length: Duration::from_millis(400),
        long_path: Duration::from_secs(2),
        open_loop: Duration::from_secs(1),
    };
}

/// One run on one target; it fills one column or a few.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    OneCaller {
        p99: Option<Column>,
    },
    /// 1,000 requests a second, whatever becomes of them.
    FixedRate,
    Callers {
        n: usize,
        rate: Column,
        p50: Option<Column>,
        p99: Option<Column>,
        cpu: Option<Column>,
    },
    FirstToken,
    NewConnections,
    Burst,
    Download,
    Upload,
    BesideStreams,
    AtOnce,
    LongDownload,
    TokenBesideDownloads,
}

const ONE: Column = less("one_p50_us", "1 caller, p50 µs");
const ONE_P99: Column = less("one_p99_us", "1 caller, p99 µs");
const FIXED_P50: Column = added("fixed_p50_ms", "1,000 req/s, p50 ms", 0.2);
const FIXED_P99: Column = added("fixed_calm_p99_ms", "p99 while nothing was stolen, ms", 1.0);
const FIXED_CALM: Column = told("fixed_calm_percent", "requests then, %", Better::More);
const FIXED_ALL_P99: Column = added("fixed_p99_ms", "p99 of all, ms", 1.0);
const FIXED_LATE: Column = told("fixed_late_p99_ms", "sent late by the generator, p99 ms", Better::Less);
const FIRST_P50: Column = less("first_token_p50_us", "first token of a stream, p50 µs");
const FIRST_P99: Column = less("first_token_p99_us", "first token of a stream, p99 µs");
const NEW: Column = more("new_per_s", "new connection each, req/s");
const BURST: Column = more("burst_tokens_per_s", "16 streams in a burst, tokens/s");
const DOWN: Column = more("download_mb_per_s", "download MB/s");
const UP: Column = more("upload_mb_per_s", "upload MB/s");
const BESIDE: Column = less("beside_p99_us", "beside 1,000 open streams, p99 µs");
const AT_ONCE: Column = less("at_once_p50_ms", "16 new connections at once, p50 ms");
const LONG_DOWN: Column = more("long_download_mb_per_s", "one download, MB/s");
const TOKEN: Column = less("token_p50_ms", "a token beside two downloads, p50 ms");
const BOTH: Column = more("both_mb_per_s", "both downloads, MB/s");

impl Measure {
    pub(crate) fn of(scene: Scene) -> Vec<Self> {
        let plain =
            |n, key, title| Self::Callers { n, rate: more(key, title), p50: None, p99: None, cpu: None };
        match scene {
            Scene::Tunnel => vec![
                Self::OneCaller { p99: None },
                plain(16, "16_per_s", "16 callers, req/s"),
                Self::Callers {
                    n: 64,
                    rate: more("64_per_s", "64 callers, req/s"),
                    p50: None,
                    p99: None,
                    cpu: Some(less("64_cpu_us", "CPU µs a request, 64 callers")),
                },
                plain(256, "256_per_s", "256 callers, req/s"),
                Self::NewConnections,
                Self::Download,
                Self::Upload,
                Self::BesideStreams,
            ],
            Scene::Long => vec![Self::AtOnce, Self::LongDownload, Self::TokenBesideDownloads],
            Scene::Gateway => vec![
                Self::OneCaller { p99: None },
                plain(16, "16_per_s", "16 callers, req/s"),
                Self::Callers {
                    n: 64,
                    rate: more("64_per_s", "64 callers, req/s"),
                    p50: None,
                    p99: Some(less("64_p99_ms", "64 callers, p99 ms")),
                    cpu: Some(less("64_cpu_us", "CPU µs a request, 64 callers")),
                },
                Self::NewConnections,
                Self::Burst,
                Self::Download,
            ],
            Scene::GatewayLatency => vec![Self::FixedRate],
            Scene::Relay => vec![
                Self::OneCaller { p99: Some(ONE_P99) },
                Self::Callers {
                    n: 16,
                    rate: more("16_per_s", "16 callers, req/s"),
                    p50: Some(less("16_p50_ms", "16 callers, p50 ms")),
                    p99: Some(less("16_p99_ms", "16 callers, p99 ms")),
                    cpu: None,
                },
                Self::Callers {
                    n: 64,
                    rate: more("64_per_s", "64 callers, req/s"),
                    p50: Some(less("64_p50_ms", "64 callers, p50 ms")),
                    p99: Some(less("64_p99_ms", "64 callers, p99 ms")),
                    cpu: None,
                },
                Self::FirstToken,
                Self::Download,
                Self::Upload,
            ],
        }
    }

    pub(crate) fn columns(self) -> Vec<Column> {
        match self {
            Self::OneCaller { p99 } => [Some(ONE), p99].into_iter().flatten().collect(),
            Self::Callers { rate, p50, p99, cpu, .. } => {
                [Some(rate), p50, p99, cpu].into_iter().flatten().collect()
            }
            Self::FixedRate => vec![FIXED_P50, FIXED_P99, FIXED_CALM, FIXED_ALL_P99, FIXED_LATE],
            Self::FirstToken => vec![FIRST_P50, FIRST_P99],
            Self::NewConnections => vec![NEW],
            Self::Burst => vec![BURST],
            Self::Download => vec![DOWN],
            Self::Upload => vec![UP],
            Self::BesideStreams => vec![BESIDE],
            Self::AtOnce => vec![AT_ONCE],
            Self::LongDownload => vec![LONG_DOWN],
            Self::TokenBesideDownloads => vec![TOKEN, BOTH],
        }
    }

    /// Measures once; the values are those of [`Measure::columns`].
    pub(crate) fn run(self, target: &Target, lengths: Lengths) -> anyhow::Result<Vec<f64>> {
        let door = &target.door;
        let Lengths { warm_up, length, long_path, open_loop } = lengths;
        let load = |callers, connections| Load { callers, connections, warm_up, length };
        Ok(match self {
            Self::OneCaller { p99 } => {
                let seen = engine::one_caller(door, warm_up, length)?;
                let p99 = p99.map(|_| seen.quantile_us(0.99));
                [Some(seen.quantile_us(0.5)), p99].into_iter().flatten().collect()
            }
            Self::FixedRate => {
                let seen = open_loop::run(door, 1_000, warm_up, open_loop)?;
                let calm = [seen.calm_ms(0.99), seen.calm_percent()];
                vec![seen.latency_ms(0.5), calm[0], calm[1], seen.latency_ms(0.99), seen.late_ms(0.99)]
            }
            Self::FirstToken => {
                let seen = engine::first_token(door, warm_up, length)?;
                vec![seen.quantile_us(0.5), seen.quantile_us(0.99)]
            }
            Self::Callers { n, p50, p99, cpu, .. } => {
                let before = target.cpu();
                let seen = engine::closed_loop(door, Script::Small, load(n, Connections::Kept))?;
                let used = target.cpu().saturating_sub(before);
                let mut values = vec![seen.per_s()];
                if p50.is_some() {
                    values.push(seen.quantile_us(0.5) / 1e3);
                }
                if p99.is_some() {
                    values.push(seen.quantile_us(0.99) / 1e3);
                }
                if cpu.is_some() {
                    // The warm-up's share is in the processor time too.
                    let requests = seen.per_s() * (seen.elapsed + warm_up).as_secs_f64();
                    values.push(used.as_secs_f64() * 1e6 / requests);
                }
                values
            }
            Self::NewConnections => {
                vec![engine::closed_loop(door, Script::Small, load(16, Connections::NewEach))?.per_s()]
            }
            Self::Burst => {
                let script = Script::Stream { tokens: 500, interval: Duration::ZERO };
                vec![engine::closed_loop(door, script, load(16, Connections::Kept))?.events_per_s()]
            }
            Self::Download => vec![engine::download(door, length)?],
            Self::Upload => vec![engine::upload(door, length)?],
            Self::BesideStreams => {
                let streams = OpenStreams::start(door, 1000)?;
                let seen = engine::one_caller(door, warm_up, length * 2)?;
                streams.finish()?;
                vec![seen.quantile_us(0.99)]
            }
            Self::AtOnce => {
                let mut all = Vec::new();
                for _ in 0..5 {
                    all.extend(engine::at_once(door, 16)?);
                }
                all.sort_unstable();
                vec![quantile(&all, 0.5) / 1e6]
            }
            Self::LongDownload => vec![engine::download(door, long_path)?],
            Self::TokenBesideDownloads => {
                let beside = engine::token_beside_downloads(door, long_path)?;
                vec![quantile(&beside.delays_ns, 0.5) / 1e6, beside.downloads]
            }
        })
    }
}
