//! What the supervisor tells of itself.

use jiff::Timestamp;
use tunnel_api::tunnel::Target;
use tunnel_api::{Tunnel, TunnelState, Warning};
use tunnel_transport::Session;

use super::Supervisor;
use crate::tunnel::TunnelReport;
use crate::tunnel::keeper::{Kept, Link};

impl Supervisor {
    pub(super) fn last_reason(&self) -> Option<Warning> {
        self.shows.report.borrow().warning.clone()
    }

    pub(super) fn publish_kept(&self, kept: &Kept) {
        let progress = kept.progress.borrow().clone();
        let (state, reason) = match progress.link {
            Link::Up => (TunnelState::Connected, None),
            Link::Resuming => (TunnelState::Connecting, self.last_reason()),
            Link::Waiting(reason) => (TunnelState::Backoff, reason),
        };
        self.publish(state, reason, Some((kept, progress.resumes)));
    }

    pub(super) fn publish(&self, state: TunnelState, warning: Option<Warning>, kept: Option<(&Kept, u64)>) {
        self.shows.session.send_if_modified(|shown| {
            let modified = shown.as_ref().map(Session::id) != kept.map(|(kept, _)| kept.id());
            if modified {
                *shown = kept.map(|(kept, _)| kept.session.clone());
            }
            modified
        });
        let wanted = self.wanted && self.settings().enabled;
        self.shows.report.send_if_modified(|report| {
            let before = &report.tunnel;
            let since = if before.state == state { before.since } else { Some(Timestamp::now()) };
            let rtt = kept.and_then(|(kept, _)| kept.session.rtt());
            let tunnel = Tunnel {
                target: if wanted { Target::Up } else { Target::Down },
                state,
                relay: self.settings().enabled.then(|| self.settings().relay.to_string()),
                device: self.settings().enabled.then(|| self.settings().device.to_string()),
                since,
                rtt_ms: rtt.map(|rtt| (rtt.as_secs_f64() * 1e5).round() / 1e2),
                reconnects: self.sessions.opened().saturating_sub(1),
                resumes: self.sessions.past_resumes() + kept.map_or(0, |(_, resumes)| resumes),
                last_error: warning.as_ref().map(|warning| warning.message.clone()),
            };
            let fresh = TunnelReport { tunnel, warning };
            let modified = *report != fresh;
            *report = fresh;
            modified
        });
    }
}
