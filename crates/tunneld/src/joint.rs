//! Work that is done once for all who ask for it at the same time.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// Runs one piece of work at a time; who asks while it runs gets its result too.
///
/// The work is driven by those who wait for it, and ends with the last of them. Nothing is kept of its result.
#[derive(Debug)]
pub(crate) struct Joint<T: Clone> {
    running: Mutex<Option<WeakShared<BoxFuture<'static, T>>>>,
}

impl<T: Clone> Default for Joint<T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<T: Clone> Joint<T> {
    /// Waits for the work that runs, or else for `work`.
    pub(crate) async fn run(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.join(work).await
    }

    fn join(&self, work: impl Future<Output = T> + Send + 'static) -> Shared<BoxFuture<'static, T>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Work that has ended and whose result is still being taken is no answer to a later question.
        let joined = running.as_ref().and_then(WeakShared::upgrade).filter(|work| work.peek().is_none());
        joined.unwrap_or_else(|| {
            let work = work.boxed().shared();
            *running = work.downgrade();
            work
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_together_share_one_and_a_later_one_begins_anew() {
        let joint = Joint::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let count = || {
            let begun = Arc::clone(&begun);
            async move {
                tokio::task::yield_now().await;
                begun.fetch_add(1, Ordering::Relaxed)
            }
        };
        assert_eq!(join(joint.run(count()), joint.run(count())).await, (0, 0));
        assert_eq!(joint.run(count()).await, 1);
    }

    #[tokio::test]
    async fn who_stays_gets_the_result_though_the_first_has_left_and_nobody_left_ends_it() {
        let joint = Joint::default();
        let (answer, answered) = oneshot::channel::<u8>();
        let mut first = Box::pin(joint.run(async { answered.await.ok() }));
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(joint.run(async { None }));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        answer.send(7).unwrap();
        assert_eq!(second.await, Some(7));

        let (watched, gone) = oneshot::channel::<()>();
        let mut only = Box::pin(joint.run(async {
            let _held = watched;
            std::future::pending().await
        }));
        assert!((&mut only).now_or_never().is_none());
        drop(only);
        assert!(gone.await.is_err(), "the work went on without anybody");
    }
}
