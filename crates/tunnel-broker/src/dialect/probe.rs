//! Asking a backend how it is and what it has, in the way that its profile says.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;
use tracing::warn;

use super::{Listing, ProbeError, Probed, list};
use crate::exchange::{Limits, get};
use crate::loading::probe_says_loading;
use crate::profile::{HealthCheck, Lists, ModelList, Profile, Speaks, Text, VersionCheck};
use crate::upstream::Upstream;

/// Longest version that is shown, in characters: somebody else wrote it.
const LONGEST_VERSION: usize = 100;

/// What a prober keeps from one probe to the next, until one fails.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    /// Set once a server has said that it has no such path: some log each such question.
    no_health: bool,
    /// What it said when it was asked for its version, where it is asked once.
    version: Option<Option<String>>,
    /// Whether a list was longer than what counts of it: that is told once.
    is_cut: bool,
}

/// Asks a backend how it is and what it has. `declared`: the configuration names its models.
pub(crate) async fn probe(
    upstream: &Upstream,
    limits: Limits,
    declared: bool,
    habits: &mut Habits,
) -> Result<Probed, ProbeError> {
    // One that would refuse us is not asked without its secret; the answer is known.
    upstream.authorization()?;
    let profile = &*upstream.profile;
    let mut asker = Asker { upstream, profile, limits, latency: None, is_cut: false };
    if let Some(health) = profile.health.as_ref().filter(|_| !habits.no_health) {
        habits.no_health = !asker.is_healthy(health).await?;
    }
    let mut version = None;
    if let Some(check) = &profile.version {
        version = match habits.version.take().filter(|_| !check.demanded) {
            Some(known) => known,
            None => asker.version(check).await?,
        };
        habits.version = Some(version.clone());
    }
    let (mut listing, speaks) = asker.listing(declared).await?;
    if let Some(running) = &profile.running {
        asker.running(running, &mut listing).await?;
    }
    if asker.is_cut && !habits.is_cut {
        let server = &upstream.origin.shown;
        warn!(%server, counted = list::MOST_MODELS, "list of models is longer than what counts; the rest is unknown here");
    }
    habits.is_cut = asker.is_cut;
    Ok(Probed { version, latency: asker.latency.unwrap_or_default(), speaks, listing })
}

/// Asks one backend small questions.
struct Asker<'a> {
    upstream: &'a Upstream,
    profile: &'a Profile,
    limits: Limits,
    /// How long the first answer took.
    latency: Option<Duration>,
    is_cut: bool,
}

/// What became of a question for a list.
enum Answer {
    Entries(Vec<Value>),
    /// The server does not have it, or does not let us see it.
    Refused(ProbeError),
}

impl Asker<'_> {
    async fn ask(&mut self, path: &Text) -> Result<(StatusCode, Bytes), ProbeError> {
        let asked = Instant::now();
        let answer = get(self.upstream, path, &self.limits).await?;
        self.latency.get_or_insert_with(|| asked.elapsed());
        Ok(answer)
    }

    /// Tells whether the server knows the path.
    async fn is_healthy(&mut self, health: &HealthCheck) -> Result<bool, ProbeError> {
        let (status, body) = self.ask(&health.path).await?;
        if probe_says_loading(self.profile, status, &body) {
            return Err(ProbeError::Loading);
        }
        if status.is_server_error() {
            return Err(ProbeError::Status { path: health.path.clone(), status });
        }
        Ok(!status.is_client_error())
    }

    async fn version(&mut self, check: &VersionCheck) -> Result<Option<String>, ProbeError> {
        let (status, body) = self.ask(&check.path).await?;
        if !status.is_success() {
            return if check.demanded { Err(self.refused(&check.path, status)) } else { Ok(None) };
        }
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        let version = answer.as_ref().and_then(|answer| answer.get(&*check.member)).and_then(Value::as_str);
        match version {
            Some(version) => Ok(Some(version.chars().take(LONGEST_VERSION).collect())),
            None if check.demanded => Err(self.strange(&check.path)),
            None => Ok(None),
        }
    }

    async fn listing(&mut self, declared: bool) -> Result<(Listing, Speaks), ProbeError> {
        let mut listing = Listing::default();
        let profile = self.profile;
        // What it has beside the two APIs does not depend on its lists.
        let mut speaks = Speaks { other: profile.speaks.other, ..Speaks::default() };
        let every = matches!(profile.lists, Lists::Every(_));
        let mut refusal: Option<ProbeError> = None;
        let mut answered = false;
        for list in profile.lists.all() {
            match self.list(list).await? {
                Answer::Entries(entries) => {
                    answered = true;
                    speaks.add(list.api);
                    list::add(&mut listing, list, entries);
                    if !every {
                        break;
                    }
                }
                // That it wants a secret says more than that it lacks a path.
                Answer::Refused(error) => match refusal {
                    Some(ProbeError::Unauthorised { .. }) => {}
                    Some(_) if !error.is_final() => {}
                    Some(_) | None => refusal = Some(error),
                },
            }
        }
        let speaks = if every && answered { speaks } else { profile.speaks };
        match refusal.filter(|_| !answered) {
            None => Ok((listing, speaks)),
            // A server that lists nothing is fine when the configuration says what it has.
            Some(ProbeError::Status { status: StatusCode::NOT_FOUND, .. }) if declared => {
                Ok((listing, speaks))
            }
            Some(error) => Err(error),
        }
    }

    async fn list(&mut self, list: &ModelList) -> Result<Answer, ProbeError> {
        let (status, body) = self.ask(&list.path).await?;
        if probe_says_loading(self.profile, status, &body) {
            return Err(ProbeError::Loading);
        }
        Ok(match status {
            status if status.is_success() => match list::entries(list, &body) {
                Some(mut entries) => {
                    self.is_cut |= list::bound(&mut entries);
                    Answer::Entries(entries)
                }
                // LM Studio answers 200 with an error to a path that it does not know.
                None => Answer::Refused(self.strange(&list.path)),
            },
            status if status.is_client_error() => Answer::Refused(self.refused(&list.path, status)),
            status => return Err(ProbeError::Status { path: list.path.clone(), status }),
        })
    }

    async fn running(&mut self, running: &ModelList, listing: &mut Listing) -> Result<(), ProbeError> {
        match self.ask(&running.path).await? {
            (StatusCode::NOT_FOUND, _) => Ok(()),
            (status, body) if status.is_success() => {
                let mut entries = list::entries(running, &body).ok_or_else(|| self.strange(&running.path))?;
                self.is_cut |= list::bound(&mut entries);
                list::mark(listing, running, entries);
                Ok(())
            }
            (status, _) => Err(self.refused(&running.path, status)),
        }
    }

    fn refused(&self, path: &Text, status: StatusCode) -> ProbeError {
        let path = path.clone();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let step = match self.upstream.credential() {
                    Some(credential) => format!(
                        "store a secret that it takes: tunnelctl connections credential set {}",
                        credential.name()
                    ),
                    None => {
                        "name a stored secret as its credential under connections in the config".to_owned()
                    }
                };
                ProbeError::Unauthorised { path, status, step }
            }
            status => ProbeError::Status { path, status },
        }
    }

    fn strange(&self, path: &Text) -> ProbeError {
        ProbeError::Strange { path: path.clone(), server: self.profile.product.clone() }
    }
}
