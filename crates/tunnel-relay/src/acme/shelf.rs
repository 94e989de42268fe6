//! What is kept of an authority: the account, the certificate and its key, in `acme/` of the data directory.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use instant_acme::AccountCredentials;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::auth::unix_now;
use crate::config::AcmeSettings;
use crate::tls::{Validity, provider};

/// The files, all of them for this user only.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    directory: String,
    domains: Vec<String>,
}

/// A certificate with its key, and what it was ordered for: settings that have changed need another one.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    domains: Vec<String>,
    chain: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct KeptAccount<C> {
    directory: String,
    credentials: C,
}

const CERTIFICATE: &str = "certificate.json";
const ACCOUNT: &str = "account.json";
/// Holds when an order failed last.
const FAILED: &str = "failed-order";

impl Shelf {
    pub(super) fn new(data_dir: &Path, settings: &AcmeSettings) -> Self {
        Self {
            dir: data_dir.join("acme"),
            directory: settings.directory.to_string(),
            domains: settings.domains.clone(),
        }
    }

    /// Returns the certificate if there is one for these names of this authority that still holds.
    pub(super) fn load(&self) -> anyhow::Result<Option<(CertifiedKey, Validity)>> {
        let Some(kept) = self.read::<Kept>(CERTIFICATE)? else { return Ok(None) };
        if kept.directory != self.directory || kept.domains != self.domains {
            return Ok(None);
        }
        let (pair, validity) = pair(&kept.chain, &kept.key)?;
        Ok((validity.not_after > unix_now()).then_some((pair, validity)))
    }

    /// Keeps a new certificate: in one file with its key, so that the two always go together.
    pub(super) fn store(&self, chain: String, key: String) -> anyhow::Result<()> {
        let kept = Kept { directory: self.directory.clone(), domains: self.domains.clone(), chain, key };
        self.write(CERTIFICATE, &kept)?;
        match fs::remove_file(self.dir.join(FAILED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the account with this authority.
    pub(super) fn account(&self) -> anyhow::Result<Option<AccountCredentials>> {
        let kept = self.read::<KeptAccount<AccountCredentials>>(ACCOUNT)?;
        Ok(kept.filter(|kept| kept.directory == self.directory).map(|kept| kept.credentials))
    }

    pub(super) fn store_account(&self, credentials: &AccountCredentials) -> anyhow::Result<()> {
        self.write(ACCOUNT, &KeptAccount { directory: self.directory.clone(), credentials })
    }

    /// Returns when an order failed that none has succeeded since.
    pub(super) fn failed_at(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join(FAILED)).ok()?.trim().parse().ok()
    }

    pub(super) fn note_failure(&self) -> anyhow::Result<()> {
        self.write(FAILED, &unix_now())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.dir.join(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes beside the file and renames: a crash leaves the one or the other.
    fn write(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let writing = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let draft = self.dir.join(format!(".{name}"));
            // One that a crash left may have been made by another umask.
            let _none = fs::remove_file(&draft);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec(value)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        writing().with_context(|| format!("writing {}", path.display()))
    }
}

/// Makes what rustls takes out of PEM.
pub(super) fn pair(chain: &str, key: &str) -> anyhow::Result<(CertifiedKey, Validity)> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let first = chain.first().context("the authority sent no certificate")?;
    let validity = Validity::of(first).context("the certificate does not say how long it holds")?;
    Ok((CertifiedKey::from_der(chain, key, &provider())?, validity))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn shelf(dir: &Path, domain: &str) -> Shelf {
        Shelf::new(
            dir,
            &AcmeSettings {
                domains: vec![domain.to_owned()],
                contact: None,
                directory: "https://authority.test/dir".parse().unwrap(),
                ca_file: None,
            },
        )
    }

    #[test]
    fn a_certificate_is_found_again_for_its_names_only() {
        let dir = tempfile::tempdir().unwrap();
        let shelf_a = shelf(dir.path(), "a.test");
        assert!(shelf_a.load().unwrap().is_none());
        shelf_a.note_failure().unwrap();
        assert!(shelf_a.failed_at().is_some());

        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        shelf_a.store(made.cert.pem(), made.signing_key.serialize_pem()).unwrap();
        assert!(shelf_a.load().unwrap().is_some());
        assert_eq!(shelf_a.failed_at(), None);
        assert!(shelf(dir.path(), "b.test").load().unwrap().is_none());

        let file = dir.path().join("acme").join(CERTIFICATE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&file, "{").unwrap();
        assert!(shelf_a.load().unwrap_err().to_string().contains("is damaged"));
    }
}
