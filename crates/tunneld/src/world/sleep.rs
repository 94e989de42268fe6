//! Waking from sleep, as the login manager tells it on the system bus.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tracing::debug;
use zbus::{MatchRule, MessageStream, message};

use super::{Cause, report};

/// Longest wait for the bus to take us on.
const BUS_LIMIT: Duration = Duration::from_secs(3);
/// Wait before the next try where there is no bus, doubling from the first to the last. A bus that is just being
/// restarted is back by then; one that never was costs a failed `connect` now and then.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_LAST: Duration = Duration::from_secs(600);
/// A connection that lasted so long makes its loss a new trouble.
const PROVEN: Duration = Duration::from_secs(60);
/// Sleep signals that wait to be looked at; there are two a sleep.
const MAX_SIGNALS: usize = 4;
/// Where the bus is if nobody says, as the D-Bus specification has it.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Reports each end of a sleep for ever. A machine without a login manager, or without a bus, is a normal machine.
pub(super) async fn listen(system_bus: Option<OsString>, causes: mpsc::Sender<Cause>) {
    let address = system_bus.and_then(|address| address.into_string().ok()).unwrap_or(SYSTEM_BUS.to_owned());
    let mut retry = RETRY_FIRST;
    loop {
        let begun = Instant::now();
        let why = match tokio::time::timeout(BUS_LIMIT, subscribe(&address)).await {
            Ok(Ok(signals)) => {
                hear(signals, &causes).await;
                "the bus has closed the connection".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_late) => "the bus does not answer".to_owned(),
        };
        if begun.elapsed() >= PROVEN {
            retry = RETRY_FIRST;
        }
        debug!(error = why, retry_s = retry.as_secs(), "the login manager does not tell of sleep");
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_LAST);
    }
}

/// Connects and asks for `PrepareForSleep`. The login manager itself may come later, or be restarted.
async fn subscribe(address: &str) -> zbus::Result<MessageStream> {
    let connection = zbus::connection::Builder::address(address)?.method_timeout(BUS_LIMIT).build().await?;
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender("org.freedesktop.login1")?
        .path("/org/freedesktop/login1")?
        .interface("org.freedesktop.login1.Manager")?
        .member("PrepareForSleep")?
        .build();
    // The stream keeps the connection.
    MessageStream::for_match_rule(rule, &connection, Some(MAX_SIGNALS)).await
}

/// Returns when the connection is gone.
async fn hear(mut signals: MessageStream, causes: &mpsc::Sender<Cause>) {
    while let Some(Ok(signal)) = signals.next().await {
        // True: it is about to sleep. False: it is awake.
        if let Ok(false) = signal.body().deserialize::<bool>() {
            report(causes, Cause::Resume);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_bus::PrivateBus;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn login_manager(bus: &PrivateBus) -> zbus::Connection {
        bus.connect("org.freedesktop.login1").await
    }

    async fn prepare_for_sleep(manager: &zbus::Connection, sleeps: bool) {
        manager
            .emit_signal(
                None::<&str>,
                "/org/freedesktop/login1",
                "org.freedesktop.login1.Manager",
                "PrepareForSleep",
                &sleeps,
            )
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn end_of_sleep_is_reported_and_its_beginning_is_not() {
        let Some(bus) = PrivateBus::start() else { return };
        let manager = login_manager(&bus).await;
        let signals = tokio::time::timeout(LIMIT, subscribe(bus.address())).await.unwrap().unwrap();
        let (causes, mut heard) = mpsc::channel(8);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { hear(signals, &causes).await });
        prepare_for_sleep(&manager, true).await;
        prepare_for_sleep(&manager, false).await;
        prepare_for_sleep(&manager, true).await;
        prepare_for_sleep(&manager, false).await;
        for _ in 0..2 {
            assert_eq!(tokio::time::timeout(LIMIT, heard.recv()).await.unwrap(), Some(Cause::Resume));
        }
        assert!(heard.try_recv().is_err(), "two sleeps, two reports");
    }

    #[tokio::test]
    async fn other_senders_are_not_believed_and_a_new_login_manager_is() {
        let Some(bus) = PrivateBus::start() else { return };
        let signals = tokio::time::timeout(LIMIT, subscribe(bus.address())).await.unwrap().unwrap();
        let (causes, mut heard) = mpsc::channel(8);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { hear(signals, &causes).await });
        let stranger = bus.connect("org.example.Stranger").await;
        prepare_for_sleep(&stranger, false).await;
        // The manager that came after us; its signal is behind the stranger's.
        let manager = login_manager(&bus).await;
        prepare_for_sleep(&manager, false).await;
        assert_eq!(tokio::time::timeout(LIMIT, heard.recv()).await.unwrap(), Some(Cause::Resume));
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn loss_of_the_bus_ends_the_hearing() {
        let Some(bus) = PrivateBus::start() else { return };
        let signals = tokio::time::timeout(LIMIT, subscribe(bus.address())).await.unwrap().unwrap();
        let (causes, _heard) = mpsc::channel(8);
        drop(bus);
        tokio::time::timeout(LIMIT, hear(signals, &causes)).await.expect("it ends with the bus");
    }

    #[tokio::test(start_paused = true)]
    async fn absent_bus_is_tried_again_and_again_and_ever_more_seldom() {
        let (causes, _heard) = mpsc::channel(8);
        let absent = OsString::from("unix:path=/nonexistent/bus");
        let listening = listen(Some(absent), causes);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), listening).await.is_err());
    }
}
