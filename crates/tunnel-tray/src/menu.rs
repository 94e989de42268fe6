//! The menu, as data. Pure.

use tunnel_api::Connection;
use tunnel_api::connection::{CLOUD_ID, ConnectionHealth, ConnectionState};

use crate::action::Action;
use crate::text::line;
use crate::tooltip;
use crate::view::{Daemon, Settings, View};

/// Most models that are listed; the rest is counted.
const MAX_MODELS: usize = 30;
/// Most requests, warnings and connections that are listed, each; the rest is counted.
const MAX_LISTED: usize = 20;
/// Longest label, in characters.
const MAX_LABEL: usize = 80;
/// Longest name of a model or an account in a label.
const MAX_NAME: usize = 48;

/// One line of the menu.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    Separator,
    Item(Item),
}

/// A line that says something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) label: String,
    pub(crate) does: Does,
}

/// What happens at a click.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Does {
    /// It only informs, and is shown greyed.
    Nothing,
    Act(Action),
    /// Shown with a check mark, or without.
    Toggle {
        checked: bool,
        action: Action,
    },
    /// A row of a kind that can be toggled, but not this one.
    Fixed {
        checked: bool,
    },
    Open(Vec<Entry>),
}

/// Returns the menu for what is known.
pub(crate) fn menu(view: &View) -> Vec<Entry> {
    let mut menu = vec![text(tooltip::sentence(view)), Entry::Separator];
    match view.daemon {
        Daemon::There => running(view, &mut menu),
        Daemon::Away => menu.push(act("Start it", Action::StartDaemon)),
        Daemon::Awaited | Daemon::Barred(_) => {}
    }
    if menu.last() != Some(&Entry::Separator) {
        menu.push(Entry::Separator);
    }
    menu.push(act("Quit", Action::Quit));
    menu
}

fn running(view: &View, menu: &mut Vec<Entry>) {
    menu.push(if !view.has_tunnel() {
        text("Pause tunnel")
    } else if view.is_paused() {
        act("Resume tunnel", Action::Resume)
    } else {
        act("Pause tunnel", Action::Pause)
    });
    menu.push(open("Connections", connections(view)));
    menu.push(open("Models", models(view)));
    if !view.requests.is_empty() {
        menu.push(open("Active requests", requests(view)));
    }
    if view.base_url().is_some() {
        menu.push(act("Copy base URL", Action::CopyBaseUrl));
    }
    if !view.status.warnings.is_empty() {
        menu.push(open("Warnings", warnings(view)));
    }
    menu.push(Entry::Separator);
    menu.push(account(view));
    menu.push(Entry::Separator);
    menu.push(act("Show", Action::Show));
    menu.push(act("Hide", Action::Hide));
    menu.push(act("Settings", Action::Settings));
    menu.push(if view.has_tunnel() {
        act("Reconnect All", Action::ReconnectAll)
    } else {
        text("Reconnect All")
    });
    if let Some(settings) = &view.settings {
        menu.push(open("Preferences", preferences(settings)));
    }
}

/// Those that there are, and those that are switched off, by id.
fn connections(view: &View) -> Vec<Entry> {
    let mut rows: Vec<(&str, Entry)> = view
        .status
        .connections
        .values()
        .map(|connection| {
            let id = connection.id.as_str();
            let label = format!("{}: {}", line(id, MAX_NAME), state(connection));
            (id, switch(view, id, &label, true))
        })
        .collect();
    for (id, on) in view.settings.iter().flat_map(|settings| &settings.connections) {
        if !on && !view.status.connections.contains_key(id) {
            rows.push((id, switch(view, id, &format!("{}: off", line(id, MAX_NAME)), false)));
        }
    }
    // The tunnel last: it is what the others are reached through.
    rows.sort_by_key(|(id, _)| (*id == CLOUD_ID, *id));
    let n = rows.len();
    let entries = rows.into_iter().map(|(_, entry)| entry).collect();
    or_none(shorten(entries, n, MAX_LISTED), "None; see: tunnelctl connections detect")
}

fn switch(view: &View, id: &str, label: &str, on: bool) -> Entry {
    let known =
        view.settings.as_ref().is_some_and(|settings| settings.connections.iter().any(|(it, _)| it == id));
    let does = if known {
        Does::Toggle { checked: on, action: Action::Switch { id: id.to_owned(), on: !on } }
    } else {
        Does::Fixed { checked: on }
    };
    item(label, does)
}

fn state(connection: &Connection) -> String {
    match (connection.state, connection.latency) {
        _ if connection.health == ConnectionHealth::Warming => "loading its model".to_owned(),
        (ConnectionState::Connected, Some(ms)) => format!("connected, {ms:.0} ms"),
        (ConnectionState::Error, _) => "error".to_owned(),
        _ => connection.word().to_owned(),
    }
}

/// Those in memory first: they answer at once.
fn models(view: &View) -> Vec<Entry> {
    let mut models: Vec<_> = view.models.iter().collect();
    models.sort_by(|a, b| b.loaded.cmp(&a.loaded).then_with(|| a.name.cmp(&b.name)));
    let rows = models
        .iter()
        .take(MAX_MODELS)
        .map(|model| {
            let name = line(&model.name, MAX_NAME);
            text(if model.loaded { format!("{name} (loaded)") } else { name })
        })
        .collect();
    or_none(shorten(rows, models.len(), MAX_MODELS), "None")
}

fn requests(view: &View) -> Vec<Entry> {
    let rows = view
        .requests
        .iter()
        .take(MAX_LISTED)
        .map(|request| {
            let model =
                request.model.as_deref().map_or_else(|| "request".to_owned(), |model| line(model, MAX_NAME));
            let speed = match request.tokens_per_s {
                Some(speed) => format!("{speed:.0} tokens/s"),
                None => "waiting".to_owned(),
            };
            let cancel = act("Cancel", Action::Cancel { request: request.id.clone() });
            open(&format!("{model}: {speed}"), vec![cancel])
        })
        .collect();
    shorten(rows, view.requests.len(), MAX_LISTED)
}

fn warnings(view: &View) -> Vec<Entry> {
    let warnings = &view.status.warnings;
    let rows =
        warnings.iter().take(MAX_LISTED).map(|warning| act(&warning.message, Action::Doctor)).collect();
    shorten(rows, warnings.len(), MAX_LISTED)
}

fn account(view: &View) -> Entry {
    match &view.auth {
        Some(auth) if auth.authenticated => {
            let label = match &auth.subject {
                Some(subject) => format!("Log out ({})", line(subject, MAX_NAME)),
                None => "Log out".to_owned(),
            };
            act(&label, Action::LogOut)
        }
        _ => act("Log in…", Action::LogIn),
    }
}

fn preferences(settings: &Settings) -> Vec<Entry> {
    let toggle = |label, checked, action| item(label, Does::Toggle { checked, action });
    vec![
        toggle(
            "Start tunneld at login",
            settings.start_at_login,
            Action::StartAtLogin(!settings.start_at_login),
        ),
        toggle("Notifications", settings.notifications, Action::Notifications(!settings.notifications)),
    ]
}

/// Keeps the first `max` rows and counts the rest of `n`.
fn shorten(mut rows: Vec<Entry>, n: usize, max: usize) -> Vec<Entry> {
    rows.truncate(max);
    if n > max {
        rows.push(text(format!("and {} more", n - max)));
    }
    rows
}

fn or_none(mut rows: Vec<Entry>, none: &str) -> Vec<Entry> {
    if rows.is_empty() {
        rows.push(text(none));
    }
    rows
}

fn item(label: &str, does: Does) -> Entry {
    Entry::Item(Item { label: line(label, MAX_LABEL), does })
}

fn text(label: impl AsRef<str>) -> Entry {
    item(label.as_ref(), Does::Nothing)
}

fn act(label: &str, action: Action) -> Entry {
    item(label, Does::Act(action))
}

fn open(label: &str, entries: Vec<Entry>) -> Entry {
    item(label, Does::Open(entries))
}

#[cfg(test)]
mod tests;
