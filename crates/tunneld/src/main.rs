//! Arguments, configuration, log, run, exit code; all else is in the library.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tunnel_runtime::Lifecycle;
use tunnel_runtime::systemd::{self, InheritedSockets};
use tunnel_runtime::telemetry::Logging;
use tunneld::{Cli, DRAIN, Daemon, Deps, LoadError, Loaded, Options};

/// Sockets that are served before the tunnel gets its turn to send what they brought: the relay then works on the
/// first answers of a crowd while the rest is read here. With tokio's 1,024 the two take turns, and a third of the
/// processors' time is idle (`cargo xtask bench`, 64 and 256 callers).
const IO_EVENTS: usize = 8;

/// How long the end of the process waits for file and name look-ups that are still under way. They run on threads
/// that cannot be cancelled, and one on a network file system or a dead name server may take minutes; nobody
/// wants its result any more, so the process ends without it.
const BLOCKING_LIMIT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    // First of all: they are known by number, and files that are opened take the next free one.
    let sockets = InheritedSockets::take();
    let options = Cli::parse().into_options(std::env::vars_os().collect());
    let loaded = match Loaded::load(&options) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, LoadError::EXIT_CODE),
    };
    let overrides = std::env::var("TUNNELD_LOG").ok();
    let last_resort = options.last_resort_log();
    let logging = Logging {
        identifier: "tunneld",
        level: loaded.log_level(),
        overrides: overrides.as_deref(),
        file: options.log_file.as_deref(),
        last_resort: last_resort.as_deref(),
    };
    let log = match logging.start() {
        Ok(log) => log,
        Err(error) => return fail(&error, 1),
    };
    // One thread: a request that changes threads pays more for the wake-up than it gains, and what is heavy
    // runs in the model servers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(8)
        .max_io_events_per_tick(IO_EVENTS)
        .enable_all()
        .thread_name("tunneld")
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(
                options,
                loaded,
                Deps { log_level: Some(log.level), log_place: Some(log.place), sockets },
            ));
            // Dropped, it would wait for them without a limit.
            runtime.shutdown_timeout(BLOCKING_LIMIT);
            code
        }
        Err(error) => fail(&error, 1),
    }
}

async fn run(options: Options, loaded: Loaded, deps: Deps) -> ExitCode {
    let lifecycle = match Lifecycle::new(DRAIN) {
        Ok(lifecycle) => lifecycle,
        Err(error) => return fail(&error, 1),
    };
    match Daemon::start(options, loaded, &lifecycle, deps).await {
        Ok(daemon) => {
            // The status line is kept by a task of the daemon.
            systemd::ready();
            let outcome = lifecycle.run_while(daemon.heartbeat()).await;
            // Also takes the control socket's file away, now that nobody listens on it.
            daemon.finish().await;
            outcome.into()
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// Says why, for people, and returns the exit code.
#[expect(clippy::print_stderr, reason = "there may be no log yet, and who started it wants to read it here")]
fn fail(error: &(impl Display + ?Sized), code: u8) -> ExitCode {
    eprintln!("tunneld: {error}");
    // `systemctl status` shows it beside the exit code.
    systemd::status(&error.to_string());
    ExitCode::from(code)
}
