//! The official client libraries, run as their users run them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::binaries;

/// Where Python's and Node's client libraries are installed.
#[derive(Clone, Debug)]
pub struct OfficialClients {
    dir: PathBuf,
}

impl OfficialClients {
    /// Looks in `TUNNEL_CLIENTS_DIR`, else in `.cache/clients` of the workspace; none if they are not installed.
    pub fn find() -> Option<Self> {
        let default = || binaries::workspace_dir().join(".cache").join("clients");
        let dir = env::var_os("TUNNEL_CLIENTS_DIR").map_or_else(default, PathBuf::from);
        let found = Self { dir };
        (found.python().exists() && found.dir.join("node_modules/ollama").is_dir()).then_some(found)
    }

    /// Tells whether a browser is there, and what drives it.
    pub fn has_browser(&self) -> bool {
        self.dir.join("node_modules/playwright-core").is_dir() && Path::new("/usr/bin/chromium").exists()
    }

    fn python(&self) -> PathBuf {
        self.dir.join("venv/bin/python")
    }

    /// Runs `tests/clients/<script>` with these arguments and returns what it printed; fails with that if a check failed.
    ///
    /// The interpreter follows from the name: `.py` or `.mjs`.
    pub async fn run(&self, script: &str, args: &[&str]) -> Result<String> {
        let file = binaries::package_dir().join("clients").join(script);
        let is_python = file.extension().is_some_and(|extension| extension == "py");
        let mut command = if is_python { Command::new(self.python()) } else { Command::new("node") };
        command.arg(&file).args(args);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command
            .env("TUNNEL_CLIENTS_DIR", &self.dir)
            .env("HOME", env::temp_dir())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.with_context(|| format!("running {}", file.display()))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script} failed ({}):\n{printed}{complained}", output.status);
        Ok(printed)
    }
}
