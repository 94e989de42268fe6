//! The loop that owns everything.

mod act;
mod ask;
mod hear;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info};
use tunnel_api::request::Request;
use tunnel_api::ws::Command;
use tunnel_api::{AuthStatus, Requests};
use tunnel_client::{Client, Door, Error, Watch};
use zbus::Connection;

use crate::action::Action;
use crate::desktop::terminal::Surroundings;
use crate::icon::{self, Icon, Panel};
use crate::notify::bus;
use crate::notify::plan::Plan;
use crate::notify::shown::{Sent, Shown};
use crate::notify::{Button, Note, Topic};
use crate::refresh::{Question, Refresh};
use crate::tooltip;
use crate::tray::{Rendered, Tray};
use crate::view::{Daemon, Settings, View};

/// Least time between two updates of the panel. One update is up to four signals, for icon, tooltip and menu.
const UPDATE_EVERY: Duration = Duration::from_millis(200);
/// Time between two looks for the daemon's door while it is away: its socket may appear.
const DOOR_EVERY: Duration = Duration::from_secs(2);
/// Clicks that wait; a person is slower.
const MAX_CLICKS: usize = 16;
/// Jobs at a time; a click that would be one more is refused.
const MAX_JOBS: usize = 16;
/// Longest wait until the daemon has taken a command.
const TELL: Duration = Duration::from_secs(1);
/// The id under which the daemon answers who shows notifications.
const TAKE_ID: &str = "take_notifications";
/// What trays say they are, to each other.
const TRAY: &str = "tray";

/// The tray.
pub(crate) struct App {
    /// Where the daemon was said to be; else it is looked for.
    door: Option<Door>,
    client: Client,
    watch: Watch,
    connection: Connection,
    surroundings: Surroundings,
    clicks: mpsc::Receiver<Action>,
    jobs: JoinSet<Outcome>,
    refresh: Refresh,
    view: View,
    /// How things stood when another program set something else to be shown.
    overridden: Option<(Icon, String)>,
    /// The latest look at the requests.
    looked: Option<(Instant, Vec<Request>)>,
    plan: Plan,
    shown: Shown,
    /// The daemon leaves notifications about what lasts to us.
    tells: bool,
    /// The configuration wants notifications, as far as it was known last.
    may_notify: bool,
    tray: Tray,
    rendered: Rendered,
    updated: Instant,
    /// Something may have changed since.
    stale: bool,
}

/// What a job came to.
enum Outcome {
    Auth(Result<AuthStatus, Error>),
    Settings(Result<Settings, Error>),
    Requests(Result<Requests, Error>),
    /// A click was carried out, or not; `failed` says what did not happen.
    Done {
        failed: &'static str,
        result: Result<(), String>,
    },
    Noted {
        topic: Topic,
        sent: Sent,
        result: Result<u32, bus::NotifyError>,
    },
}

/// Whether the tray stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stay,
    Quit,
}

impl App {
    /// Shows the item. Nothing is known of the daemon yet.
    pub(crate) async fn start(
        door: Option<Door>,
        panel: Panel,
        connection: Connection,
    ) -> anyhow::Result<Self> {
        let client = Client::new(door.clone().unwrap_or_else(find_door))?;
        let (click, clicks) = mpsc::channel(MAX_CLICKS);
        let view = View::default();
        let rendered = Rendered::of(&view);
        let tray = Tray::show(rendered.clone(), panel, click).await.context("showing the icon")?;
        info!(door = %client.door(), "in the panel");
        Ok(Self {
            door,
            watch: client.watch(),
            client,
            connection,
            surroundings: Surroundings::read(),
            clicks,
            jobs: JoinSet::new(),
            refresh: Refresh::default(),
            view,
            overridden: None,
            looked: None,
            plan: Plan::default(),
            shown: Shown::default(),
            tells: false,
            may_notify: true,
            tray,
            rendered,
            updated: Instant::now(),
            stale: false,
        })
    }

    /// Runs until it is told to quit, or the session ends.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut signals = bus::signals(&self.connection).await.context("following notifications")?;
        let mut look_for_door = tokio::time::interval(DOOR_EVERY);
        look_for_door.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.due();
            let away = self.view.daemon != Daemon::There && self.door.is_none();
            let then = tokio::select! {
                update = self.watch.next() => self.hear(update).await,
                // Cannot end: the item in the panel holds the other end.
                Some(action) = self.clicks.recv() => self.act(action).await,
                Some(job) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    self.finish(job?).await
                }
                signal = signals.next() => {
                    // All that wait: while a panel is slow to take an update they must not pile up.
                    let waiting = std::iter::from_fn(|| signals.next().now_or_never());
                    let mut clicked = Vec::new();
                    for signal in std::iter::once(signal).chain(waiting) {
                        match signal {
                            Some(Ok(signal)) => {
                                clicked.extend(bus::read(&signal).and_then(|heard| self.shown.hear(heard)));
                            }
                            Some(Err(error)) => debug!(%error, "an odd signal"),
                            None => {
                                info!("the session bus has gone");
                                return Ok(());
                            }
                        }
                    }
                    self.press(clicked).await
                }
                _ = look_for_door.tick(), if away => {
                    self.look_for_door();
                    Then::Stay
                }
                () = until(wake) => Then::Stay,
                _ = terminate.recv() => Then::Quit,
                _ = interrupt.recv() => Then::Quit,
            };
            if then == Then::Quit {
                self.tray.close().await;
                return Ok(());
            }
            self.ask();
            self.tell();
            if !self.update().await {
                info!("the item is no longer in the panel");
                return Ok(());
            }
        }
    }

    async fn press(&mut self, buttons: Vec<Button>) -> Then {
        let mut then = Then::Stay;
        for button in buttons {
            then = self.act(button.action()).await;
        }
        then
    }

    /// Returns when there is something to do even if nothing happens.
    fn due(&self) -> Option<Instant> {
        let update = self.stale.then(|| self.updated + UPDATE_EVERY);
        let note = if self.may_tell() { self.plan.due() } else { None };
        // Without the daemon there is nobody to ask, however much is wanted.
        let there = self.view.daemon == Daemon::There;
        let question = there.then(|| self.refresh.due(Instant::now())).flatten();
        [update, note, question, self.view.missed.due()].into_iter().flatten().min()
    }

    /// Shows what has changed, but not too often. False: the item is gone.
    async fn update(&mut self) -> bool {
        self.stale |= self.view.pass(Instant::now());
        if !self.stale || self.updated.elapsed() < UPDATE_EVERY {
            return true;
        }
        self.stale = false;
        self.end_override();
        let rendered = Rendered::of(&self.view);
        if rendered == self.rendered {
            return true;
        }
        self.rendered = rendered.clone();
        self.updated = Instant::now();
        self.tray.update(rendered).await
    }

    /// Forgets what another program wanted to be shown, once things have changed.
    fn end_override(&mut self) {
        let Some(then) = &self.overridden else { return };
        let (icon, tooltip) = (self.view.override_icon.take(), self.view.override_tooltip.take());
        if *then == self.plain() {
            (self.view.override_icon, self.view.override_tooltip) = (icon, tooltip);
        } else {
            self.overridden = None;
        }
    }

    /// Returns what is shown without another program's wishes. These have to be out of the view.
    fn plain(&self) -> (Icon, String) {
        (icon::icon(&self.view), tooltip::sentence(&self.view))
    }

    /// Asks what the daemon does not tell by itself.
    fn ask(&mut self) {
        if self.view.daemon != Daemon::There {
            return;
        }
        for question in self.refresh.take(Instant::now()) {
            let client = self.client.clone();
            match question {
                Question::Auth => self.jobs.spawn(async move { Outcome::Auth(client.auth().await) }),
                Question::Settings => {
                    let connection = self.connection.clone();
                    self.jobs
                        .spawn(async move { Outcome::Settings(ask::settings(&client, &connection).await) })
                }
                Question::Requests => {
                    self.jobs.spawn(async move { Outcome::Requests(client.requests().await) })
                }
            };
        }
    }

    /// Whether notifications about what lasts are ours, and it is known whether they are wanted.
    fn may_tell(&self) -> bool {
        self.tells && self.view.settings.is_some()
    }

    /// Shows notifications that are due.
    fn tell(&mut self) {
        // A daemon that has gone is part of the plan.
        if self.view.daemon == Daemon::There && !self.may_tell() {
            return;
        }
        for note in self.plan.observe(&self.view, Instant::now()) {
            if self.may_notify {
                self.note(note);
            }
        }
    }

    /// Says that a click led to nothing, and why: as a notification, or in the panel if these are not wanted.
    fn complain(&mut self, failed: &str, why: &str) {
        info!(why, "{failed}");
        if self.may_notify {
            self.note(Note::failed(failed, why));
        } else {
            self.begin_override();
            self.view.override_tooltip = Some(format!("{failed}: {why}"));
            self.stale = true;
        }
    }

    fn note(&mut self, note: Note) {
        if self.jobs.len() >= MAX_JOBS {
            debug!(summary = note.summary, "too much at once, this notification is not shown");
            return;
        }
        let (connection, topic) = (self.connection.clone(), note.topic.clone());
        let sent = self.shown.send(&topic);
        self.jobs.spawn(async move {
            Outcome::Noted { topic, sent, result: bus::show(connection, note, sent.replaces).await }
        });
    }

    /// Tells other programs of a click, such as a window that is to show itself. Other trays of this user, in other
    /// sessions, leave it alone.
    async fn pass_on(&mut self, command: &str) {
        let from = Map::from_iter([("from".to_owned(), Value::from(TRAY))]);
        self.call(command, "click", from).await;
    }

    /// Tells the daemon something. Nothing depends on it.
    async fn call(&mut self, command: &str, id: &str, payload: Map<String, Value>) {
        if self.view.daemon != Daemon::There {
            return;
        }
        let command = Command { command: command.to_owned(), id: id.into(), payload };
        match tokio::time::timeout(TELL, self.watch.send(&command)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, command = command.command, "not told"),
            Err(_) => debug!(command = command.command, "not told in time"),
        }
    }

    /// Follows the daemon to another door. One that was named stays.
    fn look_for_door(&mut self) {
        let door = find_door();
        if door == *self.client.door() {
            return;
        }
        match Client::new(door) {
            Ok(client) => {
                info!(door = %client.door(), "looking for tunneld here now");
                self.watch = client.watch();
                self.client = client;
            }
            Err(error) => debug!(%error, "no client"),
        }
    }
}

fn find_door() -> Door {
    Door::find(|name| std::env::var_os(name))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
