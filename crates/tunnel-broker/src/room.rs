//! Memory for bodies whose model comes late.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Failure;

/// Bounds what all requests together hold of bodies of which more than the first part must be read to find the model.
#[derive(Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// A request's part of the room; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held(OwnedSemaphorePermit);

/// Most memory that all such bodies take together.
const ALL: usize = 256 << 20;
/// What is given out at least.
const UNIT: usize = 1 << 20;
/// Longest wait for room. Nothing is read of the body meanwhile, so that its caller waits, too.
const PATIENCE: Duration = Duration::from_secs(30);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(units(ALL) as usize)))
    }
}

impl Room {
    /// Takes room for so many bytes, all at once: requests that had a part each and waited for more would wait for
    /// each other. Who came first is first.
    ///
    /// # Errors
    ///
    /// There was none for too long.
    pub(crate) async fn take(&self, n_bytes: usize) -> Result<Held, Failure> {
        self.take_within(PATIENCE, n_bytes).await
    }

    async fn take_within(&self, patience: Duration, n_bytes: usize) -> Result<Held, Failure> {
        let taken = Arc::clone(&self.0).acquire_many_owned(units(n_bytes.min(ALL)));
        match tokio::time::timeout(patience, taken).await {
            Ok(Ok(permit)) => Ok(Held(permit)),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Failure::NoRoom),
        }
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.0.available_permits() * UNIT
    }
}

impl Held {
    /// Gives back what is not needed.
    pub(crate) fn shrink(&mut self, n_bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(units(n_bytes) as usize);
        drop(self.0.split(surplus));
    }
}

fn units(n_bytes: usize) -> u32 {
    u32::try_from(n_bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_waited_for_and_refused_in_the_end() {
        let room = Room::default();
        let mut all = room.take(usize::MAX).await.unwrap();
        assert_eq!(room.free(), 0);
        assert!(matches!(room.take_within(Duration::from_millis(5), 1).await, Err(Failure::NoRoom)));
        all.shrink(ALL - UNIT - 1);
        assert_eq!(room.free(), UNIT);
        let (next, ()) = tokio::join!(room.take(2 * UNIT), async { drop(all) });
        assert!(next.is_ok() && room.free() == ALL - 2 * UNIT);
        drop(next);
        assert_eq!(room.free(), ALL);
    }
}
