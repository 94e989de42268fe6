//! A D-Bus daemon of a test's own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// A running `dbus-daemon`; killed when dropped.
pub(crate) struct PrivateBus {
    daemon: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl PrivateBus {
    /// Starts a bus on which everybody may do everything. Without dbus-daemon the test that wants one is skipped,
    /// unless `E2E_REQUIRE_REAL=1` says that nothing may be.
    pub(crate) fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bus.conf");
        let socket = directory.path().join("bus");
        std::fs::write(
            &config,
            format!(
                r#"<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
                <policy context="default"><allow send_destination="*" eavesdrop="false"/>
                <allow receive_sender="*"/><allow own="*"/></policy></busconfig>"#,
                socket.display()
            ),
        )
        .unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--config-file").arg(&config).args(["--nofork", "--print-address"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut daemon = match command.spawn() {
            Ok(daemon) => daemon,
            Err(error) => {
                let required = std::env::var_os("E2E_REQUIRE_REAL").is_some_and(|value| value == "1");
                assert!(!required, "dbus-daemon: {error}");
                println!("skipped: there is no dbus-daemon ({error})");
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { daemon, address: address.trim().to_owned(), _directory: directory })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn builder(&self) -> zbus::connection::Builder<'_> {
        zbus::connection::Builder::address(self.address()).unwrap()
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}
