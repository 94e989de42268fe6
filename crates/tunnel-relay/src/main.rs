//! Args → telemetry → run → exit code. All else is in the library.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::Builder;
use tunnel_relay::cli::{self, Admin, Cli, Command, ConfigCommand, Serve, TokenCommand};
use tunnel_runtime::{LevelFilter, Lifecycle, systemd, telemetry};

/// What the relay needs on top of the grace time to end by itself.
const MARGIN: Duration = Duration::from_secs(2);

/// Sockets that a single thread serves before the tunnels get their turn to send what they brought: a desktop then
/// works on the first requests of a crowd while the rest is read here. With tokio's 1,024 the two take turns, and a
/// third of the processors' time is idle (`cargo xtask bench`, 64 and 256 callers, on two cores).
const IO_EVENTS: usize = 8;

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(serve) => run(serve),
        Command::Token { command: TokenCommand::Create(create) } => create
            .run()
            .and_then(|token| writeln!(std::io::stdout(), "{token}").context("writing the token"))
            .map(|()| ExitCode::SUCCESS),
        Command::Audit { command } => command.run(),
        Command::Admin(admin) => ask(&admin),
        Command::Config { command: ConfigCommand::Check(check) } => {
            check.run(&mut std::io::stdout(), &mut std::io::stderr())
        }
    };
    ended.unwrap_or_else(|error| {
        // Nobody is left to tell when this fails too.
        let _gone = writeln!(std::io::stderr(), "tunnel-relay: {error:#}");
        cli::exit_code(&error)
    })
}

fn ask(admin: &Admin) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(admin.run()).map(|()| ExitCode::SUCCESS)
}

fn run(serve: Serve) -> anyhow::Result<ExitCode> {
    telemetry::init("tunnel-relay", LevelFilter::INFO, std::env::var("TUNNEL_RELAY_LOG").ok().as_deref())
        .context("starting the log")?;
    // Waking another thread costs more than it gives on a small machine: half of the cores do. A single one needs
    // no scheduler that could hand work over.
    let threads = std::thread::available_parallelism().map_or(1, usize::from) / 2;
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads <= 1 {
        builder.max_io_events_per_tick(IO_EVENTS);
    }
    builder.worker_threads(threads.max(1)).enable_all().build().context("starting the runtime")?.block_on(
        async {
            let lifecycle = Lifecycle::new(Duration::from_secs(serve.grace) + MARGIN)?;
            let mut relay = serve.start().await?;
            relay.reload_on(lifecycle.hangups());
            let (soft, hard) = (lifecycle.soft(), lifecycle.hard());
            systemd::ready_with_status(&format!(
                "callers at {}, operators at {}",
                relay.listen_addr(),
                relay.admin_addr()
            ));
            let (draining, asked) = (relay.draining(), soft.clone());
            lifecycle.tracker().spawn(async move {
                draining.cancelled().await;
                // By an operator, too, this is an end that was asked for.
                asked.cancel();
            });
            lifecycle.spawn_critical("relay", relay.run(soft, hard));
            Ok(lifecycle.run().await.into())
        },
    )
}
