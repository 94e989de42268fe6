//! The archive for a bug report: what is in it, and what never is.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{MODEL, Script, WorldOptions, keep_secret, look_for_secrets, measured, scenario};
use serde_json::{Value, json};

/// What a machine may not have, or not in reach: a journal, a service manager.
const MAY_BE_MISSING: [&str; 3] = ["log.txt", "units.txt", "unit-files.txt"];
/// A host's name of so many characters is looked for.
const LONG_NAME: usize = 6;

#[test]
fn an_archive_has_what_helps_and_no_secret() -> Result<()> {
    scenario(async |lab| {
        // In many answers: neither a device nor a model nor an account is anybody else's business.
        let device = format!("device-{:016x}", rand::random::<u64>());
        let options = WorldOptions::default().with("logLevel", "DEBUG").with("deviceName", device.as_str());
        let world = lab.world_with(options).await?;
        for (door, caller) in world.doors() {
            let body = json!({ "model": MODEL, "stream": true,
                "messages": [{ "role": "user", "content": secret("prompt") }] });
            let call = caller
                .post(&format!("/api/chat?key={}", secret("query")))
                .json(&body)
                .header("x-api-key", &secret("key"));
            drop(call.script(&Script::tokens(3, 100.0)).send().await.context(door)?.ending().await);
        }
        let folder = lab.dir().join("report");
        fs::create_dir_all(&folder)?;
        let file = folder.join("report.tar.gz");
        let path = file.display().to_string();
        let written = world.daemon.tunnelctl(&["diag", "--output", &path]).await?;
        let said = String::from_utf8_lossy(&written.stderr).into_owned();
        ensure!(written.status.success(), "{}{said}", String::from_utf8_lossy(&written.stdout));
        ensure!(String::from_utf8_lossy(&written.stdout).trim().ends_with("report.tar.gz"), "{written:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions());
        ensure!(mode & 0o777 == 0o600, "others may read it: {mode:o}");
        // Nothing is written over what somebody may still need.
        ensure!(!world.daemon.tunnelctl(&["diag", "--output", &path]).await?.status.success());

        let unpacked = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&folder).output()?;
        ensure!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
        fs::remove_file(&file)?;
        let home = world.daemon.dir().display().to_string();
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
        let mut private = vec![world.tunnel_token.as_str(), &device, "alice", MODEL, &home];
        // A short one is part of many words.
        private.extend((host.len() >= LONG_NAME && host != "localhost").then_some(host.as_str()));
        let mut names = Vec::new();
        let mut bytes = 0;
        let mut folders = vec![folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let name = entry.file_name().to_string_lossy().into_owned();
                let content = fs::read(entry.path())?;
                look_for_secrets(&content).with_context(|| name.clone())?;
                // Nor the token that it was given, nor whose it is; the message does not repeat it.
                let text = String::from_utf8_lossy(&content).into_owned();
                for private in &private {
                    ensure!(!text.contains(private), "something private is in {name}: {private}");
                    ensure!(!name.contains(private), "something private is in a file's name: {name}");
                }
                bytes += content.len();
                names.push((name, content));
            }
        }
        let content =
            |wanted: &str| names.iter().find(|(name, _)| name == wanted).map(|(_, content)| content);
        let result: Value = serde_json::from_slice(content("result.json").context("result.json")?)?;
        ensure!(
            content("README.txt").is_some(),
            "{:?}",
            names.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        let jobs = result["jobs"].as_array().context("the jobs")?;
        for job in jobs {
            let file = job["file"].as_str().context("a job is about a file")?;
            match job["result"].as_str() {
                Some("ok") => ensure!(content(file).is_some(), "{file} is said to be there: {result}"),
                Some("skip" | "err") => ensure!(MAY_BE_MISSING.contains(&file), "{job}"),
                _ => bail!("{job}"),
            }
        }
        ensure!(jobs.len() > MAY_BE_MISSING.len(), "{result}");
        measured("diag", format!("{} files, {} KiB unpacked, no canary in them", names.len(), bytes / 1024));
        Ok(())
    })
}

fn secret(what: &str) -> String {
    let secret = format!("canary-{what}-{:016x}", rand::random::<u64>());
    keep_secret(&secret);
    secret
}
