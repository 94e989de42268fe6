//! Arguments, configuration, log, run, exit code; all else is in the library.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use tunnel_runtime::{Lifecycle, systemd, telemetry};
use tunneld::{Cli, DRAIN, Daemon, LoadError, Loaded, Options};

/// Sockets that are served before the tunnel gets its turn to send what they brought: the relay then works on the
/// first answers of a crowd while the rest is read here. With tokio's 1,024 the two take turns, and a third of the
/// processors' time is idle (`cargo xtask bench`, 64 and 256 callers).
const IO_EVENTS: usize = 8;

fn main() -> ExitCode {
    let options = Cli::parse().into_options(std::env::vars_os().collect());
    let loaded = match Loaded::load(&options) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, LoadError::EXIT_CODE),
    };
    let overrides = std::env::var("TUNNELD_LOG").ok();
    let log_level = match telemetry::init("tunneld", loaded.log_level(), overrides.as_deref()) {
        Ok(log_level) => log_level,
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
        Ok(runtime) => runtime.block_on(run(options, loaded, log_level)),
        Err(error) => fail(&error, 1),
    }
}

async fn run(options: Options, loaded: Loaded, log_level: telemetry::LogLevel) -> ExitCode {
    let lifecycle = match Lifecycle::new(DRAIN) {
        Ok(lifecycle) => lifecycle,
        Err(error) => return fail(&error, 1),
    };
    match Daemon::start(options, loaded, &lifecycle, Some(log_level)) {
        Ok(daemon) => {
            systemd::ready("listening");
            let outcome = lifecycle.run().await;
            // Takes the control socket's file away, now that nobody listens on it.
            drop(daemon);
            outcome.into()
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// Says why, for people, and returns the exit code.
#[expect(clippy::print_stderr, reason = "there may be no log yet, and who started it wants to read it here")]
fn fail(error: &(impl Display + ?Sized), code: u8) -> ExitCode {
    eprintln!("tunneld: {error}");
    ExitCode::from(code)
}
