//! Whether the desktop shows tray icons.

use std::time::Duration;

use zbus::Connection;
use zbus::connection::Builder;
use zbus::zvariant::OwnedValue;

use super::finding::Finding;

/// Longest wait for the bus and for each answer.
const LIMIT: Duration = Duration::from_secs(3);
/// The name that a tray's watcher owns on the session bus, and that of its interface.
const WATCHER: &str = "org.kde.StatusNotifierWatcher";

/// What the session bus tells of a tray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tray {
    NoWatcher,
    /// Icons can be announced, and nobody shows them.
    NoHost,
    Host,
}

pub(super) async fn host() -> Finding {
    let desktop = std::env::var("XDG_CURRENT_DESKTOP").unwrap_or_default();
    let connection = async { Builder::session()?.method_timeout(LIMIT).build().await };
    let looked = tokio::time::timeout(LIMIT, async {
        match connection.await {
            Ok(bus) => ask(&bus).await.map_err(|error| format!("the session bus answers oddly: {error}")),
            Err(error) => Err(format!("there is no session bus: {error}")),
        }
    });
    match looked.await {
        Ok(Ok(tray)) => judge(tray, &desktop),
        Ok(Err(why)) => Finding::skip(why),
        Err(_) => Finding::skip(format!("the session bus does not answer within {} s", LIMIT.as_secs())),
    }
}

async fn ask(bus: &Connection) -> zbus::Result<Tray> {
    const BUS: &str = "org.freedesktop.DBus";
    let owned =
        bus.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "NameHasOwner", &WATCHER).await?;
    if !owned.body().deserialize::<bool>()? {
        return Ok(Tray::NoWatcher);
    }
    let property = (WATCHER, "IsStatusNotifierHostRegistered");
    let properties = Some("org.freedesktop.DBus.Properties");
    let answer =
        bus.call_method(Some(WATCHER), "/StatusNotifierWatcher", properties, "Get", &property).await?;
    let registered = bool::try_from(answer.body().deserialize::<OwnedValue>()?).map_err(zbus::Error::from)?;
    Ok(if registered { Tray::Host } else { Tray::NoHost })
}

fn judge(tray: Tray, desktop: &str) -> Finding {
    let gnome = desktop.split(':').any(|name| name.eq_ignore_ascii_case("gnome"));
    match tray {
        Tray::Host => Finding::pass("the panel shows tray icons"),
        Tray::NoWatcher | Tray::NoHost if gnome => Finding::warn(
            "GNOME shows no tray icons by itself",
            "install its extension AppIndicator (gnome-shell-extension-appindicator), switch it on and log in anew",
        ),
        Tray::NoWatcher | Tray::NoHost if desktop.is_empty() => {
            Finding::skip("no desktop runs here, so there is no panel for the tray icon")
        }
        Tray::NoWatcher => Finding::warn(
            "this desktop has nothing that shows tray icons",
            "start a panel with a tray (StatusNotifier), or do without tunnel-tray: tunnelctl status -w",
        ),
        Tray::NoHost => Finding::warn(
            "tray icons can be announced, and no panel shows them",
            "add a tray (StatusNotifier) to the panel",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    #[test]
    fn gnome_gets_its_hint_and_a_server_is_left_alone() {
        assert_eq!(judge(Tray::Host, "ubuntu:GNOME").verdict, Verdict::Pass);
        let found = judge(Tray::NoWatcher, "ubuntu:GNOME");
        assert_eq!(found.verdict, Verdict::Warn);
        assert!(found.next_step.contains("AppIndicator"), "{found:?}");
        assert_eq!(judge(Tray::NoWatcher, "").verdict, Verdict::Skip);
        assert_eq!(judge(Tray::NoHost, "XFCE").verdict, Verdict::Warn);
    }
}
