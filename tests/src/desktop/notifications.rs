//! What shows notifications: `org.freedesktop.Notifications`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use zbus::{object_server::SignalEmitter, zvariant::OwnedValue};

pub(super) const NOTIFICATIONS_NAME: &str = "org.freedesktop.Notifications";
pub(super) const NOTIFICATIONS_PATH: &str = "/org/freedesktop/Notifications";

/// What was asked to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The number that it is known by; that of the one which it replaced, if it did.
    pub id: u32,
    /// The program that sent it.
    pub app: String,
    /// Tells whether it took the place of an earlier one.
    pub replaces: bool,
    /// Its headline.
    pub summary: String,
    /// Its text.
    pub body: String,
    /// The keys of its buttons, each followed by what stands on it.
    pub actions: Vec<String>,
}

/// The service; it notes what it is to show, and can press buttons.
#[derive(Debug)]
pub(super) struct Notifications {
    shown: Arc<Mutex<Vec<Notification>>>,
}

impl Notifications {
    pub(super) fn new(shown: Arc<Mutex<Vec<Notification>>>) -> Self {
        Self { shown }
    }
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    #[expect(clippy::too_many_arguments, reason = "the interface has them")]
    fn notify(
        &self,
        app: String,
        replaces: u32,
        _icon: &str,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _expires: i32,
    ) -> u32 {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = shown.iter().map(|notification| notification.id).max().unwrap_or(0) + 1;
        let id = if replaces == 0 { fresh } else { replaces };
        shown.push(Notification { id, app, replaces: replaces != 0, summary, body, actions });
        id
    }

    fn close_notification(&self, _id: u32) {}

    fn get_capabilities(&self) -> Vec<String> {
        vec!["body".to_owned(), "actions".to_owned()]
    }

    fn get_server_information(&self) -> (String, String, String, String) {
        let [name, vendor, version, spec] = ["harness", "e2e", "1", "1.2"].map(str::to_owned);
        (name, vendor, version, spec)
    }

    #[zbus(signal)]
    pub(super) async fn action_invoked(
        emitter: &SignalEmitter<'_>,
        id: u32,
        action_key: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn notification_closed(emitter: &SignalEmitter<'_>, id: u32, reason: u32) -> zbus::Result<()>;
}
