//! The harness of the end-to-end tests: it starts the real programs of this workspace on
//! loopback, puts scripted peers around them, and lets a scenario play caller, backend and broken network.
//!
//! A scenario is an async closure that gets a [`Lab`]. What a lab starts ends with it, and the logs of its processes are
//! printed when the scenario fails:
//!
//! ```no_run
//! fn main() -> anyhow::Result<()> {
//!     e2e::scenario(async |lab| {
//!         let world = lab.world().await?;
//!         let reply = world.remote().get("/api/version").send().await?;
//!         anyhow::ensure!(reply.status() == 200);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`Relay`], [`Daemon`] | the real processes: start, kill, restart on the same ports, memory and CPU |
//! | [`FakeBackend`] | a scripted model server that speaks Ollama's and OpenAI's API on real TCP |
//! | [`FaultyServer`] | a model server that fails in one way each time it is asked to use a model |
//! | [`FlakyLink`] | a TCP proxy that cuts, refuses, stalls, delays and limits |
//! | [`Tap`] | a TCP proxy that records when the server's bytes passed |
//! | [`Caller`] | a caller, of HTTP/1.1 or 2, that sees when each chunk came and hangs up when told |
//! | [`UserSession`] | a throw-away user with a real systemd, bus, journal and network of his own |
//! | [`Terminal`] | a real terminal (tmux): keys in, screens out |
//! | [`Desktop`], [`Tray`] | a session bus with a place for icons and notifications, and the real tray on it |
//! | [`RestlessDaemon`] | the real daemon with changes of status put between its messages on `/ws` |
//! | [`OidcProvider`] | a certified OpenID provider, and a person who logs in there |
//! | [`ScriptedDoor`] | an HTTP server that gives one answer |
//! | [`Masks`], [`compare`] | what programs print, kept as files |
//! | [`ModelServer`] | a real llama.cpp server, where `cargo xtask setup` has put one |
//!
//! Environment: `E2E_PROFILE=release` tests release builds; `E2E_BIN_DIR` names a folder with the four binaries (of that
//! profile) and skips building them; `SOAK=1` runs the full counts; `E2E_REQUIRE_REAL=1` makes a missing model server or client a
//! failure; `E2E_SEED` repeats a random schedule; `E2E_FIGURES` names a file to which the measured lines are appended;
//! `E2E_PICTURES` names a folder for pictures of the panel; `UPDATE_SNAPSHOTS=1` writes `snapshots/`, `UPDATE_DOCS=1` the documents.

mod api_routes;
mod balancer;
pub mod binaries;
mod canary;
mod client;
mod content;
mod daemon;
mod desktop;
mod fake_backend;
mod faulty_server;
mod figures;
mod flaky_link;
mod flood;
pub mod h2_raw;
pub mod hostile_desktop;
mod lab;
mod model_server;
mod namespaces;
mod official_clients;
mod oidc_provider;
mod own_network;
mod pebble;
pub mod ports;
mod process;
mod raw;
mod raw_backend;
mod relay;
mod restless;
mod scripted_door;
mod snapshot;
mod tap;
mod terminal;
mod tls_files;
mod tray;
mod user_session;
mod wait;

pub use api_routes::ApiRoute;
pub use balancer::{Balancer, Node};
pub use canary::{keep_secret, look_for_secrets};
pub use client::{Call, Caller, Chunk, Ending, Reply};
pub use content::{Pattern, PatternCheck};
pub use daemon::{Daemon, DaemonOptions};
pub use desktop::{Desktop, MenuEntry, Notification, Picture, Tooltip, TrayItem};
pub use fake_backend::script::{Api, Script, Sink};
pub use fake_backend::{Connection, Exchange, FakeBackend, FakeBackendOptions, Flavor, MODEL};
pub use faulty_server::{Fault, FaultyServer};
pub use figures::{Latencies, measured, skipped, soak, soak_count};
pub use flaky_link::{FlakyLink, LinkOptions};
pub use flood::{CutOff, flood};
pub use lab::{Lab, World, WorldOptions, scenario, seed};
pub use model_server::{ModelServer, REAL_MODEL};
pub use namespaces::forbidden;
pub use official_clients::OfficialClients;
pub use oidc_provider::{OidcProvider, ProviderOptions};
pub use own_network::in_own_network;
pub use pebble::{Pebble, PebblePlace};
pub use process::{Memory, Process};
pub use raw::{raw, status_of};
pub use raw_backend::{RawBackend, RawRequest};
pub use relay::{Relay, RelayOptions, Scope, TokenRequest};
pub use restless::RestlessDaemon;
pub use scripted_door::ScriptedDoor;
pub use snapshot::{Masks, Numbers, compare, compare_document};
pub use tap::Tap;
pub use terminal::{Size, Terminal};
pub use tls_files::{TlsFiles, curl};
pub use tray::Tray;
pub use user_session::UserSession;
pub use wait::{eventually, poll_until};

use std::{sync::OnceLock, time::Instant};

/// Returns nanoseconds on a monotonic clock that all parts of one test process share.
///
/// A scripted backend stamps its tokens with it and a caller in the same process compares.
pub fn monotonic_ns() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let elapsed = EPOCH.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
