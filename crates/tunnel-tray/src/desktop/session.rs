//! The session bus: one tray a session, and whether there is a panel to be in.

use std::time::Duration;

use futures_util::StreamExt as _;
use zbus::Connection;
use zbus::fdo::{DBusProxy, RequestNameFlags, RequestNameReply};
use zbus::names::{BusName, WellKnownName};

/// Owned by the one tray of a session.
const OWN_NAME: WellKnownName<'static> =
    WellKnownName::from_static_str_unchecked("org.cloudtolocalllm.TunnelTray");
/// Owned by the panel, or by who serves it.
const WATCHER: &str = "org.kde.StatusNotifierWatcher";

/// Makes this the one tray of the session. False: there is another.
pub(crate) async fn claim(connection: &Connection) -> zbus::Result<bool> {
    // The connection's own method wants an object server behind each name; this one is a mark and answers nobody.
    let bus = DBusProxy::new(connection).await?;
    let reply = bus.request_name(OWN_NAME, RequestNameFlags::DoNotQueue.into()).await?;
    Ok(match reply {
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => true,
        RequestNameReply::InQueue | RequestNameReply::Exists => false,
    })
}

/// Waits until there is a panel that shows icons. False: there is none within `limit`.
///
/// At a login the panel may come after its icons.
pub(crate) async fn has_panel(connection: &Connection, limit: Duration) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection).await?;
    let mut changes = bus.receive_name_owner_changed_with_args(&[(0, WATCHER)]).await?;
    let name = BusName::try_from(WATCHER)?;
    let appears = async {
        if bus.name_has_owner(name).await? {
            return zbus::Result::Ok(true);
        }
        while let Some(change) = changes.next().await {
            if change.args()?.new_owner().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    tokio::time::timeout(limit, appears).await.unwrap_or(Ok(false))
}
