//! A plugin's program as a transient unit of the user's systemd.

mod properties;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use tracing::debug;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, MatchRule, MessageStream, message};

use super::PluginSpec;
use super::launch::{End, Launcher};
use crate::config::Options;
use crate::daemon::chain;
use crate::secrets::SessionBus;
use properties::{POLITE, properties};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// Longest wait for the bus or systemd to answer one call.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at a unit while the bus or systemd does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks whether the unit of an earlier run is gone.
const PAUSE: Duration = Duration::from_millis(50);
/// Signals that wait to be looked at. When there are more the bus waits with further ones; any of them makes us look.
const MAX_SIGNALS: usize = 16;

/// A unit that was started. Dropping it leaves it to systemd.
pub(super) struct Unit {
    name: String,
    bus: SessionBus,
    held: Held,
}

/// A connection over which systemd tells of a unit.
struct Held {
    path: OwnedObjectPath,
    /// Holds a reference to the unit, so that systemd remembers how it ended.
    manager: Manager,
    signals: MessageStream,
}

/// Why a unit was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnitError {
    #[error("there is no session bus")]
    NoBus,
    #[error("the session bus cannot be reached")]
    Bus(#[source] zbus::Error),
    #[error("there is no systemd of this user's on the session bus")]
    NoSystemd,
    #[error("it refuses")]
    Refused(#[source] zbus::Error),
    #[error("what is left of an earlier run does not end")]
    Leftover,
    #[error("it does not answer within {} s", CALL_LIMIT.as_secs())]
    Silent,
}

impl UnitError {
    /// Tells whether there is no systemd, so that another way has to be found.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::NoBus | Self::NoSystemd => true,
            // A bus that fails in another way is there.
            Self::Bus(zbus::Error::Connection(error, _)) => error.kind() == std::io::ErrorKind::NotFound,
            Self::Bus(_) | Self::Refused(_) | Self::Leftover | Self::Silent => false,
        }
    }

    /// Tells whether systemd has answered that there is no such unit.
    fn is_unknown_unit(&self) -> bool {
        matches!(self, Self::Refused(error) if is_unknown_unit(error))
    }
}

impl From<zbus::Error> for UnitError {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, _, _) if NOBODY_THERE.contains(&name.as_str()) => Self::NoSystemd,
            _ => Self::Refused(error),
        }
    }
}

const NOBODY_THERE: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];
/// What systemd says to the name, and to the path, of a unit that it does not have.
const NO_UNIT: [&str; 2] =
    ["org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.UnknownObject"];

impl Unit {
    /// Ends what an earlier daemon has left under the name, and starts the program.
    ///
    /// `private`: the daemon's own folders that it would see otherwise.
    pub(super) async fn start(
        launcher: &Launcher,
        spec: &PluginSpec,
        private: &[PathBuf],
    ) -> Result<Self, UnitError> {
        let manager = Manager::connect(&launcher.bus).await?;
        let environment: Vec<String> = manager.property(MANAGER_PATH, MANAGER, "Environment").await?;
        // It has answered. Whatever fails from here on, a program may run.
        launcher.had_systemd.store(true, Ordering::Relaxed);
        let name = launcher.unit(&spec.id);
        manager.clear(&name).await?;
        // What was ended just now may have left its socket there, on which nobody else could listen.
        let _removed = tokio::fs::remove_file(&spec.socket).await;
        // Without it the signals are not sent.
        manager.call("Subscribe", &()).await?;
        let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        let settings = properties(launcher, spec, &environment, private);
        manager.call("StartTransientUnit", &(name.as_str(), "replace", settings, auxiliary)).await?;
        // Cannot be gone by now: `AddRef` is among its properties.
        let path: OwnedObjectPath = manager.call("GetUnit", &(name.as_str(),)).await?.body().deserialize()?;
        let signals = manager.changes(&path).await?;
        Ok(Self { name, bus: launcher.bus.clone(), held: Held { path, manager, signals } })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A bus or a systemd that does not answer, or that has closed the connection, has not ended anything: it is asked until
    /// it answers. Whether the program answers meanwhile the broker knows.
    pub(super) async fn ended(&mut self) -> End {
        loop {
            // Asked before a signal is waited for: it may have ended before anybody listened.
            match self.held.end().await {
                Ok(Some(end)) => return end,
                Ok(None) => {
                    if self.held.signals.next().await.is_some() {
                        continue;
                    }
                    debug!(unit = self.name, "the session bus has closed the connection");
                }
                Err(error) => debug!(unit = self.name, error = chain(&error), "no look at a plugin's unit"),
            }
            sleep(LOOK_AGAIN).await;
            match Held::again(&self.bus, &self.name).await {
                Ok(held) => self.held = held,
                Err(error) if error.is_unknown_unit() => {
                    return End::Unknown("it has ended while systemd did not answer".to_owned());
                }
                // Looked at again, over the connection that there was.
                Err(error) => debug!(unit = self.name, error = chain(&error), "no look at a plugin's unit"),
            }
        }
    }

    /// Who comes next under this name, and who gives the name up, looks again whether it has ended.
    pub(super) async fn stop(mut self) {
        let told = self.held.manager.call("StopUnit", &(self.name.as_str(), "replace")).await;
        if told.is_ok() {
            // systemd ends it by force in time.
            let _ended = timeout(POLITE * 2, self.ended()).await;
        }
    }
}

impl Held {
    /// Takes up a unit that runs already.
    async fn again(bus: &SessionBus, name: &str) -> Result<Self, UnitError> {
        let manager = Manager::connect(bus).await?;
        manager.call("Subscribe", &()).await?;
        let path: OwnedObjectPath = manager.call("GetUnit", &(name,)).await?.body().deserialize()?;
        manager.call("RefUnit", &(name,)).await?;
        let signals = manager.changes(&path).await?;
        Ok(Self { path, manager, signals })
    }

    /// Returns how it ended; `None` while it runs.
    async fn end(&self) -> Result<Option<End>, UnitError> {
        let Self { path, manager, .. } = self;
        let state: String = manager.property(path, UNIT, "ActiveState").await?;
        if !matches!(state.as_str(), "inactive" | "failed") {
            return Ok(None);
        }
        let result: String = manager.property(path, SERVICE, "Result").await?;
        let code: i32 = manager.property(path, SERVICE, "ExecMainCode").await?;
        let status: i32 = manager.property(path, SERVICE, "ExecMainStatus").await?;
        // Its start may still wait in systemd's queue. One that never comes out of it is not ready in time.
        let not_begun = state == "inactive" && code == 0 && result == "success";
        Ok((!not_begun).then(|| judge(&result, code, status)))
    }
}

/// Ends what runs under a plugin's name, if anything does.
pub(super) async fn clear(launcher: &Launcher, id: &str) -> Result<(), UnitError> {
    Manager::connect(&launcher.bus).await?.clear(&launcher.unit(id)).await
}

/// Ends the plugins that a daemon of this state directory has left behind, and that nobody wants any more.
pub(super) async fn end_leftovers(launcher: &Launcher, wanted: &[PluginSpec]) -> Result<(), UnitError> {
    /// What `ListUnitsByPatterns` tells of a unit: its name first, its path seventh.
    type Row =
        (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
    let manager = Manager::connect(&launcher.bus).await?;
    let pattern = launcher.unit("*");
    let all =
        manager.call("ListUnitsByPatterns", &([""; 0].as_slice(), [pattern.as_str()].as_slice())).await?;
    let all: Vec<Row> = all.body().deserialize()?;
    let mut outcome = Ok(());
    for (name, _, _, _, _, _, path, ..) in all {
        if wanted.iter().any(|spec| launcher.unit(&spec.id) == name) {
            continue;
        }
        match manager.end_leftover(&name, &path).await {
            // It has ended since the list was made.
            Err(error) if error.is_unknown_unit() => {}
            Err(error) => outcome = Err(error),
            Ok(()) => {}
        }
    }
    outcome
}

/// Reads what systemd says of a service that has ended. `code` is how, as waitid(2) has it.
fn judge(result: &str, code: i32, status: i32) -> End {
    /// `CLD_EXITED`; the others are signals.
    const EXITED: i32 = 1;
    match (result, code) {
        ("oom-kill", _) => End::OutOfMemory,
        // The statuses that systemd itself ends with before the program is there; 200 to 242.
        (_, EXITED) if (200..=242).contains(&status) => End::Sandbox(status),
        (_, EXITED) => End::Exited(status),
        (_, 0) => End::Unknown(format!("systemd says {result}")),
        (_, _) => End::Killed(status),
    }
}

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// The calls of systemd's user manager that are needed.
struct Manager(Connection);

impl Manager {
    async fn connect(bus: &SessionBus) -> Result<Self, UnitError> {
        let address = bus.address().ok_or(UnitError::NoBus)?;
        let connect = async {
            let builder = zbus::connection::Builder::address(address.as_str())?;
            builder.method_timeout(CALL_LIMIT).build().await
        };
        let connection = timeout(CALL_LIMIT, connect).await.map_err(|_| UnitError::Silent)?;
        Ok(Self(connection.map_err(UnitError::Bus)?))
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<message::Message>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        self.0.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body).await
    }

    async fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T, UnitError>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::zvariant::Error>,
    {
        let wanted = (interface, name);
        let answer = self.0.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &wanted).await?;
        let value: OwnedValue = answer.body().deserialize()?;
        T::try_from(value).map_err(|error| UnitError::Refused(error.into().into()))
    }

    /// Returns the signals that tell that a unit has changed. To be asked for before its state is.
    async fn changes(&self, path: &OwnedObjectPath) -> Result<MessageStream, UnitError> {
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(SYSTEMD)?
            .path(path.clone())?
            .interface(PROPERTIES)?
            .member("PropertiesChanged")?
            .build();
        Ok(MessageStream::for_match_rule(rule, &self.0, Some(MAX_SIGNALS)).await?)
    }

    async fn end_leftover(&self, name: &str, path: &OwnedObjectPath) -> Result<(), UnitError> {
        // A unit that the user has written is the user's own, whatever its name.
        if self.property::<bool>(path, UNIT, "Transient").await? {
            tracing::info!(
                unit = name,
                "a plugin is ended that an earlier daemon has left and no entry names"
            );
            self.call("StopUnit", &(name, "replace")).await?;
        }
        Ok(())
    }

    /// Ends a unit of this name, if there is one, and waits until systemd has forgotten it.
    async fn clear(&self, name: &str) -> Result<(), UnitError> {
        let mut stopped = false;
        let gone = async {
            loop {
                match self.call("GetUnit", &(name,)).await {
                    Ok(_) if !stopped => {
                        match self.call("StopUnit", &(name, "replace")).await {
                            // It has ended between the two calls.
                            Err(error) if is_unknown_unit(&error) => return Ok(()),
                            told => drop(told?),
                        }
                        // One that has failed is kept until somebody has seen it.
                        let _reset = self.call("ResetFailedUnit", &(name,)).await;
                        stopped = true;
                    }
                    Ok(_) => sleep(PAUSE).await,
                    Err(error) if is_unknown_unit(&error) => return Ok(()),
                    Err(error) => return Err(UnitError::from(error)),
                }
            }
        };
        timeout(POLITE * 2, gone).await.unwrap_or(Err(UnitError::Leftover))
    }
}

fn is_unknown_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, _, _) if NO_UNIT.contains(&name.as_str()))
}

/// Returns the unit of the user's systemd that this process is the main process of; `None` where it is none.
pub(super) fn own_unit(options: &Options) -> Option<String> {
    // Who is started in a terminal is in a unit too, which says nothing about the daemon's end.
    let main = options.var("SYSTEMD_EXEC_PID")?.to_string_lossy().parse::<u32>().ok()?;
    if main != std::process::id() {
        return None;
    }
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn unit_of(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (_, below) = path.split_once("/user@")?;
    let unit = below.rsplit('/').next()?;
    // `user@1000.service` itself is none of that systemd's units.
    (below.contains('/') && unit.ends_with(".service")).then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_unit_is_one_of_the_users_manager() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service";
        for (cgroup, unit) in [
            (format!("{user}/app.slice/tunneld.service\n"), Some("tunneld.service")),
            (format!("1:name=systemd:/x\n{user}/app.slice/a.slice/my.service"), Some("my.service")),
            (format!("{user}/app.slice/app-foot.scope"), None),
            (user.to_owned(), None),
            ("0::/system.slice/tunneld.service".to_owned(), None),
            ("0::/".to_owned(), None),
        ] {
            assert_eq!(unit_of(&cgroup).as_deref(), unit, "{cgroup}");
        }
    }

    #[test]
    fn systemds_words_become_reasons() {
        assert_eq!(judge("success", 1, 0), End::Exited(0));
        assert_eq!(judge("exit-code", 1, 3), End::Exited(3));
        assert_eq!(judge("exit-code", 1, 226), End::Sandbox(226));
        assert_eq!(judge("signal", 2, 9), End::Killed(9));
        assert_eq!(judge("core-dump", 3, 31), End::Killed(31));
        assert_eq!(judge("oom-kill", 2, 9), End::OutOfMemory);
        assert_eq!(judge("resources", 0, 0), End::Unknown("systemd says resources".to_owned()));
    }
}
