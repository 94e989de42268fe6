//! What the end-to-end tests need for a user session with a systemd of its own.

use crate::apt::{self, Need};

/// Programs of the system out of which the tests make a session; nothing of them is started here.
const NEEDS: [Need; 6] = [
    Need { program: "/lib/systemd/systemd", check: &["--version"], package: "systemd" },
    Need { program: "dbus-daemon", check: &["--version"], package: "dbus" },
    // It brings no program: the units of the session bus.
    Need {
        program: "test",
        check: &["-e", "/usr/lib/systemd/user/dbus.socket"],
        package: "dbus-user-session",
    },
    Need { program: "nsenter", check: &["--version"], package: "util-linux" },
    Need { program: "ip", check: &["-V"], package: "iproute2" },
    // A fresh container has none; systemd's package makes it when it is installed.
    Need { program: "test", check: &["-s", "/etc/machine-id"], package: "systemd" },
];

/// Installs what is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    apt::require(&NEEDS)
}
