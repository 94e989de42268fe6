//! Measures the tunnel and the gateway beside their peers, on one machine, in one run.
//!
//! Every way from a caller to the same scripted backend is brought up first; then each column is measured on
//! each of them in turn, round after round, so that what the machine does in the meantime touches all alike.
//! `cargo xtask bench` builds what is measured and installs what it is compared with; this program runs it.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "tables are its answer, progress its talk")]

mod backend;
mod clock;
mod engine;
mod http1;
mod long_path;
mod machine;
mod measure;
mod open_loop;
mod process;
mod proxy;
mod report;
mod status_command;
mod targets;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::machine::Machine;
use crate::measure::{Lengths, Measure};
use crate::process::Role;
use crate::report::Table;
use crate::status_command::StatusCommand;
use crate::targets::{Peer, Scene, Target, Workshop};

/// Measure the tunnel and the gateway beside their peers
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Command>,
    /// Measure only these scenes
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scene>,
    /// Measure only these targets; what they are held against is always among them
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Measure only what fills these columns; their keys are those of `last.json`, such as 64_per_s
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Rounds over all targets
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Short measures: to see whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Folder with our binaries [default: where this program is]
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Folder with the peers that `cargo xtask bench` installed
    #[arg(long, default_value = ".cache/bench")]
    installed: PathBuf,
    /// Folder for the results (`last.json`, `last.md`) and the logs of this run
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One of the processes of a measurement; started by the bench itself
    #[command(hide = true, subcommand)]
    Role(RoleCommand),
}

#[derive(Debug, Subcommand)]
enum RoleCommand {
    /// The scripted model server
    Backend,
    /// A plain hyper proxy
    Proxy { target: SocketAddr },
    /// A long path
    Path {
        target: SocketAddr,
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Another program, which ends when our standard input does
    Exec {
        #[arg(long)]
        uid: Option<u32>,
        #[arg(long)]
        log: PathBuf,
        program: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let mut cli = Cli::parse();
    match cli.role.take() {
        Some(Command::Role(role)) => run_role(role),
        None => {
            raise_file_limit()?;
            run(&cli).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// A thousand streams through a proxy of connections are a few thousand files; the children inherit it.
fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raising the limit of open files")
}

fn run_role(role: RoleCommand) -> anyhow::Result<ExitCode> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let announce = |addr: SocketAddr| println!("{addr}");
    match role {
        RoleCommand::Exec { uid, log, program, arguments } => {
            return process::exec(&program, &arguments, uid, &log);
        }
        RoleCommand::Path { target, listen } => {
            let listener = long_path::bind(listen).with_context(|| format!("listening on {listen}"))?;
            announce(long_path::local_addr(&listener)?);
            let path = long_path::Path { one_way: Duration::from_millis(25), bytes_per_s: 12_500_000 };
            std::thread::spawn(move || long_path::serve(&listener, target, path));
            process::wait_for_parent();
        }
        RoleCommand::Backend => {
            on_one_thread(async move {
                let listener = backend::bind(loopback)?;
                announce(listener.local_addr()?);
                backend::serve(listener).await
            })?;
        }
        RoleCommand::Proxy { target } => {
            on_one_thread(async move {
                let listener = backend::bind(loopback)?;
                announce(listener.local_addr()?);
                proxy::serve(listener, target).await
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a server on a thread of its own until the parent ends.
fn on_one_thread(server: impl Future<Output = std::io::Result<()>> + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::spawn(move || runtime.block_on(server));
    std::thread::spawn(move || {
        if let Ok(Err(error)) = thread.join() {
            eprintln!("bench: a server ended: {error}");
            std::process::exit(1);
        }
    });
    process::wait_for_parent();
    Ok(())
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    ensure!(cli.rounds > 0, "at least one round is needed");
    let lengths = if cli.quick { Lengths::QUICK } else { Lengths::USUAL };
    let mut scenes = if cli.only.is_empty() {
        vec![Scene::Tunnel, Scene::Long, Scene::Gateway, Scene::GatewayLatency, Scene::Relay]
    } else {
        cli.only.clone()
    };
    let mut keys: Vec<&str> = scenes
        .iter()
        .flat_map(|scene| Measure::of(*scene))
        .flat_map(|measure| measure.columns())
        .map(|column| column.key)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    if let Some(unknown) = cli.columns.iter().find(|key| !keys.contains(&key.as_str())) {
        bail!("no column is called {unknown}; there are {}", keys.join(", "));
    }
    scenes.retain(|scene| !wanted_measures(cli, *scene).is_empty());
    fs::create_dir_all(&cli.out).with_context(|| format!("creating {}", cli.out.display()))?;
    let out = fs::canonicalize(&cli.out)?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(&out)?;
    let own = std::env::current_exe()?;
    let binaries = match &cli.binaries {
        Some(folder) => {
            fs::canonicalize(folder).with_context(|| format!("no folder {}", folder.display()))?
        }
        None => own.parent().unwrap_or(Path::new(".")).to_path_buf(),
    };
    let peers = std::path::absolute(&cli.installed)?;

    let load = load_average();
    if load > 0.5 {
        eprintln!("bench: other programs keep this machine busy (load {load:.1}); ratios will be off");
    }
    let (_backend, addr) = Role::serve(&["backend".to_owned()])?;
    let workshop = Workshop { backend: addr, binaries, peers, scratch: scratch.path().to_path_buf() };
    let (mut markdown, mut tables) = (String::new(), Vec::new());
    for scene in scenes {
        let table = run_scene(cli, lengths, scene, &workshop);
        let table = match table {
            Ok(table) => table,
            Err(error) => {
                // The logs say why; keep them.
                eprintln!("bench: logs of this run are kept in {}", scratch.keep().display());
                return Err(error);
            }
        };
        println!("{}", table.markdown());
        markdown.push_str(&table.markdown());
        tables.push(table.json());
    }
    let status_command = if cli.columns.is_empty() && cli.peers.is_empty() {
        let measured = StatusCommand::measure(&workshop, if cli.quick { 20 } else { 200 })?;
        println!("{}", measured.markdown());
        markdown.push_str(&measured.markdown());
        measured.json()
    } else {
        // Somebody looks at something else.
        serde_json::Value::Null
    };
    let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let result = json!({
        "unix_time_s": when,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "load_before": load,
        "rounds": cli.rounds,
        "quick": cli.quick,
        "tables": tables,
        "status_command": status_command,
    });
    fs::write(out.join("last.json"), serde_json::to_string_pretty(&result)?)?;
    fs::write(out.join("last.md"), markdown)?;
    eprintln!("bench: kept in {}", out.join("last.json").display());
    Ok(())
}

/// Returns how many programs wanted to run in the last minute; 0 where the system does not say.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Returns what is to be measured in a scene; empty where none of the wanted columns is there.
fn wanted_measures(cli: &Cli, scene: Scene) -> Vec<Measure> {
    let wanted = |key: &str| cli.columns.is_empty() || cli.columns.iter().any(|column| column == key);
    let mut measures = Measure::of(scene);
    measures.retain(|measure| measure.columns().iter().any(|column| wanted(column.key)));
    measures
}

fn run_scene(cli: &Cli, lengths: Lengths, scene: Scene, workshop: &Workshop) -> anyhow::Result<Table> {
    let wanted = |peer: &Peer| {
        peer.takes_part(scene)
            && (cli.peers.is_empty() || *peer == scene.reference() || cli.peers.contains(peer))
    };
    let (mut targets, mut missing) = (Vec::new(), Vec::new());
    for peer in Peer::ALL.into_iter().filter(wanted) {
        let begin = Instant::now();
        match workshop.start(peer, scene, &targets) {
            Ok(target) => {
                eprintln!("bench: {peer:?} is up for {scene:?} in {} ms", begin.elapsed().as_millis());
                targets.push(target);
            }
            Err(error) => {
                eprintln!("bench: {peer:?} is left out of {scene:?}: {error:#}");
                missing.push(format!("{} is left out: {error:#}", peer.title(scene)));
            }
        }
    }
    ensure!(
        targets.iter().any(|target| target.peer != scene.reference()),
        "nothing to measure: {}",
        missing.join("; ")
    );
    targets.sort_by_key(|target| target.peer != scene.reference());
    let measures = wanted_measures(cli, scene);
    let columns = measures.iter().flat_map(|measure| measure.columns()).collect();
    let mut table = Table::new(scene, targets.iter().map(|target| target.peer).collect(), columns);
    for text in missing {
        table.fail(text);
    }
    let rounds = cli.rounds * scene.rounds_in_one();
    for round in 0..rounds {
        for measure in &measures {
            // Each round begins with another target: whoever comes first finds the machine rested.
            for n in 0..targets.len() {
                let place = (n + round as usize) % targets.len();
                run_one(*measure, &mut targets[place], lengths, &mut table, round, rounds);
            }
        }
    }
    Ok(table)
}

fn run_one(
    measure: Measure,
    target: &mut Target,
    lengths: Lengths,
    table: &mut Table,
    round: u32,
    rounds: u32,
) {
    let columns = measure.columns();
    let before = Machine::now();
    let values = target.check().and_then(|()| measure.run(target, lengths));
    let machine = Machine::now().since(before);
    match values {
        Ok(values) => {
            for (column, value) in columns.iter().zip(values) {
                eprintln!(
                    "bench: {}/{rounds} {:8} {}: {value:.1} ({machine})",
                    round + 1,
                    format!("{:?}", target.peer),
                    column.title
                );
                table.add(target.peer, *column, Some(value));
            }
        }
        Err(error) => {
            for column in &columns {
                eprintln!(
                    "bench: {}/{rounds} {:8} {}: {error:#}",
                    round + 1,
                    format!("{:?}", target.peer),
                    column.title
                );
                table.add(target.peer, *column, None);
                table.fail(format!("{:?}, {}: {error:#}", target.peer, column.title));
            }
        }
    }
    // What a broken-off download left on its way must not burden the next.
    std::thread::sleep(Duration::from_millis(60));
}
