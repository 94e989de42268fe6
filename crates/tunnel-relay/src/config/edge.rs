//! The public address: TLS, proxies in front, pages of other origins, patience with slow callers.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::table::Table;
use super::{DAY, rules};

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
    /// Proxies whose word on who calls is believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they say it. Default: `x-forwarded-for`. The other one is not read: whoever calls may write it.
    pub proxy_header: ProxyHeader,
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

/// Where proxies write who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto`: what nearly all of them write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ProxyHeader {
    /// The one that is not read.
    pub fn other(self) -> Self {
        match self {
            Self::XForwardedFor => Self::Forwarded,
            Self::Forwarded => Self::XForwardedFor,
        }
    }

    /// The name in the settings file, and that of the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            tls: None,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
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

impl EdgeSettings {
    /// Reads `[edge]`, `[tls]` and `[acme]`.
    pub(super) fn read(root: &mut Table<'_>) -> Self {
        let defaults = Self::default();
        // Its first name, from when there was no `[edge]`.
        const FIRST_NAME: &str = "header_read_timeout_s";
        let first_named = root.seconds(FIRST_NAME, 1..=3_600);
        let twice = root.has(FIRST_NAME);
        let tls = read_tls(root);
        let edge = root.table("edge", |edge| {
            if twice && edge.has("header_read_timeout_s") {
                edge.fault(
                    "header_read_timeout_s",
                    format!("says the same as {FIRST_NAME} above; keep one of them"),
                );
            }
            Self {
                tls: None,
                trusted_proxies: edge.list("trusted_proxies", rules::network).unwrap_or_default(),
                proxy_header: edge.parsed("proxy_header", rules::proxy_header).unwrap_or_default(),
                allowed_origins: edge.list("allowed_origins", rules::origin).unwrap_or_default(),
                hsts_max_age: edge
                    .seconds("hsts_max_age_s", 0..=10 * 365 * DAY)
                    .unwrap_or(defaults.hsts_max_age),
                tls_handshake_timeout: edge
                    .seconds("tls_handshake_timeout_s", 1..=300)
                    .unwrap_or(defaults.tls_handshake_timeout),
                header_read_timeout: edge
                    .seconds("header_read_timeout_s", 1..=3_600)
                    .unwrap_or(defaults.header_read_timeout),
                keep_alive_timeout: edge
                    .seconds("keep_alive_timeout_s", 1..=DAY)
                    .unwrap_or(defaults.keep_alive_timeout),
                min_upload_bytes_per_second: edge
                    .whole("min_upload_bytes_per_second", 0..=1_000_000_000)
                    .unwrap_or(defaults.min_upload_bytes_per_second),
                unread_timeout: edge.seconds("unread_timeout_s", 1..=DAY).unwrap_or(defaults.unread_timeout),
            }
        });
        let mut edge = edge.unwrap_or_default();
        edge.tls = tls;
        edge.header_read_timeout = first_named.unwrap_or(edge.header_read_timeout);
        edge
    }
}

/// Where certificates come from by default.
pub(super) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

fn read_tls(root: &mut Table<'_>) -> Option<TlsSettings> {
    let files = root.table("tls", |tls| {
        let (certificate, key) = (tls.file("certificate"), tls.file("key"));
        for name in ["certificate", "key"] {
            tls.require(name, "is missing: [tls] needs certificate and key, each a PEM file");
        }
        Some(TlsSettings::Files { certificate: certificate?, key: key? })
    });
    let acme = root.table("acme", |acme| {
        let domains = acme.list("domains", rules::domain);
        acme.require("domains", "is missing: [acme] needs the names that the certificate is for");
        if domains.as_ref().is_some_and(|domains| !(1..=100).contains(&domains.len())) {
            acme.fault("domains", "must name 1 to 100 hosts");
        }
        let directory = acme.parsed("directory", rules::fetched_url);
        Some(TlsSettings::Acme(AcmeSettings {
            domains: domains?,
            contact: acme.parsed("contact", rules::mailto),
            directory: directory
                .unwrap_or_else(|| Url::parse(LETS_ENCRYPT).expect("a constant address is valid")),
            ca_file: acme.file("ca_file"),
        }))
    });
    if files.is_some() && acme.is_some() {
        root.fault(
            "acme",
            "stands beside [tls]; keep one: certificates come from files or from an authority",
        );
    }
    #[cfg(not(feature = "acme"))]
    if acme.is_some() {
        root.fault(
            "acme",
            "is not in this build, which was made without the feature acme; use [tls] with files",
        );
    }
    files.flatten().or(acme.flatten())
}
