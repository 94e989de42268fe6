//! The public address: TLS, proxies in front, pages of other origins, patience with slow callers.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSettings {
    /// With a certificate chain and its key in PEM files, read anew when they change.
    Files {
        /// The chain, the server's own certificate first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// With certificates that an ACME authority issues, by the challenge `tls-alpn-01` on the public address.
    Acme(AcmeSettings),
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names that the certificate is for. Not empty.
    pub domains: Vec<String>,
    /// Who is told of trouble: `mailto:…`.
    pub contact: Option<String>,
    /// The authority's directory. Default: Let's Encrypt.
    pub directory: Url,
    /// Roots that the directory's own certificate is checked with instead of the system's: for an authority of one's own.
    pub ca_file: Option<PathBuf>,
}

/// What comes in and how long it is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// None: plain HTTP, for a reverse proxy that speaks TLS.
    pub tls: Option<TlsSettings>,
    /// Proxies whose `Forwarded` and `X-Forwarded-For` are believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of pages whose scripts may call. Default: none. Exact, such as `https://chat.example.org`.
    pub allowed_origins: Vec<String>,
    /// `max-age` of `Strict-Transport-Security`, in seconds; sent on TLS only. Default 31536000; 0: not sent.
    pub hsts_max_age: Duration,
    /// Longest wait for the TLS handshake, in seconds. Default 5.
    pub tls_handshake_timeout: Duration,
    /// Longest wait for a head that has begun, in seconds. Default 5.
    pub header_read_timeout: Duration,
    /// How long a connection without a request is kept, in seconds. Default 75.
    pub keep_alive_timeout: Duration,
    /// Least bytes a second of a body that is being sent, over any 5 s in which the desktop was ready for more. Default 256.
    pub min_upload_bytes_per_second: u64,
    /// How long a caller may leave a response unread, in seconds. Default 300. Then the stream is reset.
    pub unread_timeout: Duration,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            tls: None,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            hsts_max_age: Duration::from_secs(31_536_000),
            tls_handshake_timeout: Duration::from_secs(5),
            header_read_timeout: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(75),
            min_upload_bytes_per_second: 256,
            unread_timeout: Duration::from_secs(300),
        }
    }
}
