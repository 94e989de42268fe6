//! Logging in: the relay says where, a person proves who they are there, and the daemon gets a token for it.
//!
//! One task, the desk, owns the login that is under way: there is one at most, a new one replaces it, and it goes on
//! whether or not the one who began it is still there. What comes of it goes to the keeper of the token. Nothing of a
//! login is logged but how it ended: codes and addresses are its user's alone.

mod browser;
mod desk;
mod device;
mod error;
mod grant;
mod offer;
mod provider;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tunnel_api::auth::{LoginBegun, LoginFlow, LoginState, LoginStatus};
use tunnel_runtime::CriticalTasks;

use crate::secrets::TokenHandle;
use crate::store::RecorderHandle;
use crate::tunnel::Settings;

pub(crate) use error::LoginError;

/// Orders that wait for the desk, which is never busy; a sender waits for room.
const MAX_WAITING_ORDERS: usize = 4;

/// Begins, follows and cancels the login; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LoginHandle {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<LoginStatus>,
}

/// What the desk is asked to do, with the way back for the answer.
enum Order {
    Begin { flow: Flow, answer: oneshot::Sender<Result<LoginBegun, LoginError>> },
    Cancel(oneshot::Sender<()>),
}

/// A way to log in that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Browser,
    DeviceCode,
}

impl Flow {
    /// Returns the way that a program asked for; `None` where we do not know it.
    pub(crate) fn of(asked: LoginFlow) -> Option<Self> {
        match asked {
            LoginFlow::Browser => Some(Self::Browser),
            LoginFlow::DeviceCode => Some(Self::DeviceCode),
            LoginFlow::Unknown => None,
        }
    }

    fn name(self) -> LoginFlow {
        match self {
            Self::Browser => LoginFlow::Browser,
            Self::DeviceCode => LoginFlow::DeviceCode,
        }
    }
}

/// Starts the desk, one of `tasks`; a login that is under way ends with `soft`.
pub(crate) fn start(
    settings: watch::Receiver<Arc<Settings>>,
    token: TokenHandle,
    record: RecorderHandle,
    soft: CancellationToken,
    tasks: &CriticalTasks,
) -> LoginHandle {
    let (orders, arriving) = mpsc::channel(MAX_WAITING_ORDERS);
    let (telling, status) = watch::channel(none());
    let desk = desk::Desk { settings, token, record, telling, arriving, soft: soft.clone() };
    tasks.spawn("login desk", soft, desk.run());
    LoginHandle { orders, status }
}

fn none() -> LoginStatus {
    LoginStatus { state: LoginState::None, ..LoginStatus::default() }
}

impl LoginHandle {
    /// Begins a login in place of one that is under way. Returns what the person has to do.
    pub(crate) async fn begin(&self, flow: Flow) -> Result<LoginBegun, LoginError> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Begin { flow, answer };
        self.orders.send(order).await.map_err(|_| LoginError::ShuttingDown)?;
        answered.await.map_err(|_| LoginError::Superseded)?
    }

    /// Ends the login that is under way, and forgets how an earlier one went.
    pub(crate) async fn cancel(&self) -> Result<(), LoginError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Cancel(answer)).await.map_err(|_| LoginError::ShuttingDown)?;
        answered.await.map_err(|_| LoginError::ShuttingDown)
    }

    /// Returns how the login stands.
    pub(crate) fn status(&self) -> LoginStatus {
        self.status.borrow().clone()
    }
}

#[cfg(test)]
mod tests;
