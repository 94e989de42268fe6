//! `tunnelctl service install`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tunnel_client::exit;

use super::systemctl::{Properties, Systemctl};
use super::unit::{self, Authorship, Unit};
use super::{ALIAS, Places, SERVICE, SOCKET, keep_aside};
use crate::cli::Install;
use crate::output::Output;

/// Exit statuses with which systemd says that it could not set the sandbox up: systemd.exec(5).
const SANDBOX_FAILED: [&str; 3] = ["217", "218", "226"];

pub(super) fn install(
    wish: &Install,
    places: &Places,
    systemctl: &Systemctl,
    output: &Output,
) -> anyhow::Result<u8> {
    let packaged = places.packaged(SERVICE).filter(|_| wish.tunneld.is_none() && !wish.no_sandbox);
    let mut changed = make_way_for_alias(wish.force, places, systemctl, output)?;
    if let Some(packaged) = &packaged {
        output.talk(&format!("{} is there; it is enabled as it is", packaged.display()));
    } else {
        let tunneld = tunneld(wish.tunneld.as_deref())?;
        let mut units = vec![unit::service(&tunneld, !wish.no_sandbox)];
        if wish.socket() {
            units.push(unit::socket());
        }
        for unit in &units {
            changed |= put(unit, &places.own(unit.name), wish.force, output)?;
        }
    }
    systemctl.run(&["daemon-reload"])?;
    bring_up(wish.socket(), changed, systemctl)?;
    let service = systemctl.show(SERVICE)?;
    let file = service.get("FragmentPath").to_owned();
    if output.wants_json() {
        output.json(json!({
            "status": "success", "unit": SERVICE, "file": file, "socket": wish.socket(), "changed": changed,
        }))?;
    } else {
        output.done(&format!("tunneld runs, and will at each login, by {file}; next: tunnelctl start"))?;
    }
    Ok(exit::OK)
}

/// Enables and starts; what runs already goes on unless its unit has changed.
fn bring_up(with_socket: bool, changed: bool, systemctl: &Systemctl) -> anyhow::Result<()> {
    // Of a unit that failed too often systemd would not even try the start; one that had not is no fault.
    let _nothing_to_forget = systemctl.run(&["reset-failed", SERVICE, SOCKET]);
    let (service, socket) = (systemctl.show(SERVICE)?, systemctl.show(SOCKET)?);
    // A daemon that runs was given its sockets at its start, so both start anew where that changes.
    let regroup = with_socket != socket.is_active() && service.is_active();
    if with_socket {
        ensure!(socket.exists(), "there is no {SOCKET} beside the packaged unit; try: --no-socket");
        if regroup {
            systemctl.run(&["stop", SERVICE])?;
        }
        systemctl.run(&["enable", "--now", SOCKET])?;
    } else if socket.exists() {
        systemctl.run(&["disable", "--now", SOCKET])?;
    }
    systemctl.run(&["enable", SERVICE])?;
    let verb = if changed || regroup { "restart" } else { "start" };
    if let Err(error) = systemctl.run(&[verb, SERVICE]) {
        let service = systemctl.show(SERVICE)?;
        // Else systemd did not even try, and has said why.
        ensure!(service.get("ActiveState") != "failed", why_not_started(&service));
        return Err(error);
    }
    Ok(())
}

fn why_not_started(service: &Properties) -> String {
    let status = service.get("ExecMainStatus");
    if SANDBOX_FAILED.contains(&status) {
        return "this system does not let a user service have its sandbox (user namespaces are restricted); \
                go without it: tunnelctl service install --no-sandbox"
            .to_owned();
    }
    match service.get("StatusText") {
        "" => format!("tunneld did not start (exit code {status}); look at: journalctl --user -u tunneld"),
        text => format!("tunneld did not start: {text}"),
    }
}

/// Returns the daemon to start: the one that was named, or the one beside this program.
fn tunneld(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match named {
        Some(path) => std::path::absolute(path)?,
        None => {
            let own = std::env::current_exe().context("finding this program")?;
            own.with_file_name("tunneld")
        }
    };
    let executable =
        fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    ensure!(executable, "{} is no program; name the daemon: --tunneld PATH", path.display());
    Ok(path)
}

/// The original's own unit would keep systemd from making the alias.
fn make_way_for_alias(
    force: bool,
    places: &Places,
    systemctl: &Systemctl,
    output: &Output,
) -> anyhow::Result<bool> {
    let path = places.own(ALIAS);
    if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
        return Ok(false);
    }
    ensure!(
        force,
        "{} is the unit of an earlier installation, whose name tunneld takes over; with --force it is stopped \
         and kept as {ALIAS}.bak",
        path.display()
    );
    systemctl.run(&["disable", "--now", ALIAS])?;
    let aside = keep_aside(&path)?;
    output.talk(&format!("the earlier unit is stopped and kept as {}", aside.display()));
    Ok(true)
}

/// Writes a unit unless it is there already, and tells whether it was written.
fn put(unit: &Unit, path: &Path, force: bool, output: &Output) -> anyhow::Result<bool> {
    match fs::read_to_string(path) {
        Ok(there) if there == unit.text => return Ok(false),
        Ok(there) if unit::authorship(&there) == Authorship::Ours => {}
        Ok(_) if force => {
            let aside = keep_aside(path)?;
            output.talk(&format!("what was there is kept as {}", aside.display()));
        }
        Ok(_) => bail!(
            "{} was written or changed by hand, so it stays; with --force it is replaced and kept as .bak",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    write(path, &unit.text).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}

/// Never leaves half a unit.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn quiet() -> Output {
        Output::new(&Cli::parse_from(["tunnelctl", "--quiet", "version"]))
    }

    #[test]
    fn unit_is_written_once_and_replaced_by_a_newer_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("systemd/user/tunneld.service");
        let unit = unit::service(Path::new("/a/tunneld"), true);
        assert!(put(&unit, &path, false, &quiet()).unwrap());
        assert!(!put(&unit, &path, false, &quiet()).unwrap());
        let newer = unit::service(Path::new("/b/tunneld"), true);
        assert!(put(&newer, &path, false, &quiet()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), newer.text);
    }

    #[test]
    fn unit_changed_by_hand_is_replaced_only_by_force_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tunneld.service");
        let unit = unit::service(Path::new("/a/tunneld"), true);
        let mine = format!("{}# mine\n", unit.text);
        fs::write(&path, &mine).unwrap();
        let error = put(&unit, &path, false, &quiet()).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), mine);
        assert!(put(&unit, &path, true, &quiet()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), unit.text);
        assert_eq!(fs::read_to_string(home.path().join("tunneld.service.bak")).unwrap(), mine);
    }

    #[test]
    fn daemon_must_be_a_program() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tunneld");
        fs::write(&path, "").unwrap();
        assert!(tunneld(Some(&path)).unwrap_err().to_string().contains("--tunneld"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(tunneld(Some(&path)).unwrap(), path);
    }
}
