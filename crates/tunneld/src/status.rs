//! The status hub: joins what the parts publish into one snapshot, without asking them.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_api::{Status, Warning};
use tunnel_broker::BackendStatus;

use crate::config::ConfigState;
use crate::doors::heartbeat::Places;
use crate::store::ActiveWarning;
use crate::tunnel::TunnelReport;
use crate::until::until;
use crate::view::{Parts, conditions, snapshot};
use crate::warnings::{Board, Listener, Said};

/// Listens to all parts and publishes a new snapshot after each change.
///
/// What a part says is in the next snapshot, also why the tunnel is down. Only the *list of warnings* waits: for what
/// may be over in a moment.
pub(crate) struct StatusHub {
    backends: watch::Receiver<Arc<Vec<BackendStatus>>>,
    tunnel: watch::Receiver<TunnelReport>,
    config: watch::Receiver<Arc<ConfigState>>,
    places: watch::Receiver<Places>,
    said: watch::Receiver<Said>,
    missing: Vec<Warning>,
    listeners: Vec<Listener>,
    board: Board,
    soft: CancellationToken,
    status: watch::Sender<Arc<Status>>,
}

/// What the hub listens to, and who listens to it.
pub(crate) struct Sources {
    pub(crate) backends: watch::Receiver<Arc<Vec<BackendStatus>>>,
    pub(crate) tunnel: watch::Receiver<TunnelReport>,
    pub(crate) config: watch::Receiver<Arc<ConfigState>>,
    pub(crate) places: watch::Receiver<Places>,
    /// What other parts say is wrong with them.
    pub(crate) said: watch::Receiver<Said>,
    /// What was found missing at the start, such as a directory for the control socket.
    pub(crate) missing: Vec<Warning>,
    /// Warnings that were there when the daemon last ended.
    pub(crate) former: Vec<ActiveWarning>,
    /// Told of each warning that comes or goes.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) soft: CancellationToken,
}

impl StatusHub {
    /// Makes the hub with its first snapshot.
    pub(crate) fn new(sources: Sources) -> (Self, watch::Receiver<Arc<Status>>) {
        let Sources { backends, tunnel, config, places, said, missing, former, listeners, soft } = sources;
        let (status, reader) = watch::channel(Arc::default());
        let former = former.into_iter().map(|left| (left.warning.code, left.subject, left.since));
        let board = Board::after(former.collect());
        let mut hub =
            Self { backends, tunnel, config, places, said, missing, listeners, board, soft, status };
        hub.publish();
        (hub, reader)
    }

    /// Runs until the tunnel's supervisor has ended, which is the last that has news.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = self.soft.is_cancelled();
            let next_change = self.board.next_change();
            tokio::select! {
                Ok(()) = self.backends.changed() => {}
                changed = self.tunnel.changed() => if changed.is_err() { return },
                Ok(()) = self.config.changed() => {}
                Ok(()) = self.places.changed() => {}
                Ok(()) = self.said.changed() => {}
                () = until(next_change) => {}
                () = self.soft.cancelled(), if !stopping => {}
            }
            self.publish();
        }
    }

    fn publish(&mut self) {
        let parts = Parts {
            backends: &self.backends.borrow_and_update(),
            tunnel: &self.tunnel.borrow_and_update(),
            config: &self.config.borrow_and_update(),
            places: &self.places.borrow_and_update(),
            missing: &self.missing,
            said: &self.said.borrow_and_update(),
            stopping: self.soft.is_cancelled(),
        };
        let now = Timestamp::now();
        let transitions = self.board.update(conditions(&parts), Instant::now().into_std(), now);
        let status = snapshot(&parts, self.board.shown(), now);
        self.status.send_replace(Arc::new(status));
        // After the snapshot: who hears of a warning may look there.
        for transition in &transitions {
            self.listeners.iter().for_each(|listener| listener.tell(transition));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tunnel_api::warning::{NO_TOKEN, RELAY_UNREACHABLE};
    use tunnel_api::{Tunnel, TunnelState};

    use super::*;
    use crate::warnings::{Condition, Reports, Transition, Turn};

    struct Bench {
        tunnel: watch::Sender<TunnelReport>,
        places: watch::Sender<Places>,
        reports: Reports,
        heard: mpsc::Receiver<Transition>,
        status: watch::Receiver<Arc<Status>>,
        _senders: (watch::Sender<Arc<Vec<BackendStatus>>>, watch::Sender<Arc<ConfigState>>),
        _tasks: tokio::task::JoinSet<()>,
    }

    fn bench() -> Bench {
        let (backends, backends_reader) = watch::channel(Arc::default());
        let (tunnel, tunnel_reader) = watch::channel(TunnelReport::default());
        let (config, config_reader) = watch::channel(Arc::new(ConfigState::defaults()));
        let (places, places_reader) = watch::channel(Places::default());
        let reports = Reports::new();
        let (listener, heard) = Listener::with_room(8);
        let (hub, status) = StatusHub::new(Sources {
            backends: backends_reader,
            tunnel: tunnel_reader,
            config: config_reader,
            places: places_reader,
            said: reports.follow(),
            missing: Vec::new(),
            former: Vec::new(),
            listeners: vec![listener],
            soft: CancellationToken::new(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(hub.run());
        Bench { tunnel, places, reports, heard, status, _senders: (backends, config), _tasks: tasks }
    }

    fn lost() -> TunnelReport {
        let warning = Warning::new(RELAY_UNREACHABLE, "could not reach relay.example", "check the network");
        let last_error = Some(warning.message.clone());
        let tunnel = Tunnel { state: TunnelState::Backoff, last_error, ..Tunnel::default() };
        TunnelReport { tunnel, warning: Some(warning) }
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_error_is_told_at_once_and_its_warning_once_it_has_lasted() {
        let mut bench = bench();
        let begun = Instant::now();
        bench.tunnel.send_replace(lost());
        let status =
            bench.status.wait_for(|status| status.tunnel.last_error.is_some()).await.unwrap().clone();
        assert_eq!((begun.elapsed(), status.tunnel_warning()), (Duration::ZERO, None));
        let status = bench.status.wait_for(|status| status.tunnel_warning().is_some()).await.unwrap().clone();
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert_eq!(status.tunnel_warning().unwrap().next_step, "check the network");
        assert_eq!(bench.heard.recv().await.unwrap().turn, Turn::Raised);

        bench.tunnel.send_replace(TunnelReport::default());
        bench.status.wait_for(|status| status.warnings.is_empty()).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 5, "what is over is not shown any more");
        assert_eq!(bench.heard.recv().await.unwrap().turn, Turn::Cleared);
        assert_eq!(begun.elapsed().as_secs(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn gateway_is_told_where_it_is_and_when_it_moves() {
        let mut bench = bench();
        assert_eq!(bench.status.borrow().gateway_url(Some(11435)), None, "nobody has opened it yet");
        for port in [11435, 4711] {
            let gateway = vec![([127, 0, 0, 1], port).into()];
            bench.places.send_modify(|places| places.gateway = gateway);
            let url = format!("http://127.0.0.1:{port}");
            bench.status.wait_for(|status| status.gateway_url(None).as_ref() == Some(&url)).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn link_that_flaps_is_no_warning() {
        let mut bench = bench();
        for _ in 0..20 {
            bench.tunnel.send_replace(lost());
            tokio::time::sleep(Duration::from_secs(4)).await;
            bench.tunnel.send_replace(TunnelReport::default());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(bench.heard.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn missing_token_and_what_parts_say_are_shown_at_once() {
        let mut bench = bench();
        let warning = Some(Warning::new(NO_TOKEN, "there is no token", "pass one"));
        bench.tunnel.send_replace(TunnelReport { warning, ..TunnelReport::default() });
        bench.reports.set("store", vec![Condition::new(Warning::new("disk_full", "full", "make room"))]);
        let begun = Instant::now();
        bench.status.wait_for(|status| status.warnings.len() == 2).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
