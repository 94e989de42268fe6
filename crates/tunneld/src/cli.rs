//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::config::Options;

/// Connect the model servers of this machine to local programs and, through a relay, to yourself elsewhere
///
/// Exit codes: 0 ended as asked · 1 failed · 2 usage · 7 the configuration has faults · 9 a port is taken, or another
/// tunneld runs.
#[derive(Debug, Parser)]
#[command(name = "tunneld", version)]
pub struct Cli {
    /// Read this configuration file; it must be there
    ///
    /// Without it: $TUNNELD_CONFIG, ~/.cloudtolocalllm/tunnel_config.json if that exists, or
    /// $XDG_CONFIG_HOME/cloudtolocalllm/tunnel_config.json. Without any file the defaults run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Keep state in this directory
    ///
    /// Without it: $XDG_STATE_HOME/cloudtolocalllm.
    #[arg(long, value_name = "DIR", env = "TUNNELD_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Read the device token from this file; a new one takes effect without a restart
    ///
    /// Without it: the desktop's keyring, systemd's credential cloud-token, or an encrypted file in the state
    /// directory. With it nothing else counts.
    #[arg(long, value_name = "FILE", env = "TUNNELD_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Log to this file; at 10 MiB it becomes FILE.1
    ///
    /// Without it: the journal under systemd, else standard error. Where there is no journal and standard error
    /// is /dev/null: ~/.cloudtolocalllm/tunnel_manager.log if that directory exists, or tunneld.log in the state
    /// directory.
    #[arg(long, value_name = "FILE", env = "TUNNELD_LOG_FILE")]
    log_file: Option<PathBuf>,
}

impl Cli {
    /// Returns what it says, with the environment beside it.
    pub fn into_options(self, env: Vec<(OsString, OsString)>) -> Options {
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        Options {
            config: self.config,
            state_dir: self.state_dir,
            token_file: named(self.token_file),
            log_file: named(self.log_file),
            env,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_options() {
        let cli = Cli::parse_from([
            "tunneld",
            "--config",
            "c.json",
            "--state-dir",
            "s",
            "--token-file",
            "t",
            "--log-file",
            "l",
        ]);
        let options = cli.into_options(Vec::new());
        assert_eq!(options.config, Some("c.json".into()));
        assert_eq!(options.state_dir, Some("s".into()));
        assert_eq!(options.token_file, Some("t".into()));
        assert_eq!(options.log_file, Some("l".into()));
    }
}
