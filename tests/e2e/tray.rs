//! The tray: what a panel shows of it, what its clicks do, and what it outlives.

mod panel;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    DaemonOptions, Desktop, Lab, MenuEntry, RestlessDaemon, Tray, World, binaries, eventually, measured,
    poll_until, scenario, skipped, soak,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

const LIMIT: Duration = Duration::from_secs(15);

/// A desktop with a panel, or a word on why there is none.
async fn desktop(lab: &mut Lab) -> Result<Option<Desktop>> {
    let Some(desktop) = Desktop::start(&lab.folder("desktop", "bus.log")?).await? else {
        skipped("a session bus", "dbus-daemon is not there: cargo xtask setup")?;
        return Ok(None);
    };
    Ok(Some(desktop))
}

fn url(world: &World) -> String {
    format!("http://{}", world.daemon.api())
}

#[test]
fn the_icon_tells_each_state_and_a_click_pauses_the_tunnel() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        let begun = Instant::now();
        let item = desktop.item().await?;
        measured("tray, until its icon is there", format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1e3));
        let menu = item.wait_for_menu("Pause tunnel", |menu| menu.find("Pause tunnel").is_some()).await?;
        for entry in [
            "Connections",
            "Models",
            "Copy base URL",
            "Log out",
            "Settings",
            "Reconnect All",
            "Preferences",
            "Show",
            "Hide",
            "Quit",
        ] {
            ensure!(menu.find(entry).is_some(), "{entry} is missing:\n{}", menu.lines(0));
        }
        let status_line = menu.children.first().context("the menu begins with how it stands")?;
        ensure!(!status_line.enabled, "the first line says how it stands:\n{}", menu.lines(0));
        ensure!(
            menu.find("Connections").is_some_and(|entry| entry.find("ollama").is_some()),
            "{}",
            menu.lines(0)
        );
        ensure!(
            menu.find("Models").is_some_and(|entry| entry.find(e2e::MODEL).is_some()),
            "{}",
            menu.lines(0)
        );
        // Two states that look alike but for their colour look alike to many people.
        let mut looks = Looks::default();
        item.wait_for_tooltip("a word on the connection", |text| text.to_lowercase().contains("connected"))
            .await?;
        looks.see("connected", &item).await?;

        item.click("Pause tunnel").await?;
        world.daemon.wait_for_tunnel("disconnected", LIMIT).await?;
        ensure!(world.daemon.tunnel().await?["target"] == "down");
        item.wait_for_menu("Resume tunnel", |menu| menu.find("Resume tunnel").is_some()).await?;
        looks.see("paused", &item).await?;

        item.click("Resume tunnel").await?;
        world.daemon.wait_for_tunnel("connected", LIMIT).await?;
        item.wait_for_menu("Pause tunnel", |menu| menu.find("Pause tunnel").is_some()).await?;
        // The middle button does the same.
        item.activate_secondary().await?;
        world.daemon.wait_for_tunnel("disconnected", LIMIT).await?;
        item.click("Resume tunnel").await?;
        world.daemon.wait_for_tunnel("connected", LIMIT).await?;

        // Its check mark is the configuration's.
        let connections = item.menu().await?.find("Connections").cloned().context("it was there")?;
        let ollama = connections.find("ollama").context("it was there")?;
        ensure!(ollama.checked == Some(true), "{}", connections.lines(0));

        world.relay.kill()?;
        item.wait_for_tooltip("a tunnel that is being dialled", |text| text.starts_with("Connecting"))
            .await?;
        looks.see("connecting", &item).await?;
        world.daemon.kill()?;
        item.wait_for_tooltip("not running", |text| text.contains("not running")).await?;
        let menu = item.wait_for_menu("Start", |menu| menu.find("Start").is_some()).await?;
        ensure!(menu.find("Pause tunnel").is_none() && menu.find("Quit").is_some(), "{}", menu.lines(0));
        looks.see("not running", &item).await?;
        item.click("Start").await?;
        eventually("systemd is asked to start it", LIMIT, async || {
            tray.ran().contains("systemctl --user start")
        })
        .await?;
        world.daemon.restart().await?;
        item.wait_for_menu("the daemon is back", |menu| menu.find("Connections").is_some()).await?;
        measured("tray: icons that differ in shape", looks.names().join(", "));
        Ok(())
    })
}

/// The shapes that were seen, by state.
#[derive(Debug, Default)]
struct Looks {
    seen: Vec<(String, Vec<bool>)>,
}

impl Looks {
    /// Notes how the icon looks now; fails if another state looks the same.
    async fn see(&mut self, state: &str, item: &e2e::TrayItem) -> Result<()> {
        let waited =
            eventually("an icon of its own", LIMIT, async || self.is_new(item).await.unwrap_or(false));
        waited.await.with_context(|| format!("{state} looks like one of {:?}", self.names()))?;
        self.seen.push((state.to_owned(), shape(item).await?));
        Ok(())
    }

    async fn is_new(&self, item: &e2e::TrayItem) -> Result<bool> {
        let now = shape(item).await?;
        Ok(self.seen.iter().all(|(_, seen)| *seen != now))
    }

    fn names(&self) -> Vec<&str> {
        self.seen.iter().map(|(state, _)| state.as_str()).collect()
    }
}

/// The shape of the smallest picture, which is the hardest to tell apart.
async fn shape(item: &e2e::TrayItem) -> Result<Vec<bool>> {
    let pictures = item.pictures().await?;
    let smallest = pictures.iter().min_by_key(|picture| picture.width).context("an icon has pictures")?;
    ensure!(smallest.argb.len() == (smallest.width * smallest.height * 4) as usize, "{smallest:?}");
    Ok(smallest.shape())
}

#[test]
fn a_click_switches_a_connection_off_and_on() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let _tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        let item = desktop.item().await?;
        let below = |menu: &MenuEntry| menu.find("Connections")?.find("ollama")?.checked;
        item.wait_for_menu("ollama is on", |menu| below(menu) == Some(true)).await?;
        item.click("ollama").await?;
        let in_force = async || -> Option<bool> {
            let config = world.daemon.control().get("/api/config").send().await.ok()?.json().await.ok()?;
            config.pointer("/config/enableLocalOllama").or_else(|| config.get("enableLocalOllama"))?.as_bool()
        };
        eventually("the configuration says so", LIMIT, async || in_force().await == Some(false)).await?;
        item.wait_for_menu("ollama is off, and still listed", |menu| below(menu) == Some(false)).await?;
        item.click("ollama").await?;
        eventually("the configuration says so", LIMIT, async || in_force().await == Some(true)).await?;
        world.daemon.wait_for_backend("ollama", LIMIT).await
    })
}

#[test]
fn a_request_that_runs_is_shown_and_cancelled() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let _tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        let item = desktop.item().await?;
        let menu = item.wait_for_menu("a menu", |menu| menu.find("Models").is_some()).await?;
        ensure!(menu.find("Active requests").is_none(), "{}", menu.lines(0));
        let script = e2e::Script::tokens(1_000_000, 50.0);
        let reply = crate::streams::open(&world.local(), e2e::Api::OllamaChat, &script).await?;
        item.wait_for_menu("the request", |menu| {
            menu.find("Active requests").is_some_and(|requests| requests.find(e2e::MODEL).is_some())
        })
        .await?;
        item.click("Cancel").await?;
        let ending = reply.ending().await;
        ensure!(ending.error.is_some(), "a cancelled answer looks whole");
        item.wait_for_menu("no request", |menu| menu.find("Active requests").is_none()).await?;
        Ok(())
    })
}

#[test]
fn the_tray_and_the_tunnel_do_not_need_each_other() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let mut tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        desktop.item().await?;
        tray.kill()?;
        // It would be seen within a heartbeat; a request through the tunnel is the better proof.
        ensure!(world.remote().get("/api/version").send().await?.status() == 200);
        ensure!(world.daemon.tunnel().await?["state"] == "connected");
        Ok(())
    })
}

#[test]
fn a_panel_that_restarts_gets_its_icon_back() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let mut tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        desktop.item().await?;
        for _ in 0..3 {
            desktop.close_panel().await?;
            desktop.open_panel().await?;
            let item = desktop.item().await?;
            item.wait_for_menu("the menu is there again", |menu| menu.find("Quit").is_some()).await?;
        }
        ensure!(desktop.registered().len() == 1, "{:?}", desktop.registered());
        ensure!(tray.exited()?.is_none(), "{}", tray.printed());
        Ok(())
    })
}

#[test]
fn where_nothing_shows_icons_it_says_so_once_and_ends_well() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        let mut tray = Tray::start(&lab.folder("no-panel", "tray.log")?, &desktop, &url(&world))?;
        let status = tray.wait(LIMIT).await?;
        let said = tray.printed();
        ensure!(status.code() == Some(0), "{status}: {said}");
        ensure!(said.matches("AppIndicator").count() == 1, "{said}");
        // No bus at all, as on a machine without a desktop.
        let mut tray = Tray::start_without_bus(&lab.folder("no-bus", "tray.log")?, &url(&world))?;
        let status = tray.wait(LIMIT).await?;
        ensure!(
            status.code() == Some(0) && !tray.printed().trim().is_empty(),
            "{status}: {}",
            tray.printed()
        );
        Ok(())
    })
}

#[test]
fn a_second_tray_leaves_the_place_to_the_first() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let mut first = Tray::start(&lab.folder("first", "tray.log")?, &desktop, &url(&world))?;
        desktop.item().await?;
        let mut second = Tray::start(&lab.folder("second", "tray.log")?, &desktop, &url(&world))?;
        let status = second.wait(LIMIT).await?;
        ensure!(
            status.code() == Some(0) && !second.printed().trim().is_empty(),
            "{status}: {}",
            second.printed()
        );
        ensure!(first.exited()?.is_none() && desktop.registered().len() == 1, "{:?}", desktop.registered());
        Ok(())
    })
}

#[test]
fn other_clients_may_change_its_tooltip_and_end_it() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let mut tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        let item = desktop.item().await?;
        item.wait_for_menu("it follows the daemon", |menu| menu.find("Connections").is_some()).await?;
        let stream = TcpStream::connect(world.daemon.api()).await?;
        let (mut client, _) = client_async(format!("ws://{}/ws", world.daemon.api()), stream).await?;
        let mut say = async |command: Value| -> Result<Value> {
            client.send(Message::text(command.to_string())).await?;
            loop {
                let Message::Text(text) = client.next().await.context("closed")?? else { continue };
                let answer: Value = serde_json::from_str(&text)?;
                if answer.get("seq").is_none() && answer["id"] == command["id"] {
                    return Ok(answer);
                }
            }
        };
        say(json!({ "command": "UPDATE_TOOLTIP", "id": 1, "text": "back at noon" })).await?;
        item.wait_for_tooltip("the other client's words", |text| text.contains("back at noon")).await?;
        say(json!({ "command": "SHOW", "id": 2 })).await?;
        eventually("a terminal", LIMIT, async || tray.ran().contains("tunnelctl")).await?;
        say(json!({ "command": "QUIT", "id": 3 })).await?;
        let status = tray.wait(LIMIT).await?;
        ensure!(status.code() == Some(0), "{status}");
        ensure!(world.daemon.tunnel().await?["state"] == "connected", "only the tray was to end");
        Ok(())
    })
}

/// Changes of status, and the time in which they come.
const CHANGES: u32 = 1000;
const SECONDS: u32 = 10;
/// Most updates that a panel is sent a second.
const MOST_PER_S: f64 = 20.0;

#[test]
fn a_status_that_never_stands_still_costs_little() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let restless = RestlessDaemon::before(world.daemon.api()).await?;
        let tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &restless.url())?;
        let item = desktop.item().await?;
        item.wait_for_menu("it follows the daemon", |menu| menu.find("Connections").is_some()).await?;
        let (drawn, cpu) = (desktop.drawn(), tray.cpu()?);
        let begun = Instant::now();
        restless.begin(CHANGES, CHANGES / SECONDS);
        let limit = Duration::from_secs(u64::from(SECONDS)) * 2;
        tokio::time::timeout(limit, restless.seen(CHANGES)).await.context("the changes take too long")?;
        let time = begun.elapsed();
        let busy = (tray.cpu()? - cpu).as_secs_f64() / time.as_secs_f64() * 100.0;
        let per_s = (desktop.drawn() - drawn) as f64 / time.as_secs_f64();
        item.wait_for_tooltip("the last change", |text| text.contains("paused")).await?;
        item.wait_for_menu("the last change", |menu| menu.find("Resume tunnel").is_some()).await?;
        // What is sent of it follows what can be asked for by a moment.
        let mut last = usize::MAX;
        eventually("the last update", LIMIT, async || {
            let before = std::mem::replace(&mut last, desktop.drawn());
            before == last
        })
        .await?;
        let (drawn, cpu) = (desktop.drawn(), tray.cpu()?);
        let rest = Duration::from_secs(if soak() { 30 } else { 5 });
        tokio::time::sleep(rest).await;
        let idle = (tray.cpu()? - cpu).as_secs_f64() / rest.as_secs_f64() * 100.0;
        let quiet = desktop.drawn() - drawn;
        let mib = tray.memory()?.rss as f64 / f64::from(1 << 20);
        let build = if binaries::optimised() { "release" } else { "dev build" };
        measured(
            "tray, 1,000 status changes in 10 s",
            format!(
                "{per_s:.1} updates/s sent, CPU {busy:.1} %; then CPU {idle:.2} %, {quiet} updates, RSS {mib:.1} MiB ({build})"
            ),
        );
        ensure!(per_s > 0.0, "no change reached the panel");
        ensure!(per_s <= MOST_PER_S, "{per_s:.1} updates a second");
        ensure!(quiet == 0, "{quiet} updates while nothing changed");
        if binaries::optimised() {
            ensure!(idle < 1.0, "CPU {idle:.2} %");
            ensure!(mib <= 20.0, "RSS {mib:.1} MiB");
        }
        Ok(())
    })
}

#[test]
fn a_takeover_is_told_once_and_the_button_takes_it_back() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(e2e::WorldOptions::default().with("showNotifications", true)).await?;
        let Some(desktop) = desktop(lab).await? else { return Ok(()) };
        desktop.open_panel().await?;
        let tray = Tray::start(&lab.folder("tray", "tray.log")?, &desktop, &url(&world))?;
        let item = desktop.item().await?;
        item.wait_for_menu("it follows the daemon", |menu| menu.find("Connections").is_some()).await?;
        ensure!(desktop.notifications().is_empty(), "a start is no news: {:?}", desktop.notifications());
        // Another machine with the same name.
        let second = lab
            .daemon(DaemonOptions {
                relay: Some(world.relay.url()),
                token: Some(world.tunnel_token.clone()),
                ..DaemonOptions::default()
            })
            .await?;
        second.wait_for_tunnel("connected", LIMIT).await?;
        world.daemon.wait_for_tunnel("refused", LIMIT).await?;
        let told = poll_until("a notification", LIMIT, async || desktop.notifications().into_iter().next());
        let told = told.await.with_context(|| tray.printed())?;
        ensure!(!told.summary.is_empty() && !told.body.is_empty(), "{told:?}");
        let buttons: Vec<&str> =
            told.actions.chunks(2).filter_map(|pair| pair.get(1)).map(String::as_str).collect();
        ensure!(buttons.contains(&"Reconnect"), "{told:?}");
        let key = told.actions.chunks(2).find(|pair| pair.get(1).is_some_and(|label| label == "Reconnect"));
        desktop.press(told.id, &key.context("it was there")?[0]).await?;
        world.daemon.wait_for_tunnel("connected", LIMIT).await?;
        let fresh = desktop.notifications().iter().filter(|notification| !notification.replaces).count();
        ensure!(fresh == 1, "stacked: {:?}", desktop.notifications());
        Ok(())
    })
}
