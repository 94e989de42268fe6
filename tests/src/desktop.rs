//! The part of a desktop that a tray sees: a session bus, the place where icons register, and what shows notifications.
//!
//! The bus is a real `dbus-daemon` of its own; the services on it are the harness's, so that a scenario sees every call and can
//! click without a panel.

mod item;
mod notifications;
mod watcher;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use tokio::{net::UnixStream, task::JoinSet};
use zbus::{Connection, MatchRule, MessageStream, connection, message::Type};

pub use self::{
    item::{MenuEntry, Picture, Tooltip, TrayItem},
    notifications::Notification,
};
use self::{
    notifications::{NOTIFICATIONS_NAME, NOTIFICATIONS_PATH, Notifications},
    watcher::{WATCHER_NAME, WATCHER_PATH, Watcher},
};
use crate::{
    process::{Process, describe},
    wait::poll_until,
};

const LIMIT: Duration = Duration::from_secs(10);
/// Signals with which an icon tells its panel that something is to be drawn anew.
const DRAWING: [&str; 2] = ["org.kde.StatusNotifierItem", "com.canonical.dbusmenu"];
/// Signals that wait to be counted; the counter does nothing else.
const MOST_WAITING: usize = 4096;

/// A running session bus and the services on it. Dropping it ends them.
#[derive(Debug)]
pub struct Desktop {
    /// The services that are there from the beginning to the end.
    services: Connection,
    watcher: Mutex<Option<Connection>>,
    items: Arc<Mutex<Vec<String>>>,
    notifications: Arc<Mutex<Vec<Notification>>>,
    drawn: Arc<AtomicUsize>,
    _counter: JoinSet<()>,
    dir: PathBuf,
    address: String,
    _bus: Process,
}

impl Desktop {
    /// Starts a bus with its socket and log below `dir`, without a place for icons yet; none where there is no `dbus-daemon`.
    pub async fn start(dir: &Path) -> Result<Option<Self>> {
        // No folder of services: what a developer's machine could start by itself stays off this bus.
        Self::start_with(dir, "", &[]).await
    }

    /// The same for real programs of a desktop: the bus starts the machine's services when they are asked for, in this
    /// environment. Icons register with whichever of them opens a place.
    pub async fn start_for_programs(dir: &Path, environment: &[(&str, String)]) -> Result<Option<Self>> {
        Self::start_with(dir, "<standard_session_servicedirs/>", environment).await
    }

    async fn start_with(dir: &Path, services: &str, environment: &[(&str, String)]) -> Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        let socket = dir.join("bus");
        let address = format!("unix:path={}", socket.display());
        let config = dir.join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>{services}\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/></policy></busconfig>"
        );
        fs::write(&config, text)?;
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--config-file"]).arg(&config);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let there = Command::new("dbus-daemon").arg("--version").output();
        if there.is_err() {
            return Ok(None);
        }
        let mut bus = Process::spawn("dbus-daemon", &mut command, &dir.join("bus.log"))?;
        poll_until("the session bus listens", LIMIT, async || {
            // The file is there a moment before it can be connected to.
            UnixStream::connect(&socket).await.ok().map(drop)
        })
        .await?;
        if let Some(status) = bus.exited()? {
            bail!("dbus-daemon ended at start: {}\n{}", describe(status), bus.printed());
        }
        let (items, notifications) = (Arc::default(), Arc::default());
        let services = connection::Builder::address(address.as_str())?
            .serve_at(NOTIFICATIONS_PATH, Notifications::new(Arc::clone(&notifications)))?
            .name(NOTIFICATIONS_NAME)?
            .build()
            .await
            .context("serving notifications")?;
        let drawn = Arc::<AtomicUsize>::default();
        let counter = count_drawing(&services, &drawn).await?;
        Ok(Some(Self {
            services,
            watcher: Mutex::default(),
            items,
            notifications,
            drawn,
            _counter: counter,
            dir: dir.to_owned(),
            address,
            _bus: bus,
        }))
    }

    /// The bus's address, for `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that holds the bus's socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the place where icons register, as a panel does when it starts.
    pub async fn open_panel(&self) -> Result<()> {
        let watcher = connection::Builder::address(self.address.as_str())?
            .serve_at(WATCHER_PATH, Watcher::new(Arc::clone(&self.items)))?
            .name(WATCHER_NAME)?
            .build()
            .await
            .context("serving the place where icons register")?;
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        Ok(())
    }

    /// Closes it, as a panel does that crashes; what had registered is forgotten.
    pub async fn close_panel(&self) -> Result<()> {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            watcher.release_name(WATCHER_NAME).await?;
            watcher.close().await?;
        }
        self.items.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// The bus names under which icons have registered.
    pub fn registered(&self) -> Vec<String> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the one icon that registers.
    pub async fn item(&self) -> Result<TrayItem> {
        let name = poll_until("an icon registers", LIMIT, async || self.registered().into_iter().next_back())
            .await?;
        Ok(TrayItem::new(self.services.clone(), name))
    }

    /// How often any icon has told its panel to draw something anew.
    pub fn drawn(&self) -> usize {
        self.drawn.load(Ordering::Relaxed)
    }

    /// What was to be shown so far, in the order in which it came; one that replaces another stands for itself.
    pub fn notifications(&self) -> Vec<Notification> {
        self.notifications.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Clicks a button of a notification.
    pub async fn press(&self, notification: u32, action: &str) -> Result<()> {
        let server = self.services.object_server().interface::<_, Notifications>(NOTIFICATIONS_PATH).await?;
        Ok(Notifications::action_invoked(server.signal_emitter(), notification, action).await?)
    }

    /// Tells whether somebody has this name on the bus.
    pub async fn has(&self, name: &str) -> Result<bool> {
        let bus = zbus::fdo::DBusProxy::new(&self.services).await?;
        Ok(bus.name_has_owner(name.try_into()?).await?)
    }
}

/// Counts what icons send to panels, whoever they are.
async fn count_drawing(services: &Connection, drawn: &Arc<AtomicUsize>) -> Result<JoinSet<()>> {
    let mut counter = JoinSet::new();
    for interface in DRAWING {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(interface)?.build();
        let mut signals = MessageStream::for_match_rule(rule, services, Some(MOST_WAITING)).await?;
        let drawn = Arc::clone(drawn);
        counter.spawn(async move {
            while signals.next().await.is_some() {
                drawn.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    Ok(counter)
}
