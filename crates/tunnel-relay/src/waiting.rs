//! Requests that wait for a device which is about to come: its relay has just restarted, or its desktop is moving here.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::auth::Principal;
use crate::error::Refusal;
use crate::relay::Shared;

/// Most requests that wait at a time. One costs what a caller's connection costs, and nothing more.
const WAITING_MAX: usize = 4_096;
/// Most of one subject: others must find room.
const WAITING_MAX_PER_SUBJECT: usize = 256;

/// Those who wait, by subject. As large as they are many.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    subjects: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_subject: HashMap<Arc<str>, Bench>,
    n: usize,
}

#[derive(Debug, Default)]
struct Bench {
    n: usize,
    arrival: Arc<Notify>,
}

/// A place in the waiting room, given back when it is dropped.
struct Place<'a> {
    room: &'a WaitingRoom,
    subject: Arc<str>,
    arrival: Arc<Notify>,
}

/// Admits a request, where its device is expected as soon as it is there.
///
/// A caller that hangs up drops the future, and with it its place.
pub(crate) async fn admitted<T>(
    shared: &Shared,
    principal: &Principal,
    asked: Option<&str>,
    admit: impl Fn() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let refusal = match admit() {
        Err(refusal @ (Refusal::DeviceOffline { .. } | Refusal::UnknownDevice { .. })) => refusal,
        other => return other,
    };
    // While it drains nobody comes here any more.
    let (within, longest) = {
        let settings = shared.settings();
        (settings.session_grace, settings.device_wait)
    };
    if longest.is_zero()
        || shared.draining.is_cancelled()
        || !shared.registry.expects(principal, asked, within)
    {
        return Err(refusal);
    }
    let Some(place) = shared.waiting.enter(&principal.subject) else { return Err(refusal) };
    let mut over = pin!(tokio::time::sleep(longest));
    loop {
        let mut arrival = pin!(place.arrival.notified());
        // From here on no arrival is missed.
        arrival.as_mut().enable();
        match admit() {
            Err(Refusal::DeviceOffline { .. } | Refusal::UnknownDevice { .. }) => {}
            other => return other,
        }
        tokio::select! {
            () = arrival => {}
            () = over.as_mut() => return admit(),
            () = shared.draining.cancelled() => return admit(),
        }
    }
}

impl WaitingRoom {
    /// Tells those who wait for a device of this subject that one has come.
    pub(crate) fn arrived(&self, subject: &str) {
        if let Some(bench) = self.lock().by_subject.get(subject) {
            bench.arrival.notify_waiters();
        }
    }

    fn enter(&self, subject: &Arc<str>) -> Option<Place<'_>> {
        let mut waiting = self.lock();
        if waiting.n >= WAITING_MAX {
            return None;
        }
        let bench = waiting.by_subject.entry(Arc::clone(subject)).or_default();
        if bench.n >= WAITING_MAX_PER_SUBJECT {
            return None;
        }
        bench.n += 1;
        let arrival = Arc::clone(&bench.arrival);
        waiting.n += 1;
        Some(Place { room: self, subject: Arc::clone(subject), arrival })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.room.lock();
        waiting.n -= 1;
        if let Some(bench) = waiting.by_subject.get_mut(&self.subject) {
            bench.n -= 1;
            if bench.n == 0 {
                waiting.by_subject.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let room = WaitingRoom::default();
        let alice: Arc<str> = "alice".into();
        let places: Vec<_> = (0..WAITING_MAX_PER_SUBJECT).map(|_| room.enter(&alice).unwrap()).collect();
        assert!(room.enter(&alice).is_none(), "one subject does not fill it");
        assert!(room.enter(&"bob".into()).is_some());
        drop(places);
        assert!(room.lock().by_subject.is_empty(), "nothing is kept of who has left");
        assert_eq!(room.lock().n, 0);

        let all: Vec<_> =
            (0..WAITING_MAX).map(|n| room.enter(&format!("{}", n / 100).into()).unwrap()).collect();
        assert!(room.enter(&"carol".into()).is_none());
        drop(all);
        assert!(room.enter(&"carol".into()).is_some());
    }
}
