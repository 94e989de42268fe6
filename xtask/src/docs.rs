//! The documents that are made from the code: each is compared with the code by a test, which also writes it.

use std::process::ExitCode;

use crate::{run, talk, workspace};

/// Package, and what the names of the tests that hold documents contain.
const WRITERS: [(&str, &str); 2] =
    [("tunnel-api", "in_the_repository_is_current"), ("tunneld", "in_the_repository_is_current")];

/// Writes all of them anew.
pub(crate) fn write() -> anyhow::Result<ExitCode> {
    for (package, tests) in WRITERS {
        talk::step(&format!("documents of {package}"));
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--quiet", "--package", package, "--all-features", "--lib", "--tests", tests]);
        // With the variable set a test writes its file, and then compares.
        run::shown(cargo.env("UPDATE_DOCS", "1"))?;
    }
    Ok(ExitCode::SUCCESS)
}
