//! The daemon's user service, and whether it runs from boot on.

use std::io;

use tunnel_api::Check;

use super::CHECK_LIMIT;
use super::finding::Finding;
use crate::commands::program;
use crate::commands::service::{Properties, SERVICE, WANTED, lingers};

/// Looks at the unit, and at what follows from it.
pub(super) async fn checks() -> [Check; 2] {
    let shown =
        program::run("systemctl", &["--user", "show", SERVICE, "--timestamp=unix", WANTED], CHECK_LIMIT);
    let (unit, lingering) = match shown.await {
        Ok(output) if output.status.success() => {
            let properties = Properties::parse(&String::from_utf8_lossy(&output.stdout));
            let user = std::env::var("LOGNAME").or_else(|_| std::env::var("USER")).ok();
            let desktop =
                std::env::var("XDG_SESSION_TYPE").is_ok_and(|kind| kind == "x11" || kind == "wayland");
            (unit(&properties), lingering(&properties, lingers(user.as_deref()), desktop))
        }
        Ok(output) => {
            let why = format!("systemd's user manager does not answer ({})", program::complaint(&output));
            (Finding::skip(why), Finding::skip("there is no user manager to keep"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "there is no systemd here, so no user services";
            (Finding::skip(why), Finding::skip(why))
        }
        Err(error) => (Finding::skip(error.to_string()), Finding::skip("nobody knows how the unit stands")),
    };
    [unit.check("unit", "user service"), lingering.check("lingering", "start at boot")]
}

fn unit(unit: &Properties) -> Finding {
    if !unit.exists() {
        return Finding::warn(
            "is not installed: tunneld ends with what started it",
            "have it started for you: tunnelctl service install",
        );
    }
    match unit.get("ActiveState") {
        "failed" => {
            let (result, code) = (unit.get("Result"), unit.get("ExecMainStatus"));
            Finding::fail(
                format!("has failed ({result}, exit code {code})"),
                "see why: tunnelctl logs; when it is mended: tunnelctl start",
            )
        }
        "active" | "reloading" | "activating" if unit.is_enabled() => match unit.get("NRestarts") {
            "" | "0" => Finding::pass("runs, and starts with your session"),
            restarts => {
                Finding::pass(format!("runs, was restarted {restarts} times, starts with your session"))
            }
        },
        "active" | "reloading" | "activating" => Finding::warn(
            "runs, but does not start by itself",
            "to have it at each login: systemctl --user enable tunneld",
        ),
        _ => Finding::warn("is installed and does not run", "start it: tunnelctl start"),
    }
}

/// `desktop` says that somebody is logged in where windows are.
fn lingering(unit: &Properties, lingers: Option<bool>, desktop: bool) -> Finding {
    match lingers {
        _ if !unit.exists() => Finding::skip("there is no service to start"),
        Some(true) => Finding::pass("lingering is on: the service runs from boot on"),
        Some(false) if desktop => Finding::skip("lingering is off: the service runs while you are logged in"),
        Some(false) => Finding::warn(
            "lingering is off: the service ends when you log out",
            "to have it from boot on: loginctl enable-linger",
        ),
        None => Finding::skip("nobody knows: neither $LOGNAME nor $USER is set"),
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    fn properties(text: &str) -> Properties {
        Properties::parse(&text.replace(' ', "\n"))
    }

    #[test]
    fn only_a_unit_that_failed_fails() {
        let verdict = |text: &str| unit(&properties(text)).verdict;
        assert_eq!(verdict("LoadState=not-found"), Verdict::Warn);
        assert_eq!(verdict("LoadState=loaded ActiveState=inactive"), Verdict::Warn);
        assert_eq!(verdict("LoadState=loaded ActiveState=active UnitFileState=disabled"), Verdict::Warn);
        assert_eq!(verdict("LoadState=loaded ActiveState=active UnitFileState=enabled"), Verdict::Pass);
        let failed =
            unit(&properties("LoadState=loaded ActiveState=failed Result=exit-code ExecMainStatus=7"));
        assert_eq!(failed.verdict, Verdict::Fail);
        assert_eq!(failed.detail, "has failed (exit-code, exit code 7)");
        assert!(failed.next_step.contains("tunnelctl logs"), "{failed:?}");
    }

    #[test]
    fn lingering_matters_where_nobody_sits_before_the_machine() {
        let there = properties("LoadState=loaded");
        assert_eq!(lingering(&there, Some(true), false).verdict, Verdict::Pass);
        assert_eq!(lingering(&there, Some(false), true).verdict, Verdict::Skip);
        assert_eq!(lingering(&there, Some(false), false).verdict, Verdict::Warn);
        assert_eq!(lingering(&properties("LoadState=not-found"), Some(false), false).verdict, Verdict::Skip);
    }
}
