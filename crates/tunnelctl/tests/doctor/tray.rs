use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use zbus::connection::Builder;

use super::scene::{Scene, version};

/// A session bus of the test's own.
struct Bus {
    daemon: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Bus {
    /// None without dbus-daemon, unless `E2E_REQUIRE_REAL=1` says that nothing may be skipped.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bus.conf");
        let socket = directory.path().join("bus");
        let text = format!(
            r#"<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow send_destination="*" eavesdrop="false"/>
            <allow receive_sender="*"/><allow own="*"/></policy></busconfig>"#,
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--config-file").arg(&config).args(["--nofork", "--print-address"]);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut daemon = match started {
            Ok(daemon) => daemon,
            Err(error) => {
                let required = std::env::var_os("E2E_REQUIRE_REAL").is_some_and(|value| value == "1");
                assert!(!required, "dbus-daemon: {error}");
                println!("skipped: there is no dbus-daemon ({error})");
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { daemon, address: address.trim().to_owned(), _directory: directory })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

/// A panel with a tray, or one without.
struct Watcher(bool);

#[zbus::interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        self.0
    }
}

fn tray_host(bus: &Bus, desktop: &str) -> Value {
    let scene = Scene::with_daemon(vec![version(), ("POST /api/diagnosis", json!({ "checks": [] }))]);
    let scene = scene.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).env("XDG_CURRENT_DESKTOP", desktop);
    let (_, stdout, _) = scene.run(&["doctor", "--json"]);
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    answer["checks"].as_array().unwrap().iter().find(|check| check["id"] == "tray_host").unwrap().clone()
}

#[test]
fn panel_is_found_on_the_session_bus() {
    let Some(bus) = Bus::start() else { return };
    let plain = tray_host(&bus, "ubuntu:GNOME");
    assert_eq!(plain["verdict"], "warn");
    assert!(plain["next_step"].as_str().unwrap().contains("AppIndicator"), "{plain}");
    assert_eq!(tray_host(&bus, "")["verdict"], "skip");

    for (registered, verdict) in [(true, "pass"), (false, "warn")] {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let panel = runtime.block_on(async {
            let builder = Builder::address(bus.address.as_str()).unwrap();
            let builder = builder.serve_at("/StatusNotifierWatcher", Watcher(registered)).unwrap();
            builder.name("org.kde.StatusNotifierWatcher").unwrap().build().await.unwrap()
        });
        assert_eq!(tray_host(&bus, "XFCE")["verdict"], verdict);
        drop(panel);
        drop(runtime);
    }
}
