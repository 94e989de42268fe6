//! What a person can ask of the tray.

/// A click, a button of a notification, or a call of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The menu is about to be opened: what it shows should be fresh.
    LookAgain,
    Pause,
    Resume,
    /// The one of the two that makes a difference.
    PauseOrResume,
    ReconnectAll,
    /// Switches a connection on or off in the configuration.
    Switch {
        id: String,
        on: bool,
    },
    Cancel {
        request: String,
    },
    CopyBaseUrl,
    LogIn,
    LogOut,
    Show,
    Hide,
    Settings,
    /// Says what is wrong and what to do.
    Doctor,
    StartAtLogin(bool),
    Notifications(bool),
    StartDaemon,
    Quit,
}
