//! A certificate in files that somebody else renews.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{error, warn};

use super::validity::Validity;
use super::{Looks, Tls, TlsError, provider};

/// Tells one state of a file from another: `None` for one that is not there.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Reads a chain and its key, and checks that they go together.
pub(super) fn load(certificate: &Path, key: &Path) -> Result<(CertifiedKey, Option<Validity>), TlsError> {
    let chain = chain(certificate, &read(certificate)?)?;
    refuse_key_for_all(key)?;
    let pem = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| TlsError::Pem {
        path: key.to_owned(),
        expected: "a private key",
        detail: error.to_string(),
    })?;
    let validity = chain.first().and_then(|first| Validity::of(first));
    let pair = CertifiedKey::from_der(chain, private, &provider()).map_err(|source| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok((pair, validity))
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |detail: String| TlsError::Pem { path: path.to_owned(), expected: "certificates", detail };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if chain.is_empty() { Err(bad("there is none in it".to_owned())) } else { Ok(chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn refuse_key_for_all(path: &Path) -> Result<(), TlsError> {
    let status = fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mode = status.mode() & 0o777;
    // A group is how a web server and the tool that renews share a key.
    if mode & 0o007 != 0 { Err(TlsError::KeyForAll { path: path.to_owned(), mode }) } else { Ok(()) }
}

/// Reads the files anew when they change. A bad pair is not taken: the one in force stays, and a warning says why.
pub(super) async fn keep(tls: &Tls, certificate: &Path, key: &Path) {
    let mut looks = Looks::new(tls);
    let mut seen = None;
    loop {
        let paths = (certificate.to_owned(), key.to_owned());
        let known = seen;
        // The disk may be slow; callers must not wait for it.
        let looked = tokio::task::spawn_blocking(move || look(&paths, known.as_ref())).await;
        match looked {
            Ok((stamps, loaded)) => {
                match loaded {
                    Some(Ok((pair, validity))) => tls.show("files", pair, validity),
                    Some(Err(fault)) => {
                        let fault = format!("{:#}", anyhow::Error::new(fault));
                        warn!(fault, "the certificate was not taken, the one before stays in force");
                        tls.note(|status| status.fault = Some(fault));
                    }
                    None => {}
                }
                seen = Some(stamps);
            }
            Err(error) => error!(%error, "looking at the certificate failed"),
        }
        looks.next().await;
    }
}

type Loaded = Option<Result<(CertifiedKey, Option<Validity>), TlsError>>;

/// Looks at the files, and reads them if they are not as they were when they were last read.
fn look(paths: &(PathBuf, PathBuf), seen: Option<&[Stamp; 2]>) -> ([Stamp; 2], Loaded) {
    let stamps = [stamp(&paths.0), stamp(&paths.1)];
    // A pair that changes between the stamps and the reading has other stamps at the next look.
    let loaded = (seen != Some(&stamps)).then(|| load(&paths.0, &paths.1));
    (stamps, loaded)
}

fn stamp(path: &Path) -> Stamp {
    let status = fs::metadata(path).ok()?;
    // The mode counts, too: that is how a key is mended that everybody could read.
    Some((status.ino(), status.ctime(), status.ctime_nsec(), status.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::config::TlsSettings;

    struct Pair {
        dir: tempfile::TempDir,
    }

    impl Pair {
        fn new() -> Self {
            let pair = Self { dir: tempfile::tempdir().unwrap() };
            pair.renew();
            pair
        }

        fn certificate(&self) -> PathBuf {
            self.dir.path().join("chain.pem")
        }

        fn key(&self) -> PathBuf {
            self.dir.path().join("key.pem")
        }

        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
            fs::write(self.certificate(), made.cert.pem()).unwrap();
            fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
            fs::set_permissions(self.key(), fs::Permissions::from_mode(0o640)).unwrap();
        }

        fn load(&self) -> Result<(CertifiedKey, Option<Validity>), TlsError> {
            load(&self.certificate(), &self.key())
        }
    }

    #[test]
    fn a_good_pair_is_taken_and_its_end_is_known() {
        let (_, validity) = Pair::new().load().unwrap();
        let validity = validity.unwrap();
        assert!(validity.not_before < validity.not_after);
    }

    #[test]
    fn each_fault_is_named() {
        let pair = Pair::new();
        let good = fs::read(pair.certificate()).unwrap();
        fs::write(pair.certificate(), Pair::new().dir.path().to_str().unwrap()).unwrap();
        assert!(pair.load().unwrap_err().to_string().contains("chain.pem is not PEM with certificates"));
        fs::write(pair.certificate(), &good).unwrap();

        fs::set_permissions(pair.key(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = pair.load().unwrap_err().to_string();
        assert!(error.contains("644") && error.contains("chmod 600"), "{error}");

        pair.renew();
        fs::write(pair.certificate(), &good).unwrap();
        assert!(matches!(pair.load().unwrap_err(), TlsError::Pair { .. }), "another key");

        fs::write(pair.key(), "nothing").unwrap();
        assert!(matches!(pair.load().unwrap_err(), TlsError::Pem { expected: "a private key", .. }));
        fs::remove_file(pair.key()).unwrap();
        assert!(matches!(pair.load().unwrap_err(), TlsError::Read { .. }));
    }

    #[tokio::test]
    async fn new_files_are_taken_and_bad_ones_are_not() {
        let pair = Pair::new();
        let settings = TlsSettings::Files { certificate: pair.certificate(), key: pair.key() };
        let tls = Tls::open(Some(&settings), pair.dir.path()).unwrap();
        let shown = || tls.shown.current.load_full().unwrap().cert[0].clone();
        let (certificate, key) = (pair.certificate(), pair.key());
        let changes = async {
            let first = shown();
            pair.renew();
            tls.reload();
            until(|| shown() != first).await;
            let second = shown();
            fs::write(pair.certificate(), "broken").unwrap();
            tls.reload();
            until(|| tls.status().fault.is_some_and(|fault| fault.contains("chain.pem"))).await;
            assert_eq!(shown(), second);
            pair.renew();
            tls.reload();
            until(|| shown() != second && tls.status().fault.is_none()).await;
        };
        tokio::select! {
            () = keep(&tls, &certificate, &key) => unreachable!("it has no end"),
            () = changes => {}
        }
    }

    async fn until(holds: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.expect("in time");
    }
}
