//! The keeper: one task that owns the token, finds it, renews it and tells who needs it.

mod outlets;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tunnel_api::Warning;
use tunnel_api::auth::StoredIn;

pub(super) use self::outlets::Outlets;
use self::outlets::now;
use super::account::Account;
use super::advice;
use super::call::Way;
use super::credentials::{Credentials, Lease};
use super::handle::{ChangeError, Order, Removed};
use super::oauth::{self, Issued, RefreshError};
use super::schedule::Schedule;
use super::store::StoreError;
use super::stores::{Stores, Which};
use super::token::TokenError;
use super::token_file::TokenFile;
use crate::tunnel::Settings;

/// Owns the login and the places where it is kept.
pub(super) struct TokenKeeper {
    source: Source,
    settings: watch::Receiver<Arc<Settings>>,
    account: Account,
    /// What is in force.
    token: Result<Held, TokenError>,
    /// Of the newest token.
    version: u64,
    /// It was renewed, and no place took it.
    unsaved: bool,
    schedule: Schedule,
    refreshing: Option<BoxFuture<'static, Result<Issued, RefreshError>>>,
    /// Why it was not renewed.
    trouble: Option<Warning>,
    /// Ends when a locked place is worth another look.
    recovery: Option<BoxFuture<'static, ()>>,
    looked: Instant,
    ears: Ears,
    outlets: Outlets,
}

/// Where the token comes from.
pub(super) enum Source {
    /// A file that the user named: nothing else counts.
    TokenFile(TokenFile),
    Stores(Stores),
}

/// Where the keeper hears from.
pub(super) struct Ears {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) nudge: Arc<Notify>,
    pub(super) soft: CancellationToken,
}

#[derive(Debug)]
struct Held {
    login: Credentials,
    place: StoredIn,
}

/// How often a named token file is looked at: one question to the file system.
const TOKEN_FILE_POLL: Duration = Duration::from_secs(2);
/// Time after which places that failed are looked at again, where nothing calls for it earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Longest wait at shutdown for a renewal that is under way: the server may have used the old token up by now.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

impl TokenKeeper {
    pub(super) fn new(
        source: Source,
        mut settings: watch::Receiver<Arc<Settings>>,
        ears: Ears,
        outlets: Outlets,
    ) -> Self {
        let account = Account::of(&settings.borrow_and_update().relay);
        Self {
            source,
            settings,
            account,
            token: Err(TokenError::Looking),
            version: 0,
            unsaved: false,
            schedule: Schedule::new(&mut rand::rng()),
            refreshing: None,
            trouble: None,
            recovery: None,
            looked: Instant::now(),
            ears,
            outlets,
        }
    }

    pub(super) async fn run(mut self) {
        let soft = self.ears.soft.clone();
        self.look(Which::All, &soft).await;
        while !soft.is_cancelled() {
            self.refresh_if_due();
            let pause = self.pause();
            tokio::select! {
                () = soft.cancelled() => {}
                Some(order) = self.ears.orders.recv() => self.obey(order, &soft).await,
                Ok(()) = self.settings.changed() => self.take_settings(&soft).await,
                outcome = running(&mut self.refreshing) => self.refreshed(outcome).await,
                () = running(&mut self.recovery) => {
                    self.recovery = None;
                    self.look(Which::Failed, &soft).await;
                }
                () = self.ears.nudge.notified() => self.look(Which::Failed, &soft).await,
                () = paused(pause) => if self.is_time_to_look() {
                    self.look(Which::Failed, &soft).await;
                }
            }
        }
        if self.refreshing.is_some()
            && let Ok(outcome) = tokio::time::timeout(FINISH_LIMIT, running(&mut self.refreshing)).await
        {
            self.refreshed(outcome).await;
        }
    }

    /// Looks at the places, unless the daemon ends.
    async fn look(&mut self, which: Which, soft: &CancellationToken) {
        self.looked = Instant::now();
        match &mut self.source {
            Source::TokenFile(file) => match tokio::select! {
                // What hangs, such as a file on a server that is gone, keeps nothing else from going on.
                news = file.news() => news,
                () = soft.cancelled() => return,
            } {
                None => return,
                Some(Ok(token)) => {
                    let login = Credentials::bare(token, now());
                    self.put_in_force(login, StoredIn::TokenFile);
                }
                Some(Err(error)) => self.token = Err(error),
            },
            Source::Stores(_) if self.unsaved => self.save_again().await,
            Source::Stores(stores) => {
                tokio::select! {
                    () = stores.look(&self.account, which) => {}
                    () = soft.cancelled() => return,
                }
                if matches!(self.token, Err(TokenError::Removed)) && stores.found().is_some() {
                    // Its place could not be reached when it was removed.
                    match stores.remove(&self.account).await {
                        Ok(()) => info!("the rest of the removed token is gone"),
                        Err(error) => debug!(%error, "the removed token is still in its store"),
                    }
                }
                self.recovery = stores.recovered();
                match stores.found() {
                    _ if matches!(self.token, Err(TokenError::Removed)) => {}
                    Some((place, login)) => {
                        let known = self.token.as_ref().is_ok_and(|held| held.login.same_token(&login));
                        if known {
                            self.token = Ok(Held { login, place });
                        } else {
                            self.put_in_force(login, place);
                        }
                    }
                    // A place that cannot be read now, as after it failed to take another login, takes nothing away.
                    None if self.token.is_ok() && stores.failures().next().is_some() => {}
                    None => self.token = Err(missing(stores)),
                }
            }
        }
        self.publish();
    }

    fn is_time_to_look(&self) -> bool {
        self.look_after().is_some_and(|after| self.looked.elapsed() >= after)
    }

    fn look_after(&self) -> Option<Duration> {
        match &self.source {
            Source::TokenFile(_) => Some(TOKEN_FILE_POLL),
            Source::Stores(stores) => {
                (self.unsaved || stores.failures().next().is_some()).then_some(LOOK_AGAIN)
            }
        }
    }

    /// How long there is nothing to do; `None` for ever.
    fn pause(&self) -> Option<Duration> {
        let look = self.look_after().map(|after| after.saturating_sub(self.looked.elapsed()));
        // What is under way says itself when it is done.
        let refresh = if self.refreshing.is_none() { self.refresh_after() } else { None };
        look.into_iter().chain(refresh).min()
    }

    fn refresh_after(&self) -> Option<Duration> {
        let login = &self.token.as_ref().ok()?.login;
        login.renewal.as_ref()?;
        self.schedule.wait(login.lease, now(), Instant::now().into_std())
    }

    fn refresh_if_due(&mut self) {
        if self.refreshing.is_some() || self.refresh_after() != Some(Duration::ZERO) {
            return;
        }
        let Some(renewal) = self.token.as_ref().ok().and_then(|held| held.login.renewal.clone()) else {
            return;
        };
        debug!(host = %renewal.token_endpoint, "renewing the token");
        let way = self.way();
        self.refreshing = Some(Box::pin(async move { oauth::refresh(&renewal, &way).await }));
    }

    async fn refreshed(&mut self, outcome: Result<Issued, RefreshError>) {
        self.refreshing = None;
        let (Ok(held), Source::Stores(stores)) = (&self.token, &mut self.source) else { return };
        match outcome {
            Ok(renewed) => {
                let login = held.login.clone().renewed(renewed, now());
                let lease = login.lease;
                // Stored first: once the new token is used, the old refresh token may be void.
                let saved = stores.save(&self.account, &login).await;
                self.recovery = stores.recovered();
                self.unsaved = saved.is_err();
                if let Err(error) = &saved {
                    debug!(%error, "the renewed token was not stored");
                }
                info!(stored = saved.is_ok(), "token renewed");
                self.put_in_force(login, saved.unwrap_or(StoredIn::None));
                self.schedule.renewed(lease, Instant::now().into_std(), &mut rand::rng());
            }
            Err(error) => {
                if error.is_final() {
                    self.schedule.give_up();
                } else {
                    self.schedule.failed(error.retry_after(), Instant::now().into_std(), &mut rand::rng());
                }
                self.trouble = Some(advice::not_renewed(&error));
            }
        }
        self.publish();
    }

    async fn save_again(&mut self) {
        let (Ok(held), Source::Stores(stores)) = (&mut self.token, &mut self.source) else { return };
        if let Ok(place) = stores.save(&self.account, &held.login).await {
            held.place = place;
            self.unsaved = false;
        }
        self.recovery = stores.recovered();
    }

    async fn obey(&mut self, order: Order, soft: &CancellationToken) {
        // Who orders something after a change of the relay means the relay of now.
        self.take_settings(soft).await;
        // Who does not wait for the answer does not need it.
        match order {
            Order::Set { login, account, answer } => {
                let set = match account.filter(|account| *account != self.account) {
                    Some(other) => self.set_aside(&other, *login).await,
                    None => self.set(*login).await,
                };
                let _gone = answer.send(set);
            }
            Order::Remove(answer) => {
                let removed = self.remove().await;
                let _gone = answer.send(removed);
            }
        }
    }

    async fn set(&mut self, mut login: Credentials) -> Result<StoredIn, ChangeError> {
        let stores = self.stores()?;
        stores.date(&mut login);
        let account = self.account.clone();
        let stores = self.stores()?;
        let saved = stores.save(&account, &login).await;
        self.recovery = stores.recovered();
        if let Ok(place) = saved {
            info!(stored_in = %place, "token stored");
            self.unsaved = false;
            self.put_in_force(login, place);
        }
        self.publish();
        saved
    }

    /// Stores the login of a relay that is not in force: it is found when that relay comes.
    async fn set_aside(&mut self, account: &Account, login: Credentials) -> Result<StoredIn, ChangeError> {
        let place = self.stores()?.save_aside(account, login).await?;
        info!(stored_in = %place, "token of another relay stored");
        Ok(place)
    }

    async fn remove(&mut self) -> Result<Removed, ChangeError> {
        let account = self.account.clone();
        self.stores()?.remove(&account).await?;
        self.refreshing = None;
        self.unsaved = false;
        self.trouble = None;
        info!("token removed");
        let login = std::mem::replace(&mut self.token, Err(TokenError::Removed)).ok().map(|held| held.login);
        self.publish();
        Ok(Removed { login, way: self.way() })
    }

    fn stores(&mut self) -> Result<&mut Stores, ChangeError> {
        match &mut self.source {
            Source::Stores(stores) => Ok(stores),
            Source::TokenFile(file) => Err(ChangeError::TokenFile(file.path.clone())),
        }
    }

    async fn take_settings(&mut self, soft: &CancellationToken) {
        let account = Account::of(&self.settings.borrow_and_update().relay);
        if account == self.account {
            return;
        }
        self.account = account;
        if let Source::Stores(_) = self.source {
            // The login before is another relay's.
            self.refreshing = None;
            self.unsaved = false;
            self.trouble = None;
            self.token = Err(TokenError::Looking);
            self.publish();
            self.look(Which::All, soft).await;
        }
    }

    fn way(&self) -> Way {
        Way::of(&self.settings.borrow())
    }

    fn put_in_force(&mut self, login: Credentials, place: StoredIn) {
        self.version += 1;
        // What is under way is for the login before.
        self.refreshing = None;
        self.trouble = None;
        self.schedule = Schedule::new(&mut rand::rng());
        self.token = Ok(Held { login, place });
    }
}

impl Held {
    fn is_over(&self, now: i64) -> bool {
        self.login.lease.is_some_and(|Lease { expires_at, .. }| expires_at <= now)
    }
}

impl Credentials {
    /// The same login with the token that was got for it at `now`.
    fn renewed(self, renewed: Issued, now: i64) -> Self {
        let Issued { access_token, refresh_token, expires_in } = renewed;
        let renewal = self.renewal.map(|mut renewal| {
            renewal.refresh_token = refresh_token.unwrap_or(renewal.refresh_token);
            renewal
        });
        let lease = Lease::fresh(&access_token, expires_in, now);
        let stored_at = now.max(self.stored_at.saturating_add(1));
        Self { access_token, renewal, lease, stored_at, ..self }
    }
}

/// Why there is no token, where no place has one.
fn missing(stores: &Stores) -> TokenError {
    let telling = |error: &&Arc<StoreError>| !error.is_absence();
    stores.failures().find(telling).map_or(TokenError::None, |error| TokenError::Store(Arc::clone(error)))
}

/// Waits for what is under way; for ever without anything.
async fn running<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn paused(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
