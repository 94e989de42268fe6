//! `tunnelctl config check`: needs no daemon.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::config::{self, Fault};
use tunnel_api::{Config, paths};
use tunnel_client::exit;

use super::file;
use crate::output::Output;

/// Says what is wrong with a file.
pub(super) fn check(file: Option<&Path>, output: &Output) -> anyhow::Result<u8> {
    let found = paths::config_file(file, |name| std::env::var_os(name), Path::exists);
    let Some(found) = found else {
        return told(None, &[], "there is no home and no configuration file, the defaults run", output);
    };
    let path = &found.path;
    let text = match file::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !found.named => {
            return told(None, &[], &format!("{} is not there, the defaults run", path.display()), output);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            output.error(&format!("there is no file {}", path.display()));
            return Ok(exit::NOT_FOUND);
        }
        text => text.with_context(|| format!("could not read {}", path.display()))?,
    };
    told(Some(path), &faults(path, &text), &format!("{} is fine", path.display()), output)
}

/// Returns what is wrong with a text as the content of a file.
pub(super) fn faults(path: &Path, text: &str) -> Vec<Fault> {
    match config::parse(text) {
        Ok(keys) => Config::check(&keys).err().unwrap_or_default(),
        Err(error) => {
            vec![Fault { key: path.display().to_string(), rule: error.to_string(), ..Fault::default() }]
        }
    }
}

fn told(file: Option<&Path>, faults: &[Fault], fine: &str, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(json!({ "file": file, "valid": faults.is_empty(), "faults": faults }))?;
    } else if faults.is_empty() {
        output.done(fine)?;
    } else {
        // The faults are the answer.
        let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
        output.answer(&lines)?;
    }
    Ok(if faults.is_empty() { exit::OK } else { exit::CONFIG_INVALID })
}
