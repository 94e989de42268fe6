//! A certified OpenID provider on loopback, and a person who uses it: `tests/clients/oidc_provider.mjs`.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{binaries, canary::keep_secret, client::Caller};

/// How a provider is started.
#[derive(Clone, Copy, Debug)]
pub struct ProviderOptions {
    /// How long its access tokens hold, in seconds.
    pub access_ttl_s: u32,
    /// How long its device codes hold, in seconds.
    pub code_ttl_s: u32,
}

impl Default for ProviderOptions {
    fn default() -> Self {
        Self { access_ttl_s: 3600, code_ttl_s: 600 }
    }
}

/// A running provider. Dropping it kills it.
#[derive(Debug)]
pub struct OidcProvider {
    child: Child,
    issuer: String,
    person: Caller,
}

impl OidcProvider {
    /// Starts one with its log in `dir`; none where the npm package is not installed.
    pub fn start(dir: &Path, options: ProviderOptions) -> Result<Option<Self>> {
        let default = || binaries::workspace_dir().join(".cache").join("clients");
        let clients = env::var_os("TUNNEL_CLIENTS_DIR").map_or_else(default, PathBuf::from);
        if !clients.join("node_modules/oidc-provider").is_dir() {
            return Ok(None);
        }
        let mut child = Command::new("node")
            .arg(binaries::package_dir().join("clients/oidc_provider.mjs"))
            .args(["--access-ttl", &options.access_ttl_s.to_string()])
            .args(["--code-ttl", &options.code_ttl_s.to_string()])
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir)
            .env("TUNNEL_CLIENTS_DIR", &clients)
            // It ends with this end of the pipe, however that comes.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join(LOG))?)
            .spawn()
            .context("starting node")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its standard output is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)
            .with_context(|| format!("the provider did not start: {line:?}; see its log"))?;
        let text =
            |key: &str| told[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {told}"));
        let person: SocketAddr = text("person")?.trim_start_matches("http://").parse()?;
        Ok(Some(Self { child, issuer: text("issuer")?, person: Caller::new(person) }))
    }

    /// What it calls itself.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The person types the code, and agrees.
    pub async fn approve(&self, user_code: &str) -> Result<()> {
        self.tell(&format!("/approve?user_code={user_code}")).await.map(drop)
    }

    /// The person types the code, and refuses.
    pub async fn deny(&self, user_code: &str) -> Result<()> {
        self.tell(&format!("/deny?user_code={user_code}")).await.map(drop)
    }

    /// The person's browser follows the address to its end, and returns the page that it shows then.
    pub async fn browse(&self, url: &str, agrees: bool) -> Result<String> {
        let refusing = if agrees { "" } else { "&deny=1" };
        let page = self.tell(&format!("/browse?url={}{refusing}", encoded(url))).await?;
        Ok(page["text"].as_str().unwrap_or_default().to_owned())
    }

    /// From now on the token endpoint answers with this status; 0: as it should.
    pub async fn set_down(&self, status: u16) -> Result<()> {
        self.tell(&format!("/down?status={status}")).await.map(drop)
    }

    /// Questions to the token endpoint of one grant type so far; `refused` counts those while it was down.
    pub async fn questions(&self, grant_type: &str) -> Result<u64> {
        Ok(self.tell("/state").await?["questions"][grant_type].as_u64().unwrap_or(0))
    }

    /// Refresh tokens that would be taken.
    pub async fn live_refresh_tokens(&self) -> Result<u64> {
        self.tell("/state").await?["refresh_tokens"].as_u64().context("a number of refresh tokens")
    }

    /// Access tokens for this resource, as the token endpoint makes them; each is another one.
    pub async fn tokens(&self, resource: &str, count: usize) -> Result<Vec<String>> {
        self.made(&format!("/tokens?resource={}&count={count}", encoded(resource))).await
    }

    /// The same, but each names a key that nobody has.
    pub async fn strange_tokens(&self, resource: &str, count: usize) -> Result<Vec<String>> {
        self.made(&format!("/tokens?resource={}&count={count}&strange=1", encoded(resource))).await
    }

    async fn made(&self, path: &str) -> Result<Vec<String>> {
        let tokens: Vec<String> = serde_json::from_value(self.tell(path).await?["tokens"].take())?;
        // One stands for all: each is looked for in each file.
        keep_secret(tokens.first().context("no token was made")?);
        Ok(tokens)
    }

    /// Starts anew with these signing keys: all are published, the first one signs.
    pub async fn set_keys(&self, kids: &[&str]) -> Result<()> {
        self.tell(&format!("/keys?kids={}", kids.join(","))).await.map(drop)
    }

    /// When its keys were asked for, by a clock of its own.
    pub async fn keys_asked(&self) -> Result<Vec<Duration>> {
        let asked: Vec<f64> = serde_json::from_value(self.tell("/state").await?["keys_asked"].take())?;
        Ok(asked.into_iter().map(|ms| Duration::from_secs_f64(ms / 1000.0)).collect())
    }

    async fn tell(&self, path: &str) -> Result<Value> {
        let reply = self.person.get(path).send().await?;
        let status = reply.status();
        let text = reply.text().await?;
        ensure!(status == 200, "{}: {status} {text}", path.split('?').next().unwrap_or_default());
        Ok(serde_json::from_str(&text)?)
    }
}

/// The file of its log in its folder.
pub(crate) const LOG: &str = "provider.log";

impl Drop for OidcProvider {
    fn drop(&mut self) {
        // One that has ended by itself is no fault.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Text as one value of a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
