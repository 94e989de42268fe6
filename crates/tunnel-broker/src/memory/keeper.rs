//! Keeps models in memory: one task, one load at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::order::{Seat, able, fulfil, seats};
use super::plan::{Plan, Seen};
use super::{KeepAlive, KeptWarm, WarmState};
use crate::backend::Backend;
use crate::dialect::memory::Wish;
use crate::shared::Shared;
use crate::status::BackendStatus;
use crate::table::Table;

/// Runs until `shutdown`.
pub(crate) async fn keep(shared: Arc<Shared>, shutdown: CancellationToken) {
    shutdown.run_until_cancelled_owned(keeping(&shared)).await;
}

async fn keeping(shared: &Arc<Shared>) {
    let mut changes = shared.status.subscribe();
    let mut plan = Plan::default();
    // By the configured name.
    let mut errors: HashMap<String, String> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let table = shared.table.load_full();
        let wanted = &table.settings.keep_warm;
        plan.retain(wanted);
        errors.retain(|model, _| wanted.contains(model));
        let now = Instant::now();
        let looks: Vec<Look> = wanted.iter().map(|model| Look::at(&table, model)).collect();
        let mut look_again: Option<Instant> = None;
        let mut due = None;
        for look in &looks {
            if look.is_loaded() {
                errors.remove(look.model);
            }
            match plan.judge(look.model, look.seen, now) {
                Ok(()) => {
                    due.get_or_insert(look);
                }
                Err(at) => look_again = look_again.into_iter().chain(at).min(),
            }
        }
        if let Some((look, seat)) = due.and_then(|look| Some((look, look.seat.as_ref()?))) {
            show(shared, &looks, (!look.is_loaded()).then_some(look.model), &errors);
            let keep_alive = KeepAlive::Seconds(Plan::KEEP_ALIVE.as_secs().try_into().unwrap_or(i64::MAX));
            let outcome = tokio::select! {
                outcome = fulfil(shared, seat, Wish::Load(Some(&keep_alive))) => outcome,
                () = unwanted(shared, &mut changes, look.model, seat) => continue,
            };
            plan.tried(look.model, outcome.is_ok(), Instant::now());
            match outcome {
                Ok(_) => drop(errors.remove(look.model)),
                Err(error) => {
                    // Once, not with each attempt.
                    if errors.insert(look.model.to_owned(), error.to_string()).is_none() {
                        let (backend, model) = (&seat.backend.config.id, &*seat.name.text);
                        warn!(backend = %backend, model, error = error.code(), "model cannot be kept warm");
                    }
                }
            }
            continue;
        }
        show(shared, &looks, None, &errors);
        let later = async {
            match look_again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cannot fail: the sender lives as long as `shared`.
            _ = changes.changed() => {}
            () = later => {}
        }
    }
}

/// Waits until a model is not to be kept any more, or its backend is gone. A load takes minutes, and must not hold up a
/// new configuration for so long.
async fn unwanted(
    shared: &Shared,
    changes: &mut watch::Receiver<Arc<Vec<BackendStatus>>>,
    model: &str,
    seat: &Seat,
) {
    let is_unwanted = |table: &Table| {
        let is_its = |backend: &Arc<Backend>| Arc::ptr_eq(&backend.upstream, &seat.backend.upstream);
        !table.settings.keep_warm.iter().any(|kept| kept == model) || !table.backends.iter().any(is_its)
    };
    // Cannot fail: the sender lives as long as `shared`.
    drop(changes.wait_for(|_| is_unwanted(&shared.table.load())).await);
}

/// How one model stands at a moment.
struct Look<'a> {
    model: &'a str,
    seen: Seen,
    /// Where it is in memory, or would be loaded.
    seat: Option<Seat>,
    why: Option<String>,
}

impl<'a> Look<'a> {
    fn at(table: &Table, model: &'a str) -> Self {
        let all = match seats(table, model, None) {
            Ok(all) => able(all, Wish::Load(None)),
            Err(error) => {
                return Self { model, seen: Seen::Nowhere, seat: None, why: Some(error.to_string()) };
            }
        };
        // A backend whose last probe failed may be about to fall, or warming.
        let well = |seat: &&Seat| seat.backend.is_up() && !seat.backend.report.failing;
        let policy = table.settings.routing_policy;
        // On the side that is asked first it may be in memory anywhere; else it is loaded where it would be asked for first.
        let rank = |seat: &&Seat| (seat.is_elsewhere(policy), !seat.loaded, seat.backend.config.priority);
        let Some(seat) = all.iter().filter(well).min_by_key(rank) else {
            let ids: Vec<&str> = all.iter().map(|seat| seat.backend.config.id.as_str()).collect();
            let why = format!("{} cannot be asked at the moment", ids.join(", "));
            return Self { model, seen: Seen::Nowhere, seat: None, why: Some(why) };
        };
        let works = seat.backend.upstream.in_flight.load(Ordering::Relaxed) > 0;
        let seen = match (seat.loaded, works) {
            (true, _) => Seen::Loaded,
            (false, true) => Seen::Busy,
            (false, false) => Seen::Absent,
        };
        let why = (seen == Seen::Busy).then(|| "its connection is at work".to_owned());
        Self { model, seen, seat: Some(seat.clone()), why }
    }

    fn is_loaded(&self) -> bool {
        self.seen == Seen::Loaded
    }
}

fn show(shared: &Shared, looks: &[Look<'_>], loading: Option<&str>, errors: &HashMap<String, String>) {
    let shown = looks.iter().map(|look| {
        let error = errors.get(look.model);
        let (state, error) = match look.seen {
            _ if loading == Some(look.model) => (WarmState::Loading, error.cloned()),
            Seen::Loaded => (WarmState::Loaded, None),
            Seen::Absent | Seen::Busy if error.is_some() => (WarmState::Failed, error.cloned()),
            Seen::Absent | Seen::Busy | Seen::Nowhere => (WarmState::Waiting, look.why.clone()),
        };
        let connection = look.seat.as_ref().map(|seat| seat.backend.config.id.clone());
        KeptWarm { model: look.model.to_owned(), connection, state, error }
    });
    let shown: Vec<KeptWarm> = shown.collect();
    shared.kept_warm.send_if_modified(|kept| {
        let differs = **kept != shown;
        if differs {
            *kept = Arc::new(shown);
        }
        differs
    });
}
