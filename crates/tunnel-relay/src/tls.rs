//! TLS on the public address: which certificate is shown, and where it comes from.

mod files;
mod validity;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use serde::Serialize;
use tokio::sync::watch;
use tracing::info;

pub(crate) use self::validity::Validity;
use crate::config::TlsSettings;
use crate::relay::Shared;

/// The protocol of an authority that checks a name (RFC 8737).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// How often files and settings are looked at, besides when somebody says that they changed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("could not read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// Everybody on the machine can read the key.
    #[error(
        "the private key {} can be read by every user of this machine (mode {mode:o}); forbid it with: chmod 600 {}",
        .path.display(),
        .path.display()
    )]
    KeyForAll {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file holds something else.
    #[error("{} is not PEM with {expected}: {detail}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key do not go together, or the key is of a kind that is not known.
    #[error(
        "the certificate {} cannot be used with the key {}; the first certificate of the file must be the server's own, \
         made for this key",
        .certificate.display(),
        .key.display()
    )]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library says.
        #[source]
        source: rustls::Error,
    },
    /// The certificate's life is over.
    #[error("the certificate {} has ended, at {not_after}; put a new one in its place", .certificate.display())]
    Ended {
        /// The chain.
        certificate: PathBuf,
        /// When.
        not_after: jiff::Timestamp,
    },
    /// The cryptographic library does not work.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The program was built without it.
    #[error(
        "this tunnel-relay was built without ACME; give it files in [tls], or build it with the feature acme"
    )]
    NoAcme,
}

/// What is to be known of the certificate, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsStatus {
    /// `off`, `files` or `acme`.
    pub source: &'static str,
    /// End of the certificate's life, in seconds since 1970; none where there is none yet.
    pub not_after: Option<u64>,
    /// Why there is no certificate, or no newer one.
    pub fault: Option<String>,
    /// When the next order is due, in seconds since 1970.
    pub next_order: Option<u64>,
}

/// TLS as it is spoken now.
#[derive(Debug)]
pub(crate) struct Tls {
    is_on: AtomicBool,
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    status: Mutex<TlsStatus>,
    reloads: watch::Sender<()>,
    #[cfg(feature = "acme")]
    pub(crate) data_dir: PathBuf,
}

/// Chooses the certificate of a handshake.
#[derive(Default)]
struct Shown {
    current: ArcSwapOption<CertifiedKey>,
    /// The answers to an authority that is checking names.
    answers: ArcSwap<Vec<Answer>>,
}

/// What an authority is to find at a name.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) proof: Arc<CertifiedKey>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let for_authority = hello.alpn().is_some_and(|mut names| names.any(|name| name == ACME_TLS));
        if !for_authority {
            return self.current.load_full();
        }
        let asked = hello.server_name()?;
        let answers = self.answers.load();
        answers
            .iter()
            .find(|answer| answer.name.eq_ignore_ascii_case(asked))
            .map(|answer| Arc::clone(&answer.proof))
    }
}

impl Tls {
    /// Sets TLS up. With files, they must be good: a relay that starts without its certificate would be of no use. With
    /// ACME the first certificate may take a while, and [`keep`] gets it.
    pub(crate) fn open(settings: Option<&TlsSettings>, data_dir: &Path) -> Result<Self, TlsError> {
        #[cfg(not(feature = "acme"))]
        let _ = data_dir;
        let shown = Arc::new(Shown::default());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = [&b"h2"[..], b"http/1.1", ACME_TLS].map(<[u8]>::to_vec).into();
        // Callers that come again are spared the signature; nothing is kept for them here.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
        let tls = Self {
            is_on: AtomicBool::new(settings.is_some()),
            config: Arc::new(config),
            shown,
            status: Mutex::default(),
            reloads: watch::Sender::new(()),
            #[cfg(feature = "acme")]
            data_dir: data_dir.to_owned(),
        };
        match settings {
            None => tls.turn_off(),
            Some(TlsSettings::Files { certificate, key }) => {
                let (pair, validity) = files::load(certificate, key)?;
                tls.show("files", pair, validity);
            }
            Some(TlsSettings::Acme(_)) if cfg!(feature = "acme") => tls.note(|status| status.source = "acme"),
            Some(TlsSettings::Acme(_)) => return Err(TlsError::NoAcme),
        }
        Ok(tls)
    }

    /// Returns what a handshake is done with; `None` where plain HTTP is spoken.
    pub(crate) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.is_on.load(Ordering::Relaxed).then(|| Arc::clone(&self.config))
    }

    /// Says that files or settings may have changed.
    pub(crate) fn reload(&self) {
        self.reloads.send_replace(());
    }

    pub(crate) fn status(&self) -> TlsStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut TlsStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows a certificate from now on.
    pub(crate) fn show(&self, source: &'static str, pair: CertifiedKey, validity: Option<Validity>) {
        let not_after = validity.map(|validity| validity.not_after);
        let before = self.shown.current.load_full();
        if before.is_none_or(|before| before.cert != pair.cert) {
            info!(source, not_after, "certificate in force");
        }
        self.shown.current.store(Some(Arc::new(pair)));
        self.note(|status| *status = TlsStatus { source, not_after, ..TlsStatus::default() });
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Answers an authority that checks names, with what is added to the guard and until that is dropped.
    #[cfg(feature = "acme")]
    pub(crate) fn answering(&self) -> Answering<'_> {
        Answering(self)
    }

    fn turn_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        self.note(|status| *status = TlsStatus { source: "off", ..TlsStatus::default() });
    }
}

/// The answers to challenges stand.
#[cfg(feature = "acme")]
pub(crate) struct Answering<'a>(&'a Tls);

#[cfg(feature = "acme")]
impl Answering<'_> {
    pub(crate) fn add(&self, answer: Answer) {
        let mut answers = self.0.shown.answers.load().to_vec();
        answers.push(answer);
        self.0.shown.answers.store(Arc::new(answers));
    }
}

#[cfg(feature = "acme")]
impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.shown.answers.store(Arc::default());
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Keeps the certificate current, and follows the settings, until the relay ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        let wanted = shared.settings().edge.tls.clone();
        let keeping = async {
            match &wanted {
                None => {
                    shared.tls.turn_off();
                    std::future::pending().await
                }
                Some(TlsSettings::Files { certificate, key }) => {
                    files::keep(&shared.tls, certificate, key).await;
                }
                #[cfg(feature = "acme")]
                Some(TlsSettings::Acme(settings)) => crate::acme::keep(&shared.tls, settings).await,
                #[cfg(not(feature = "acme"))]
                Some(TlsSettings::Acme(_)) => {
                    tracing::warn!(error = %TlsError::NoAcme, "the certificate stays as it is");
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = keeping => {}
            () = other_settings(&shared, wanted.as_ref()) => {}
            () = shared.hard.cancelled() => return,
        }
    }
}

/// Waits until the settings want something else.
async fn other_settings(shared: &Shared, wanted: Option<&TlsSettings>) {
    let mut looks = Looks::new(&shared.tls);
    while shared.settings().edge.tls.as_ref() == wanted {
        looks.next().await;
    }
}

/// The times to look whether something has changed.
struct Looks {
    reloads: watch::Receiver<()>,
}

impl Looks {
    fn new(tls: &Tls) -> Self {
        Self { reloads: tls.reloads.subscribe() }
    }

    /// Waits for the next one. Cannot miss a reload.
    async fn next(&mut self) {
        // An error means that there is no relay any more; its tasks are ending.
        let _reload_or_time = tokio::time::timeout(LOOK_EVERY, self.reloads.changed()).await;
    }
}
