//! Memory for bodies whose model comes late.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::error::Failure;

/// Bounds what all requests together hold of bodies of which more than the first part must be read to find the model.
#[derive(Debug)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    /// What others than this user's own programs may take of it.
    strangers: Arc<Semaphore>,
}

/// The room that a caller may take of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    room: &'a Room,
    own: bool,
}

/// A request's part of the room; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: OwnedSemaphorePermit,
    strangers: Option<OwnedSemaphorePermit>,
}

/// Most memory that all such bodies take together.
const ALL: usize = 256 << 20;
/// The most of it that goes to callers from elsewhere: whatever they send, this user's own programs have the rest.
const STRANGERS: usize = 192 << 20;
/// What is given out at least.
const UNIT: usize = 1 << 20;
/// Longest wait for room. Nothing is read of the body meanwhile, so that its caller waits, too.
const PATIENCE: Duration = Duration::from_secs(30);

impl Default for Room {
    fn default() -> Self {
        let semaphore = |n_bytes| Arc::new(Semaphore::new(units(n_bytes) as usize));
        Self { all: semaphore(ALL), strangers: semaphore(STRANGERS) }
    }
}

impl Room {
    /// Returns what this user's own programs may take of, or others.
    pub(crate) fn share(&self, own: bool) -> Share<'_> {
        Share { room: self, own }
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.all.available_permits() * UNIT
    }
}

impl Share<'_> {
    /// Takes room for so many bytes, all at once: requests that had a part each and waited for more would wait for
    /// each other. Who came first is first.
    ///
    /// # Errors
    ///
    /// There was none for too long.
    pub(crate) async fn take(self, n_bytes: usize) -> Result<Held, Failure> {
        self.take_within(PATIENCE, n_bytes).await
    }

    async fn take_within(self, patience: Duration, n_bytes: usize) -> Result<Held, Failure> {
        let Self { room: Room { all, strangers }, own } = self;
        let n_units = units(n_bytes.min(if own { ALL } else { STRANGERS }));
        let taken = async {
            // First that of which there is less: who waits for it keeps nothing of the rest.
            let strangers = match own {
                true => None,
                false => Some(Arc::clone(strangers).acquire_many_owned(n_units).await?),
            };
            Ok::<_, AcquireError>(Held { all: Arc::clone(all).acquire_many_owned(n_units).await?, strangers })
        };
        match tokio::time::timeout(patience, taken).await {
            Ok(Ok(held)) => Ok(held),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Failure::NoRoom),
        }
    }
}

impl Held {
    /// Gives back what is not needed.
    pub(crate) fn shrink(&mut self, n_bytes: usize) {
        for permit in [Some(&mut self.all), self.strangers.as_mut()].into_iter().flatten() {
            let surplus = permit.num_permits().saturating_sub(units(n_bytes) as usize);
            drop(permit.split(surplus));
        }
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
        let mut all = room.share(true).take(usize::MAX).await.unwrap();
        assert_eq!(room.free(), 0);
        assert!(matches!(
            room.share(true).take_within(Duration::from_millis(5), 1).await,
            Err(Failure::NoRoom)
        ));
        all.shrink(ALL - UNIT - 1);
        assert_eq!(room.free(), UNIT);
        let (next, ()) = tokio::join!(room.share(true).take(2 * UNIT), async { drop(all) });
        assert!(next.is_ok() && room.free() == ALL - 2 * UNIT);
        drop(next);
        assert_eq!(room.free(), ALL);
    }

    #[tokio::test]
    async fn callers_from_elsewhere_leave_room_for_the_users_own_programs() {
        let room = Room::default();
        let most = room.share(false).take(usize::MAX).await.unwrap();
        assert_eq!(room.free(), ALL - STRANGERS);
        let moment = Duration::from_millis(5);
        assert!(matches!(room.share(false).take_within(moment, 1).await, Err(Failure::NoRoom)));
        let own = room.share(true).take(ALL - STRANGERS).await.unwrap();
        drop(most);
        let next = room.share(false).take(STRANGERS).await.unwrap();
        drop((own, next));
        assert_eq!(room.free(), ALL);
    }
}
