//! One async function per state; each returns the state that follows.

mod publish;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use tunnel_api::warning::CLOCK_SKEW;
use tunnel_api::{TunnelState, Warning};
use tunnel_broker::Broker;
use tunnel_transport::{Backoff, CloseCode, Desktop, Retry, Session, SessionId};

use super::dialler::{Dialler, Failure, Next};
use super::ears::{Ears, Heard};
use super::keeper::{Ended, Kept, STALE_ATTEMPT, Shown, Why};
use super::moving::{Moving, resolved, second_session};
use super::sessions::{STOP_LIMIT, Serves, Sessions, Settled, shutting_down};
use super::settings::Settings;
use super::{Command, Deps, Order, Rejected, TunnelReport, advice, keeper};
use crate::secrets::{TokenError, TokenHandle};
use crate::store::RecorderHandle;
use crate::world::Cause;

/// Owns the target, the sessions and the back-off.
pub(super) struct Supervisor {
    ears: Ears,
    dialler: Dialler,
    token: TokenHandle,
    broker: Broker,
    record: RecorderHandle,
    hard: CancellationToken,
    shows: Shows,
    moving: mpsc::Receiver<SessionId>,
    /// What the user wants, apart from the configuration's switch.
    wanted: bool,
    backoff: Backoff,
    sessions: Sessions,
}

/// What others see of the supervisor.
pub(super) struct Shows {
    pub(super) report: watch::Sender<TunnelReport>,
    /// The session that takes requests.
    pub(super) session: watch::Sender<Option<Session>>,
}

enum State {
    /// Not up, and nothing under way.
    Idle(Option<Warning>),
    Dial,
    Wait {
        delay: Duration,
        reason: Warning,
    },
    /// The same, but the relay has asked for the delay: only an order cuts it short.
    Asked {
        delay: Duration,
        reason: Warning,
    },
    /// No dialling until something changes.
    Refused {
        reason: Warning,
        token: TokenRule,
    },
    Up(Kept),
    /// Finishes its streams, then idles for this reason.
    Stopping(Kept, Option<Warning>),
    Over,
}

/// What a new token means in [`State::Refused`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenRule {
    /// It was the token's fault, so another one than this is worth a dial.
    OtherThan(Option<u64>),
    /// Another daemon took over: a token that is renewed by a timer must not take the device back.
    Ignored,
}

/// What a change of the world means in [`Supervisor::wait`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnWake {
    Dial,
    Ignore,
}

/// How often the round-trip time is looked at while the tunnel is up: the rate of its pings.
const UP_POLL: Duration = Duration::from_secs(10);
/// A relay that restarts cannot send its desktops away for longer than this.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);
/// Requests to move that wait to be looked at; the relay repeats one that is not heard.
const MAX_MOVES: usize = 4;

impl Supervisor {
    pub(super) fn new(
        deps: Deps,
        commands: mpsc::Receiver<Command>,
        shows: Shows,
        tracker: TaskTracker,
    ) -> Self {
        let Deps { mut settings, wanted, token, broker, ring, record, wakes, soft, hard } = deps;
        let (moves, moving) = mpsc::channel(MAX_MOVES);
        let current = Arc::clone(&settings.borrow_and_update());
        Self {
            wanted,
            dialler: Dialler::new(current, token.clone()),
            sessions: Sessions::new(
                Serves { broker: broker.clone(), ring },
                moves,
                shows.session.subscribe(),
                settings.clone(),
                tracker,
            ),
            ears: Ears { settings, commands, wakes, soft },
            token,
            broker,
            record,
            hard,
            shows,
            moving,
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut state = self.whatever_is_wanted();
        loop {
            state = match state {
                State::Idle(reason) => self.idle(reason).await,
                State::Dial => self.dial().await,
                State::Wait { delay, reason } => self.wait(delay, reason, OnWake::Dial).await,
                State::Asked { delay, reason } => self.wait(delay, reason, OnWake::Ignore).await,
                State::Refused { reason, token } => self.refused(reason, token).await,
                State::Up(kept) => self.up(kept).await,
                State::Stopping(kept, reason) => self.stopping(kept, reason).await,
                State::Over => break,
            };
        }
        self.sessions.drain(&self.hard).await;
        self.publish(TunnelState::Disconnected, None, None);
    }

    fn settings(&self) -> &Settings {
        &self.dialler.settings
    }

    fn whatever_is_wanted(&self) -> State {
        if self.wanted && self.settings().enabled { State::Dial } else { State::Idle(None) }
    }

    /// Not up. With a token missing it waits for one, if a tunnel is wanted.
    async fn idle(&mut self, reason: Option<Warning>) -> State {
        // Any order leads out of here, also one that changes what is wanted.
        let mut reason = reason.filter(|_| self.wanted && self.settings().enabled);
        let waits_for_token = reason.is_some();
        loop {
            if waits_for_token {
                match self.token.current_and_seen(&self.dialler.settings.relay) {
                    Ok(_) => return State::Dial,
                    Err(error) => reason = Some(advice::no_token(&error)),
                }
            }
            self.publish(TunnelState::Disconnected, reason.clone(), None);
            tokio::select! {
                heard = self.ears.heard() => if let Some(next) = self.obey(heard) { return next },
                () = self.token.changed(), if waits_for_token => {}
                // Nothing follows from the end of a session that was finishing.
                Some(_finished) = self.sessions.ended() => {}
            }
        }
    }

    async fn dial(&mut self) -> State {
        self.publish(TunnelState::Connecting, self.last_reason(), None);
        let dialler = self.dialler.clone();
        let beside = self.sessions.finishing_at(self.settings());
        let dialling = dialler.dial(beside);
        tokio::pin!(dialling);
        let stale = tokio::time::sleep(STALE_ATTEMPT);
        tokio::pin!(stale);
        let mut woken = false;
        let outcome = loop {
            tokio::select! {
                outcome = &mut dialling => break outcome,
                heard = self.ears.heard() => {
                    // What is wanted is just being done.
                    if let Heard::Command(Command { order: Order::Start, .. }) = &heard {
                        self.wanted = true;
                        heard.accept(&self.record);
                        continue;
                    }
                    woken |= matches!(heard, Heard::Wake(_));
                    if let Some(next) = self.obey(heard) {
                        return next;
                    }
                }
                () = &mut stale, if woken => return State::Dial,
                // Nothing follows from the end of a session that was finishing.
                Some(_finished) = self.sessions.ended() => {}
            }
        };
        match outcome {
            Ok((desktop, token)) => State::Up(self.keep(desktop, dialler.clone(), token)),
            Err(failure) if beside.is_some() && failure.next() == Next::Retry(Retry::Fresh) => {
                // The relay has lost the session that was to stand beside; without it the next dial is fresh.
                self.sessions.drop_finishing(beside);
                State::Dial
            }
            Err(failure) => self.failed(&failure),
        }
    }

    async fn wait(&mut self, delay: Duration, reason: Warning, on_wake: OnWake) -> State {
        if !delay.is_zero() {
            self.publish(TunnelState::Backoff, Some(reason), None);
        }
        let over = tokio::time::sleep(delay);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return State::Dial,
                heard = self.ears.heard() => if on_wake == OnWake::Dial && matches!(heard, Heard::Wake(_)) {
                    // The back-off keeps its count: a network that flaps is one outage.
                    return State::Dial;
                } else if let Some(next) = self.obey(heard) { return next },
                // Nothing follows from the end of a session that was finishing.
                Some(_finished) = self.sessions.ended() => {}
            }
        }
    }

    async fn refused(&mut self, reason: Warning, rule: TokenRule) -> State {
        warn!(code = reason.code, error = reason.message, "tunnel stays down");
        let blames_clock = reason.code == CLOCK_SKEW;
        self.publish(TunnelState::Refused, Some(reason), None);
        if rule != TokenRule::Ignored {
            // It may be one that could be renewed by now.
            self.token.look_again();
        }
        loop {
            if let TokenRule::OtherThan(refused) = rule {
                match self.token.current_and_seen(&self.dialler.settings.relay) {
                    Ok(token) if Some(token.version) != refused => {
                        info!("the token has changed, dialling again");
                        return State::Dial;
                    }
                    Err(error @ TokenError::Removed) => return State::Idle(Some(advice::no_token(&error))),
                    Ok(_) | Err(_) => {}
                }
            }
            tokio::select! {
                heard = self.ears.heard() => match heard {
                    // What the refusal asked for has been done.
                    Heard::Wake(Cause::Clock) if blames_clock => return State::Dial,
                    heard => if let Some(next) = self.obey(heard) { return next },
                },
                () = self.token.changed(), if rule != TokenRule::Ignored => {}
                // Nothing follows from the end of a session that was finishing.
                Some(_finished) = self.sessions.ended() => {}
            }
        }
    }

    async fn up(&mut self, mut kept: Kept) -> State {
        info!(relay = %self.settings().relay, device = %self.settings().device, session = %kept.id(), "link up");
        let mut move_beside: Option<Moving> = None;
        let mut poll = tokio::time::interval(UP_POLL);
        self.publish_kept(&kept);
        loop {
            if let Err(removed) = self.follow_token(&mut kept) {
                info!("the token was removed, the tunnel is closed");
                return State::Stopping(kept, Some(removed));
            }
            tokio::select! {
                Some(settled) = self.sessions.ended() => match settled {
                    Settled::Ended(ended) if ended.session == kept.id() => return self.after(&kept, ended),
                    Settled::Ended(_) => {}
                    Settled::Broken(session) if session == Some(kept.id()) => {
                        self.sessions.retire(&kept);
                        let reason = advice::closed(kept.dialler.settings.relay.host(), &keeper::broken());
                        let delay = self.backoff.lost(Instant::now(), &mut rand::rng());
                        return State::Wait { delay, reason };
                    }
                    Settled::Broken(_) => {}
                },
                Ok(()) = kept.progress.changed() => self.publish_kept(&kept),
                heard = self.ears.heard() => match heard {
                    Heard::Command(Command { order: Order::Start, .. }) => {
                        kept.nudge();
                        heard.accept(&self.record);
                    }
                    Heard::Command(Command { order: Order::Stop, .. }) => {
                        self.wanted = false;
                        heard.accept(&self.record);
                        return State::Stopping(kept, None);
                    }
                    Heard::Command(Command { order: Order::Restart, .. }) => {
                        self.publish(TunnelState::Connecting, None, None);
                        heard.accept(&self.record);
                        self.sessions.finish(kept);
                        return State::Dial;
                    }
                    Heard::Settings => {
                        self.take_settings();
                        if !self.settings().enabled {
                            return State::Stopping(kept, None);
                        }
                        if !kept.dialler.settings.same_place(self.settings()) {
                            info!("relay or device has changed, dialling anew");
                            self.sessions.finish(kept);
                            return State::Dial;
                        }
                    }
                    Heard::Wake(_) => kept.wake(),
                    Heard::Shutdown => {
                        self.sessions.set_aside(kept);
                        return State::Over;
                    }
                },
                Some(session) = self.moving.recv() => {
                    if session == kept.id() && move_beside.is_none() {
                        // Relays that send a desktop to and fro are obeyed ever more slowly: to leave one that was just
                        // reached is to lose it.
                        let delay = self.backoff.lost(Instant::now(), &mut rand::rng());
                        let second = second_session(kept.dialler.clone(), session, delay, self.backoff.clone());
                        move_beside = Some(Box::pin(second));
                    }
                }
                moved = resolved(&mut move_beside) => {
                    move_beside = None;
                    if let Some((desktop, token)) = moved {
                        let dialler = kept.dialler.clone();
                        // The relay ends the old session once its streams are done.
                        self.sessions.set_aside(kept);
                        kept = self.keep(desktop, dialler, token);
                        info!(session = %kept.id(), "moved to a second session");
                        self.publish_kept(&kept);
                    }
                }
                () = self.token.changed() => {}
                _ = poll.tick() => self.publish_kept(&kept),
            }
        }
    }

    /// Ordered to stop, or without a token: the streams end first.
    async fn stopping(&mut self, kept: Kept, reason: Option<Warning>) -> State {
        kept.session.drain();
        // Nobody may be served by this desktop from now on, wherever a relay has kept it.
        self.sessions.end_finishing();
        if kept.is_detached() && self.broker.in_flight() == 0 {
            // Nobody waits for this link; the drain would wait for it.
            kept.session.close(shutting_down());
        }
        self.publish_kept(&kept);
        let limit = tokio::time::sleep(STOP_LIMIT);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                Some(settled) = self.sessions.ended() => if settled.session() == Some(kept.id()) {
                    self.sessions.retire(&kept);
                    return State::Idle(reason);
                },
                () = &mut limit, if !limit.is_elapsed() => {
                    warn!("requests still ran when the tunnel's time to stop was over");
                    kept.session.close(shutting_down());
                }
                heard = self.ears.heard() => match self.obey(heard) {
                    Some(State::Over) => {
                        self.sessions.set_aside(kept);
                        return State::Over;
                    }
                    Some(State::Dial) => {
                        self.sessions.finish(kept);
                        return State::Dial;
                    }
                    _ => self.publish_kept(&kept),
                },
            }
        }
    }

    /// Carries out what any state without a session does on an order; `None` stays where it is.
    fn obey(&mut self, heard: Heard) -> Option<State> {
        match &heard {
            Heard::Command(Command { order: Order::Start | Order::Restart, .. }) => {
                if !self.settings().enabled {
                    heard.reject(Rejected::Disabled);
                    return None;
                }
                self.wanted = true;
                self.token.look_again();
                heard.accept(&self.record);
                Some(State::Dial)
            }
            Heard::Command(Command { order: Order::Stop, .. }) => {
                self.wanted = false;
                heard.accept(&self.record);
                Some(State::Idle(None))
            }
            Heard::Settings => {
                self.take_settings();
                Some(self.whatever_is_wanted())
            }
            // Where it matters, the state itself says how.
            Heard::Wake(_) => None,
            Heard::Shutdown => Some(State::Over),
        }
    }

    fn take_settings(&mut self) {
        let settings = Arc::clone(&self.ears.settings.borrow_and_update());
        self.dialler = Dialler::new(settings, self.token.clone());
    }

    fn failed(&mut self, failure: &Failure) -> State {
        let (reason, now) = (failure.advice(), Instant::now());
        debug!(code = reason.code, error = reason.message, "dial failed");
        match failure.next() {
            Next::AwaitToken => State::Idle(Some(reason)),
            Next::Refused | Next::Retry(Retry::Never) => {
                State::Refused { reason, token: TokenRule::OtherThan(failure.token()) }
            }
            Next::TakenOver => State::Refused { reason, token: TokenRule::Ignored },
            // A fresh dial that is told to dial afresh must not spin.
            Next::Retry(Retry::Fresh | Retry::Backoff) => {
                State::Wait { delay: self.backoff.next(now, &mut rand::rng()), reason }
            }
            Next::Retry(Retry::After(after)) => {
                State::Asked { delay: self.backoff.asked(after, now, &mut rand::rng()), reason }
            }
        }
    }

    /// The session that took requests is over.
    fn after(&mut self, kept: &Kept, ended: Ended) -> State {
        self.sessions.retire(kept);
        self.backoff = ended.backoff;
        let now = Instant::now();
        let closed = match ended.why {
            Why::Closed(closed) => closed,
            // The session is gone, which is no news about the relay: a new one is dialled at once.
            Why::Failed(failure) if failure.next() == Next::Retry(Retry::Fresh) => return State::Dial,
            Why::Failed(failure) => return self.failed(&failure),
        };
        let reason = advice::closed(kept.dialler.settings.relay.host(), &closed);
        info!(session = %kept.id(), error = %closed, "session ended");
        match closed.code {
            CloseCode::Replaced => State::Refused { reason, token: TokenRule::Ignored },
            // There may be a newer one by now, or one that the relay was told of and could not judge, since its issuer was
            // away. A dial shows that, and that at most once: what it is refused with is not shown again.
            CloseCode::Token => {
                State::Refused { reason, token: TokenRule::OtherThan(Some(kept.opened_with)) }
            }
            CloseCode::Restarting => {
                let asked = closed
                    .reason
                    .parse()
                    .map_or(Duration::ZERO, Duration::from_millis)
                    .min(MAX_RESTART_DELAY);
                State::Asked { delay: asked + self.backoff.lost(now, &mut rand::rng()), reason }
            }
            CloseCode::Protocol | CloseCode::ShuttingDown | CloseCode::GraceOver | CloseCode::Unknown(_) => {
                State::Wait { delay: self.backoff.lost(now, &mut rand::rng()), reason }
            }
        }
    }

    fn keep(&mut self, desktop: Desktop, dialler: Dialler, token: u64) -> Kept {
        self.backoff.up(Instant::now());
        self.sessions.keep(desktop, Shown { dialler, token }, self.backoff.clone())
    }

    /// Tells the relay of another token than it has for the sessions; fails when there is to be none any more.
    fn follow_token(&mut self, kept: &mut Kept) -> Result<(), Warning> {
        match self.token.current_and_seen(&kept.dialler.settings.relay) {
            Ok(token) => {
                if kept.take_token(&token) {
                    info!("the token has changed, telling the relay");
                }
                self.sessions.take_token(&kept.dialler.settings.relay, &token);
                Ok(())
            }
            Err(error @ TokenError::Removed) => Err(advice::no_token(&error)),
            Err(error) => {
                debug!(%error, "there is no usable token now, the session goes on with its own");
                Ok(())
            }
        }
    }
}
