//! Names and secrets that this machine is known to have.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::redact::{Kind, Redactor};

/// Longest token file that is looked at, in bytes; the daemon takes no longer token.
const MAX_TOKEN_BYTES: u64 = 32 * 1024;
/// Ends of names of variables whose values are secrets.
const SECRET_VARIABLES: [&str; 7] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL", "CREDENTIALS"];

/// Tells the redactor who and where the user is, and the secrets of the environment.
pub(super) fn teach(redactor: &mut Redactor) {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let home = variable("HOME");
    redactor.home(&home);
    let folder = Path::new(&home).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    for user in [variable("USER"), variable("LOGNAME"), folder] {
        redactor.name(Kind::User, &user);
    }
    for file in ["/proc/sys/kernel/hostname", "/etc/hostname"] {
        let host = fs::read_to_string(file).unwrap_or_default();
        redactor.name(Kind::Host, host.trim());
        redactor.name(Kind::Host, host.trim().split('.').next().unwrap_or_default());
    }
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let name = name.to_ascii_uppercase();
        if SECRET_VARIABLES.iter().any(|end| name.ends_with(end)) {
            redactor.secret(&value);
        }
    }
    let mut token = String::new();
    if let Ok(file) = fs::File::open(variable("TUNNELD_TOKEN_FILE"))
        && file.take(MAX_TOKEN_BYTES).read_to_string(&mut token).is_ok()
    {
        redactor.secret(token.trim());
    }
}
