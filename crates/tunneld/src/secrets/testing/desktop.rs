//! A desktop's session bus and keyring: the real programs, on a bus of their own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use super::eventually;
use crate::secrets::SessionBus;

/// A session bus on which nothing starts by itself, and perhaps a keyring. All of it ends with this.
pub(crate) struct Desktop {
    directory: tempfile::TempDir,
    address: String,
    bus: Child,
    keyring: Option<Child>,
}

const SECRETS: &str = "org.freedesktop.secrets";
const ROOT: &str = "/org/freedesktop/secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";

impl Desktop {
    /// Returns `None` where the programs are not installed, and says so; with `E2E_REQUIRE_REAL=1` that fails.
    pub(crate) fn start() -> Option<Self> {
        let missing = ["dbus-daemon", "gnome-keyring-daemon"].into_iter().find(|name| !is_installed(name));
        if let Some(name) = missing {
            let required = std::env::var("E2E_REQUIRE_REAL").is_ok_and(|value| value == "1");
            assert!(!required, "{name} is not installed");
            println!("skipped: {name} is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["services", "home", "run"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let config = format!(
            "<busconfig><type>session</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>\
             <servicedir>{}</servicedir><policy context=\"default\"><allow send_destination=\"*\" \
             eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            directory.path().display(),
            at("services").display()
        );
        std::fs::write(at("bus.conf"), config).unwrap();
        let mut bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", at("bus.conf").display()))
            .args(["--nofork", "--print-address=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        Some(Self { directory, address, bus, keyring: None })
    }

    /// With a keyring that is unlocked by its password, which is set by its first use.
    pub(crate) async fn with_keyring() -> Option<Self> {
        let mut desktop = Self::start()?;
        desktop.start_keyring("right").await;
        desktop.until_locked(false).await;
        Some(desktop)
    }

    pub(crate) fn bus(&self) -> SessionBus {
        SessionBus::at(&self.address)
    }

    pub(crate) async fn start_keyring(&mut self, password: &str) {
        let mut child =
            self.keyring_command().args(["--components=secrets", "--foreground"]).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        self.keyring = Some(child);
        eventually("the keyring", async || self.names().await.iter().any(|name| name == SECRETS)).await;
        eventually("the default collection", async || self.default_collection().await.is_some()).await;
    }

    pub(crate) async fn stop_keyring(&mut self) {
        end(self.keyring.take().as_mut());
        eventually("the keyring's end", async || !self.names().await.iter().any(|name| name == SECRETS))
            .await;
    }

    pub(crate) async fn lock(&self) {
        let collection = self.default_collection().await.unwrap();
        let connection = self.connect().await;
        let objects: Vec<ObjectPath<'_>> = vec![collection.as_ref()];
        connection.call_method(Some(SECRETS), ROOT, Some(SERVICE), "Lock", &objects).await.unwrap();
        self.until_locked(true).await;
    }

    /// Unlocks the running keyring, by the way that its own programs take.
    pub(crate) async fn unlock(&self, password: &str) {
        let collection = self.default_collection().await.unwrap();
        let connection = self.connect().await;
        let plain = ("plain", zbus::zvariant::Value::from(""));
        let answer =
            connection.call_method(Some(SECRETS), ROOT, Some(SERVICE), "OpenSession", &plain).await.unwrap();
        let body = answer.body();
        let (_, session): (zbus::zvariant::OwnedValue, OwnedObjectPath) = body.deserialize().unwrap();
        let interface = Some("org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface");
        let secret = (session, Vec::<u8>::new(), password.as_bytes(), "text/plain");
        let arguments = (collection, secret);
        connection
            .call_method(Some(SECRETS), ROOT, interface, "UnlockWithMasterPassword", &arguments)
            .await
            .unwrap();
        self.until_locked(false).await;
    }

    async fn until_locked(&self, wanted: bool) {
        eventually(&format!("locked = {wanted}"), async || self.is_locked().await == wanted).await;
    }

    pub(crate) async fn is_locked(&self) -> bool {
        let path = self.default_collection().await.unwrap();
        let connection = self.connect().await;
        let call = ("org.freedesktop.Secret.Collection", "Locked");
        let properties = Some("org.freedesktop.DBus.Properties");
        let answer = connection.call_method(Some(SECRETS), &path, properties, "Get", &call).await.unwrap();
        answer.body().deserialize::<zbus::zvariant::Value<'_>>().unwrap().downcast().unwrap()
    }

    async fn default_collection(&self) -> Option<OwnedObjectPath> {
        let connection = self.connect().await;
        let answer =
            connection.call_method(Some(SECRETS), ROOT, Some(SERVICE), "ReadAlias", &"default").await.ok()?;
        let path: OwnedObjectPath = answer.body().deserialize().unwrap();
        (path.as_str() != "/").then_some(path)
    }

    /// The names of all connections to the bus, this test's own question left out.
    pub(crate) async fn names(&self) -> Vec<String> {
        let connection = self.connect().await;
        let own = connection.unique_name().unwrap().to_string();
        let names = zbus::fdo::DBusProxy::new(&connection).await.unwrap().list_names().await.unwrap();
        names.into_iter().map(|name| name.to_string()).filter(|name| *name != own).collect()
    }

    async fn connect(&self) -> zbus::Connection {
        zbus::connection::Builder::address(self.address.as_str()).unwrap().build().await.unwrap()
    }

    fn keyring_command(&self) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("gnome-keyring-daemon");
        command
            .args(["--unlock", "--components=secrets", "--foreground"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", at("home"))
            .env("XDG_DATA_HOME", at("home/share"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// All files that the keyring has written.
    pub(crate) fn keyring_files(&self) -> Vec<PathBuf> {
        let directory = self.directory.path().join("home/share/keyrings");
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        end(self.keyring.as_mut());
        end(Some(&mut self.bus));
    }
}

fn end(child: Option<&mut Child>) {
    if let Some(child) = child {
        let _gone = child.kill();
        let _reaped = child.wait();
    }
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory: PathBuf| Path::is_file(&directory.join(name)))
}
