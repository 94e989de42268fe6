//! The example of `docs/plugins.md`, as the document has it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use e2e::binaries;
use serde_json::Value;

/// The home of whoever reads the document.
const READERS_FOLDER: &str = "/home/you/plugins";

/// The code blocks of the document.
pub(super) struct Example {
    program: String,
    config: String,
    /// Commands: the question first, then how to watch it.
    pub(super) commands: Vec<String>,
}

impl Example {
    pub(super) fn read() -> Result<Self> {
        let document = fs::read_to_string(binaries::workspace_dir().join("docs/plugins.md"))?;
        let one = |language| {
            let mut found = blocks(&document, language);
            ensure!(found.len() == 1, "{} blocks of {language}", found.len());
            Ok(found.remove(0))
        };
        Ok(Self { program: one("python")?, config: one("json")?, commands: blocks(&document, "sh") })
    }

    /// The program, and the configuration for it in `folder`.
    pub(super) fn at(&self, folder: &str) -> Result<(&str, Value)> {
        let config = self.config.replace(READERS_FOLDER, folder);
        Ok((&self.program, serde_json::from_str(&config).context("the document's configuration")?))
    }

    /// Writes the program and returns the configuration.
    pub(super) fn install(&self, folder: &Path) -> Result<Value> {
        let (program, config) = self.at(folder.to_str().context("a folder of ours")?)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("echo.py"), program)?;
        Ok(config)
    }
}

fn blocks(document: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let parts = document.split(&opening).skip(1);
    parts.filter_map(|part| Some(part.split_once("```")?.0.to_owned())).collect()
}
