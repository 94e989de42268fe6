//! `tunnel-relay audit …`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use crate::audit::verify::{Report, logs, verify};
use crate::audit::{self, FILE_NAME};

pub use crate::audit::Kind;

/// `tunnel-relay audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Walk the chain of the audit log and say where it is broken; exit code 1 if it is
    Verify(Verify),
    /// Print the hash under which the lines name somebody
    Hash(Hash),
}

/// `tunnel-relay audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Directory in which the relay keeps audit.jsonl
    #[arg(long, value_name = "DIR", default_value = super::DATA_DIR, conflicts_with = "files")]
    pub data_dir: PathBuf,
    /// Logs that lie elsewhere; what was rotated away beside each is verified with it
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print one JSON array instead of text
    #[arg(long)]
    pub json: bool,
}

/// `tunnel-relay audit hash`.
#[derive(Debug, Args)]
pub struct Hash {
    /// Directory in which the relay keeps audit.key
    #[arg(long, value_name = "DIR", default_value = super::DATA_DIR)]
    pub data_dir: PathBuf,
    /// What the name is of
    pub kind: Kind,
    /// The name
    pub name: String,
}

impl AuditCommand {
    /// Carries it out.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(order) => order.run(),
            Self::Hash(Hash { data_dir, kind, name }) => {
                writeln!(std::io::stdout(), "{}", audit::hash_of(data_dir, *kind, name)?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Verify {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let logs = if self.files.is_empty() { of_directory(&self.data_dir)? } else { self.files.clone() };
        ensure!(
            !logs.is_empty(),
            "there is no audit log in {}; name the relay's data directory with --data-dir, or the file itself",
            self.data_dir.display()
        );
        let read = |log: &PathBuf| verify(log).with_context(|| format!("reading {}", log.display()));
        let reports = logs.iter().map(read).collect::<anyhow::Result<Vec<Report>>>()?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&reports)?)?;
        } else {
            for report in &reports {
                write!(out, "{}", text(report))?;
            }
        }
        Ok(if reports.iter().all(Report::is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn of_directory(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    logs(&data_dir.join(FILE_NAME)).with_context(|| format!("looking into {}", data_dir.display()))
}

fn text(report: &Report) -> String {
    let older = match report.files.saturating_sub(1) {
        0 => String::new(),
        1 => " and the file before it".to_owned(),
        n => format!(" and the {n} files before it"),
    };
    let state = if report.is_sound() { "unbroken" } else { "BROKEN" };
    let mut text = format!("{}{older}: {} lines, {state}\n", report.log.display(), report.lines);
    if let (Some(first), Some(last)) = (&report.first_at, &report.last_at) {
        text += &format!(
            "  from {first} to {last}\n  last: number {}, hash {}\n",
            report.last_seq, report.last_hash
        );
    }
    for note in &report.notes {
        text += &format!("  note: {note}\n");
    }
    for fault in &report.faults {
        text += &format!("  fault: {}:{}: {}\n", fault.file.display(), fault.line, fault.what);
    }
    let unlisted = report.n_faults - report.faults.len();
    if unlisted > 0 {
        text += &format!("  and {unlisted} more faults\n");
    }
    text
}
