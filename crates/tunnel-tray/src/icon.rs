//! Which icon is shown. Pure.
//!
//! The first row that holds decides:
//!
//! | when | icon |
//! |---|---|
//! | another program has set one (`UPDATE_ICON`), until the next change | that one |
//! | the tray has just started and waits for the daemon's first word | connecting |
//! | the daemon does not run, or cannot be asked | error |
//! | the tunnel is wanted and refused (taken over, token not accepted), or there is a warning of severity `error` | error |
//! | the tunnel is wanted and up, and all model servers that are switched on are up | connected |
//! | the tunnel is wanted and up, and some or all model servers are down, or there are none | partly connected |
//! | the tunnel is wanted and being dialled, since a moment ago | connecting |
//! | the tunnel is wanted, and nothing is under way or the dials have been in vain for a while ([`Missed::Long`]): some model server is up | partly connected |
//! | the same, and no model server is up | disconnected |
//! | the tunnel is not wanted (paused, switched off, no login yet): some model server is up | off |
//! | the same, none is up, and one is being probed for the first time | connecting |
//! | the same, and none is up | disconnected |

use tunnel_api::connection::ConnectionState;
use tunnel_api::{Severity, TunnelState};

use crate::view::{Daemon, Missed, View};

/// The icons differ in shape, not only in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Icon {
    Connected,
    PartlyConnected,
    Connecting,
    Disconnected,
    Off,
    Error,
}

/// What the icon has to stand out from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Panel {
    Dark,
    Light,
}

/// One size of an icon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture {
    /// Width and height in pixels.
    pub(crate) size: u32,
    /// ARGB32, network byte order.
    pub(crate) argb: &'static [u8],
}

const PICTURES: [[[Picture; 3]; 2]; 6] = include!(concat!(env!("OUT_DIR"), "/pictures.rs"));

/// Returns the icon for what is known.
pub(crate) fn icon(view: &View) -> Icon {
    if let Some(icon) = view.override_icon {
        return icon;
    }
    match view.daemon {
        Daemon::Awaited => return Icon::Connecting,
        Daemon::Away | Daemon::Barred(_) => return Icon::Error,
        Daemon::There => {}
    }
    let n_servers = view.servers().count();
    let n_up = view.servers().filter(|server| server.connected).count();
    let faulty = view.status.warnings.iter().any(|warning| warning.severity == Severity::Error);
    if !view.wants_tunnel() {
        return if faulty {
            Icon::Error
        } else if n_up > 0 {
            Icon::Off
        } else if view.servers().any(|server| server.state == ConnectionState::Connecting) {
            Icon::Connecting
        } else {
            Icon::Disconnected
        };
    }
    match view.status.tunnel.state {
        TunnelState::Refused => Icon::Error,
        _ if faulty => Icon::Error,
        TunnelState::Connected if n_up == n_servers && n_up > 0 => Icon::Connected,
        TunnelState::Connected => Icon::PartlyConnected,
        TunnelState::Connecting | TunnelState::Backoff if view.missed != Missed::Long => Icon::Connecting,
        _ if n_up > 0 => Icon::PartlyConnected,
        _ => Icon::Disconnected,
    }
}

impl Icon {
    /// Returns the icon that `UPDATE_ICON` means. None if the name is not known.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().replace(['-', ' '], "_").as_str() {
            "connected" => Some(Self::Connected),
            "partly_connected" | "partial" | "degraded" => Some(Self::PartlyConnected),
            "connecting" => Some(Self::Connecting),
            "disconnected" => Some(Self::Disconnected),
            "off" | "paused" | "idle" => Some(Self::Off),
            "error" => Some(Self::Error),
            _ => None,
        }
    }

    /// Returns the pictures of all sizes.
    pub(crate) fn pictures(self, panel: Panel) -> &'static [Picture] {
        &PICTURES[self.index()][panel.index()]
    }

    /// In the order of the table in `build.rs`.
    fn index(self) -> usize {
        match self {
            Self::Connected => 0,
            Self::PartlyConnected => 1,
            Self::Connecting => 2,
            Self::Disconnected => 3,
            Self::Off => 4,
            Self::Error => 5,
        }
    }
}

impl Panel {
    fn index(self) -> usize {
        match self {
            Self::Dark => 0,
            Self::Light => 1,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tunnel_api::connection::ConnectionKind;
    use tunnel_api::tunnel::Target;
    use tunnel_api::warning::{CONFIG_INVALID, NO_TOKEN};
    use tunnel_api::{Connection, Status, Tunnel, Warning};

    use super::*;

    /// A view with a tunnel in this state and model servers that are up or not.
    pub(crate) fn view(target: Target, state: TunnelState, servers: &[bool]) -> View {
        let tunnel =
            Tunnel { target, state, relay: Some("https://relay.test".to_owned()), ..Tunnel::default() };
        let connections = servers.iter().enumerate().map(|(n, up)| {
            let state = if *up { ConnectionState::Connected } else { ConnectionState::Disconnected };
            let id = format!("server{n}");
            let kind = ConnectionKind::Ollama;
            (id.clone(), Connection { id, kind, state, connected: *up, ..Connection::default() })
        });
        let status = Status { tunnel, connections: connections.collect(), ..Status::default() };
        View { daemon: Daemon::There, status, ..View::default() }
    }

    fn with(mut view: View, code: &str, severity: Severity) -> View {
        view.status.warnings.push(Warning::new(code, "x", "y").with_severity(severity));
        view
    }

    fn missed_long(view: View) -> View {
        View { missed: Missed::Long, ..view }
    }

    fn without_relay(mut view: View) -> View {
        view.status.tunnel.relay = None;
        view
    }

    #[test]
    fn first_row_of_the_table_that_holds_decides() {
        use TunnelState::{Backoff, Connected, Connecting, Disconnected, Refused};
        let up = |state, servers: &[bool]| view(Target::Up, state, servers);
        let down = |servers: &[bool]| view(Target::Down, Disconnected, servers);
        let daemon = |daemon| View { daemon, ..up(Connected, &[true]) };
        let mut probing = down(&[false]);
        probing.status.connections.get_mut("server0").unwrap().state = ConnectionState::Connecting;
        let table = [
            (View { override_icon: Some(Icon::Off), ..up(Connected, &[true]) }, Icon::Off),
            (View::default(), Icon::Connecting),
            (daemon(Daemon::Away), Icon::Error),
            (daemon(Daemon::Barred("x".to_owned())), Icon::Error),
            (up(Refused, &[true]), Icon::Error),
            (with(up(Connected, &[true]), CONFIG_INVALID, Severity::Error), Icon::Error),
            (with(up(Connected, &[true]), CONFIG_INVALID, Severity::Warning), Icon::Connected),
            (up(Connected, &[true, true]), Icon::Connected),
            (up(Connected, &[true, false]), Icon::PartlyConnected),
            (up(Connected, &[false]), Icon::PartlyConnected),
            (up(Connected, &[]), Icon::PartlyConnected),
            (up(Connecting, &[true]), Icon::Connecting),
            (up(Backoff, &[false]), Icon::Connecting),
            (missed_long(up(Connecting, &[true, false])), Icon::PartlyConnected),
            (missed_long(up(Backoff, &[true])), Icon::PartlyConnected),
            (missed_long(up(Backoff, &[false])), Icon::Disconnected),
            (missed_long(with(up(Backoff, &[true]), CONFIG_INVALID, Severity::Error)), Icon::Error),
            (up(Disconnected, &[true]), Icon::PartlyConnected),
            (up(Disconnected, &[false]), Icon::Disconnected),
            (down(&[true, false]), Icon::Off),
            (view(Target::Down, Refused, &[true]), Icon::Off),
            (without_relay(up(Disconnected, &[true])), Icon::Off),
            (with(up(Disconnected, &[true]), NO_TOKEN, Severity::Info), Icon::Off),
            (with(down(&[true]), CONFIG_INVALID, Severity::Error), Icon::Error),
            (probing, Icon::Connecting),
            (down(&[false]), Icon::Disconnected),
            (down(&[]), Icon::Disconnected),
        ];
        for (n, (view, expected)) in table.into_iter().enumerate() {
            assert_eq!(icon(&view), expected, "row {n}: {view:?}");
        }
    }

    const ALL: [Icon; 6] = [
        Icon::Connected,
        Icon::PartlyConnected,
        Icon::Connecting,
        Icon::Disconnected,
        Icon::Off,
        Icon::Error,
    ];

    #[test]
    fn pictures_are_whole_and_their_shapes_differ() {
        for panel in [Panel::Dark, Panel::Light] {
            for icon in ALL {
                let sizes: Vec<_> = icon.pictures(panel).iter().map(|picture| picture.size).collect();
                assert_eq!(sizes, [22, 32, 48]);
                for picture in icon.pictures(panel) {
                    assert_eq!(picture.argb.len(), (picture.size * picture.size * 4) as usize);
                }
            }
        }
        // What the ink covers, whatever its colour; the halo is fainter.
        let shape = |icon: Icon, panel| -> Vec<bool> {
            icon.pictures(panel)[0].argb.chunks(4).map(|pixel| pixel[0] > 200).collect()
        };
        for (n, one) in ALL.iter().enumerate() {
            assert_eq!(shape(*one, Panel::Dark), shape(*one, Panel::Light));
            for other in &ALL[n + 1..] {
                let (one, other) = (shape(*one, Panel::Dark), shape(*other, Panel::Dark));
                let n_differ = one.iter().zip(&other).filter(|(one, other)| one != other).count();
                assert!(n_differ >= 20, "only {n_differ} of 484 pixels differ");
            }
        }
        let lit = Icon::Off.pictures(Panel::Dark)[0].argb.chunks(4).find(|pixel| pixel[0] == 255).unwrap();
        assert_eq!(lit, [255, 255, 255, 255]);
    }

    #[test]
    fn names_of_other_programs_are_understood() {
        assert_eq!(Icon::from_name("Partly-Connected"), Some(Icon::PartlyConnected));
        assert_eq!(Icon::from_name("paused"), Some(Icon::Off));
        assert_eq!(Icon::from_name("purple"), None);
    }
}
