//! The command line of tunneld.

mod cli;
mod commands;
mod failure;
mod output;

#[cfg(test)]
mod reference;
mod refusal;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tunnel_client::exit;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => wrong_usage(&error),
    };
    let output = Output::new(&cli);
    match run(&cli, &output) {
        Ok(code) => {
            if code != exit::OK {
                output.failed_without_answer(code);
            }
            code.into()
        }
        Err(error) => failed(&error, &output).into(),
    }
}

fn run(cli: &Cli, output: &Output) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(commands::run(cli, output));
    // What still waits for a disk that does not answer is left to it.
    runtime.shutdown_background();
    code
}

/// Tells what went wrong and returns the exit code for it.
fn failed(error: &anyhow::Error, output: &Output) -> u8 {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // The reader has seen enough, as in `tunnelctl status | head -1`.
        return exit::OK;
    }
    let failure = Failure::of(error);
    output.error(&failure.message);
    output.failure(&failure);
    failure.exit
}

/// Ends the program where the command line was wrong, with exit code 2, or asked for help.
fn wrong_usage(error: &clap::Error) -> ! {
    // What was typed was not understood, so that it is asked for is known by the word alone.
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        output::write_failure(&Failure::new(exit::USAGE, message));
    }
    error.exit()
}
