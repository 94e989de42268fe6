//! The documents that are made from the code: each is compared with the code by a test, which also writes it.

use std::process::ExitCode;

use crate::{run, talk, workspace};

/// Package, and which of its tests hold documents.
const WRITERS: [(&str, &[&str]); 3] = [
    ("tunnel-api", &["--test", "config_reference"]),
    ("tunneld", &["--lib", "in_the_repository_is_current"]),
    ("tunnelctl", &["--bin", "tunnelctl", "reference::"]),
];

/// Writes all of them anew.
pub(crate) fn write() -> anyhow::Result<ExitCode> {
    for (package, tests) in WRITERS {
        talk::step(&format!("documents of {package}"));
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--quiet", "--package", package]).args(tests);
        // With the variable set a test writes its file, and then compares.
        run::shown(cargo.env("UPDATE_DOCS", "1"))?;
    }
    Ok(ExitCode::SUCCESS)
}
