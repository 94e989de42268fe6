use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom a backend's certificate must be good to: the system's roots, and those of a file where one is named.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    ca_file: Option<PathBuf>,
    /// Of the file; read when it is first needed, and again when that failed.
    own: OnceCell<Arc<ClientConfig>>,
}

impl Roots {
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, own: OnceCell::new() }
    }

    /// The file beside the system's roots.
    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// Agrees on TLS with the host.
    pub(crate) async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = match &self.ca_file {
            None => system_config().await?,
            Some(path) => Arc::clone(self.own.get_or_try_init(|| config_with(path.clone())).await?),
        };
        secure_with(config, host, stream).await
    }
}

/// Returns the settings with the system's roots and those of a PEM file.
async fn config_with(path: PathBuf) -> io::Result<Arc<ClientConfig>> {
    let load = move || {
        let unusable = |why: String| io::Error::other(format!("caFile {} {why}", path.display()));
        let own = CertificateDer::pem_file_iter(&path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable(format!("cannot be used: {error}")))?;
        if own.is_empty() {
            return Err(unusable("has no certificate in it".to_owned()));
        }
        config(rustls_native_certs::load_native_certs().certs.into_iter().chain(own).collect())
    };
    tokio::task::spawn_blocking(load).await.map_err(io::Error::other)?
}

async fn secure_with(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = match host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    TlsConnector::from(config).connect(name, stream).await
}

/// Returns the settings with the system's roots, which are read when the first https backend is connected to.
async fn system_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    // Hundreds of files on some systems.
    let load = || config(rustls_native_certs::load_native_certs().certs);
    let config = tokio::task::spawn_blocking(load).await.map_err(io::Error::other)??;
    Ok(Arc::clone(CONFIG.get_or_init(|| config)))
}

fn config(roots: Vec<CertificateDer<'static>>) -> io::Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    let (taken, _) = store.add_parsable_certificates(roots);
    if taken == 0 {
        return Err(io::Error::other("no root certificates found on this system"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server with a certificate of its own for `localhost`; returns what it chose to speak.
    async fn agree(trusted: bool, host: &str) -> io::Result<Option<Vec<u8>>> {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.ok();
        };
        let asking = async {
            let root = if trusted { own.cert.der() } else { other.cert.der() };
            let config = config(vec![root.clone()]).unwrap();
            let stream = TcpStream::connect(addr).await.unwrap();
            let mut stream = secure_with(config, host, stream).await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            assert_eq!(said, "hello");
            Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        };
        tokio::join!(serving, asking).1
    }

    #[tokio::test]
    async fn a_trusted_host_is_spoken_to_in_http1() {
        assert_eq!(agree(true, "localhost").await.unwrap(), Some(b"http/1.1".to_vec()));
    }

    #[tokio::test]
    async fn a_foreign_certificate_or_name_is_refused() {
        let error = agree(false, "localhost").await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        let error = agree(true, "elsewhere.example").await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
        assert!(config(Vec::new()).unwrap_err().to_string().contains("no root certificates"));
    }
}
