//! What is worth a notification, and when. Pure.
//!
//! Only what lasts: whatever mends itself before its patience is over was a flap, and nobody hears of it. Each
//! trouble is told once; its end is told only if its beginning was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tunnel_api::TunnelState;
use tunnel_api::connection::ConnectionState;
use tunnel_api::warning::{LOGIN_EXPIRED, REPLACED, TOKEN_EXPIRED};

use super::{Button, MAX_BODY, Note, Topic, Urgency};
use crate::text::line;
use crate::view::{Daemon, View};

/// How long the tunnel may be wanted and down.
pub(crate) const TUNNEL: Duration = Duration::from_secs(60);
/// How long the only server of a model may be down.
pub(crate) const SERVER: Duration = Duration::from_secs(120);
/// How long a login may be over: the daemon may just be renewing it.
pub(crate) const LOGIN: Duration = Duration::from_secs(15);
/// How long another daemon may have the device: the final word, but a restart of this one may be under way.
pub(crate) const TAKEN_OVER: Duration = Duration::from_secs(5);
/// Most troubles that are followed; servers beyond that are not told of.
const MAX_TROUBLES: usize = 32;

/// Follows what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    troubles: BTreeMap<Topic, Trouble>,
    /// The models that each server had when it was last up.
    models: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    patience: Duration,
    told: bool,
}

impl Plan {
    /// Takes how things stand, and returns what has to be said now.
    ///
    /// While the daemon is away nothing is known, and nothing begins or ends. What was not told yet begins anew when
    /// it is back.
    pub(crate) fn observe(&mut self, view: &View, now: Instant) -> Vec<Note> {
        if view.daemon != Daemon::There {
            self.troubles.retain(|_, trouble| trouble.told);
            return Vec::new();
        }
        let troubles = self.current(view);
        let mut notes = Vec::new();
        let over: Vec<Topic> =
            self.troubles.keys().filter(|topic| !troubles.contains_key(topic)).cloned().collect();
        for topic in over {
            if self.troubles.remove(&topic).is_some_and(|trouble| trouble.told) {
                notes.extend(good_news(&topic, view));
            }
        }
        for (topic, (patience, note)) in troubles {
            let room = self.troubles.len() < MAX_TROUBLES;
            if !room && !self.troubles.contains_key(&topic) {
                continue;
            }
            let trouble = self.troubles.entry(topic).or_insert(Trouble { since: now, patience, told: false });
            if !trouble.told && now.saturating_duration_since(trouble.since) >= trouble.patience {
                trouble.told = true;
                notes.push(note);
            }
        }
        notes
    }

    /// Returns when [`Self::observe`] has something to say if nothing changes.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.troubles.values().filter(|trouble| !trouble.told);
        waiting.map(|trouble| trouble.since + trouble.patience).min()
    }

    /// Returns what is wrong at this moment, with what would be said of it.
    fn current(&mut self, view: &View) -> BTreeMap<Topic, (Duration, Note)> {
        let mut troubles = BTreeMap::new();
        let has = |code: &str| view.status.warnings.iter().find(|warning| warning.code == code);
        if let Some(warning) = has(REPLACED) {
            let note = bad_news(
                Topic::Replaced,
                "The tunnel was taken over",
                &warning.message,
                &[Button::Reconnect, Button::Details],
            );
            troubles.insert(Topic::Replaced, (TAKEN_OVER, note));
        } else if let Some(warning) = has(LOGIN_EXPIRED).or_else(|| has(TOKEN_EXPIRED)) {
            let note = bad_news(
                Topic::Login,
                "The login has expired",
                &warning.message,
                &[Button::LogIn, Button::Details],
            );
            troubles.insert(Topic::Login, (LOGIN, note));
        } else if view.wants_tunnel() && view.status.tunnel.state != TunnelState::Connected {
            let why = view.status.tunnel.last_error.as_deref().unwrap_or_default();
            let note =
                bad_news(Topic::Tunnel, "The tunnel is down", why, &[Button::Reconnect, Button::Details]);
            troubles.insert(Topic::Tunnel, (TUNNEL, note));
        }
        for (id, lost) in self.lost_models(view) {
            let why = view.status.connections.get(&id).and_then(|server| server.error.as_deref());
            let models = match lost.len() {
                1 => format!("nothing else has {}", lost[0]),
                n => format!("nothing else has {} and {} more", lost[0], n - 1),
            };
            let body = match why {
                Some(why) => format!("{models}; {why}"),
                None => models,
            };
            let topic = Topic::Server(id.clone());
            let note = bad_news(topic.clone(), &format!("{id} is down"), &body, &[Button::Details]);
            troubles.insert(topic, (SERVER, note));
        }
        troubles
    }

    /// Returns the servers that are down, each with the models that no other has.
    fn lost_models(&mut self, view: &View) -> Vec<(String, Vec<String>)> {
        self.models.retain(|id, _| view.status.connections.contains_key(id));
        for server in view.servers() {
            // What a server that is down lists is what it had; nothing at all says nothing.
            if !server.models.is_empty() {
                self.models.insert(server.id.clone(), server.models.iter().cloned().collect());
            }
        }
        let up: BTreeSet<&String> =
            view.servers().filter(|server| server.connected).flat_map(|server| &server.models).collect();
        let down = view
            .servers()
            .filter(|server| matches!(server.state, ConnectionState::Disconnected | ConnectionState::Error));
        down.filter_map(|server| {
            let had = self.models.get(&server.id)?;
            let lost: Vec<String> = had.iter().filter(|model| !up.contains(model)).cloned().collect();
            (!lost.is_empty()).then(|| (server.id.clone(), lost))
        })
        .collect()
    }
}

fn bad_news(topic: Topic, summary: &str, body: &str, buttons: &[Button]) -> Note {
    Note {
        topic,
        summary: line(summary, MAX_BODY),
        body: line(body, MAX_BODY),
        buttons: buttons.to_vec(),
        urgency: Urgency::Normal,
    }
}

/// Says that a trouble is over only if what it was about works: it may as well have been switched off.
fn good_news(topic: &Topic, view: &View) -> Option<Note> {
    let connected = view.status.tunnel.state == TunnelState::Connected;
    let summary = match topic {
        Topic::Tunnel | Topic::Replaced if connected => "The tunnel is back".to_owned(),
        Topic::Server(id) => {
            view.status.connections.get(id).filter(|server| server.connected)?;
            format!("{id} is back")
        }
        Topic::Login if connected => "The login is valid again".to_owned(),
        Topic::Tunnel | Topic::Replaced | Topic::Login | Topic::Click => return None,
    };
    let topic = topic.clone();
    Some(Note { topic, summary, body: String::new(), buttons: Vec::new(), urgency: Urgency::Low })
}

#[cfg(test)]
mod tests;
