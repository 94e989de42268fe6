//! Notifications over D-Bus (org.freedesktop.Notifications).

use std::collections::HashMap;
use std::time::Duration;

use futures_util::Stream;
use zbus::message::Type;
use zbus::zvariant::Value;
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::shown::Heard;
use super::{Button, Note, Urgency};

/// Longest time that one notification may take. Services that hang are known.
const LIMIT: Duration = Duration::from_secs(3);
/// Signals that wait while something else is done.
const MAX_SIGNALS: usize = 64;
const BUS: &str = "org.freedesktop.DBus";
const SERVICE: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";

/// Why a notification was not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    #[error("no notification service took it")]
    Bus(#[from] zbus::Error),
    #[error("the notification service does not answer")]
    Timeout,
}

/// Shows a note and returns the id under which it can be replaced.
pub(crate) async fn show(connection: Connection, note: Note, replaces: u32) -> Result<u32, NotifyError> {
    tokio::time::timeout(LIMIT, call(&connection, &note, replaces)).await.map_err(|_| NotifyError::Timeout)?
}

async fn call(connection: &Connection, note: &Note, replaces: u32) -> Result<u32, NotifyError> {
    let ask =
        async |method: &str| connection.call_method(Some(SERVICE), PATH, Some(SERVICE), method, &()).await;
    let mut actions = Vec::new();
    if !note.buttons.is_empty() {
        let abilities: Vec<String> = ask("GetCapabilities").await?.body().deserialize()?;
        if abilities.iter().any(|ability| ability == "actions") {
            actions = note.buttons.iter().flat_map(|button| [button.key(), button.label()]).collect();
        }
    }
    // Desktop Notifications Specification: 0 is low, 1 normal, 2 critical, which stays until it is dismissed.
    let (urgency, icon) = match note.urgency {
        Urgency::Low => (0u8, "network-transmit-receive"),
        Urgency::Normal => (1, "dialog-warning"),
    };
    let hints = HashMap::from([("urgency", Value::U8(urgency)), ("category", Value::from("network"))]);
    // The service decides how long it is shown.
    let expire_timeout = -1i32;
    let body = ("tunneld", replaces, icon, &note.summary, escape(&note.body), actions, hints, expire_timeout);
    let answer = connection.call_method(Some(SERVICE), PATH, Some(SERVICE), "Notify", &body).await?;
    Ok(answer.body().deserialize()?)
}

/// Follows what the notification service says, of the notifications of all programs.
///
/// While nobody reads them, [`MAX_SIGNALS`] wait; one more holds up whatever else comes over this connection.
pub(crate) async fn signals(
    connection: &Connection,
) -> zbus::Result<impl Stream<Item = zbus::Result<Message>> + Unpin + use<>> {
    // The bus resolves the name: who only claims to be the service is not heard.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(SERVICE)?.path(PATH)?.interface(SERVICE)?;
    let said = MessageStream::for_match_rule(rule.build(), connection, Some(MAX_SIGNALS)).await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(BUS)?.interface(BUS)?;
    let rule = rule.member("NameOwnerChanged")?.arg(0, SERVICE)?;
    let owner = MessageStream::for_match_rule(rule.build(), connection, Some(MAX_SIGNALS)).await?;
    Ok(futures_util::stream::select(said, owner))
}

/// Reads one of [`signals`]. None if it is about nothing that the tray knows.
pub(crate) fn read(signal: &Message) -> Option<Heard> {
    let (header, body) = (signal.header(), signal.body());
    match header.member()?.as_str() {
        "ActionInvoked" => {
            let (id, key): (u32, String) = body.deserialize().ok()?;
            Some(Heard::Clicked { id, button: Button::from_key(&key)? })
        }
        "NotificationClosed" => {
            let (id, _reason): (u32, u32) = body.deserialize().ok()?;
            Some(Heard::Closed { id })
        }
        "NameOwnerChanged" => {
            let (_name, old, _new): (String, String, String) = body.deserialize().ok()?;
            // A service that is only now there has answered nobody before.
            (!old.is_empty()).then_some(Heard::Gone)
        }
        _ => None,
    }
}

/// Services may take the body for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
