//! Waiting for a condition, not for a while.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(5);

/// Waits until `condition` holds and returns how long that took; fails with `what` after `limit`.
pub async fn eventually<F>(what: &str, limit: Duration, mut condition: F) -> Result<Duration>
where
    F: AsyncFnMut() -> bool,
{
    let started = Instant::now();
    poll_until(what, limit, async || condition().await.then_some(())).await?;
    Ok(started.elapsed())
}

/// Asks `probe` again and again until it yields a value; fails with `what` after `limit`.
pub async fn poll_until<T, F>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}
