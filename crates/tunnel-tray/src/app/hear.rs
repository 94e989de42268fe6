//! What comes in: the daemon's updates, and the results of jobs.

use std::time::Instant;

use serde_json::{Map, Value};
use tracing::{debug, info};
use tunnel_api::Status;
use tunnel_client::{Error, Update};

use super::{App, Outcome, TAKE_ID, TRAY, Then};
use crate::action::Action;
use crate::icon::Icon;
use crate::refresh::Question;
use crate::view::{self, Daemon, View};

impl App {
    pub(super) async fn hear(&mut self, update: Update) -> Then {
        self.stale = true;
        match update {
            Update::Status(status) => self.see(*status).await,
            Update::Models(update) => self.view.models = update.models,
            // A login, a logout or a change of the configuration is among what happens.
            Update::Event(_) | Update::Warning(_) => self.refresh.want(Question::Auth),
            Update::Metrics(_) => {}
            Update::Call(call) => return self.obey(&call),
            Update::Answer(answer) => self.take_answer(&answer),
            Update::Lost(error) => self.lose(&error),
        }
        Then::Stay
    }

    async fn see(&mut self, status: Status) {
        let found = self.view.daemon != Daemon::There;
        let reloaded = self.view.status.config.loaded_at != status.config.loaded_at;
        if status.connections.values().any(|connection| connection.in_flight + connection.queued > 0) {
            self.refresh.want(Question::Requests);
        }
        self.view.status = status;
        if found || reloaded {
            self.refresh.want(Question::Settings);
        }
        if found {
            info!(door = %self.client.door(), "tunneld is there");
            self.view.daemon = Daemon::There;
            self.refresh.want(Question::Auth);
            self.refresh.want(Question::Requests);
            self.call("TAKE_NOTIFICATIONS", TAKE_ID, Map::new()).await;
        }
    }

    fn lose(&mut self, error: &Error) {
        info!(%error, "tunneld is not there");
        let daemon = match error {
            Error::NotRunning { .. } | Error::Lost { .. } | Error::Timeout { .. } => Daemon::Away,
            Error::NotAllowed { .. }
            | Error::NotTunneld { .. }
            | Error::NotReady(_)
            | Error::WaitOver(_)
            | Error::Refused(_)
            | Error::Setup(_) => Daemon::Barred(error.to_string()),
        };
        self.view = View { daemon, ..View::default() };
        self.overridden = None;
        self.looked = None;
        self.tells = false;
        self.refresh.forget();
    }

    /// Does what another program asks of all trays. A click in another tray is done with where it was made.
    fn obey(&mut self, call: &Map<String, Value>) -> Then {
        let member = |key: &str| call.get(key).and_then(Value::as_str);
        if member("from") == Some(TRAY) {
            return Then::Stay;
        }
        match member("command").unwrap_or_default() {
            "SHOW" => self.open_status(),
            "SETTINGS" => self.open_settings(),
            "HIDE" => debug!("nothing to hide: there is no window"),
            "QUIT" => {
                info!("another program asked to quit");
                return Then::Quit;
            }
            "UPDATE_TOOLTIP" => {
                let text = member("text").unwrap_or_default().to_owned();
                self.begin_override();
                self.view.override_tooltip = Some(text).filter(|text| !text.is_empty());
            }
            "UPDATE_ICON" => match Icon::from_name(member("state").unwrap_or_default()) {
                Some(icon) => {
                    self.begin_override();
                    self.view.override_icon = Some(icon);
                }
                None => debug!("another program asked for an icon that there is not"),
            },
            _ => debug!("a call that this version does not know"),
        }
        Then::Stay
    }

    /// Notes how things stand, so that the next change ends what is shown instead.
    pub(super) fn begin_override(&mut self) {
        let (icon, tooltip) = (self.view.override_icon.take(), self.view.override_tooltip.take());
        self.overridden = Some(self.plain());
        (self.view.override_icon, self.view.override_tooltip) = (icon, tooltip);
    }

    fn take_answer(&mut self, answer: &Map<String, Value>) {
        if answer.get("id").is_some_and(|id| id == TAKE_ID) {
            // A daemon that does not know the command shows them itself, and twice would be once too many.
            self.tells = !answer.contains_key("error");
            debug!(tells = self.tells, "who shows notifications is settled");
        }
    }

    pub(super) async fn finish(&mut self, outcome: Outcome) -> Then {
        match outcome {
            Outcome::Auth(result) => {
                if let Some(auth) = self.expect(Question::Auth, result) {
                    self.view.auth = Some(auth);
                }
            }
            Outcome::Settings(result) => {
                if let Some(settings) = self.expect(Question::Settings, result) {
                    self.may_notify = settings.notifications;
                    self.view.settings = Some(settings);
                }
            }
            Outcome::Requests(result) => {
                let Some(answer) = self.expect(Question::Requests, result) else { return Then::Stay };
                let now = Instant::now();
                let (then, before) = self.looked.take().unwrap_or((now, Vec::new()));
                self.view.requests =
                    view::running(&answer.requests, &before, now.saturating_duration_since(then));
                if !answer.requests.is_empty() {
                    self.refresh.want(Question::Requests);
                }
                self.looked = Some((now, answer.requests));
            }
            Outcome::Done { failed, result } => {
                self.refresh.want(Question::Auth);
                self.refresh.want(Question::Settings);
                self.refresh.want(Question::Requests);
                if let Err(why) = result {
                    self.complain(failed, &why);
                }
            }
            Outcome::Noted { topic, sent, result } => {
                let id = result.inspect_err(|error| debug!(%error, "no notification")).ok();
                if let Some(button) = self.shown.answer(topic, sent, id) {
                    return self.act(button.action()).await;
                }
            }
        }
        Then::Stay
    }

    /// Returns an answer that came from the daemon as it is now.
    fn expect<T>(&mut self, question: Question, result: Result<T, Error>) -> Option<T> {
        let there = self.view.daemon == Daemon::There;
        match result {
            Ok(answer) if there => {
                self.refresh.answered(question);
                self.stale = true;
                Some(answer)
            }
            // Of a daemon that has gone since.
            Ok(_) => {
                self.refresh.answered(question);
                None
            }
            Err(error) => {
                debug!(%error, ?question, "no answer");
                self.refresh.failed(question, Instant::now());
                None
            }
        }
    }

    /// Returns the action that makes a difference.
    pub(super) fn pause_or_resume(&self) -> Option<Action> {
        if self.view.daemon != Daemon::There || !self.view.has_tunnel() {
            None
        } else if self.view.is_paused() {
            Some(Action::Resume)
        } else {
            Some(Action::Pause)
        }
    }
}
