//! An ACME authority of one's own: pebble, which Let's Encrypt tests its clients with.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::net::TcpStream;

use crate::{curl, ports, process::Process, tls_files::TlsFiles, wait::poll_until};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running pebble. Dropping it kills it.
#[derive(Debug)]
pub struct Pebble {
    _process: Process,
    own: TlsFiles,
    directory: u16,
    management: u16,
    dir: PathBuf,
}

/// Where an authority will be, before it is there.
#[derive(Debug)]
pub struct PebblePlace {
    own: TlsFiles,
    directory: u16,
    management: u16,
    dir: PathBuf,
}

impl PebblePlace {
    /// Takes ports and makes the authority's own certificate below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let own = TlsFiles::new(dir, "pebble", "localhost")?;
        Ok(Self { own, directory: ports::free()?, management: ports::free()?, dir: dir.to_owned() })
    }

    /// The directory's URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.directory)
    }

    /// The file with the root of the directory's own certificate.
    pub fn ca_file(&self) -> &Path {
        self.own.certificate()
    }

    /// Starts it. It will check names at `tls`, whatever the name.
    pub async fn start(self, tls: SocketAddr) -> Result<Pebble> {
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.directory),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.own.certificate(),
            "privateKey": self.own.key(),
            "httpPort": ports::free()?,
            "tlsPort": tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let file = self.dir.join("pebble.json");
        fs::write(&file, config.to_string())?;
        let mut command = Command::new("pebble");
        // It would wait for up to 15 s before it looks.
        command.env("PEBBLE_VA_NOSLEEP", "1").arg("-config").arg(&file);
        let process = Process::spawn("pebble", &mut command, &self.dir.join("pebble.log"))?;
        let addr = SocketAddr::from(([127, 0, 0, 1], self.directory));
        poll_until("pebble listens", START_LIMIT, async || TcpStream::connect(addr).await.ok()).await?;
        let Self { own, directory, management, dir } = self;
        Ok(Pebble { _process: process, own, directory, management, dir })
    }
}

impl Pebble {
    /// Tells whether it is installed.
    pub fn is_installed() -> bool {
        // It has no option that does nothing; a bad one makes it print its options.
        Command::new("pebble").arg("-version-of-this").output().is_ok()
    }

    /// Writes the root of what it issues to a file.
    pub async fn root(&self) -> Result<PathBuf> {
        let url = format!("https://localhost:{}/roots/0", self.management);
        let pem = curl(&["--cacert", &self.own.certificate().display().to_string(), &url]).await?;
        let file = self.dir.join("issued-root.pem");
        fs::write(&file, pem).context("keeping pebble's root")?;
        Ok(file)
    }

    /// The port of its directory.
    pub fn port(&self) -> u16 {
        self.directory
    }
}
