//! The desk: one task that owns the login which is under way.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tunnel_api::Severity;
use tunnel_api::auth::{LoginBegun, LoginState, LoginStatus, StoredIn};
use tunnel_transport::RelayUrl;

use super::browser::BrowserLogin;
use super::device::DeviceLogin;
use super::offer::Offer;
use super::provider::Provider;
use super::{Flow, LoginError, Order, none};
use crate::daemon::chain;
use crate::secrets::{Credentials, Issued, Lease, Renewal, TokenHandle, Way};
use crate::store::{NewEvent, RecorderHandle};
use crate::tunnel::Settings;

/// Longest wait for relay and provider until a login has begun: whoever began it waits for 30 s.
const BEGIN_LIMIT: Duration = Duration::from_secs(25);

/// Owns the login that is under way.
pub(super) struct Desk {
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) token: TokenHandle,
    pub(super) record: RecorderHandle,
    pub(super) telling: watch::Sender<LoginStatus>,
    pub(super) arriving: mpsc::Receiver<Order>,
    pub(super) soft: CancellationToken,
}

/// A login from its beginning to its end; dropped, it is cancelled.
type UnderWay = BoxFuture<'static, Ended>;

/// How a login ended.
enum Ended {
    /// Whoever wanted to begin it was told why it did not.
    NotBegun,
    LoggedIn {
        flow: Flow,
        host: String,
        place: StoredIn,
    },
    Failed {
        flow: Flow,
        error: LoginError,
    },
}

impl Desk {
    pub(super) async fn run(mut self) {
        let mut under_way: Option<UnderWay> = None;
        loop {
            tokio::select! {
                () = self.soft.cancelled() => return,
                Some(order) = self.arriving.recv() => {
                    // In any case the one before is over, and its port closed.
                    drop(under_way.take());
                    self.telling.send_replace(none());
                    match order {
                        Order::Begin { flow, answer } => under_way = Some(self.begin(flow, answer)),
                        Order::Cancel(answer) => {
                            // Who does not wait for the answer does not need it.
                            let _gone = answer.send(());
                        }
                    }
                }
                ended = running(&mut under_way) => {
                    under_way = None;
                    self.conclude(ended);
                }
            }
        }
    }

    fn begin(&self, flow: Flow, answer: oneshot::Sender<Result<LoginBegun, LoginError>>) -> UnderWay {
        let attempt = Attempt {
            flow,
            settings: Arc::clone(&self.settings.borrow()),
            token: self.token.clone(),
            telling: self.telling.clone(),
        };
        Box::pin(attempt.run(answer))
    }

    /// Tells how a login ended.
    fn conclude(&self, ended: Ended) {
        let (flow, message, status) = match ended {
            Ended::NotBegun => return,
            Ended::LoggedIn { flow, host, place } => {
                info!(%flow, host, stored_in = %place, "logged in");
                let message = format!("logged in at {host}");
                (flow, message, LoginStatus { state: LoginState::Done, ..LoginStatus::default() })
            }
            Ended::Failed { flow, error } => {
                let sentence = chain(&error);
                info!(%flow, code = error.code(), error = sentence, "login failed");
                let status = LoginStatus {
                    state: LoginState::Failed,
                    error: Some(sentence.clone()),
                    code: Some(error.code().to_owned()),
                    ..LoginStatus::default()
                };
                (flow, format!("the login failed: {sentence}"), status)
            }
        };
        let (kind, severity) = match status.state {
            LoginState::Done => ("login_done", Severity::Info),
            LoginState::Failed | LoginState::None | LoginState::Pending | LoginState::Unknown => {
                ("login_failed", Severity::Warning)
            }
        };
        let data = json!({ "flow": flow.name(), "code": status.code });
        self.record.event(NewEvent { at: Timestamp::now(), kind, severity, message, data });
        self.telling.send_replace(LoginStatus { flow: Some(flow.name()), ..status });
    }
}

/// One login, with what was in force when it began.
struct Attempt {
    flow: Flow,
    settings: Arc<Settings>,
    token: TokenHandle,
    telling: watch::Sender<LoginStatus>,
}

/// A login for which the person has to act.
enum Waiting {
    Browser(BrowserLogin),
    Device(DeviceLogin),
}

impl Attempt {
    async fn run(self, answer: oneshot::Sender<Result<LoginBegun, LoginError>>) -> Ended {
        let flow = self.flow;
        let beginning = tokio::time::timeout(BEGIN_LIMIT, self.begin()).await;
        let (waiting, begun) = match beginning.unwrap_or(Err(LoginError::TimedOut)) {
            Ok(begun) => begun,
            Err(error) => {
                debug!(%flow, error = chain(&error), "no login was begun");
                let _gone = answer.send(Err(error));
                return Ended::NotBegun;
            }
        };
        self.telling.send_replace(LoginStatus {
            state: LoginState::Pending,
            flow: Some(flow.name()),
            expires_at: Some(begun.expires_at),
            ..LoginStatus::default()
        });
        let _gone = answer.send(Ok(begun));
        let host = waiting.provider().host();
        match self.finish(waiting).await {
            Ok(place) => Ended::LoggedIn { flow, host, place },
            Err(error) => Ended::Failed { flow, error },
        }
    }

    async fn begin(&self) -> Result<(Waiting, LoginBegun), LoginError> {
        if !self.settings.enabled {
            return Err(LoginError::SwitchedOff);
        }
        self.token.takes_logins()?;
        let way = Way::of(&self.settings);
        let offer = Offer::of(&self.settings.relay, &way).await?;
        let provider = Provider::discover(&offer.issuer, &way).await?;
        Ok(match self.flow {
            Flow::Browser => {
                let (login, begun) = BrowserLogin::begin(provider, offer).await?;
                (Waiting::Browser(login), begun)
            }
            Flow::DeviceCode => {
                let (login, begun) = DeviceLogin::begin(provider, offer, &way).await?;
                (Waiting::Device(login), begun)
            }
        })
    }

    async fn finish(&self, waiting: Waiting) -> Result<StoredIn, LoginError> {
        let way = Way::of(&self.settings);
        let keep = Keep { relay: &self.settings.relay, token: &self.token };
        match waiting {
            Waiting::Browser(login) => login.finish(&way, &keep).await,
            Waiting::Device(login) => login.finish(&way, &keep).await,
        }
    }
}

impl Waiting {
    fn provider(&self) -> &Provider {
        match self {
            Self::Browser(login) => login.provider(),
            Self::Device(login) => login.provider(),
        }
    }
}

/// Where a token goes that was issued.
pub(super) struct Keep<'a> {
    relay: &'a RelayUrl,
    token: &'a TokenHandle,
}

impl Keep<'_> {
    /// Stores a token for the relay that the login was begun for, with what renews and revokes it. An ID token, which
    /// says who somebody is to the client and not to the relay, is not kept.
    pub(super) async fn store(
        &self,
        issued: Issued,
        provider: &Provider,
        offer: &Offer,
    ) -> Result<StoredIn, LoginError> {
        let now = Timestamp::now().as_second();
        let renewal = issued.refresh_token.map(|refresh_token| Renewal {
            refresh_token,
            token_endpoint: provider.token_endpoint.clone(),
            client_id: Some(offer.client_id.clone()),
            resource: offer.resource.clone(),
        });
        let lease = Lease::fresh(&issued.access_token, issued.expires_in, now);
        let login = Credentials {
            lease,
            renewal,
            revocation_endpoint: provider.revocation_endpoint.clone(),
            ..Credentials::bare(issued.access_token, now)
        };
        Ok(self.token.set_for(self.relay, login).await?)
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name().fmt(f)
    }
}

async fn running(under_way: &mut Option<UnderWay>) -> Ended {
    match under_way {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
