//! Starting the daemon, now and at login.

use std::time::Duration;

use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use super::programs;

const UNIT: &str = "tunneld.service";
/// Longest wait for the service manager; starting is begun, not waited for.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for what the service manager knows by heart.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Tells whether the daemon is started at login, as far as the user's service manager says so.
pub(crate) async fn starts_daemon_at_login(connection: &Connection) -> bool {
    let call = connection.call_method(
        Some("org.freedesktop.systemd1"),
        "/org/freedesktop/systemd1",
        Some("org.freedesktop.systemd1.Manager"),
        "GetUnitFileState",
        &(UNIT,),
    );
    let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_LIMIT, call).await else { return false };
    answer.body().deserialize::<&str>().is_ok_and(|state| matches!(state, "enabled" | "enabled-runtime"))
}

/// Has the user's service manager start the daemon. The error is for a person.
pub(crate) async fn start_daemon(connection: &Connection) -> Result<(), String> {
    let body = (UNIT, "replace");
    let call = connection.call_method(
        Some("org.freedesktop.systemd1"),
        "/org/freedesktop/systemd1",
        Some("org.freedesktop.systemd1.Manager"),
        "StartUnit",
        &body,
    );
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(answer)) => {
            let job = answer.body().deserialize::<OwnedObjectPath>().map_err(|error| error.to_string())?;
            tracing::debug!(job = job.as_str(), "starting tunneld");
            Ok(())
        }
        Ok(Err(zbus::Error::MethodError(name, _, _))) if name == "org.freedesktop.systemd1.NoSuchUnit" => {
            Err("there is no unit tunneld.service; install it with: tunnelctl service install".to_owned())
        }
        // The session's bus need not be the one that the service manager is on.
        Ok(Err(_)) | Err(_) => {
            let arguments = ["--user", "start", "--no-block", UNIT].map(Into::into);
            programs::run("systemctl".into(), arguments.into(), String::new())
                .await
                .map_err(|why| format!("{why}; start it yourself: tunneld"))
        }
    }
}
