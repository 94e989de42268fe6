//! Whether the panel is dark or light.

use std::time::Duration;

use zbus::Connection;
use zbus::zvariant::{OwnedValue, Value};

use crate::icon::Panel;

/// Longest wait for the settings portal, which may have to be started.
const LIMIT: Duration = Duration::from_secs(2);
/// The portal's value of `color-scheme` for "prefer dark".
const PREFERS_DARK: u32 = 1;

/// Returns what the panel most likely is.
///
/// There is no question for it. GNOME's, Cinnamon's and Xfce's panels are dark whatever the windows are, and
/// Plasma's goes with the colour scheme, which the settings portal tells.
pub(crate) async fn panel(connection: &Connection, desktop: &str) -> Panel {
    if !desktop.split(':').any(|name| name.eq_ignore_ascii_case("KDE")) {
        return Panel::Dark;
    }
    match tokio::time::timeout(LIMIT, scheme(connection)).await {
        Ok(Some(scheme)) if scheme != PREFERS_DARK => Panel::Light,
        Ok(_) | Err(_) => Panel::Dark,
    }
}

async fn scheme(connection: &Connection) -> Option<u32> {
    let answer = connection
        .call_method(
            Some("org.freedesktop.portal.Desktop"),
            "/org/freedesktop/portal/desktop",
            Some("org.freedesktop.portal.Settings"),
            "Read",
            &("org.freedesktop.appearance", "color-scheme"),
        )
        .await
        .ok()?;
    let value: OwnedValue = answer.body().deserialize().ok()?;
    number(&value)
}

/// `Read` wraps its answer into one variant too many; that is its contract.
fn number(value: &Value<'_>) -> Option<u32> {
    match value {
        Value::U32(scheme) => Some(*scheme),
        Value::Value(inner) => number(inner),
        _ => None,
    }
}
