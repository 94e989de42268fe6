//! A certificate in files that somebody else renews.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{error, warn};
use tunnel_runtime::files;

use super::validity::Validity;
use super::{Looks, Tls, TlsError, provider};
use crate::auth;

/// Longest file that is read. Chains have a few KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // A pipe that nobody writes to must not hold us, nor a device that never ends.
        files::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let why = format!("it is longer than {MAX_FILE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(bytes)
    };
    read().map_err(|source| TlsError::Read { path: path.to_owned(), source })
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
                let taken = loaded.map(|loaded| {
                    loaded
                        .and_then(|(pair, validity)| take(tls, certificate, pair, validity, auth::unix_now()))
                });
                if let Some(Err(fault)) = taken {
                    let fault = format!("{:#}", anyhow::Error::new(fault));
                    warn!(fault, "the certificate was not taken, the one before stays in force");
                    tls.note(|status| status.fault = Some(fault));
                }
                seen = Some(stamps);
            }
            Err(error) => error!(%error, "looking at the certificate failed"),
        }
        looks.next().await;
    }
}

/// Shows a pair, unless its life is over and that of the one in force is not: then somebody has put an old one back.
fn take(
    tls: &Tls,
    certificate: &Path,
    pair: CertifiedKey,
    validity: Option<Validity>,
    now: u64,
) -> Result<(), TlsError> {
    let ended = validity.map(|validity| validity.not_after).filter(|end| *end <= now);
    let fault = ended.map(|end| TlsError::Ended {
        certificate: certificate.to_owned(),
        not_after: i64::try_from(end)
            .ok()
            .and_then(|end| jiff::Timestamp::from_second(end).ok())
            .unwrap_or(jiff::Timestamp::MAX),
    });
    match fault {
        Some(fault) if tls.status().not_after.is_some_and(|end| end > now) => return Err(fault),
        Some(fault) => {
            tls.show("files", pair, validity);
            warn!(%fault, "callers and desktops will refuse the certificate");
            tls.note(|status| status.fault = Some(fault.to_string()));
        }
        None => tls.show("files", pair, validity),
    }
    Ok(())
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
            self.renew_until(4_096);
        }

        /// Makes a pair that ends with the year's first day.
        fn renew_until(&self, year: i32) {
            let mut params = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(1975, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            fs::write(self.certificate(), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(self.key(), key.serialize_pem()).unwrap();
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

        fs::write(pair.key(), " ".repeat(2 << 20)).unwrap();
        assert!(matches!(pair.load().unwrap_err(), TlsError::Read { .. }), "no key is so long");
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
            let third = shown();
            pair.renew_until(2_001);
            tls.reload();
            until(|| tls.status().fault.is_some_and(|fault| fault.contains("has ended, at 2001-01-01")))
                .await;
            assert_eq!(shown(), third, "an old one was put back");
        };
        tokio::select! {
            () = keep(&tls, &certificate, &key) => unreachable!("it has no end"),
            () = changes => {}
        }
    }

    #[tokio::test]
    async fn a_certificate_that_has_ended_is_shown_where_there_is_no_better_one_and_said_to_be_bad() {
        let pair = Pair::new();
        pair.renew_until(2_001);
        let settings = TlsSettings::Files { certificate: pair.certificate(), key: pair.key() };
        let tls = Tls::open(Some(&settings), pair.dir.path()).unwrap();
        let (certificate, key) = (pair.certificate(), pair.key());
        let changes = async {
            until(|| tls.status().fault.is_some()).await;
            pair.renew_until(2_002);
            tls.reload();
            until(|| tls.status().fault.is_some_and(|fault| fault.contains("2002"))).await;
            pair.renew();
            tls.reload();
            until(|| tls.status().fault.is_none()).await;
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
