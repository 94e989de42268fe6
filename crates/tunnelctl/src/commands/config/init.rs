//! `tunnelctl config init`: needs no daemon.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::{Config, paths};
use tunnel_client::exit;

use super::file;
use crate::output::Output;

/// A key that is left out: as long as nobody has said it, systemd decides alone. Written down, its default would
/// have the daemon disable a unit that was enabled by hand or by `tunnelctl service install`.
const UNSAID: &str = "autoStartOnBoot";

/// Writes every key but one with its default to where the daemon reads it.
pub(super) fn init(output: &Output) -> anyhow::Result<u8> {
    let found = paths::config_file(None, |name| std::env::var_os(name), Path::exists)
        .context("there is no place for a configuration file; set HOME, or name one with TUNNELD_CONFIG")?;
    let path = found.path;
    let made =
        file::create(&path, &text()?).with_context(|| format!("could not write {}", path.display()))?;
    if !made {
        output.error(&format!("{} is there already; change it with: tunnelctl config edit", path.display()));
        return Ok(exit::CONFLICT);
    }
    if output.wants_json() {
        output.json(json!({ "file": path }))?;
        return Ok(exit::OK);
    }
    output.done(&format!("wrote {}", path.display()))?;
    if std::env::var_os("OLLAMA_HOST").is_some_and(|host| !host.is_empty()) {
        // As docs/configuration.md says of ollamaHost.
        output.talk("$OLLAMA_HOST does not count any more: the file now says where Ollama is");
    }
    output.talk("change it with: tunnelctl config edit; tunneld takes changes over by itself");
    Ok(exit::OK)
}

fn text() -> anyhow::Result<String> {
    let text = Config::default().to_json();
    // By lines: a map would sort the keys.
    let is_unsaid = |line: &&str| line.trim_start().starts_with(&format!("\"{UNSAID}\":"));
    let kept: Vec<&str> = text.lines().filter(|line| !is_unsaid(line)).collect();
    let text = format!("{}\n", kept.join("\n"));
    tunnel_api::config::parse(&text).map_err(|error| anyhow::anyhow!("{error}")).context("the defaults")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_written_but_for_what_systemd_decides() {
        let mut defaults = Config::default().to_map();
        assert!(defaults.remove(UNSAID).is_some());
        assert_eq!(tunnel_api::config::parse(&text().unwrap()).unwrap(), defaults);
    }
}
