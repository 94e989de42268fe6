//! Starting the daemon by its unit, for `tunnelctl start`.

use super::SERVICE;
use super::systemctl::Systemctl;

/// The daemon's unit, ordered to start.
#[derive(Debug)]
pub(in crate::commands) struct Unit(Systemctl);

impl Unit {
    /// Orders the unit to be started, and does not wait for it.
    ///
    /// The inner error says why there is nothing to start, and what to do; it goes on "and …".
    pub(in crate::commands) fn start() -> anyhow::Result<Result<Self, String>> {
        let systemctl = match Systemctl::find() {
            Ok(systemctl) => systemctl,
            Err(why) => return Ok(Err(format!("it cannot be started from here: {why:#}"))),
        };
        if !systemctl.show(SERVICE)?.exists() {
            return Ok(Err(
                "there is no unit that would start it; make one with: tunnelctl service install".to_owned()
            ));
        }
        systemctl.run(&["start", "--no-block", SERVICE])?;
        Ok(Ok(Self(systemctl)))
    }

    /// Returns how it failed, when systemd does not try it again.
    pub(in crate::commands) fn failure(&self) -> anyhow::Result<Option<String>> {
        let unit = self.0.show(SERVICE)?;
        let failed = unit.get("ActiveState") == "failed";
        Ok(failed.then(|| format!("{}, exit code {}", unit.get("Result"), unit.get("ExecMainStatus"))))
    }
}
