//! What the service manager is told, and what it passes. All of it does nothing when there is none.

mod sockets;

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

pub use self::sockets::InheritedSockets;

/// Tells that the process does its work, after the start or after a reload. Leaves the status line as it is.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The same, with a status line for people.
pub fn ready_with_status(text: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(text))]);
}

/// Changes the status line that `systemctl status` shows.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(&one_line(text))]);
}

/// Tells that the configuration is being reloaded; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "could not read the monotonic clock"),
    }
}

/// Tells that the process is about to end, and asks for `within` to do so.
pub(crate) fn stopping(within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within), NotifyState::Status("stopping")]);
}

/// Tells that the process is alive.
pub(crate) fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Returns after how long a silent process is killed; `None` where nobody asks for [`watchdog`].
pub(crate) fn watchdog_limit() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

fn notify(states: &[NotifyState<'_>]) {
    // The work goes on without a service manager; it judges by itself if it hears nothing.
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "could not notify the service manager");
    }
}

/// A line end would begin another assignment of the protocol.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_text_cannot_smuggle_another_assignment() {
        assert_eq!(one_line("up\nMAINPID=1"), "up MAINPID=1");
    }
}
