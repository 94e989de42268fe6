//! What the tray uses of the desktop beside the panel.

pub(crate) mod browser;
pub(crate) mod clipboard;
pub(crate) mod colours;
pub(crate) mod programs;
pub(crate) mod session;
pub(crate) mod systemd;
pub(crate) mod terminal;
