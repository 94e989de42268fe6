//! Certificates from an ACME authority (RFC 8555), by the challenge `tls-alpn-01` (RFC 8737) on the public address.

mod order;
mod shelf;

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use self::order::Failed;
use self::shelf::Shelf;
use crate::auth::unix_now;
use crate::config::AcmeSettings;
use crate::tls::Tls;

/// Least time after an order that failed: authorities count them, and shut out who has too many.
const AFTER_ORDER: Duration = Duration::from_secs(60 * 60);
const AFTER_ORDER_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// The same where the authority could not even be asked, which costs it nothing.
const AFTER_SILENCE: Duration = Duration::from_secs(5);
/// Longest single sleep: the clock on the wall may be set, and a machine may sleep.
const NAP: Duration = Duration::from_secs(60 * 60);

/// Gets a certificate, shows it, and renews it when two thirds of its life are over. Never ends.
pub(crate) async fn keep(tls: &Tls, settings: &AcmeSettings) {
    let shelf = Arc::new(Shelf::new(&tls.data_dir, settings));
    let mut pause = Pause::default();
    let mut unkept = None;
    let mut due = match on_disk(Arc::clone(&shelf), Shelf::load).await {
        Ok(Some((pair, validity))) => {
            tls.show("acme", pair, Some(validity));
            early(validity.renew_at(), validity.not_after)
        }
        Ok(None) => {
            info!(
                names = settings.domains.join(" "),
                "no certificate yet: handshakes are refused until it is issued"
            );
            0
        }
        Err(error) => {
            warn!(
                error = format!("{error:#}"),
                "the certificate that is kept cannot be used, a new one is ordered"
            );
            0
        }
    };
    // A relay that is started again and again must not order each time.
    let failed_at = on_disk(Arc::clone(&shelf), |shelf| Ok(shelf.failed_at())).await.ok().flatten();
    if let Some(failed_at) = failed_at {
        // A mark from the future is a clock that was set.
        due = due.max(failed_at.min(unix_now()) + AFTER_ORDER.as_secs());
    }
    loop {
        sleep_until(tls, due).await;
        let fault = match order::order(tls, settings, &shelf, &mut unkept).await {
            Ok(issued) => {
                pause = Pause::default();
                due = early(issued.validity.renew_at(), issued.validity.not_after);
                tls.show("acme", issued.pair, Some(issued.validity));
                continue;
            }
            Err(fault) => fault,
        };
        let wait = pause.after(&fault, rand::random_range(1.0..1.25));
        due = unix_now() + wait.as_secs();
        let fault = format!("{:#}", fault.into_error());
        warn!(fault, again_in_s = wait.as_secs(), "no certificate was issued");
        tls.note(|status| status.fault = Some(fault));
    }
}

async fn sleep_until(tls: &Tls, due: u64) {
    loop {
        let left = Duration::from_secs(due.saturating_sub(unix_now()));
        if left.is_zero() {
            return;
        }
        tls.note(|status| status.next_order = Some(due));
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// Moves a renewal to an earlier time by up to a twentieth of what is left: many relays that were set up by one script
/// must not all come at once.
fn early(renew_at: u64, not_after: u64) -> u64 {
    let spread = not_after.saturating_sub(renew_at) / 20;
    renew_at - rand::random_range(0..=spread).min(renew_at)
}

/// Does something with the files where it holds nobody up.
async fn on_disk<T: Send + 'static>(
    shelf: Arc<Shelf>,
    what: impl FnOnce(&Shelf) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(move || what(&shelf)).await?
}

/// How long is waited after failures in a row.
#[derive(Debug, Default)]
struct Pause {
    orders: u32,
    silences: u32,
}

impl Pause {
    /// Returns the wait after one more. `jitter` is at least 1.
    fn after(&mut self, failed: &Failed, jitter: f64) -> Duration {
        let (first, most, count) = match failed {
            Failed::Order(_) => (AFTER_ORDER, AFTER_ORDER_MAX, &mut self.orders),
            Failed::Unreachable(_) => (AFTER_SILENCE, AFTER_ORDER, &mut self.silences),
        };
        let wait = first.saturating_mul(2_u32.saturating_pow(*count)).min(most);
        *count += 1;
        wait.mul_f64(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_not_hammered() {
        let mut pause = Pause::default();
        let order = || Failed::Order(anyhow::anyhow!("no"));
        let silence = || Failed::Unreachable(anyhow::anyhow!("no"));
        let minutes = |wait: Duration| wait.as_secs_f64() / 60.0;
        let waits: Vec<f64> = (0..6).map(|_| minutes(pause.after(&order(), 1.0))).collect();
        assert_eq!(waits, [60.0, 120.0, 240.0, 480.0, 720.0, 720.0]);
        let waits: Vec<u64> = (0..11).map(|_| pause.after(&silence(), 1.0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]);
        for _ in 0..100 {
            assert!(pause.after(&order(), 1.2) >= AFTER_ORDER, "no overflow, never sooner");
        }
    }

    #[test]
    fn a_renewal_is_early_and_not_much() {
        for _ in 0..1_000 {
            let due = early(2_000, 3_000);
            assert!((1_950..=2_000).contains(&due), "{due}");
        }
        assert_eq!(early(0, 0), 0);
    }
}
