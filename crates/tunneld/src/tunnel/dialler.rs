//! One attempt to reach the relay, with the token that is there at that moment.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tunnel_api::Warning;
use tunnel_transport::{Connector, ConnectorConfig, Desktop, DialError, Retry, Session, SessionId, TlsError};

use super::advice;
use super::settings::Settings;
use crate::secrets::{Token, TokenError, TokenHandle, TokenTimes};

/// Dials and resumes with one version of the settings. Clones share the TLS set-up.
#[derive(Debug, Clone)]
pub(super) struct Dialler {
    pub(super) settings: Arc<Settings>,
    token: TokenHandle,
    /// Made with the first dial: the system's certificates are a few hundred files.
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    NoToken(TokenError),
    NoTls(TlsError),
    Dial { error: DialError, times: TokenTimes, token: u64 },
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing to dial with until there is a token.
    AwaitToken,
    /// The relay's no: it holds until a new token, a config change or a start.
    Refused,
    /// Another daemon has the device: it holds until a config change or a start.
    TakenOver,
    /// As [`Retry`] says.
    Retry(Retry),
}

impl Dialler {
    pub(super) fn new(settings: Arc<Settings>, token: TokenHandle) -> Self {
        Self { settings, token, tls: Arc::default() }
    }

    /// Dials for a new session: beside another one of ours, or taking over what is there. Returns it with the version
    /// of the token that was shown, which may be another one by then.
    pub(super) async fn dial(&self, beside: Option<SessionId>) -> Result<(Desktop, u64), Failure> {
        let attempt = self.attempt().await?;
        let dialled = match beside {
            Some(beside) => attempt.connector.migrate(beside).await,
            None => attempt.connector.dial().await,
        };
        dialled.map(|desktop| (desktop, attempt.token)).map_err(|error| attempt.failed(error))
    }

    /// Gives a detached session a new socket.
    pub(super) async fn resume(&self, session: &Session) -> Result<(), Failure> {
        let attempt = self.attempt().await?;
        attempt.connector.resume(session).await.map_err(|error| attempt.failed(error))
    }

    async fn attempt(&self) -> Result<Attempt, Failure> {
        let Token { secret, version } = self.token.current(&self.settings.relay).map_err(Failure::NoToken)?;
        let times = TokenTimes::of(&secret);
        let tls = Arc::clone(self.tls.get_or_try_init(|| tls(&self.settings)).await.map_err(Failure::NoTls)?);
        let connector = Connector::new(ConnectorConfig {
            relay: self.settings.relay.clone(),
            device: self.settings.device.clone(),
            token: secret,
            agent: concat!("tunneld/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: self.settings.connect_timeout,
            tls,
            proxy: self.settings.proxy.clone(),
        });
        Ok(Attempt { connector, times, token: version })
    }
}

/// Returns what TLS with the relay of `settings` is begun with. Made anew each time.
pub(crate) async fn tls(settings: &Settings) -> Result<Arc<ClientConfig>, TlsError> {
    if !settings.relay.is_tls() {
        // A relay on this machine: no certificate is looked at, so none need be in memory.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            // Cannot fail: the provider has the suites of both versions.
            .expect("TLS 1.2 and 1.3 are available")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        return Ok(Arc::new(config));
    }
    let ca_file = settings.ca_file.clone();
    match tokio::task::spawn_blocking(move || tunnel_transport::tls_config(ca_file.as_deref())).await {
        Ok(tls) => tls,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

struct Attempt {
    connector: Connector,
    times: TokenTimes,
    token: u64,
}

impl Attempt {
    fn failed(&self, error: DialError) -> Failure {
        Failure::Dial { error, times: self.times, token: self.token }
    }
}

impl Failure {
    pub(super) fn next(&self) -> Next {
        match self {
            Self::NoToken(_) => Next::AwaitToken,
            // The file may be mended at any time.
            Self::NoTls(_) => Next::Retry(Retry::Backoff),
            Self::Dial { error: DialError::Replaced { .. }, .. } => Next::TakenOver,
            Self::Dial { error, .. } => match error.retry() {
                Retry::Never => Next::Refused,
                retry @ (Retry::Fresh | Retry::After(_) | Retry::Backoff) => Next::Retry(retry),
            },
        }
    }

    /// The version of the token that was shown; `None` where none was.
    pub(super) fn token(&self) -> Option<u64> {
        match self {
            Self::NoToken(_) | Self::NoTls(_) => None,
            Self::Dial { token, .. } => Some(*token),
        }
    }

    pub(super) fn advice(&self) -> Warning {
        match self {
            Self::NoToken(error) => advice::no_token(error),
            Self::NoTls(error) => advice::no_tls(error),
            Self::Dial { error, times, .. } => advice::dial(error, *times, jiff::Timestamp::now()),
        }
    }
}
