//! One notification over D-Bus, on a connection of its own: they are rare, and an idle connection costs memory.

use std::collections::HashMap;
use std::time::Duration;

use zbus::zvariant::Value;

use super::plan::{Note, Urgency};

/// Longest time that one notification may take. Services that hang are known.
const LIMIT: Duration = Duration::from_secs(3);
const SERVICE: &str = "org.freedesktop.Notifications";

/// Why a notification was not shown. None of it is worth more than a line for those who debug.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotifyError {
    #[error("there is no session bus")]
    NoBus,
    #[error("no notification service took it")]
    Bus(#[from] zbus::Error),
    #[error("the notification service does not answer")]
    Timeout,
}

/// Shows a note on the bus at `address` and returns the id under which it can be replaced.
pub(super) async fn notify(address: Option<&str>, note: &Note) -> Result<u32, NotifyError> {
    let address = address.ok_or(NotifyError::NoBus)?;
    match tokio::time::timeout(LIMIT, call(address, note)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_late) => Err(NotifyError::Timeout),
    }
}

async fn call(address: &str, note: &Note) -> zbus::Result<u32> {
    let connection = zbus::connection::Builder::address(address)?.build().await?;
    // Desktop Notifications Specification: 0 is low, 1 normal, 2 critical, which stays until it is dismissed.
    let (urgency, icon) = match note.urgency {
        Urgency::Low => (0u8, "network-transmit-receive"),
        Urgency::Normal => (1, "dialog-warning"),
    };
    let hints = HashMap::from([("urgency", Value::U8(urgency)), ("category", Value::from("network"))]);
    let no_actions: &[&str] = &[];
    // The service decides how long it is shown.
    let expire_timeout = -1i32;
    let body = (
        "tunneld",
        note.replaces,
        icon,
        &note.summary,
        escape(&note.body),
        no_actions,
        hints,
        expire_timeout,
    );
    let answer = connection
        .call_method(Some(SERVICE), "/org/freedesktop/Notifications", Some(SERVICE), "Notify", &body)
        .await?;
    answer.body().deserialize()
}

/// Services may take the body for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
