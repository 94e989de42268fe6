//! Where the session bus is.

use std::path::PathBuf;

use crate::config::Options;

/// The user's session bus, which may come and go.
#[derive(Debug, Clone)]
pub(crate) struct SessionBus {
    /// `$DBUS_SESSION_BUS_ADDRESS`.
    named: Option<String>,
    /// Where systemd puts it.
    usual: Option<PathBuf>,
}

impl SessionBus {
    pub(crate) fn of(options: &Options) -> Self {
        let set = |name| options.var(name).filter(|value| !value.is_empty());
        Self {
            named: set("DBUS_SESSION_BUS_ADDRESS").map(|address| address.to_string_lossy().into_owned()),
            usual: set("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("bus")),
        }
    }

    /// Returns its address; `None` while there is no bus.
    pub(crate) fn address(&self) -> Option<String> {
        let usual = || {
            self.usual
                .as_ref()
                .filter(|path| path.exists())
                .map(|path| format!("unix:path={}", path.display()))
        };
        self.named.clone().or_else(usual)
    }

    #[cfg(test)]
    pub(crate) fn at(address: &str) -> Self {
        Self { named: Some(address.to_owned()), usual: None }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { named: None, usual: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_bus_beats_the_usual_one_which_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().to_str().unwrap();
        let bus = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            SessionBus::of(&Options { env, ..Options::default() }).address()
        };
        assert_eq!(bus(&[]), None);
        assert_eq!(bus(&[("XDG_RUNTIME_DIR", runtime)]), None);
        std::fs::write(directory.path().join("bus"), "").unwrap();
        assert_eq!(bus(&[("XDG_RUNTIME_DIR", runtime)]), Some(format!("unix:path={runtime}/bus")));
        let named = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/elsewhere");
        assert_eq!(bus(&[("XDG_RUNTIME_DIR", runtime), named]).as_deref(), Some("unix:path=/elsewhere"));
    }
}
