//! The certificate that is shown to the network.
//!
//! The files are looked at each time that the configuration is, at least twice a minute; so a renewed certificate is
//! taken over without anybody's doing. A pair that cannot be used never turns into plain HTTP.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio_rustls::TlsAcceptor;
use tracing::info;
use tunnel_api::config::LanGateway;

/// Longest file that is read. Chains have a few KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What connections from the network are spoken to in.
#[derive(Clone)]
pub(super) enum Speaks {
    /// HTTP as it is.
    Plain,
    /// HTTP within TLS.
    Tls(TlsAcceptor),
    /// Nothing: TLS is wanted, and there is no certificate.
    Nothing,
}

/// The certificate in force; shared by the door that changes it and the loop that accepts.
pub(super) struct LanTls {
    speaks: ArcSwap<Speaks>,
    /// What callers compare the door's name with.
    certificate: ArcSwapOption<CertificateDer<'static>>,
    /// The files as they were read last.
    seen: Mutex<Option<Seen>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    paths: [PathBuf; 2],
    stamps: [Option<Stamp>; 2],
    fault: Option<String>,
}

/// Tells one state of a file from another. The mode counts, too: that is how a key is mended that everybody could read.
type Stamp = (u64, i64, i64, u64, u32);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
enum TlsFault {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is longer than {MAX_FILE_BYTES} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error(
        "the private key {} can be read by every user of this machine; forbid it with: chmod 600 {}",
        .path.display(), .path.display()
    )]
    KeyForAll { path: PathBuf },
    #[error("{} is not PEM with {expected}", .path.display())]
    Pem { path: PathBuf, expected: &'static str },
    #[error("the certificate {} cannot be used with its key: {source}", .path.display())]
    Pair { path: PathBuf, source: rustls::Error },
}

impl Default for LanTls {
    fn default() -> Self {
        Self {
            speaks: ArcSwap::from_pointee(Speaks::Nothing),
            certificate: ArcSwapOption::empty(),
            seen: Mutex::default(),
        }
    }
}

impl LanTls {
    pub(super) fn speaks(&self) -> Speaks {
        Speaks::clone(&self.speaks.load())
    }

    /// Tells whether it is as `before`, but for the certificate.
    pub(super) fn speaks_like(&self, before: &Speaks) -> bool {
        std::mem::discriminant(&**self.speaks.load()) == std::mem::discriminant(before)
    }

    /// Tells whether anything can be said to who connects.
    pub(super) fn is_ready(&self) -> bool {
        !matches!(**self.speaks.load(), Speaks::Nothing)
    }

    /// Returns the name or address under which the certificate is good, of those by which the door is addressed: what it is
    /// called in the configuration, its address, or what this machine is called. None when it is good under none of them.
    pub(super) fn name_of(&self, hosts: &[String], address: IpAddr) -> Option<String> {
        let certificate = self.certificate.load_full()?;
        let certificate = ParsedCertificate::try_from(&*certificate).ok()?;
        let machine = crate::config::hostname().to_lowercase();
        let shown = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let local = format!("{machine}.local");
        let named = hosts.iter().cloned().map(|host| (host.clone(), host));
        let rest = [(address.to_string(), shown), (local.clone(), local), (machine.clone(), machine)];
        let is_good = |name: &String| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
        };
        named.chain(rest).find(|(name, _)| is_good(name)).map(|(_, shown)| shown)
    }

    /// Reads the files if they are others than before, and takes them over. Returns what is wrong with them, for as long as
    /// it is; then a certificate of the same files that was in force stays.
    pub(super) async fn refresh(self: &Arc<Self>, config: &LanGateway) -> Option<String> {
        let Some((certificate, key)) = config.tls_files().filter(|_| config.enabled) else {
            self.forget(if config.enabled { Speaks::Plain } else { Speaks::Nothing });
            return None;
        };
        let paths = [certificate.to_owned(), key.to_owned()];
        let this = Arc::clone(self);
        // The disk may be slow; callers must not wait for it.
        match tokio::task::spawn_blocking(move || this.look(paths)).await {
            Ok(fault) => fault,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn forget(&self, speaks: Speaks) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.speaks.store(Arc::new(speaks));
    }

    fn look(&self, paths: [PathBuf; 2]) -> Option<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A pair that changes between the stamps and the reading has other stamps at the next look.
        let stamps = [stamp(&paths[0]), stamp(&paths[1])];
        if let Some(before) = seen.as_ref().filter(|before| before.paths == paths && before.stamps == stamps)
        {
            return before.fault.clone();
        }
        let same_files = seen.as_ref().is_some_and(|before| before.paths == paths);
        let fault = match load(&paths[0], &paths[1]) {
            Ok((config, certificate)) => {
                self.certificate.store(Some(Arc::new(certificate)));
                info!("the certificate for the network is in force");
                self.speaks.store(Arc::new(Speaks::Tls(TlsAcceptor::from(Arc::new(config)))));
                None
            }
            Err(fault) => {
                if !same_files {
                    self.speaks.store(Arc::new(Speaks::Nothing));
                }
                Some(fault.to_string())
            }
        };
        *seen = Some(Seen { paths, stamps, fault: fault.clone() });
        fault
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let status = fs::metadata(path).ok()?;
    Some((status.ino(), status.mtime(), status.mtime_nsec(), status.len(), status.mode()))
}

fn load(certificate: &Path, key: &Path) -> Result<(ServerConfig, CertificateDer<'static>), TlsFault> {
    let pem = |path: &Path, expected| TlsFault::Pem { path: path.to_owned(), expected };
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().unwrap_or_default();
    let leaf = chain.first().cloned().ok_or_else(|| pem(certificate, "certificates"))?;
    let mode = fs::metadata(key).map_err(|source| TlsFault::Read { path: key.to_owned(), source })?.mode();
    // A group is how a web server and the tool that renews share a key.
    if mode & 0o007 != 0 {
        return Err(TlsFault::KeyForAll { path: key.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| pem(key, "a private key"))?;
    let unusable = |source| TlsFault::Pair { path: certificate.to_owned(), source };
    let provider = Arc::new(default_provider());
    let pair = CertifiedKey::from_der(chain, private, &provider).map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, leaf))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    let failed = |source| TlsFault::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // Opens without waiting for a writer: a pipe that nobody writes to must not hold us.
    let file = tunnel_runtime::files::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        Err(TlsFault::TooLong { path: path.to_owned() })
    } else {
        Ok(bytes)
    }
}

impl std::fmt::Debug for LanTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanTls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { directory: tempfile::tempdir().unwrap() };
            files.renew();
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn renew(&self) {
            let pair = rcgen::generate_simple_self_signed(["box.local".to_owned()]).unwrap();
            fs::write(self.path("cert"), pair.cert.pem()).unwrap();
            fs::write(self.path("key"), pair.signing_key.serialize_pem()).unwrap();
            self.permit(0o600);
        }

        fn permit(&self, mode: u32) {
            fs::set_permissions(self.path("key"), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn config(&self) -> LanGateway {
            LanGateway {
                enabled: true,
                cert_file: Some(self.path("cert")),
                key_file: Some(self.path("key")),
                ..LanGateway::default()
            }
        }
    }

    #[tokio::test]
    async fn pair_is_taken_over_and_a_bad_one_leaves_the_last_in_force() {
        let (files, tls) = (Files::new(), Arc::new(LanTls::default()));
        assert_eq!(tls.refresh(&files.config()).await, None);
        assert!(matches!(tls.speaks(), Speaks::Tls(_)));
        fs::write(files.path("cert"), "no certificate").unwrap();
        for _ in 0..2 {
            assert!(tls.refresh(&files.config()).await.unwrap().contains("is not PEM"));
            assert!(matches!(tls.speaks(), Speaks::Tls(_)));
        }
        files.renew();
        assert_eq!(tls.refresh(&files.config()).await, None);
    }

    #[tokio::test]
    async fn tls_that_is_wanted_never_becomes_plain() {
        let (files, tls) = (Files::new(), Arc::new(LanTls::default()));
        assert_eq!(tls.refresh(&LanGateway { enabled: true, ..LanGateway::default() }).await, None);
        assert!(matches!(tls.speaks(), Speaks::Plain));
        files.permit(0o644);
        let fault = tls.refresh(&files.config()).await.unwrap();
        assert!(fault.contains("chmod 600"), "{fault}");
        assert!(matches!(tls.speaks(), Speaks::Nothing) && !tls.is_ready());
        files.permit(0o600);
        assert_eq!(tls.refresh(&files.config()).await, None);
        assert!(tls.is_ready());
    }

    #[tokio::test]
    async fn door_is_called_as_its_certificate_names_it() {
        let (files, tls) = (Files::new(), Arc::new(LanTls::default()));
        let address = IpAddr::from([192, 0, 2, 7]);
        let hosts = ["other.example".to_owned(), "box.local".to_owned()];
        assert_eq!(tls.name_of(&hosts, address), None);
        tls.refresh(&files.config()).await;
        assert_eq!(tls.name_of(&hosts, address).as_deref(), Some("box.local"));
        assert_eq!(tls.name_of(&hosts[..1], address), None);
        for (address, shown) in [(address, "192.0.2.7"), (IpAddr::from([1; 8]), "[1:1:1:1:1:1:1:1]")] {
            let pair = rcgen::generate_simple_self_signed([address.to_string()]).unwrap();
            fs::write(files.path("cert"), pair.cert.pem()).unwrap();
            fs::write(files.path("key"), pair.signing_key.serialize_pem()).unwrap();
            assert_eq!(tls.refresh(&files.config()).await, None);
            assert_eq!(tls.name_of(&hosts, address).as_deref(), Some(shown));
        }
    }

    #[tokio::test]
    async fn key_of_another_certificate_is_refused() {
        let (files, other, tls) = (Files::new(), Files::new(), Arc::new(LanTls::default()));
        let mixed = LanGateway { key_file: Some(other.path("key")), ..files.config() };
        assert!(tls.refresh(&mixed).await.unwrap().contains("cannot be used with its key"));
    }
}
