//! The command line.

use clap::{Parser, ValueEnum};
use tunnel_client::Door;

use crate::icon::Panel;

/// Shows tunneld in the panel of the desktop: how it stands, and the few things that one wants to do with it
///
/// It is a client of its own: ending it leaves the tunnel alone, and ending the tunnel leaves it in the panel.
#[derive(Debug, Parser)]
#[command(name = "tunnel-tray", version)]
pub(crate) struct Cli {
    /// Ask tunneld at this address instead of its control socket: http://127.0.0.1:8765 or unix:///path
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<Door>,

    /// Draw for a dark or a light panel
    ///
    /// `auto` draws for a light one only on KDE Plasma with a light colour scheme. Other desktops keep their panel
    /// dark whatever the scheme. It is looked up once, at the start.
    #[arg(long, value_enum, default_value_t = PanelChoice::Auto)]
    pub(crate) panel: PanelChoice,

    /// How long a panel may come after the start, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, hide = true)]
    pub(crate) panel_wait: u16,

    /// Least severe level that is logged, to standard error
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub(crate) log_level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PanelChoice {
    Auto,
    Dark,
    Light,
}

impl PanelChoice {
    /// Returns what was said. None for `auto`.
    pub(crate) fn said(self) -> Option<Panel> {
        match self {
            Self::Auto => None,
            Self::Dark => Some(Panel::Dark),
            Self::Light => Some(Panel::Light),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// Returns the filter: this level for our own code, `warn` for what it is made of.
    pub(crate) fn filter(self) -> &'static str {
        match self {
            Self::Debug => "warn,tunnel_tray=debug,tunnel_client=debug",
            Self::Info => "warn,tunnel_tray=info,tunnel_client=info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
