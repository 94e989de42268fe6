//! The clipboard. A tray has no window, and only who has one may own it, so others are asked to.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use zbus::Connection;

use super::programs;

/// Longest wait for KDE's clipboard.
const LIMIT: Duration = Duration::from_secs(2);
const KLIPPER: &str = "org.kde.klipper";

/// Puts a text on the clipboard, with the first that can: Klipper, wl-copy, xclip, xsel. The error is for a person.
pub(crate) async fn copy(connection: &Connection, text: &str) -> Result<(), String> {
    if klipper(connection, text).await {
        return Ok(());
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = set("PATH");
    let helpers = helpers(set("WAYLAND_DISPLAY").is_some(), set("DISPLAY").is_some(), path.as_deref());
    for (program, arguments) in helpers {
        match programs::run(program, arguments, text.to_owned()).await {
            Ok(()) => return Ok(()),
            Err(why) => tracing::debug!(why, "no copy"),
        }
    }
    Err("nothing was found that copies; install wl-clipboard or xclip".to_owned())
}

async fn klipper(connection: &Connection, text: &str) -> bool {
    let body = (text,);
    let call = connection.call_method(
        Some(KLIPPER),
        "/klipper",
        Some("org.kde.klipper.klipper"),
        "setClipboardContents",
        &body,
    );
    matches!(tokio::time::timeout(LIMIT, call).await, Ok(Ok(_)))
}

/// Returns the commands that are there and fit the screen, with Wayland's first.
fn helpers(wayland: bool, x11: bool, path: Option<&OsStr>) -> Vec<(OsString, Vec<OsString>)> {
    let all: [(bool, &str, &[&str]); 3] = [
        (wayland, "wl-copy", &[]),
        (x11, "xclip", &["-selection", "clipboard", "-in"]),
        (x11, "xsel", &["--clipboard", "--input"]),
    ];
    let found = all.into_iter().filter(|(fits, ..)| *fits).filter_map(|(_, name, arguments)| {
        let program = programs::find(OsStr::new(name), path)?;
        Some((program.into_os_string(), arguments.iter().map(OsString::from).collect()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn helpers_fit_the_screen() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["wl-copy", "xclip"] {
            let file = directory.path().join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let names = |wayland, x11| -> Vec<String> {
            let helpers = helpers(wayland, x11, Some(directory.path().as_os_str()));
            helpers
                .iter()
                .map(|(program, _)| program.to_string_lossy().rsplit('/').next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names(true, true), ["wl-copy", "xclip"]);
        assert_eq!(names(false, true), ["xclip"]);
        assert!(names(false, false).is_empty());
    }
}
