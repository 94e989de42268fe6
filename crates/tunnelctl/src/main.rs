//! The command line of tunneld.

mod cli;
mod commands;
mod output;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tunnel_client::exit;

use crate::cli::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let cli = Cli::parse();
    let output = Output::new(&cli);
    match run(&cli, &output) {
        Ok(code) => code.into(),
        Err(error) => failed(&error, &output).into(),
    }
}

fn run(cli: &Cli, output: &Output) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(cli, output))
}

/// Tells what went wrong and returns the exit code for it.
fn failed(error: &anyhow::Error, output: &Output) -> u8 {
    if let Some(error) = error.downcast_ref::<tunnel_client::Error>() {
        // Its text says all that helps; the sources below it are for logs.
        output.error(&error.to_string());
        return error.exit_code();
    }
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // The reader has seen enough, as in `tunnelctl status | head -1`.
        return exit::OK;
    }
    output.error(&format!("{error:#}"));
    exit::FAILED
}
