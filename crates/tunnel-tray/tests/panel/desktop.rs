//! What a desktop has, as far as the tray meets it: a panel, notifications, a service manager.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};

use crate::bus::PrivateBus;

/// A panel that shows icons; gone when dropped.
pub(crate) struct Panel {
    pub(crate) connection: Connection,
    items: Arc<Mutex<Vec<String>>>,
}

struct Watcher(Arc<Mutex<Vec<String>>>);

#[zbus::interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    fn register_status_notifier_item(&self, service: String) {
        self.0.lock().unwrap().push(service);
    }

    fn register_status_notifier_host(&self, _service: String) {}

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Width, height, ARGB.
type Picture = (i32, i32, Vec<u8>);
/// Icon's name, icon, title, text.
type Tooltip = (String, Vec<Picture>, String, String);
/// Id, properties, children.
type Layout = (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>);

/// A row of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: i32,
    pub(crate) label: String,
    pub(crate) enabled: bool,
}

impl Panel {
    pub(crate) async fn start(bus: &PrivateBus) -> Self {
        let items = Arc::new(Mutex::new(Vec::new()));
        let watcher = Watcher(Arc::clone(&items));
        let builder = bus.builder().serve_at("/StatusNotifierWatcher", watcher).unwrap();
        let connection = builder.name("org.kde.StatusNotifierWatcher").unwrap().build().await.unwrap();
        Self { connection, items }
    }

    /// Returns the name of the item, once it has registered.
    pub(crate) async fn item(&self) -> String {
        crate::eventually("an item", || self.items.lock().unwrap().first().cloned()).await
    }

    pub(crate) async fn property(&self, item: &str, name: &str) -> OwnedValue {
        let properties = zbus::fdo::PropertiesProxy::builder(&self.connection)
            .destination(item.to_owned())
            .unwrap()
            .path("/StatusNotifierItem")
            .unwrap()
            .build()
            .await
            .unwrap();
        properties.get("org.kde.StatusNotifierItem".try_into().unwrap(), name).await.unwrap()
    }

    pub(crate) async fn tooltip(&self, item: &str) -> String {
        let tooltip: Tooltip = self.property(item, "ToolTip").await.try_into().unwrap();
        tooltip.2
    }

    /// Returns the smallest picture of the icon.
    pub(crate) async fn icon(&self, item: &str) -> Vec<u8> {
        let pictures: Vec<Picture> = self.property(item, "IconPixmap").await.try_into().unwrap();
        assert_eq!(pictures.iter().map(|picture| picture.0).collect::<Vec<_>>(), [22, 32, 48]);
        pictures[0].2.clone()
    }

    pub(crate) async fn rows(&self, item: &str) -> Vec<Row> {
        let answer = self.menu_call(item, "GetLayout", &(0i32, -1i32, Vec::<String>::new())).await.unwrap();
        let body = answer.body();
        let (_revision, layout): (u32, Layout) = body.deserialize().unwrap();
        let mut rows = Vec::new();
        collect(layout, &mut rows);
        rows
    }

    /// Clicks the row of this label, as soon as it is there.
    pub(crate) async fn click(&self, item: &str, label: &str) {
        crate::eventually_async(&format!("a row {label}"), async || {
            let row = self.rows(item).await.into_iter().find(|row| row.label == label)?;
            assert!(row.enabled, "{label} cannot be clicked");
            let event = (row.id, "clicked", Value::I32(0), 0u32);
            // Its id is over if the menu changed in between; a person would have seen another row.
            self.menu_call(item, "Event", &event).await.ok()
        })
        .await;
    }

    async fn menu_call<B>(&self, item: &str, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: zbus::export::serde::Serialize + zbus::zvariant::DynamicType,
    {
        self.connection
            .call_method(Some(item), "/MenuBar", Some("com.canonical.dbusmenu"), method, body)
            .await
    }

    pub(crate) async fn item_call(&self, item: &str, method: &str) {
        let interface = Some("org.kde.StatusNotifierItem");
        self.connection
            .call_method(Some(item), "/StatusNotifierItem", interface, method, &(0i32, 0i32))
            .await
            .unwrap();
    }
}

fn collect(layout: Layout, rows: &mut Vec<Row>) {
    let (id, properties, children) = layout;
    if let Some(label) = properties.get("label") {
        let enabled = properties.get("enabled").is_none_or(|enabled| bool::try_from(enabled).unwrap());
        rows.push(Row { id, label: String::try_from(label.clone()).unwrap(), enabled });
    }
    for child in children {
        collect(child.try_into().unwrap(), rows);
    }
}

/// What was shown: id that it replaces, summary, body, actions.
pub(crate) type Shown = (u32, String, String, Vec<String>);

/// A notification service, and a service manager that only writes down what it should start.
#[derive(Clone, Default)]
pub(crate) struct Services {
    /// Whether its notifications can have no buttons.
    is_plain: bool,
    /// A button that is pressed before the program hears the id of what it is on.
    is_hasty: bool,
    shown: Arc<Mutex<Vec<Shown>>>,
    started: Arc<Mutex<Vec<String>>>,
}

struct Notifications(Services);
struct Manager(Services);

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    fn get_capabilities(&self) -> Vec<String> {
        let abilities: &[&str] = if self.0.is_plain { &["body"] } else { &["body", "actions"] };
        abilities.iter().map(|ability| (*ability).to_owned()).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "the specification's")]
    async fn notify(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        _app: String,
        replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _expires: i32,
    ) -> u32 {
        if let Some(key) = actions.first().filter(|_| self.0.is_hasty) {
            Self::action_invoked(&emitter, 7, key).await.unwrap();
        }
        self.0.shown.lock().unwrap().push((replaces, summary, body, actions));
        7
    }

    #[zbus(signal)]
    async fn action_invoked(emitter: &SignalEmitter<'_>, id: u32, key: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn notification_closed(emitter: &SignalEmitter<'_>, id: u32, reason: u32) -> zbus::Result<()>;
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn start_unit(&self, name: String, _mode: String) -> OwnedObjectPath {
        self.0.started.lock().unwrap().push(name);
        ObjectPath::from_static_str_unchecked("/org/freedesktop/systemd1/job/1").into()
    }

    fn get_unit_file_state(&self, _name: &str) -> &'static str {
        "enabled"
    }
}

impl Services {
    /// Without buttons.
    pub(crate) fn plain() -> Self {
        Self { is_plain: true, ..Self::default() }
    }

    /// With a button that is pressed as soon as it can be.
    pub(crate) fn hasty() -> Self {
        Self { is_hasty: true, ..Self::default() }
    }

    pub(crate) async fn start(&self, bus: &PrivateBus) -> Connection {
        let builder = bus.builder().serve_at("/org/freedesktop/Notifications", Notifications(self.clone()));
        let builder = builder.unwrap().serve_at("/org/freedesktop/systemd1", Manager(self.clone())).unwrap();
        let builder = builder.name("org.freedesktop.Notifications").unwrap();
        builder.name("org.freedesktop.systemd1").unwrap().build().await.unwrap()
    }

    pub(crate) fn shown(&self) -> Vec<Shown> {
        self.shown.lock().unwrap().clone()
    }

    pub(crate) fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    /// Takes the one notification that there is off the screen.
    pub(crate) async fn close(connection: &Connection) {
        let emitter = SignalEmitter::new(connection, "/org/freedesktop/Notifications").unwrap();
        // 2: by the user.
        Notifications::notification_closed(&emitter, 7, 2).await.unwrap();
    }

    /// Clicks a button of the one notification that there is.
    pub(crate) async fn click(connection: &Connection, key: &str) {
        let emitter = SignalEmitter::new(connection, "/org/freedesktop/Notifications").unwrap();
        Notifications::action_invoked(&emitter, 7, key).await.unwrap();
    }
}
