//! The checks as text for people.

use tunnel_api::{Check, Verdict};

use crate::output::Look;
use crate::output::clean;

/// A heading and the checks below it: by their whole id, or by what stands before the first `_` or `:`.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Daemon", &["daemon", "diagnosis", "unit", "lingering", "config", "ports"]),
    ("Model servers", &["connection", "connections"]),
    ("Relay", &["relay", "token", "clock"]),
    ("This machine", &["keyring", "disk", "tray_host"]),
];
/// Heading of checks that a newer daemon has.
const OTHERS: &str = "Others";

/// Returns all checks in groups, and at the end what is to be done about those that failed.
pub(super) fn text(checks: &[Check], look: &Look) -> String {
    let mut text = String::new();
    let width = checks.iter().map(|check| clean(&check.title).chars().count()).max().unwrap_or_default();
    let mut paragraphs: Vec<String> = Vec::new();
    for heading in GROUPS.iter().map(|(heading, _)| *heading).chain([OTHERS]) {
        let lines: String = checks
            .iter()
            .filter(|check| group(check) == heading)
            .map(|check| entry(check, width, look))
            .collect();
        if !lines.is_empty() {
            paragraphs.push(format!("{}\n{lines}", look.bold(heading)));
        }
    }
    paragraphs.push(conclusion(checks, look));
    text.push_str(&paragraphs.join("\n"));
    text
}

fn group(check: &Check) -> &'static str {
    let kind = check.id.split(['_', ':']).next().unwrap_or_default();
    let holds = |ids: &[&str]| ids.iter().any(|id| *id == check.id || *id == kind);
    GROUPS.iter().find(|(_, ids)| holds(ids)).map_or(OTHERS, |(heading, _)| heading)
}

fn entry(check: &Check, width: usize, look: &Look) -> String {
    let title = clean(&check.title);
    let took = match check.duration_ms {
        Some(ms) if ms >= 1.0 => look.dim(&format!(" ({ms:.0} ms)")),
        _ => String::new(),
    };
    let mark = look.verdict(check.verdict);
    let mut lines = format!("  {mark}  {title:<width$}  {}{took}\n", clean(&check.detail));
    // The steps of failures stand together at the end as well.
    if !check.next_step.is_empty() {
        let below = " ".repeat(look.mark_width() + width + 6);
        lines.push_str(&format!("{below}{} {}\n", look.arrow(), clean(&check.next_step)));
    }
    lines
}

fn conclusion(checks: &[Check], look: &Look) -> String {
    let failed: Vec<&Check> = checks.iter().filter(|check| check.verdict == Verdict::Fail).collect();
    let warned = checks.iter().filter(|check| check.verdict == Verdict::Warn).count();
    let headline = match (failed.len(), warned) {
        (0, 0) => return "Nothing is wrong.\n".to_owned(),
        (0, 1) => return "Nothing fails; 1 thing is worth a look.\n".to_owned(),
        (0, n) => return format!("Nothing fails; {n} things are worth a look.\n"),
        (1, _) => "1 thing to do:".to_owned(),
        (n, _) => format!("{n} things to do:"),
    };
    let mut text = format!("{}\n", look.bold(&headline));
    for check in failed {
        text.push_str(&format!("  {}: {}\n", look.bad(&clean(&check.title)), clean(&check.detail)));
        if !check.next_step.is_empty() {
            text.push_str(&format!("    {} {}\n", look.arrow(), look.bold(&clean(&check.next_step))));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, title: &str, verdict: Verdict, next_step: &str) -> Check {
        Check {
            id: id.to_owned(),
            title: title.to_owned(),
            verdict,
            detail: format!("{title} it is"),
            next_step: next_step.to_owned(),
            duration_ms: None,
        }
    }

    #[test]
    fn failures_stand_at_the_end_once_more() {
        let mut slow = check("relay_dns", "relay: name", Verdict::Pass, "");
        slow.duration_ms = Some(12.3);
        let checks = [
            slow,
            check("daemon", "daemon", Verdict::Fail, "start it"),
            check("unit", "unit", Verdict::Warn, "install it"),
            check("connection:ollama", "connection ollama", Verdict::Skip, ""),
            check("tray_host", "tray host", Verdict::Pass, ""),
            check("weather", "weather", Verdict::Unknown, ""),
        ];
        assert_eq!(
            text(&checks, &Look::plain()),
            "\
Daemon
  FAIL  daemon             daemon it is
                           -> start it
  WARN  unit               unit it is
                           -> install it

Model servers
  SKIP  connection ollama  connection ollama it is

Relay
  PASS  relay: name        relay: name it is (12 ms)

This machine
  PASS  tray host          tray host it is

Others
  ????  weather            weather it is

1 thing to do:
  daemon: daemon it is
    -> start it
"
        );
    }

    #[test]
    fn symbols_are_as_wide_as_each_other() {
        let verdicts = [Verdict::Pass, Verdict::Warn, Verdict::Fail, Verdict::Skip, Verdict::Unknown];
        for look in [Look::plain(), Look::symbols()] {
            for verdict in verdicts {
                assert_eq!(look.verdict(verdict).chars().count(), look.mark_width());
            }
        }
    }

    #[test]
    fn what_is_well_is_said_in_a_line() {
        let pass = check("daemon", "daemon", Verdict::Pass, "");
        let warn = check("unit", "unit", Verdict::Warn, "x");
        assert!(text(std::slice::from_ref(&pass), &Look::plain()).ends_with("\nNothing is wrong.\n"));
        assert!(text(&[pass, warn], &Look::plain()).ends_with("\nNothing fails; 1 thing is worth a look.\n"));
    }

    #[test]
    fn texts_of_others_steer_no_terminal() {
        let mut odd = check("relay", "relay\x1b[2J", Verdict::Fail, "a\x1b[1mb");
        odd.detail = "x\ny".to_owned();
        assert!(!text(&[odd], &Look::plain()).contains('\x1b'));
    }
}
