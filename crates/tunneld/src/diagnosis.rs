//! What the daemon finds when it looks at itself and its surroundings: `POST /api/diagnosis`.
//!
//! The relay is looked at on the way that the tunnel takes: the same proxy, the same certificates, the same token. What
//! can be looked at by itself is looked at at the same time, and everything has a limit.

mod certificate;
mod check;
mod connections;
mod inside;
mod login;
mod relay;
mod steps;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tunnel_api::{Check, Diagnosis, Status};
use tunnel_broker::{BackendStatus, Broker};

use crate::config::ConfigState;
use crate::joint::Joint;
use crate::secrets::TokenHandle;
use crate::tunnel::{Settings, TunnelHandle};
use inside::Room;

/// What is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Subjects {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) config: watch::Receiver<Arc<ConfigState>>,
    pub(crate) settings: watch::Receiver<Arc<Settings>>,
    pub(crate) broker: Broker,
    pub(crate) tunnel: TunnelHandle,
    pub(crate) token: TokenHandle,
    /// None where nothing is kept.
    pub(crate) state_dir: Option<PathBuf>,
}

/// Looks. Clones share what runs.
#[derive(Debug, Clone)]
pub(crate) struct Examiner {
    subjects: Subjects,
    running: Arc<Joint<Diagnosis>>,
}

/// Longest wait for what a disk says of itself: it may be far away.
const DISK_LIMIT: Duration = Duration::from_secs(2);

impl Examiner {
    pub(crate) fn new(subjects: Subjects) -> Self {
        Self { subjects, running: Arc::default() }
    }

    /// Looks at everything; takes some 13 seconds at most. Who asks while another one waits shares the answer.
    pub(crate) async fn examine(&self) -> Diagnosis {
        self.running.run(self.subjects.clone().examine()).await
    }
}

impl Subjects {
    async fn examine(self) -> Diagnosis {
        let (mut backends, relay, room) = tokio::join!(self.probe(), self.relay(), self.room());
        // Afterwards: a probe may have changed it.
        let status = Arc::clone(&self.status.borrow());
        let config = Arc::clone(&self.config.borrow());
        let auth = self.token.status(Timestamp::now());
        let mut checks = vec![
            inside::config(&config.status),
            inside::ports(&config.config, &status.warnings),
            inside::disk(room, &status.warnings),
            inside::keyring(&auth, &status.warnings),
        ];
        connections::explain(&mut backends, &status);
        checks.extend(connections::checks(&backends));
        checks.extend(inside::plugins(&status.warnings));
        checks.extend(relay);
        Diagnosis { checks, timestamp: Timestamp::now() }
    }

    /// Probes all model servers at the same time.
    async fn probe(&self) -> Vec<BackendStatus> {
        let known = self.broker.snapshot();
        let probes = known.iter().map(|backend| self.broker.probe(&backend.id));
        // One that was taken out meanwhile is not looked at any more.
        join_all(probes).await.into_iter().flatten().collect()
    }

    async fn relay(&self) -> Vec<Check> {
        let settings = Arc::clone(&self.settings.borrow());
        if !settings.enabled {
            return relay::switched_off();
        }
        let token = match self.token.current(&settings.relay) {
            Ok(token) => token,
            // Nor is the relay asked here: it may be one that nobody chose.
            Err(error) => return relay::without_token(login::absent(&error)),
        };
        let (walk, round_trip) =
            tokio::join!(steps::walk(&settings, Some(&token.secret)), self.tunnel.round_trip());
        let report = self.tunnel.report();
        let now = Timestamp::now();
        let auth = self.token.status(now);
        let login = login::Login { auth: &auth, relays_word: walk.token_word() };
        let mut checks = vec![login::token(&login, &report, now)];
        checks.extend(relay::checks(&walk, &settings, &report, round_trip));
        checks
    }

    async fn room(&self) -> Room {
        let Some(directory) = self.state_dir.clone() else { return Room::Nowhere };
        let path = directory.clone();
        let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path));
        match tokio::time::timeout(DISK_LIMIT, asked).await {
            Ok(Ok(Ok(disk))) => Room::Free { directory, bytes: disk.f_bavail.saturating_mul(disk.f_frsize) },
            Ok(Ok(Err(error))) => Room::Unknown { directory, why: error.to_string() },
            Ok(Err(_)) | Err(_) => Room::Unknown { directory, why: "the disk does not answer".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests;
