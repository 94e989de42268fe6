//! The icon of tunneld in the panel of the desktop.
//!
//! One loop ([`app`]) follows the daemon through its local API and keeps a [`view::View`] of it. What is shown is a
//! pure function of the view: [`icon`], [`tooltip`], [`menu`] and, over time, [`notify::plan`]. Only [`tray`] knows
//! how an item gets into a panel, and only [`desktop`] and [`notify::bus`] what else a desktop has.
//!
//! Exits with 0 where there is nothing to do: no session bus, no panel for icons, another tray in this session.

mod action;
mod app;
mod cli;
mod desktop;
mod icon;
mod menu;
mod notify;
mod refresh;
mod text;
mod tooltip;
mod tray;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::cli::Cli;
use crate::desktop::{colours, session};

/// Longest wait for the session bus.
const BUS: Duration = Duration::from_secs(5);
/// How long a panel may come after its icons at a login before a word is said about it.
const PANEL: Duration = Duration::from_secs(5);
/// How long the end waits for helpers that still run.
const BLOCKING: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli);
    let outcome = run(&cli);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The journal takes standard error, and stamps it.
fn start_log(cli: &Cli) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(cli.log_level.filter()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if journal { log.without_time().init() } else { log.init() }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("preparing to run")?;
    let outcome = runtime.block_on(show(cli));
    runtime.shutdown_timeout(BLOCKING);
    outcome
}

async fn show(cli: &Cli) -> anyhow::Result<()> {
    let connecting = tokio::time::timeout(BUS, zbus::Connection::session()).await;
    let connection = match connecting {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            warn!(%error, "there is no session bus, so there is no panel; start tunnel-tray in a desktop session");
            return Ok(());
        }
        Err(_) => {
            warn!("the session bus does not answer; start tunnel-tray again when it does");
            return Ok(());
        }
    };
    if !session::claim(&connection).await.context("asking for a name on the session bus")? {
        info!("tunnel-tray is already running in this session");
        return Ok(());
    }
    if !finds_panel(&connection, Duration::from_secs(cli.panel_wait.into())).await? {
        info!("no panel came, so there is nothing to show");
        return Ok(());
    }
    let panel = match cli.panel.said() {
        Some(panel) => panel,
        None => colours::panel(&connection, &std::env::var("XDG_CURRENT_DESKTOP").unwrap_or_default()).await,
    };
    App::start(cli.url.clone(), panel, connection).await?.run().await
}

/// Waits for a panel, and soon says what is missing. False: none came.
async fn finds_panel(connection: &zbus::Connection, limit: Duration) -> anyhow::Result<bool> {
    let soon = PANEL.min(limit);
    if session::has_panel(connection, soon).await.context("looking for a panel")? {
        return Ok(true);
    }
    let left = limit - soon;
    warn!(
        "no panel in this session shows icons (nobody owns org.kde.StatusNotifierWatcher); it may still come within \
         {} s. On GNOME install the extension AppIndicator, \
         https://extensions.gnome.org/extension/615/appindicator-support/, and start tunnel-tray again. The tunnel \
         needs no icon: tunnelctl status",
        left.as_secs()
    );
    session::has_panel(connection, left).await.context("looking for a panel")
}
