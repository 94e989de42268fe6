//! TLS to the relay.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Says why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates that cannot be used.
    #[error("could not read certificates from {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// No root certificate at all: nothing could be trusted.
    #[error("this machine has no root certificates; install ca-certificates or set caFile")]
    NoRoots,
}

/// Makes the TLS settings for a relay: the machine's roots and, where given, those of `ca_file` (PEM).
pub fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let failed = |source| TlsError::CaFile { path: path.to_owned(), source };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(io::Error::other(e)))?;
        let before = roots.len();
        for certificate in certificates {
            let certificate = certificate.map_err(|e| failed(io::Error::other(e)))?;
            roots.add(certificate).map_err(|e| failed(io::Error::other(e)))?;
        }
        if roots.len() == before {
            return Err(failed(io::Error::other("it holds no certificate")));
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // Cannot fail: the provider has the suites of both versions.
        .expect("TLS 1.2 and 1.3 are available")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
