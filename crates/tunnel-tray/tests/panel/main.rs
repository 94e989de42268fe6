//! The whole tray over a bus of its own: a panel that looks at it and clicks, and a scripted daemon.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which fail by panicking")]

mod bus;
mod daemon;
mod desktop;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use zbus::MatchRule;
use zbus::message::Type;

use crate::bus::PrivateBus;
use crate::daemon::Daemon;
use crate::desktop::{Panel, Services};

/// Longest wait in a test; reached only when it fails.
const LIMIT: Duration = Duration::from_secs(30);

/// A running tray; killed when dropped.
struct Tray(Child);

impl Tray {
    fn start(bus: Option<&PrivateBus>, url: &str) -> Self {
        Self::start_with(bus, &["--url", url, "--log-level", "debug"])
    }

    fn start_with(bus: Option<&PrivateBus>, arguments: &[&str]) -> Self {
        Self(Self::command(bus, arguments).spawn().unwrap())
    }

    fn command(bus: Option<&PrivateBus>, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-tray"));
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "XDG_CURRENT_DESKTOP", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        let address = bus.map_or("unix:path=/nonexistent/bus", PrivateBus::address);
        command.env("DBUS_SESSION_BUS_ADDRESS", address);
        command
    }

    /// Starts it on a screen, where these programs are.
    fn start_on_screen(bus: &PrivateBus, url: &str, programs: &Path) -> Self {
        let path = std::env::join_paths([programs, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let mut command = Self::command(Some(bus), &["--url", url, "--log-level", "debug"]);
        command.env("DISPLAY", ":99").env_remove("TERMINAL").env("PATH", path);
        Self(command.spawn().unwrap())
    }

    /// Waits for its end, and returns what it said.
    async fn end(&mut self) -> (ExitStatus, String) {
        let status = eventually("its end", || self.0.try_wait().unwrap()).await;
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }

    /// Resident memory in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Time that it has worked, in clock ticks (100 a second).
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Tray {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_async(what, async || look()).await
}

async fn eventually_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn status(target: &str, state: &str) -> Value {
    json!({
        "tunnel": { "target": target, "state": state, "relay": "https://relay.test" },
        "connections": {
            "ollama": { "id": "ollama", "type": "ollama", "state": "connected", "connected": true, "latency": 3.0 },
            "cloud": { "id": "cloud", "type": "cloud", "state": state, "connected": state == "connected" },
        },
    })
}

/// Another daemon has the device.
fn taken_over() -> Value {
    let mut status = status("up", "refused");
    status["warnings"] = json!([{ "code": "replaced", "severity": "warning", "message": "by attic" }]);
    status
}

async fn shows(panel: &Panel, item: &str, tooltip: &str) {
    eventually_async(tooltip, async || (panel.tooltip(item).await == tooltip).then_some(())).await;
}

async fn assert_idle(tray: &Tray) {
    let before = tray.ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let worked = tray.ticks() - before;
    assert!(worked <= 2, "worked {worked} of 200 ticks with nothing to do");
}

const CONNECTED: &str = "Connected, 1 model server up";

#[tokio::test]
async fn item_shows_how_things_stand_and_its_clicks_reach_the_daemon() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    shows(&panel, &item, CONNECTED).await;
    let connected = panel.icon(&item).await;

    panel.click(&item, "Pause tunnel").await;
    daemon.was_asked("POST /api/tunnel/stop").await;
    daemon.change(status("down", "disconnected"));
    shows(&panel, &item, "Tunnel paused, 1 model server up").await;
    assert_ne!(panel.icon(&item).await, connected);
    // The middle button does the opposite now.
    panel.item_call(&item, "SecondaryActivate").await;
    daemon.was_asked("POST /api/tunnel/start").await;

    panel.click(&item, "gpu: off").await;
    let patch = daemon.was_asked("PATCH /api/config").await;
    assert!(patch.contains(r#""enabled":true"#) && patch.contains("http://gpu:8000"), "{patch}");
    panel.click(&item, "Reconnect All").await;
    daemon.was_asked("POST /api/tunnel/restart").await;
    panel.click(&item, "Log out (alice)").await;
    daemon.was_asked("POST /api/auth/logout").await;
    panel.click(&item, "Show").await;
    let told = daemon.was_asked("WS SHOW").await;
    assert!(told.contains(r#""from":"tray""#), "{told}");
}

#[tokio::test]
async fn two_quick_clicks_on_connections_both_count() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    tokio::join!(panel.click(&item, "gpu: off"), panel.click(&item, "npu: off"));
    eventually("both switched on", || {
        let config = daemon.config();
        let connections = config["connections"].as_array().unwrap();
        connections.iter().all(|connection| connection["enabled"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn click_in_another_session_is_not_acted_on_here() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let mut tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    shows(&panel, &item, CONNECTED).await;
    for command in ["SHOW", "SETTINGS", "QUIT"] {
        daemon.say(&json!({ "command": command, "from": "tray" }));
    }
    daemon.say(&json!({ "command": "UPDATE_TOOLTIP", "text": "hello" }));
    shows(&panel, &item, "hello").await;
    assert!(tray.0.try_wait().unwrap().is_none());
    // A window that does not open, for want of a screen, is told of.
    daemon.say(&json!({ "command": "SHOW", "from": "a script" }));
    eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!(services.shown().len(), 1);
}

#[tokio::test]
async fn unit_that_is_enabled_is_shown_so_as_long_as_nobody_has_said_otherwise() {
    for (origins, patched) in [
        (json!({}), r#"{"autoStartOnBoot":false}"#),
        (json!({ "autoStartOnBoot": { "from": "file" } }), r#"{"autoStartOnBoot":true}"#),
    ] {
        let Some(bus) = PrivateBus::start() else { return };
        let panel = Panel::start(&bus).await;
        let _services = Services::default().start(&bus).await;
        let daemon = Daemon::start(status("up", "connected")).await;
        daemon.answer("GET /api/config/origins", 200, json!({ "origins": origins }));
        let _tray = Tray::start(Some(&bus), &daemon.url());
        let item = panel.item().await;
        panel.click(&item, "Start tunneld at login").await;
        let patch = daemon.was_asked("PATCH /api/config").await;
        assert!(patch.contains(patched), "{patch}");
    }
}

#[tokio::test]
async fn what_another_program_wants_to_be_shown_is_until_things_change() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    shows(&panel, &item, CONNECTED).await;
    let connected = panel.icon(&item).await;
    daemon.say(&json!({ "command": "UPDATE_TOOLTIP", "text": "hello" }));
    daemon.say(&json!({ "command": "UPDATE_ICON", "state": "error" }));
    shows(&panel, &item, "hello").await;
    eventually_async("its icon", async || (panel.icon(&item).await != connected).then_some(())).await;

    // Only looked at again.
    let mut same = status("up", "connected");
    same["connections"]["ollama"]["last_check"] = "2026-01-01T00:00:00Z".into();
    daemon.change(same);
    daemon.answer("GET /api/auth", 200, json!({ "authenticated": false }));
    daemon.say(&json!({ "type": "event", "data": { "kind": "logout" } }));
    eventually_async("the logout", async || {
        panel.rows(&item).await.into_iter().find(|row| row.label == "Log in…")
    })
    .await;
    assert_eq!(panel.tooltip(&item).await, "hello");

    daemon.change(status("up", "connecting"));
    shows(&panel, &item, "Connecting, 1 model server up").await;
}

#[tokio::test]
async fn socket_that_appears_is_found() {
    if tokio::net::TcpStream::connect("127.0.0.1:8765").await.is_ok() {
        println!("skipped: somebody is at the default port");
        return;
    }
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-tray"));
    command.env("XDG_RUNTIME_DIR", directory.path()).env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let _tray = Tray(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let item = panel.item().await;
    shows(&panel, &item, "tunneld is not running").await;

    let path = directory.path().join("tunneld/api.sock");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let address = daemon.url().replace("http://", "");
    let mut passing = tokio::task::JoinSet::new();
    passing.spawn(async move {
        let mut clients = tokio::task::JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = tokio::net::TcpStream::connect(&address).await.unwrap();
            clients.spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    shows(&panel, &item, CONNECTED).await;
}

#[tokio::test]
async fn running_requests_are_listed_and_can_be_cancelled() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let mut busy = status("up", "connected");
    busy["connections"]["ollama"]["in_flight"] = 1.into();
    let daemon = Daemon::start(busy).await;
    let request =
        json!({ "id": "r/1", "model": "tiny_one", "state": "streaming", "tokens": 84, "duration_ms": 2000 });
    daemon.answer("GET /api/requests", 200, json!({ "requests": [request] }));
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    // An underscore would be an access key.
    let row = "tiny__one: 42 tokens/s";
    eventually_async(row, async || panel.rows(&item).await.into_iter().find(|it| it.label == row)).await;
    panel.click(&item, "Cancel").await;
    daemon.was_asked("DELETE /api/requests/r%2F1").await;
    daemon.answer("GET /api/requests", 200, json!({ "requests": [] }));
    eventually_async("no requests", async || {
        panel.rows(&item).await.iter().all(|row| row.label != "Active requests").then_some(())
    })
    .await;
}

#[tokio::test]
async fn panel_that_restarts_gets_the_item_again() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let first = panel.item().await;
    panel.connection.close().await.unwrap();
    let panel = Panel::start(&bus).await;
    assert_eq!(panel.item().await, first);
    shows(&panel, &first, CONNECTED).await;
}

#[tokio::test]
async fn without_a_panel_or_a_bus_it_says_so_and_ends_well() {
    let (status, said) = Tray::start(None, "http://127.0.0.1:1").end().await;
    assert!(status.success() && said.contains("no session bus"), "{status} {said}");
    let Some(bus) = PrivateBus::start() else { return };
    let arguments = ["--url", "http://127.0.0.1:1", "--panel-wait", "1"];
    let (status, said) = Tray::start_with(Some(&bus), &arguments).end().await;
    assert!(status.success(), "{status} {said}");
    assert!(said.contains("org.kde.StatusNotifierWatcher"), "{said}");
    assert_eq!(said.matches("appindicator-support").count(), 1, "{said}");
}

#[tokio::test]
async fn panel_that_comes_after_the_word_about_it_gets_the_item() {
    let Some(bus) = PrivateBus::start() else { return };
    let mut tray = Tray::start_with(Some(&bus), &["--url", "http://127.0.0.1:1"]);
    let said = BufReader::new(tray.0.stderr.take().unwrap());
    let told = tokio::task::spawn_blocking(move || {
        said.lines().map_while(Result::ok).find(|line| line.contains("appindicator-support"))
    });
    assert!(told.await.unwrap().is_some());
    let panel = Panel::start(&bus).await;
    panel.item().await;
}

#[tokio::test]
async fn panel_may_come_later_and_a_second_tray_ends_at_once() {
    let Some(bus) = PrivateBus::start() else { return };
    let daemon = Daemon::start(status("up", "connected")).await;
    let mut first = Tray::start(Some(&bus), &daemon.url());
    let owner = bus.builder().build().await.unwrap();
    let names = zbus::fdo::DBusProxy::new(&owner).await.unwrap();
    eventually_async("its name", async || {
        let name = "org.cloudtolocalllm.TunnelTray".try_into().unwrap();
        names.name_has_owner(name).await.unwrap().then_some(())
    })
    .await;
    let (status, said) = Tray::start(Some(&bus), &daemon.url()).end().await;
    assert!(status.success() && said.contains("already running"), "{status} {said}");
    let panel = Panel::start(&bus).await;
    panel.item().await;
    // Another client ends it.
    daemon.was_asked("WS TAKE_NOTIFICATIONS").await;
    daemon.say(&json!({ "command": "QUIT" }));
    let (status, said) = first.end().await;
    assert!(status.success(), "{status} {said}");
}

#[tokio::test]
async fn daemon_that_goes_leaves_an_icon_that_says_so_and_can_start_it() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    shows(&panel, &item, CONNECTED).await;
    drop(daemon);
    shows(&panel, &item, "tunneld is not running").await;
    let labels: Vec<_> = panel.rows(&item).await.into_iter().map(|row| row.label).collect();
    assert!(
        labels.contains(&"Quit".to_owned()) && !labels.contains(&"Pause tunnel".to_owned()),
        "{labels:?}"
    );
    panel.click(&item, "Start it").await;
    let started = eventually("a start", || services.started().first().cloned()).await;
    assert_eq!(started, "tunneld.service");
    // Here nobody starts it, which is told too; after that there is nothing to do but to dial now and then.
    let (_, summary, body, _) = eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!(summary, "tunneld was not started");
    assert!(body.contains("journalctl"), "{body}");
    assert_idle(&tray).await;
}

#[tokio::test]
async fn click_that_leads_to_nothing_is_told_and_the_next_takes_its_place() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let refusal = json!({ "error": "it is <shut>", "code": "conflict", "status_code": 409 });
    daemon.answer("POST /api/tunnel/stop", 409, refusal);
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    panel.click(&item, "Pause tunnel").await;
    let (replaces, summary, body, _) = eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!((replaces, summary.as_str()), (0, "The tunnel was not paused"));
    assert_eq!(body, "it is &lt;shut&gt;");
    // There is no screen, so the window of this one cannot open.
    panel.item_call(&item, "Activate").await;
    let (replaces, _, body, _) = eventually("another note", || services.shown().get(1).cloned()).await;
    assert_eq!(replaces, 7);
    assert!(body.contains("tunnelctl") && body.contains("status -w"), "{body}");
}

/// A program that writes down what it was called with, into a file beside it.
fn program(directory: &Path, name: &str) -> impl Fn() -> Option<String> + use<> {
    let (file, words) = (directory.join(name), directory.join(format!("{name}.words")));
    let script = "#!/bin/sh\nprintf '%s\\n' \"$*\" > \"$0.new\" && mv \"$0.new\" \"$0.words\"\n";
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    move || std::fs::read_to_string(&words).ok()
}

#[tokio::test]
async fn login_opens_the_browser_or_a_terminal_where_the_relay_offers_none() {
    let Some(bus) = PrivateBus::start() else { return };
    let programs = tempfile::tempdir().unwrap();
    let (browser, terminal) =
        (program(programs.path(), "xdg-open"), program(programs.path(), "x-terminal-emulator"));
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    daemon.answer("GET /api/auth", 200, json!({ "authenticated": false, "stored_in": "none" }));
    let url = "https://login.example/auth?a=b&c='d'";
    let begun = json!({ "flow": "browser", "authorization_url": url, "expires_at": "2026-01-01T00:00:00Z" });
    daemon.answer("POST /api/auth/login", 202, begun);
    let _tray = Tray::start_on_screen(&bus, &daemon.url(), programs.path());
    let item = panel.item().await;
    panel.click(&item, "Log in…").await;
    assert_eq!(eventually("a browser", &browser).await.trim_end(), url);
    daemon.was_asked("POST /api/auth/login").await;
    assert_eq!(terminal(), None);

    let refusal =
        json!({ "error": "the relay offers no login", "code": "login_unavailable", "status_code": 409 });
    daemon.answer("POST /api/auth/login", 409, refusal);
    panel.click(&item, "Log in…").await;
    let line = eventually("a terminal", &terminal).await;
    assert!(line.trim_end().ends_with("login --token-stdin"), "{line}");

    // Any other trouble is told.
    let refusal =
        json!({ "error": "it answered 503; try again", "code": "provider_unavailable", "status_code": 502 });
    daemon.answer("POST /api/auth/login", 502, refusal);
    panel.click(&item, "Log in…").await;
    let (_, summary, body, _) = eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!((summary.as_str(), body.as_str()), ("You are not logged in", "it answered 503; try again"));
}

#[tokio::test]
async fn login_without_a_browser_is_taken_back_and_says_what_to_do() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    daemon.answer("GET /api/auth", 200, json!({ "authenticated": false, "stored_in": "none" }));
    let begun = json!({ "flow": "browser", "authorization_url": "https://login.example/canary",
                        "expires_at": "2026-01-01T00:00:00Z" });
    daemon.answer("POST /api/auth/login", 202, begun);
    daemon.answer("DELETE /api/auth/login", 200, json!({ "state": "none" }));
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    panel.click(&item, "Log in…").await;
    let (_, _, body, _) = eventually("a note", || services.shown().first().cloned()).await;
    assert!(body.ends_with("run in a terminal: tunnelctl login") && !body.contains("canary"), "{body}");
    daemon.was_asked("DELETE /api/auth/login").await;
}

#[tokio::test]
async fn what_lasts_is_told_with_buttons_that_work() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let connection = services.start(&bus).await;
    let daemon = Daemon::start(taken_over()).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    panel.item().await;
    let (_, summary, body, actions) = eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!((summary.as_str(), body.as_str()), ("The tunnel was taken over", "by attic"));
    assert_eq!(actions, ["reconnect", "Reconnect", "details", "Details"]);
    Services::click(&connection, "reconnect").await;
    daemon.was_asked("POST /api/tunnel/restart").await;
}

#[tokio::test]
async fn button_pressed_before_the_id_is_known_counts_once() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::hasty());
    let connection = services.start(&bus).await;
    let daemon = Daemon::start(taken_over()).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    panel.item().await;
    daemon.was_asked("POST /api/tunnel/restart").await;
    // What comes later is heard later.
    Services::click(&connection, "reconnect").await;
    eventually("another", || (daemon.n_asked("POST /api/tunnel/restart") > 1).then_some(())).await;
    assert_eq!(daemon.n_asked("POST /api/tunnel/restart"), 2);
}

#[tokio::test]
async fn notification_that_is_gone_is_not_replaced() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let connection = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    // There is no screen, so its window cannot open; each click is told of.
    let replaced_by_next = async || {
        let n = services.shown().len();
        panel.item_call(&item, "Activate").await;
        eventually("a note", || services.shown().get(n).map(|shown| shown.0)).await
    };
    assert_eq!(replaced_by_next().await, 0);
    eventually_async("a note in its place", async || (replaced_by_next().await == 7).then_some(())).await;
    // Signals and clicks come over two connections.
    Services::close(&connection).await;
    eventually_async("a note beside it", async || (replaced_by_next().await == 0).then_some(())).await;
    eventually_async("a note in its place", async || (replaced_by_next().await == 7).then_some(())).await;
    connection.close().await.unwrap();
    let _connection = services.start(&bus).await;
    eventually_async("a note beside it", async || (replaced_by_next().await == 0).then_some(())).await;
}

#[tokio::test]
async fn failure_is_said_in_the_panel_where_notifications_are_not_wanted() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    daemon.answer("GET /api/config", 200, json!({ "showNotifications": false }));
    let refusal = json!({ "error": "it is shut", "code": "conflict", "status_code": 409 });
    daemon.answer("POST /api/tunnel/stop", 409, refusal);
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    panel.click(&item, "Preferences").await;
    panel.click(&item, "Pause tunnel").await;
    shows(&panel, &item, "The tunnel was not paused: it is shut").await;
    daemon.change(status("up", "connecting"));
    shows(&panel, &item, "Connecting, 1 model server up").await;
    assert_eq!(services.shown(), []);
}

#[tokio::test]
async fn patience_starts_over_with_a_daemon_that_was_away() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(taken_over()).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    daemon.was_asked("GET /api/config").await;
    daemon.was_asked("WS TAKE_NOTIFICATIONS").await;
    let address = daemon.address;
    drop(daemon);
    shows(&panel, &item, "tunneld is not running").await;
    // As long as a takeover may last untold.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(services.shown(), []);
    let back = Instant::now();
    let _daemon = Daemon::start_at(address, taken_over(), true).await;
    eventually("a note", || services.shown().first().cloned()).await;
    assert!(back.elapsed() >= Duration::from_secs(5), "told after {:?}", back.elapsed());
}

#[tokio::test]
async fn notification_service_without_buttons_is_sent_none() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::plain());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start(taken_over()).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    panel.item().await;
    let (_, summary, _, actions) = eventually("a note", || services.shown().first().cloned()).await;
    assert_eq!((summary.as_str(), actions.len()), ("The tunnel was taken over", 0));
}

#[tokio::test]
async fn daemon_that_shows_notifications_itself_is_left_to_it() {
    let Some(bus) = PrivateBus::start() else { return };
    let (panel, services) = (Panel::start(&bus).await, Services::default());
    let _services = services.start(&bus).await;
    let daemon = Daemon::start_as(taken_over(), false).await;
    let _tray = Tray::start(Some(&bus), &daemon.url());
    panel.item().await;
    daemon.was_asked("WS TAKE_NOTIFICATIONS").await;
    // Longer than the patience that a takeover has.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(services.shown(), []);
}

#[tokio::test]
async fn storm_of_changes_is_a_breeze_in_the_panel() {
    let Some(bus) = PrivateBus::start() else { return };
    let panel = Panel::start(&bus).await;
    let daemon = Daemon::start(status("up", "connected")).await;
    let tray = Tray::start(Some(&bus), &daemon.url());
    let item = panel.item().await;
    shows(&panel, &item, CONNECTED).await;
    eventually_async("the account", async || {
        panel.rows(&item).await.into_iter().find(|row| row.label == "Log out (alice)")
    })
    .await;

    let rule = MatchRule::builder().msg_type(Type::Signal).sender(item.as_str()).unwrap().build();
    let mut signals = zbus::MessageStream::for_match_rule(rule, &panel.connection, Some(4096)).await.unwrap();
    let begun = Instant::now();
    for n in 0..1000 {
        let mut changed = status("up", if n % 2 == 0 { "backoff" } else { "connected" });
        changed["tunnel"]["rtt_ms"] = n.into();
        daemon.change(changed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut last = status("up", "connected");
    last["tunnel"]["rtt_ms"] = 5.into();
    daemon.change(last.clone());
    shows(&panel, &item, "Connected, 5 ms, 1 model server up").await;
    let seconds = begun.elapsed().as_secs_f64();

    // The same over and over is no change, and costs the panel nothing.
    let mut n_signals = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(500), signals.next()).await {
        n_signals += 1;
    }
    assert!(n_signals > 0);
    assert!(f64::from(n_signals) <= 20.0 * (seconds + 1.0), "{n_signals} signals in {seconds:.1} s");
    for _ in 0..100 {
        daemon.change(last.clone());
    }
    let again = tokio::time::timeout(Duration::from_millis(700), signals.next()).await;
    assert!(again.is_err(), "{again:?}");

    assert_idle(&tray).await;
    println!("{n_signals} signals in {seconds:.1} s, {} KiB resident", tray.memory() / 1024);
}
