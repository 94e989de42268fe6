//! Following the daemon over `/ws`.

mod session;
mod update;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_api::ws::Command;

use self::session::Session;
pub use self::update::Update;
use crate::{Client, Error};

/// Follows the daemon over `/ws`; connects anew by itself, for ever.
///
/// Nothing is connected before the first [`Watch::next`] or [`Watch::send`]. It has no task of its own: what it
/// does, it does while one of the two is waited for.
///
/// ```no_run
/// # async fn example(client: tunnel_client::Client) {
/// let mut watch = client.watch();
/// loop {
///     match watch.next().await {
///         tunnel_client::Update::Status(status) => println!("the tunnel is {}", status.tunnel.state),
///         tunnel_client::Update::Lost(error) => println!("{error}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
pub struct Watch {
    client: Client,
    pace: Pace,
    link: Link,
    /// How long to wait after the next dial that fails.
    back_off: Duration,
    /// Why the connection ended, when [`Watch::send`] was the first to see it.
    untold: Option<Error>,
    /// The daemon is known to be away.
    told: bool,
}

/// Where the connection stands.
enum Link {
    /// Dial at this moment; at once when there is none.
    Down(Option<Instant>),
    Dialling(Dial),
    Up(Box<Session>),
}

/// Kept between calls, so that a caller who often turns to something else does not dial for ever.
type Dial = Pin<Box<dyn Future<Output = Result<Session, Error>> + Send>>;

/// The times of a watch.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Wait before the first new dial.
    first_wait: Duration,
    /// Longest wait before a new dial.
    longest_wait: Duration,
    /// Silence after which the daemon is asked for a sign of life.
    ping_after: Duration,
    /// Longest wait for that sign.
    pong_within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(5),
            ping_after: Duration::from_secs(30),
            pong_within: Duration::from_secs(10),
        }
    }
}

impl Client {
    /// Returns what follows the daemon over `/ws`. Nothing is connected yet.
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone(), Pace::default())
    }
}

impl Watch {
    fn new(client: Client, pace: Pace) -> Self {
        Self { client, pace, link: Link::Down(None), back_off: pace.first_wait, untold: None, told: false }
    }

    /// Waits for the next thing to know.
    ///
    /// [`Update::Lost`] comes once for each time the daemon goes away, and also when it was never there; then it is
    /// dialled again after 0.25 s, doubling to 5 s. After the reconnect the first updates are whole snapshots again.
    ///
    /// Cancel safe: dropped at any moment, the next call goes on where it was.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(error) = self.untold.take()
                && !std::mem::replace(&mut self.told, true)
            {
                return Update::Lost(error);
            }
            let outcome = match self.connected().await {
                Ok(session) => session.next().await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(update) => {
                    // Only now: a daemon that takes connections and drops them is not there.
                    self.told = false;
                    self.back_off = self.pace.first_wait;
                    return update;
                }
                Err(error) => self.lose(error),
            }
        }
    }

    /// Sends a command to the daemon; its answer comes as [`Update::Answer`] with the same `id`.
    ///
    /// Connects at once if there is no connection. An error says that the command may not have arrived; nothing is
    /// sent again. Dropped before it is done, it leaves the command sent, or not.
    pub async fn send(&mut self, command: &Command) -> Result<(), Error> {
        if let Link::Down(dial_at) = &mut self.link {
            *dial_at = None;
        }
        let outcome = match self.connected().await {
            Ok(session) => session.send(command).await,
            Err(error) => Err(error),
        };
        outcome.inspect_err(|error| {
            // `Error` cannot be cloned: the caller gets the whole of it, and who calls `next` the gist.
            let gist = self.client.lost(error.to_string());
            self.lose(gist);
        })
    }

    /// Waits until the next dial is due, and for its result.
    async fn connected(&mut self) -> Result<&mut Session, Error> {
        loop {
            match &mut self.link {
                Link::Down(dial_at) => {
                    if let Some(dial_at) = *dial_at {
                        tokio::time::sleep_until(dial_at).await;
                    }
                    self.link = Link::Dialling(Box::pin(Session::dial(self.client.clone(), self.pace)));
                }
                Link::Dialling(dial) => self.link = Link::Up(Box::new(dial.await?)),
                Link::Up(_) => break,
            }
        }
        match &mut self.link {
            Link::Up(session) => Ok(session),
            // Cannot be: the loop above ends with it.
            Link::Down(_) | Link::Dialling(_) => Err(self.client.lost("it was never there")),
        }
    }

    fn lose(&mut self, error: Error) {
        self.link = Link::Down(Some(Instant::now() + self.back_off));
        self.back_off = (self.back_off * 2).min(self.pace.longest_wait);
        self.untold = Some(error);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = match &self.link {
            Link::Down(_) => "down",
            Link::Dialling(_) => "dialling",
            Link::Up(_) => "up",
        };
        f.debug_struct("Watch").field("door", self.client.door()).field("link", &link).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
