//! The few calls of systemd's user manager that are needed, on the session bus.

use std::time::Duration;

use zbus::{Connection, Proxy};

use super::UnitState;
use crate::secrets::SessionBus;

/// A connection to the user manager; closed when dropped.
pub(super) struct Manager {
    proxy: Proxy<'static>,
}

/// Why the manager could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManagerError {
    #[error("there is no session bus")]
    NoBus,
    #[error("the session bus cannot be reached")]
    Bus(#[source] zbus::Error),
    #[error("systemd refused")]
    Call(#[source] zbus::Error),
}

impl Manager {
    pub(super) async fn connect(bus: &SessionBus) -> Result<Self, ManagerError> {
        let address = bus.address().ok_or(ManagerError::NoBus)?;
        let builder = zbus::connection::Builder::address(address.as_str()).map_err(ManagerError::Bus)?;
        let connection: Connection = builder.build().await.map_err(ManagerError::Bus)?;
        let proxy = Proxy::new(
            &connection,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        )
        .await
        .map_err(ManagerError::Call)?;
        Ok(Self { proxy })
    }

    pub(super) async fn unit_state(&self, unit: &str) -> Result<UnitState, ManagerError> {
        let state: String = loop {
            match self.proxy.call("GetUnitFileState", &(unit,)).await {
                Ok(state) => break state,
                Err(error) if has_name(&error, &NO_SUCH_UNIT) => return Ok(UnitState::Missing),
                // At login the bus may be there before systemd has come to it. The caller has a limit.
                Err(error) if has_name(&error, &NOBODY_THERE) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(ManagerError::Call(error)),
            }
        };
        Ok(match state.as_str() {
            "enabled" | "enabled-runtime" => UnitState::Enabled,
            // An alias or a link alone starts nothing.
            "disabled" | "linked" | "linked-runtime" | "indirect" => UnitState::Disabled,
            "masked" | "masked-runtime" => UnitState::Masked,
            _ => UnitState::Fixed(state),
        })
    }

    /// As `systemctl --user enable`: from the next start of the user manager on.
    pub(super) async fn enable(&self, unit: &str) -> Result<(), ManagerError> {
        let (runtime, force) = (false, false);
        let enabled = self.proxy.call_method("EnableUnitFiles", &(vec![unit], runtime, force)).await;
        enabled.map(drop).map_err(ManagerError::Call)
    }

    /// As `systemctl --user disable`: what runs goes on.
    pub(super) async fn disable(&self, unit: &str) -> Result<(), ManagerError> {
        let runtime = false;
        let disabled = self.proxy.call_method("DisableUnitFiles", &(vec![unit], runtime)).await;
        disabled.map(drop).map_err(ManagerError::Call)
    }
}

const NO_SUCH_UNIT: [&str; 2] =
    ["org.freedesktop.DBus.Error.FileNotFound", "org.freedesktop.systemd1.NoSuchUnit"];
const NOBODY_THERE: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];
/// Between two looks whether systemd has come to the bus.
const PAUSE: Duration = Duration::from_millis(200);

fn has_name(error: &zbus::Error, names: &[&str]) -> bool {
    matches!(error, zbus::Error::MethodError(name, _, _) if names.contains(&name.as_str()))
}
