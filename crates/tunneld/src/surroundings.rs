//! What the daemon needs from the machine around it: a directory for its state, a place for its control socket.
//!
//! Each may be missing; that is one warning, and the daemon goes on without.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tracing::warn;
use tunnel_api::{Warning, paths};

use crate::config::Options;
use crate::daemon::{StartError, chain};
use crate::doors::socket::{ControlSocket, SocketError};

/// Returns where the control socket may be, the usual place first.
pub(crate) fn socket_places(
    options: &Options,
    state_dir: Option<&Path>,
    missing: &mut Vec<Warning>,
) -> Vec<PathBuf> {
    if options.var("XDG_RUNTIME_DIR").is_none() {
        tell(missing, "no_runtime_dir", "XDG_RUNTIME_DIR is not set", "set it, or use tunnelctl --url");
    }
    let uid = rustix::process::geteuid().as_raw();
    // The first is in the runtime directory; what follows there knows nothing of `--state-dir`.
    let in_runtime_dir = paths::api_sockets(|name| options.var(name), uid).into_iter().next();
    let mut places: Vec<PathBuf> = in_runtime_dir.into_iter().filter(|place| may_hold(place)).collect();
    places.extend(state_dir.map(|directory| directory.join("api.sock")));
    places
}

/// Takes over the service manager's control socket, or listens at the first place that can be had. Without one the
/// control port is left; that is worth a warning.
pub(crate) fn open_socket(
    places: Vec<PathBuf>,
    inherited: Option<(UnixListener, PathBuf)>,
    missing: &mut Vec<Warning>,
) -> Result<Option<ControlSocket>, StartError> {
    if let Some((listener, path)) = inherited {
        match ControlSocket::inherited(listener, path) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => warn!(%error, "the socket unit's control socket cannot be served"),
        }
    }
    for place in places {
        match ControlSocket::bind(&place) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error @ SocketError::AlreadyRunning { .. }) => return Err(StartError::AlreadyRunning(error)),
            Err(error) => warn!(error = %chain(&error), "no control socket there"),
        }
    }
    tell(
        missing,
        "no_control_socket",
        "there is no directory for the control socket, the control port is the only way in",
        "set XDG_RUNTIME_DIR or --state-dir to a directory that this user can write",
    );
    Ok(None)
}

/// `/run/user/<uid>` is the login manager's to make; as root we would make it behind its back.
fn may_hold(place: &Path) -> bool {
    let runtime_dir = place.parent().and_then(Path::parent);
    !place.starts_with("/run/user") || runtime_dir.is_some_and(Path::is_dir)
}

/// Makes the state directory; `None` if there is none that can be written.
pub(crate) fn state_dir(options: &Options, missing: &mut Vec<Warning>) -> Option<PathBuf> {
    let directory = paths::state_dir(options.state_dir.as_deref(), |name| options.var(name));
    let next_step = "name one that this user can write: --state-dir DIR";
    let Some(directory) = directory else {
        tell(missing, "no_state_dir", "there is no home and no state directory, nothing is kept", next_step);
        return None;
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    let writable = made.and_then(|()| {
        let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&directory, wanted).map_err(Into::into)
    });
    match writable {
        Ok(()) => Some(directory),
        Err(error) => {
            let message = format!(
                "the state directory {} cannot be written, nothing is kept: {error}",
                directory.display()
            );
            tell(missing, "no_state_dir", &message, next_step);
            None
        }
    }
}

/// Says once, in log and status, that something is missing that the daemon can do without.
fn tell(missing: &mut Vec<Warning>, code: &str, message: &str, next_step: &str) {
    warn!(code, "{message}");
    missing.push(Warning::new(code, message, next_step));
}
