//! Whether this user may make namespaces: being root says little in a container.

use std::process::{Command, Stdio};

/// Tries `unshare` with these options and, inside, a line of shell. Says why that is forbidden here, if so.
pub fn forbidden(options: &[&str], line: &str) -> Option<String> {
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-ec", line]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned);
            Some(format!("no namespaces for this user: {why}"))
        }
        Err(error) => Some(format!("unshare cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_inside_is_said() {
        let why = forbidden(&[], "echo no room >&2; false").unwrap_or_default();
        assert!(why.ends_with("no room"), "{why}");
        assert_eq!(forbidden(&[], "true"), None);
    }
}
