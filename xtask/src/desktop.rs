//! What the tests of the clients need: a terminal that a program looks at, and for a real panel a whole desktop.

use crate::apt::{self, Need};

/// The terminal, and the bus and tools that scenarios of the tray and of the archive use.
const NEEDS: [Need; 4] = [
    Need { program: "tmux", check: &["-V"], package: "tmux" },
    Need { program: "dbus-daemon", check: &["--version"], package: "dbus" },
    Need { program: "setpriv", check: &["--version"], package: "util-linux" },
    Need { program: "tar", check: &["--version"], package: "tar" },
];

/// An X server without a screen, a panel that shows icons, and what clicks and takes pictures there: two hundred packages.
const PANEL: [Need; 8] = [
    Need { program: "sh", check: &["-c", "command -v Xvfb"], package: "xvfb" },
    Need { program: "xfce4-panel", check: &["--version"], package: "xfce4-panel" },
    Need { program: "xfconf-query", check: &["--version"], package: "xfconf" },
    Need { program: "openbox", check: &["--version"], package: "openbox" },
    Need { program: "xdotool", check: &["--version"], package: "xdotool" },
    Need { program: "import", check: &["-version"], package: "imagemagick" },
    Need {
        program: "test",
        check: &["-d", "/usr/share/fonts/truetype/dejavu"],
        package: "fonts-dejavu-core",
    },
    Need { program: "test", check: &["-d", "/usr/share/icons/Adwaita"], package: "adwaita-icon-theme" },
];

/// Installs what is missing for the tests that always run.
pub(crate) fn install() -> anyhow::Result<()> {
    apt::require(&NEEDS)
}

/// Installs what is missing for the test in a real panel.
pub(crate) fn install_panel() -> anyhow::Result<()> {
    apt::require(&PANEL)
}
