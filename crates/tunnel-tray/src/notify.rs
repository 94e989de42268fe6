//! Desktop notifications about what lasts.

pub(crate) mod bus;
pub(crate) mod plan;
pub(crate) mod shown;

use crate::action::Action;

/// What a notification is about. A newer one takes the place of an older one of the same topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// The tunnel is wanted and down.
    Tunnel,
    /// Another daemon has taken the device over.
    Replaced,
    Login,
    /// A model server, by its id.
    Server(String),
    /// The answer to a click.
    Click,
}

/// A notification to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) topic: Topic,
    pub(crate) summary: String,
    pub(crate) body: String,
    pub(crate) buttons: Vec<Button>,
    pub(crate) urgency: Urgency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Good news.
    Low,
    Normal,
}

/// What a notification offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Button {
    Reconnect,
    LogIn,
    Details,
}

impl Button {
    const ALL: [Self; 3] = [Self::Reconnect, Self::LogIn, Self::Details];

    /// The name under which the notification service reports a click.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Reconnect => "reconnect",
            Self::LogIn => "login",
            Self::Details => "details",
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Reconnect => "Reconnect",
            Self::LogIn => "Log in",
            Self::Details => "Details",
        }
    }

    pub(crate) fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|button| button.key() == key)
    }

    pub(crate) fn action(self) -> Action {
        match self {
            Self::Reconnect => Action::ReconnectAll,
            Self::LogIn => Action::LogIn,
            Self::Details => Action::Doctor,
        }
    }
}

impl Note {
    /// Returns what tells that a click led to nothing, and why.
    pub(crate) fn failed(what: &str, why: &str) -> Self {
        Self {
            topic: Topic::Click,
            summary: what.to_owned(),
            body: crate::text::line(why, MAX_BODY),
            buttons: Vec::new(),
            urgency: Urgency::Normal,
        }
    }
}

/// Longest text of a notification, in characters.
const MAX_BODY: usize = 300;
