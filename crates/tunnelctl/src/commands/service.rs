//! `tunnelctl service`: the daemon as a user service of systemd.

mod boot;
mod install;
mod start;
mod status;
mod systemctl;
mod uninstall;
mod unit;

use std::path::{Path, PathBuf};

use anyhow::Context;
use tunnel_client::Client;

use crate::cli::ServiceVerb;
use crate::output::Output;
pub(super) use start::Unit;
pub(super) use status::lingers;
use systemctl::Systemctl;
pub(super) use systemctl::{Properties, WANTED};

/// How a running daemon is started anew, whoever started it.
pub(super) const RESTART: &str =
    "restart it: systemctl --user restart tunneld, or, where it is no service, end it and run: tunneld";
/// The unit that runs the daemon, and the one that holds its sockets.
pub(super) const SERVICE: &str = "tunneld.service";
const SOCKET: &str = "tunneld.socket";
/// The name that the original's unit had; now an alias of ours.
const ALIAS: &str = "cloudtolocalllm-tunnel.service";

pub(super) async fn run(client: &Client, verb: &ServiceVerb, output: &Output) -> anyhow::Result<u8> {
    let places = Places::find(|name| std::env::var_os(name).map(PathBuf::from))?;
    let systemctl = Systemctl::find()?;
    match verb {
        ServiceVerb::Install(wish) => {
            let code = install::install(wish, &places, &systemctl, output)?;
            boot::agree(client, true, output).await;
            Ok(code)
        }
        ServiceVerb::Uninstall { force } => {
            // One that does not run cannot be asked; its socket would start it.
            if systemctl.show(SERVICE)?.is_active() {
                boot::agree(client, false, output).await;
            }
            uninstall::uninstall(*force, &places, &systemctl, output)
        }
        ServiceVerb::Status => status::show(&systemctl, output),
    }
}

/// Where units are.
#[derive(Debug)]
struct Places {
    /// The user's own, which win over all others.
    own: PathBuf,
    /// Those that packages and administrators install.
    system: Vec<PathBuf>,
}

impl Places {
    fn find(env: impl Fn(&str) -> Option<PathBuf>) -> anyhow::Result<Self> {
        let absolute = |name| env(name).filter(|path: &PathBuf| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .context("there is no home for the units; set HOME")?;
        let system =
            ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"].map(PathBuf::from);
        Ok(Self { own: config.join("systemd/user"), system: system.into() })
    }

    fn own(&self, unit: &str) -> PathBuf {
        self.own.join(unit)
    }

    /// Returns a unit that came with the system, if there is one.
    fn packaged(&self, unit: &str) -> Option<PathBuf> {
        self.system.iter().map(|directory| directory.join(unit)).find(|path| path.exists())
    }
}

/// Moves a file that the user wrote or changed out of the way; nothing of his is lost.
fn keep_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".bak");
    std::fs::rename(path, &aside).with_context(|| format!("moving {} aside", path.display()))?;
    Ok(aside.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_below_the_configuration_directory() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        let own = |pairs| Places::find(env(pairs)).map(|places| places.own(SERVICE));
        let home = own(&[("HOME", "/home/a")]).unwrap();
        assert_eq!(home, Path::new("/home/a/.config/systemd/user/tunneld.service"));
        let xdg = own(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/cfg")]).unwrap();
        assert_eq!(xdg, Path::new("/cfg/systemd/user/tunneld.service"));
        assert!(own(&[("HOME", "relative")]).is_err());
    }
}
