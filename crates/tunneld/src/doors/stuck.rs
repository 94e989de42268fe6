//! Doors that cannot be opened: who is in the way is looked for once, and the log says it once.

use std::time::Duration;

use tracing::warn;

use super::Door;
use super::bind::BindError;
use super::owner::PortOwner;
use crate::warnings::Condition;

/// Longest search for who is in the way.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// What was told about doors that cannot be opened, so that the next look does not begin anew.
#[derive(Debug, Default)]
pub(super) struct Stuck(Vec<Told>);

#[derive(Debug)]
struct Told {
    door: Door,
    error: BindError,
}

impl Stuck {
    /// Takes note of all that fails now and returns what to say of it.
    ///
    /// The search for the owner of a port goes over all processes, so it runs where it may take its time, and only for
    /// what did not fail in the same way before.
    pub(super) async fn update(&mut self, failed: Vec<(Door, BindError)>) -> Vec<Condition> {
        let mut before = std::mem::take(&mut self.0);
        for (door, error) in failed {
            let known = before.iter().position(|told| told.door == door && told.error.is_like(&error));
            let told = match known {
                Some(at) => before.swap_remove(at),
                None => {
                    let error = find_owner(error).await;
                    warn!(
                        error = crate::daemon::chain(&error),
                        "a door cannot be opened, it stays as it was"
                    );
                    Told { door, error }
                }
            };
            self.0.push(told);
        }
        self.0.iter().map(|told| Condition::of(told.door.name(), told.error.warning())).collect()
    }
}

async fn find_owner(error: BindError) -> BindError {
    let BindError::Taken { door, address, .. } = error else { return error };
    let search = tokio::task::spawn_blocking(move || PortOwner::of(address));
    // Without an answer the warning says how to look.
    let owner = tokio::time::timeout(SEARCH_LIMIT, search).await.ok().and_then(Result::ok).flatten();
    BindError::Taken { door, address, owner }
}
