//! Debian's packages: installed where a program must be part of the system, else only unpacked.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::{run, talk};

/// Longest wait for another program that installs packages.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// A program of the system that something here needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    /// Arguments with which it succeeds if it is fit.
    pub(crate) check: &'static [&'static str],
    pub(crate) package: &'static str,
}

/// Installs the packages of the needs that are not met.
pub(crate) fn require(needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !run::succeeds(need.program, need.check)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    let list = packages.join(" ");
    ensure!(
        run::succeeds("apt-get", &["--version"]),
        "missing: {list} (Debian's names), and there is no apt-get here; install them and try again"
    );
    talk::step(&format!("installing Debian packages: {list}"));
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    // Old lists of packages name versions that are gone, and a fresh machine has no lists.
    if apt_get(&format!("apt-get install {list}"), &install).is_err() {
        update()?;
        apt_get(&format!("apt-get install {list}"), &install)
            .with_context(|| format!("installing {list}; by hand: apt-get install {list}"))?;
    }
    for need in missing {
        ensure!(
            run::succeeds(need.program, need.check),
            "{} is installed, but `{} {}` still fails",
            need.package,
            need.program,
            need.check.join(" ")
        );
    }
    Ok(())
}

fn update() -> anyhow::Result<()> {
    run::with_retries("apt-get update", || apt_get("apt-get update", &["update"]))
}

fn apt_get(what: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let mut command = if is_root() {
            Command::new("apt-get")
        } else {
            ensure!(
                run::succeeds("sudo", &["--version"]),
                "this needs root and there is no sudo; as root: apt-get {}",
                arguments.join(" ")
            );
            // Asks on the terminal; the run itself has no standard input.
            run::shown(Command::new("sudo").arg("--validate"))?;
            let mut sudo = Command::new("sudo");
            sudo.args(["--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
            sudo
        };
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
        let Err(error) = run::logged(what, &mut command) else { return Ok(()) };
        // The option above covers dpkg's lock, not the one on the lists.
        if !format!("{error:#}").contains("Could not get lock") || begin.elapsed() > LOCK_PATIENCE {
            return Err(error);
        }
        talk::waiting("another program installs packages", begin.elapsed());
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Where unpacked packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// What this machine runs: brings only what is not installed.
    Own,
    /// Debian's unstable: brings everything down to the C library, to be run with its own loader.
    Sid,
}

/// Downloads `packages` and what they need, and unpacks them below `root`; nothing is installed, no script of
/// theirs runs, and it needs no root.
pub(crate) fn unpack(suite: Suite, packages: &[&str], root: &Path) -> anyhow::Result<()> {
    let work = root.with_extension("apt");
    remove(&work)?;
    let archives = work.join("archives");
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("creating {}", archives.display()))?;
    let list = packages.join(" ");
    let options = vec![
        "--yes".to_owned(),
        "--download-only".to_owned(),
        "--no-install-recommends".to_owned(),
        "-o".to_owned(),
        format!("Dir::Cache::archives={}", archives.display()),
        "-o".to_owned(),
        "Debug::NoLocking=1".to_owned(),
        "-o".to_owned(),
        format!("APT::Sandbox::User={}", if is_root() { "root" } else { "" }),
    ];
    let fetch = |config: Option<&Path>, what: &str, arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(&options).args(arguments).env("LC_ALL", "C");
        if let Some(config) = config {
            command.env("APT_CONFIG", config);
        }
        run::logged(what, &mut command)
    };
    let install: Vec<&str> = std::iter::once("install").chain(packages.iter().copied()).collect();
    let what = format!("downloading {list}");
    match suite {
        Suite::Own => {
            if fetch(None, &what, &install).is_err() {
                update()?;
                run::with_retries(&what, || fetch(None, &what, &install))?;
            }
        }
        Suite::Sid => {
            let config = sid_config(&work)?;
            let update = "reading Debian sid's list of packages";
            run::with_retries(update, || fetch(Some(&config), update, &["update"]))
                .context("Debian sid cannot be had from this machine's mirror")?;
            run::with_retries(&what, || fetch(Some(&config), &what, &install))?;
        }
    }
    // The packages expect the merged layout: /bin is /usr/bin and so on.
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        let link = root.join(folder);
        if !link.exists() {
            symlink(format!("usr/{folder}"), &link).with_context(|| format!("linking {}", link.display()))?;
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&archives)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    for file in files {
        run::output(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
    }
    remove(&work)
}

/// Writes a configuration under which apt knows nothing but sid and no installed package.
fn sid_config(work: &Path) -> anyhow::Result<PathBuf> {
    let mirror = mirror()?;
    let keyring = ["debian-archive-keyring.gpg", "debian-archive-keyring.pgp"]
        .map(|name| Path::new("/usr/share/keyrings").join(name))
        .into_iter()
        .find(|path| path.exists())
        .context(
            "Debian's keys are not in /usr/share/keyrings; they come with the package debian-archive-keyring",
        )?;
    for folder in ["state/lists/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "log"]
    {
        fs::create_dir_all(work.join(folder))?;
    }
    fs::write(work.join("status"), "")?;
    let source = format!("deb [signed-by={}] {mirror} sid main\n", keyring.display());
    fs::write(work.join("etc/sources.list"), source)?;
    let here = work.display();
    let config = work.join("apt.conf");
    // A mirror may be a snapshot whose Release file has expired.
    let text = format!(
        "Dir::State \"{here}/state\";\nDir::State::status \"{here}/status\";\nDir::Cache \"{here}\";\n\
         Dir::Etc \"{here}/etc\";\nDir::Log \"{here}/log\";\nAcquire::Check-Valid-Until \"false\";\n\
         Acquire::Languages \"none\";\n"
    );
    fs::write(&config, text)?;
    Ok(config)
}

/// Finds the mirror that this machine's apt uses for Debian itself.
fn mirror() -> anyhow::Result<String> {
    let ask = || {
        let mut command = Command::new("apt-get");
        command.args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Label: Debian",
        ]);
        run::output(&mut command)
    };
    let mut known = ask()?;
    if known.trim().is_empty() {
        // Who is behind a source is known only once its lists are there.
        update()?;
        known = ask()?;
    }
    match known.lines().next() {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!("apt has no source of Debian's packages; the model server comes from there"),
    }
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Finds a program of the system below `root`.
pub(crate) fn find(root: &Path, program: &str) -> Option<PathBuf> {
    ["usr/sbin", "usr/bin"].iter().map(|folder| root.join(folder).join(program)).find(|path| path.is_file())
}

/// Writes a script that runs an unpacked program with the libraries that were unpacked beside it.
pub(crate) fn write_wrapper(root: &Path, program: &str) -> anyhow::Result<()> {
    let Some(path) = find(root, program) else { bail!("the packages have no {program}") };
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let libraries = root.join("usr/lib").join(triplet);
    fs::create_dir_all(root.join("run"))?;
    let wrapper = root.join("run").join(program);
    let text = format!(
        "#!/bin/sh\n# Written by `cargo xtask`.\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        libraries.display(),
        path.display()
    );
    fs::write(&wrapper, text)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
