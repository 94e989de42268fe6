//! `tunnelctl config check` and `import`.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::config::{self, Fault};
use tunnel_api::config_api::ImportAnswer;
use tunnel_api::{Config, paths};
use tunnel_client::{Client, exit};

use crate::output::Output;

/// Longest file that is read, in bytes; the daemon has the same limit for its own.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Says what is wrong with a file; no daemon is asked.
pub(super) fn check(file: Option<&Path>, output: &Output) -> anyhow::Result<u8> {
    let found = paths::config_file(file, |name| std::env::var_os(name), Path::exists);
    let Some(found) = found else {
        return told(None, &[], "there is no home and no configuration file, the defaults run", output);
    };
    let path = &found.path;
    let text = match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !found.named => {
            return told(None, &[], &format!("{} is not there, the defaults run", path.display()), output);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            output.error(&format!("there is no file {}", path.display()));
            return Ok(exit::NOT_FOUND);
        }
        text => text.with_context(|| format!("could not read {}", path.display()))?,
    };
    let faults = match config::parse(&text) {
        Ok(keys) => Config::check(&keys).err().unwrap_or_default(),
        Err(error) => {
            vec![Fault { key: path.display().to_string(), rule: error.to_string(), ..Fault::default() }]
        }
    };
    told(Some(path), &faults, &format!("{} is fine", path.display()), output)
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

/// Hands the original's connection file to the daemon.
pub(super) async fn import(client: &Client, file: &Path, output: &Output) -> anyhow::Result<u8> {
    let text = read(file).with_context(|| format!("could not read {}", file.display()))?;
    // What stands where in such a file is not told: it holds a token.
    let content = config::parse(&text)
        .map_err(|error| anyhow::anyhow!("{}, line {}: {}", file.display(), error.line, error.problem))?;
    let answer = client.import_config(&content).await?;
    if output.wants_json() {
        output.json(serde_json::to_value(&answer)?)?;
        return Ok(exit::OK);
    }
    let ImportAnswer { imported, token_stored, answer } = answer;
    let keys = if imported.is_empty() { "no keys".to_owned() } else { imported.join(", ") };
    let place = answer.file.as_deref().unwrap_or("the configuration");
    output.done(&format!("imported {keys} into {place}"))?;
    if token_stored {
        output.done(&format!("the token is stored; delete {}, where it is in clear text", file.display()))?;
    }
    for overridden in answer.overridden {
        output.talk(&format!("{} has no effect as long as ${} is set", overridden.key, overridden.by));
    }
    Ok(exit::OK)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}
