//! What a person asks for.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::debug;
use tunnel_api::LoginFlow;
use tunnel_client::{Client, Door, Error};
use zbus::Connection;

use super::{App, MAX_JOBS, Outcome, Then, find_door};
use crate::action::Action;
use crate::desktop::terminal::Surroundings;
use crate::desktop::{browser, clipboard, systemd, terminal};
use crate::refresh::Question;
use crate::view::Settings;

/// How long the daemon may take to come up.
const COME_UP: Duration = Duration::from_secs(10);
/// Time between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The daemon's word for a relay that offers no login of this kind.
const LOGIN_UNAVAILABLE: &str = "login_unavailable";

impl App {
    pub(super) async fn act(&mut self, action: Action) -> Then {
        debug!(?action, "asked");
        let client = self.client.clone();
        match action {
            Action::LookAgain => self.refresh.want(Question::Requests),
            Action::Pause => {
                self.job("The tunnel was not paused", async move { done(client.stop(None).await) })
            }
            Action::Resume => {
                self.job("The tunnel was not resumed", async move { done(client.start(None).await) });
            }
            Action::PauseOrResume => {
                if let Some(action) = self.pause_or_resume() {
                    return Box::pin(self.act(action)).await;
                }
            }
            Action::ReconnectAll => {
                self.job("The tunnel was not reconnected", async move { done(client.restart(None).await) });
            }
            Action::Switch { id, on } => {
                let failed = if on { "It was not switched on" } else { "It was not switched off" };
                self.job(failed, switch(client, id, on));
            }
            Action::Cancel { request } => self.job("The request was not cancelled", async move {
                done(client.cancel_request(&request).await)
            }),
            Action::CopyBaseUrl => self.copy_base_url(),
            Action::LogIn => {
                let paste = self.tunnelctl(&["login", "--token-stdin"]);
                self.job("You are not logged in", log_in(client, self.surroundings.clone(), paste));
            }
            Action::LogOut => self.job("You are not logged out", async move { done(client.logout().await) }),
            Action::Show => {
                self.pass_on("SHOW").await;
                self.open_status();
            }
            Action::Hide => self.pass_on("HIDE").await,
            Action::Settings => {
                self.pass_on("SETTINGS").await;
                self.open_settings();
            }
            Action::Doctor => self.open(&["doctor"]),
            Action::StartAtLogin(on) => self.patch("autoStartOnBoot", on),
            Action::Notifications(on) => self.patch("showNotifications", on),
            Action::StartDaemon => {
                self.job("tunneld was not started", start(self.connection.clone(), self.door.clone()));
            }
            Action::Quit => {
                self.pass_on("QUIT").await;
                return Then::Quit;
            }
        }
        Then::Stay
    }

    // There is no dashboard to open yet; a terminal shows the same.
    pub(super) fn open_status(&mut self) {
        self.open(&["status", "-w"]);
    }

    pub(super) fn open_settings(&mut self) {
        self.open(&["config", "edit"]);
    }

    /// Opens a terminal with this command of tunnelctl in it.
    fn open(&mut self, words: &[&str]) {
        let (surroundings, command) = (self.surroundings.clone(), self.tunnelctl(words));
        self.job("No window was opened", async move { terminal::open(&surroundings, &command).await });
    }

    /// Returns a command of tunnelctl for the daemon that is shown.
    fn tunnelctl(&self, words: &[&str]) -> Vec<OsString> {
        let mut command = vec![terminal::tunnelctl()];
        if let Some(door) = &self.door {
            command.extend([OsString::from("--url"), spell(door).into()]);
        }
        command.extend(words.iter().map(OsString::from));
        command
    }

    fn patch(&mut self, key: &str, on: bool) {
        let change = Map::from_iter([(key.to_owned(), Value::from(on))]);
        let client = self.client.clone();
        self.job("The setting was not changed", async move { done(client.patch_config(&change).await) });
    }

    fn copy_base_url(&mut self) {
        let Some(url) = self.view.base_url() else { return };
        let connection = self.connection.clone();
        self.job("The base URL was not copied", async move {
            clipboard::copy(&connection, &url).await.map_err(|why| format!("It is {url} ({why})"))
        });
    }

    /// Does something for which nobody waits. What goes wrong is shown, `failed` saying what did not happen.
    fn job(&mut self, failed: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        if self.jobs.len() >= MAX_JOBS {
            self.complain(failed, "too much is under way; try again in a moment");
            return;
        }
        self.jobs.spawn(async move { Outcome::Done { failed, result: work.await } });
    }
}

fn done<T>(result: Result<T, Error>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// Sends the person to the browser, or to a terminal for a token where the relay offers no login. The daemon goes on from
/// there; what comes of it is seen in the menu, and in the browser.
async fn log_in(client: Client, surroundings: Surroundings, paste: Vec<OsString>) -> Result<(), String> {
    let begun = match client.begin_login(LoginFlow::Browser).await {
        Ok(begun) => begun,
        Err(error) if error.code() == LOGIN_UNAVAILABLE => {
            return terminal::open(&surroundings, &paste).await;
        }
        Err(error) => return Err(error.to_string()),
    };
    let opened = match begun.authorization_url {
        Some(url) => browser::open(&surroundings, url).await,
        None => Err("tunneld named no address to log in at".to_owned()),
    };
    if opened.is_err()
        && let Err(error) = client.cancel_login().await
    {
        debug!(%error, "the login runs out by itself");
    }
    opened.map_err(|why| format!("{why}; run in a terminal: tunnelctl login"))
}

/// Switches a connection on or off, by the key that stands for it.
async fn switch(client: Client, id: String, on: bool) -> Result<(), String> {
    let edit = |config: &Map<String, Value>| {
        let change = Settings::switch(config, &id, on);
        let is_there = change.is_some();
        Ok((change.unwrap_or_default(), is_there))
    };
    match client.change_config(edit).await {
        Ok((true, _)) => Ok(()),
        Ok((false, _)) => Err(format!("{id} is no longer in the configuration")),
        Err::<_, Error>(error) => Err(error.to_string()),
    }
}

/// Has the daemon started, and waits until it answers.
async fn start(connection: Connection, door: Option<Door>) -> Result<(), String> {
    systemd::start_daemon(&connection).await?;
    let limit = Instant::now() + COME_UP;
    loop {
        let client =
            Client::new(door.clone().unwrap_or_else(find_door)).map_err(|error| error.to_string())?;
        match client.livez().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= limit => {
                debug!(%error, "still not there");
                let s = COME_UP.as_secs();
                return Err(format!("it did not answer within {s} s; see: journalctl --user -u tunneld"));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Returns the door as `--url` takes it.
fn spell(door: &Door) -> String {
    match door {
        Door::Socket(path) => format!("unix://{}", path.display()),
        Door::Url(url) => url.to_string(),
        Door::DefaultPort { .. } => format!("http://127.0.0.1:{}", tunnel_client::DEFAULT_PORT),
    }
}
