//! When a program that runs counts as fallen: the broker's probes say so, often enough in a row.

use std::future::pending;
use std::time::Duration;

use tokio::time::sleep;
use tunnel_broker::{BackendStatus, Broker, Health};

/// How much is borne, as the configuration has it now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// `maxRetries`: failed probes in a row.
    pub(super) failures: u32,
    /// `retryDelay`: from the first one to the next look; doubles.
    pub(super) delay: Duration,
    /// `healthCheckInterval`: no wait is longer.
    pub(super) longest: Duration,
}

/// Waits until the plugin has failed its probes often enough, and returns why the last one failed.
///
/// Counted from this call on. What the broker counts may be of an earlier life of the program, or of none: a server that
/// it has never seen up is down for it at once.
pub(super) async fn fallen(broker: &Broker, id: &str, patience: impl Fn() -> Patience) -> String {
    let mut failures = 0_u32;
    // A probe that is ordered begins after the order, so it is one of this program. And the broker may wait long for its
    // own next look at what was down until now.
    let mut seen = broker.probe(id).await;
    loop {
        let Some(why) = seen.as_ref().and_then(trouble) else {
            failures = 0;
            seen = Some(in_trouble(broker, id).await);
            continue;
        };
        failures = failures.saturating_add(1);
        let Patience { failures: most, delay, longest } = patience();
        if failures >= most {
            return why;
        }
        sleep(delay.saturating_mul(2_u32.saturating_pow(failures - 1)).min(longest)).await;
        seen = broker.probe(id).await;
    }
}

/// Waits for a probe of the broker's own that fails.
async fn in_trouble(broker: &Broker, id: &str) -> BackendStatus {
    let mut backends = broker.status();
    loop {
        let seen = backends.borrow_and_update().iter().find(|backend| backend.id == id).cloned();
        if let Some(seen) = seen.filter(|backend| trouble(backend).is_some()) {
            return seen;
        }
        if backends.changed().await.is_err() {
            return pending().await;
        }
    }
}

/// Returns why the last probe failed, if another start can help. One that is busy with its model, or that does not take our
/// credential, answers; and a secret that is missing is not the program's fault.
fn trouble(backend: &BackendStatus) -> Option<String> {
    match backend.health {
        Health::Warming | Health::Unauthorised => None,
        Health::Unknown | Health::Up | Health::Busy | Health::Degraded | Health::Down => {
            backend.error.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_util::sync::{CancellationToken, DropGuard};
    use tokio_util::task::TaskTracker;
    use tunnel_broker::{BackendConfig, BackendKind, BrokerConfig, Credential};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const LIST: &str = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;

    /// A broker, and a plugin whose list is answered with `statuses`, the last of them for ever.
    struct Bench {
        broker: Broker,
        asked: Arc<AtomicU32>,
        _stop: DropGuard,
    }

    async fn bench(statuses: &'static [u16], credential: Option<Credential>) -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let asked = Arc::new(AtomicU32::new(0));
        let (count, ends) = (Arc::clone(&asked), stop.clone());
        tracker.spawn(ends.run_until_cancelled_owned(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap_or(0);
                let status = if request[..n].starts_with(b"GET /v1/models") {
                    let n = usize::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap();
                    statuses[n.min(statuses.len() - 1)]
                } else {
                    404
                };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{LIST}",
                    LIST.len()
                );
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        }));
        let mut backend = BackendConfig::new("p", BackendKind::Plugin, url);
        backend.credential = credential;
        let config = BrokerConfig {
            backends: vec![backend],
            probe_interval: Duration::from_millis(300),
            retry_delay: Duration::from_millis(10),
            ..BrokerConfig::default()
        };
        Bench { broker: Broker::start(config, &tracker, stop.clone()), asked, _stop: stop.drop_guard() }
    }

    fn patience() -> Patience {
        let delay = Duration::from_millis(10);
        Patience { failures: 3, delay, longest: delay }
    }

    impl Bench {
        /// Looks on while the plugin is asked some times.
        async fn bears(&self, times: u32) {
            let asked = async {
                while self.asked.load(Ordering::Relaxed) < times {
                    self.broker.probe("p").await;
                }
            };
            tokio::select! {
                why = fallen(&self.broker, "p", patience) => panic!("given up: {why}"),
                asked = timeout(LIMIT, asked) => asked.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn failures_are_counted_from_the_start_on() {
        let bad = bench(&[502], None).await;
        let why = timeout(LIMIT, fallen(&bad.broker, "p", patience)).await.unwrap();
        assert!(why.contains("502"), "{why}");
        assert!(bad.asked.load(Ordering::Relaxed) >= 3);

        // What comes up at last has not failed, whatever the broker thought of it until then.
        bench(&[502, 502, 200], None).await.bears(6).await;
    }

    #[tokio::test]
    async fn program_that_was_well_falls_as_well() {
        let falls = bench(&[200, 200, 500], None).await;
        let why = timeout(LIMIT, fallen(&falls.broker, "p", patience)).await.unwrap();
        assert!(why.contains("500"), "{why}");
    }

    #[tokio::test]
    async fn one_that_refuses_us_or_loads_has_not_fallen() {
        bench(&[401], None).await.bears(6).await;
        bench(&[503], None).await.bears(6).await;
    }

    #[tokio::test]
    async fn missing_secret_is_not_the_programs_fault() {
        let credential = Credential::new("nowhere");
        credential.missing("no place has it");
        let bench = bench(&[200], Some(credential)).await;
        let mut n = 0;
        let looks = async {
            while n < 6 {
                assert_eq!(bench.broker.probe("p").await.unwrap().health, Health::Unauthorised);
                n += 1;
            }
        };
        tokio::select! {
            why = fallen(&bench.broker, "p", patience) => panic!("given up: {why}"),
            looked = timeout(LIMIT, looks) => looked.unwrap(),
        }
    }
}
