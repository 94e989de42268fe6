//! What the tray says in one sentence, as its tooltip and as the first line of its menu. Pure.

use tunnel_api::TunnelState;

use crate::text::{count, line};
use crate::view::{Daemon, View};

/// Longest sentence, in characters; panels cut what is longer, or grow over the screen.
const MAX: usize = 120;

/// Returns the sentence for what is known.
pub(crate) fn sentence(view: &View) -> String {
    if let Some(text) = &view.override_tooltip {
        return line(text, MAX);
    }
    match &view.daemon {
        Daemon::Awaited => "Looking for tunneld".to_owned(),
        Daemon::Away => "tunneld is not running".to_owned(),
        Daemon::Barred(why) => line(why, MAX),
        Daemon::There => line(&format!("{}, {}", tunnel(view), servers(view)), MAX),
    }
}

fn tunnel(view: &View) -> String {
    let tunnel = &view.status.tunnel;
    if !view.has_tunnel() {
        return "Tunnel switched off".to_owned();
    }
    if view.is_paused() {
        return "Tunnel paused".to_owned();
    }
    let why = |state: &str| match &tunnel.last_error {
        Some(error) => format!("{state} ({})", line(error, MAX / 2)),
        None => state.to_owned(),
    };
    match tunnel.state {
        TunnelState::Connected => match tunnel.rtt_ms {
            Some(ms) => format!("Connected, {ms:.0} ms"),
            None => "Connected".to_owned(),
        },
        TunnelState::Connecting => "Connecting".to_owned(),
        TunnelState::Backoff => why("Connecting again"),
        TunnelState::Refused => why("Tunnel refused"),
        TunnelState::Disconnected | TunnelState::Unknown => why("Tunnel down"),
    }
}

fn servers(view: &View) -> String {
    let n = view.servers().count();
    let n_up = view.servers().filter(|server| server.connected).count();
    match n {
        0 => "no model server".to_owned(),
        _ if n == n_up => format!("{} up", count(n, "model server")),
        _ => format!("{n_up} of {} up", count(n, "model server")),
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::tunnel::Target;

    use super::*;
    use crate::icon::tests::view;

    #[test]
    fn one_sentence_says_it() {
        let mut connected = view(Target::Up, TunnelState::Connected, &[true, true]);
        connected.status.tunnel.rtt_ms = Some(41.6);
        let mut dialling = view(Target::Up, TunnelState::Backoff, &[true]);
        dialling.status.tunnel.last_error = Some("the relay\ncannot be reached".to_owned());
        let mut off = view(Target::Up, TunnelState::Disconnected, &[]);
        off.status.tunnel.relay = None;
        let table = [
            (View::default(), "Looking for tunneld"),
            (View { daemon: Daemon::Away, ..View::default() }, "tunneld is not running"),
            (connected, "Connected, 42 ms, 2 model servers up"),
            (dialling, "Connecting again (the relay cannot be reached), 1 model server up"),
            (
                view(Target::Down, TunnelState::Disconnected, &[true, false]),
                "Tunnel paused, 1 of 2 model servers up",
            ),
            (off, "Tunnel switched off, no model server"),
            (View { override_tooltip: Some("hello".to_owned()), ..View::default() }, "hello"),
        ];
        for (view, expected) in table {
            assert_eq!(sentence(&view), expected);
        }
    }
}
