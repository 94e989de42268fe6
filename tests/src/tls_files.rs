//! Certificates that sign themselves, and curl to see them with.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A certificate and its key in PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    name: String,
}

impl TlsFiles {
    /// Makes `<what>-chain.pem` and `<what>-key.pem` below `dir`, for this name.
    pub fn new(dir: &Path, what: &str, name: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let file = |kind| dir.join(format!("{what}-{kind}.pem"));
        let files = Self { certificate: file("chain"), key: file("key"), name: name.to_owned() };
        files.renew()?;
        Ok(files)
    }

    /// Writes a new pair over the old one.
    pub fn renew(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed([self.name.clone()])?;
        fs::write(&self.certificate, made.cert.pem())?;
        fs::write(&self.key, made.signing_key.serialize_pem())?;
        Ok(fs::set_permissions(&self.key, fs::Permissions::from_mode(0o600))?)
    }

    /// The certificate, which is its own root.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The private key.
    pub fn key(&self) -> &Path {
        &self.key
    }
}

/// Runs curl and returns what it printed.
pub async fn curl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("running curl")?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
