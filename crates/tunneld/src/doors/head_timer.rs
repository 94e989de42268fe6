//! The clock behind the limit on request heads: one timer per connection instead of one per request.
//!
//! hyper asks for a timer for each head and drops it a moment later, when the head has come. Putting a timer on
//! tokio's wheel and taking it off again costs more than reading the head. Here a connection keeps one timer
//! that is armed and left alone: when it fires too early for the head that is being waited for, it is armed anew.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// A connection's own clock, for [`hyper::server::conn::http1::Builder::timer`].
#[derive(Debug, Default)]
pub(super) struct HeadTimer {
    alarm: Arc<Mutex<Alarm>>,
}

/// The one timer on tokio's wheel. Polled by the connection's task alone, so its lock is never waited for.
type Alarm = Option<Pin<Box<tokio::time::Sleep>>>;

/// A deadline that hyper waits for.
struct Deadline {
    at: tokio::time::Instant,
    alarm: Arc<Mutex<Alarm>>,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { at: deadline.into(), alarm: Arc::clone(&self.alarm) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.at)));
        if alarm.deadline() > self.at {
            alarm.as_mut().reset(self.at);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= self.at {
                return Poll::Ready(());
            }
            // It was armed for an earlier head.
            alarm.as_mut().reset(self.at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(timer: &HeadTimer, wait: Duration) -> Duration {
        let before = tokio::time::Instant::now();
        timer.sleep(wait).await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_kept_one_after_the_other() {
        let timer = HeadTimer::default();
        for ms in [10, 50, 5, 0, 100] {
            let wait = Duration::from_millis(ms);
            let waited = waited(&timer, wait).await;
            // tokio's wheel turns in milliseconds.
            assert!(waited >= wait && waited <= wait + Duration::from_millis(1), "{waited:?} for {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_that_was_dropped_does_not_shorten_the_next() {
        let timer = HeadTimer::default();
        let head = tokio::time::timeout(Duration::from_secs(6), timer.sleep(Duration::from_secs(10)));
        assert!(head.await.is_err());
        let waited = waited(&timer, Duration::from_secs(10)).await;
        assert!(waited >= Duration::from_secs(10), "{waited:?}");
    }
}
