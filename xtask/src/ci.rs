//! All checks, the same for people and machines.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context;

use crate::apt::{self, Need};
use crate::{run, talk, workspace};

/// How long each fuzz target runs, in seconds.
const FUZZ_SECONDS: u32 = 15;

/// Makes sure of rustfmt and clippy, which a minimal toolchain lacks.
pub(crate) fn require_components() -> anyhow::Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = || run::succeeds("cargo", &[command, "--version"]);
        if there() {
            continue;
        }
        talk::step(&format!("adding the toolchain's component {component}"));
        run::shown(Command::new("rustup").args(["component", "add", component])).with_context(|| {
            format!("{component} is missing; it comes with `rustup component add {component}`")
        })?;
    }
    Ok(())
}

/// Runs every check, also after one has failed, and says at the end which did.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let mut checks = Checks::default();
    let nextest = run::succeeds("cargo", &["nextest", "--version"]);
    checks.run("format", workspace::cargo().args(["fmt", "--all", "--check"]));
    checks.run(
        "clippy",
        workspace::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
    if nextest {
        // All packages are named in both runs of it: with others left out, dependencies would be built anew with
        // other features.
        checks.run(
            "unit, property and integration tests",
            workspace::cargo().args([
                "nextest",
                "run",
                "--profile",
                "ci",
                "--workspace",
                "-E",
                "not package(e2e)",
            ]),
        );
    } else {
        checks.run(
            "unit, property and integration tests",
            workspace::cargo().args([
                "test",
                "--lib",
                "--bins",
                "--tests",
                "--workspace",
                "--exclude",
                "e2e",
            ]),
        );
    }
    checks.run("doctests", workspace::cargo().args(["test", "--doc", "--workspace"]));
    checks.run(
        "documents",
        workspace::cargo()
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
    fuzz(&mut checks)?;
    let programs = programs(&mut checks, nextest);
    let figures = workspace::target().join("e2e-figures.txt");
    forget(&figures)?;
    let mut e2e = workspace::cargo();
    if nextest {
        e2e.args(["nextest", "run", "--profile", "ci", "--workspace", "-E", "package(e2e)"]);
    } else {
        e2e.args(["test", "--package", "e2e"]);
    }
    checks.run(
        "end to end, with the real binaries, a real model and the official clients",
        e2e.envs(programs).env("E2E_REQUIRE_REAL", "1").env("E2E_FIGURES", &figures),
    );
    if let Ok(text) = fs::read_to_string(&figures) {
        talk::plan("figures of this run (dev profile, small samples):", &text.lines().collect::<Vec<_>>());
    }
    Ok(checks.finish())
}

/// The programs that the end-to-end tests start.
const PROGRAMS: [&str; 4] = ["tunneld", "tunnel-relay", "tunnelctl", "tunnel-tray"];

/// Sees to the programs, and returns what tells the end-to-end tests where they are.
///
/// Each of them has integration tests, and for these cargo builds the program itself. To name the packages alone would
/// choose other features of what they depend on, and build sixty crates once more. Asking for the tests of all packages
/// makes cargo look whether anything has changed since, which takes a second.
fn programs(checks: &mut Checks, nextest: bool) -> Option<(&'static str, PathBuf)> {
    let folder = workspace::target().join("debug");
    if nextest {
        let mut build = workspace::cargo();
        build.args(["test", "--workspace", "--no-run", "--quiet", "--lib", "--bins", "--tests"]);
        checks.run("building the programs", &mut build);
        if PROGRAMS.iter().all(|program| folder.join(program).is_file()) {
            return Some(("E2E_BIN_DIR", folder));
        }
    }
    let mut build = workspace::cargo();
    build.args(["build", "--bins"]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    checks.run("building the programs by themselves", &mut build);
    None
}

/// Runs the end-to-end tests with their full counts, on release builds, one after another.
pub(crate) fn soak(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut checks = Checks::default();
    let figures = workspace::target().join("soak-figures.txt");
    forget(&figures)?;
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--release", "--package", "e2e", "--test", "e2e", "--"]).args(filter);
    cargo.args(["--test-threads=1", "--nocapture"]);
    cargo
        .env("SOAK", "1")
        .env("E2E_PROFILE", "release")
        .env("E2E_REQUIRE_REAL", "1")
        .env("E2E_FIGURES", &figures);
    checks.run("end to end, full counts", &mut cargo);
    if let Ok(text) = fs::read_to_string(&figures) {
        talk::plan("figures of this run:", &text.lines().collect::<Vec<_>>());
    }
    Ok(checks.finish())
}

fn forget(file: &PathBuf) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn fuzz_folder() -> PathBuf {
    workspace::root().join("crates/tunnel-transport/fuzz")
}

fn has_nightly() -> bool {
    run::succeeds("cargo", &["+nightly", "--version"])
}

/// Installs cargo-fuzz, where there is something to fuzz and a toolchain that can.
pub(crate) fn install_fuzzer() -> anyhow::Result<()> {
    let own = workspace::cache("tools");
    if !fuzz_folder().exists() || !has_nightly() || run::succeeds("cargo", &["fuzz", "--version"]) {
        return Ok(());
    }
    apt::require(&[Need { program: "c++", check: &["--version"], package: "g++" }])?;
    if own.join("bin/cargo-fuzz").exists() {
        return Ok(());
    }
    talk::step("installing cargo-fuzz below .cache/tools (a minute)");
    let mut cargo = workspace::cargo();
    cargo.args(["install", "--locked", "cargo-fuzz", "--root"]).arg(&own);
    cargo.env("CARGO_TARGET_DIR", own.join("build"));
    run::with_retries("cargo-fuzz", || run::logged("installing cargo-fuzz", &mut cargo))?;
    apt::remove(&own.join("build"))
}

fn fuzz(checks: &mut Checks) -> anyhow::Result<()> {
    let targets = fuzz_folder().join("fuzz_targets");
    if !targets.is_dir() {
        return Ok(());
    }
    if !has_nightly() {
        checks.skip("fuzzing", "needs a nightly toolchain: rustup toolchain install nightly");
        return Ok(());
    }
    let tools = workspace::cache("tools").join("bin");
    if !tools.join("cargo-fuzz").exists() && !run::succeeds("cargo", &["fuzz", "--version"]) {
        checks.skip("fuzzing", "needs cargo-fuzz: cargo xtask setup installs it");
        return Ok(());
    }
    let mut names: Vec<_> = fs::read_dir(&targets)?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)))?;
    for name in names {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(fuzz_folder().parent().context("the fuzz folder has a crate")?);
        // The variables of this very run name another toolchain.
        for key in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"] {
            cargo.env_remove(key);
        }
        cargo.env("PATH", &path).args(["+nightly", "fuzz", "run", &name, "--"]);
        cargo.args([format!("-max_total_time={FUZZ_SECONDS}"), "-verbosity=0".to_owned()]);
        checks.run(&format!("fuzzing {name} for {FUZZ_SECONDS} s"), &mut cargo);
    }
    Ok(())
}

/// What was checked so far.
#[derive(Default)]
struct Checks {
    lines: Vec<String>,
    failed: bool,
}

impl Checks {
    fn run(&mut self, name: &str, command: &mut Command) {
        talk::step(name);
        let begin = Instant::now();
        let result = match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let seconds = begin.elapsed().as_secs_f64();
        self.lines.push(match result {
            Ok(()) => format!("ok      {seconds:6.1} s  {name}"),
            Err(why) => {
                self.failed = true;
                format!("FAILED  {seconds:6.1} s  {name}: {why}")
            }
        });
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.lines.push(format!("skipped           {name}: {why}"));
    }

    fn finish(self) -> ExitCode {
        talk::plan("checks:", &self.lines.iter().map(String::as_str).collect::<Vec<_>>());
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
