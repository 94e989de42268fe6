//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel_client::Door;

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not running, 4 not ready, 5 not allowed, \
                          6 not found, 7 configuration invalid, 8 timeout, 9 conflict";

/// Look after tunneld: the tunnel from this machine's model servers to a relay
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
#[command(next_display_order = 900)]
pub(crate) struct Global {
    /// Ask the daemon at this address, http://… or unix:///…
    ///
    /// Default: its control socket, or http://127.0.0.1:8765 when there is no socket.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<Door>,

    /// Answer in JSON, which is stable; text for people is not
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing but answers and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// When colour is used; `auto` is on a terminal, unless NO_COLOR is set
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how the tunnel and the connections are
    Status {
        /// Go on showing changes; when piped, one line of JSON each
        #[arg(long, short)]
        watch: bool,
    },
    /// Open the tunnel
    Start(Order),
    /// Close the tunnel; requests that run may finish
    Stop(Order),
    /// Close the tunnel and open it anew
    Restart(Order),
    /// Wait until the tunnel is up, or until requests would be answered
    ///
    /// Waits for the daemon to be started, too. Ends at once with code 4 when waiting cannot help, such as after
    /// the relay has refused the token. With a timeout of 0 it looks once and ends with code 4 if it is not so.
    Wait {
        /// What to wait for
        #[arg(long = "for", value_name = "WHAT", default_value = "ready")]
        goal: Goal,
        /// Give up after this long: 60s, 2m, 500ms, or seconds
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Store the token that the tunnel is dialled with
    ///
    /// The relay's operator makes it: tunnel-relay token create --scope tunnel. The daemon keeps it in the desktop's
    /// keyring, or in an encrypted file where there is none, and dials with it at once.
    Login(LoginFrom),
    /// Forget the token; the tunnel goes down
    Logout,
    /// Look after the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Show the versions of tunnelctl and tunneld
    Version,
    /// Have tunneld run as a user service of systemd
    #[command(subcommand)]
    Service(ServiceVerb),
}

/// Where the token comes from: never the command line, which others can see.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LoginFrom {
    /// Read it from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read it from standard input
    #[arg(long)]
    token_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Write the units, enable them and start the daemon
    ///
    /// Units that a package has installed are enabled as they are. A unit that was changed by hand is not
    /// overwritten.
    Install(Install),
    /// Stop the daemon and take away what install wrote; configuration and state stay
    Uninstall {
        /// Also take away units that were changed by hand; they are kept as .bak
        #[arg(long)]
        force: bool,
    },
    /// Show how the service stands; ends with code 3 when it does not run
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Start this daemon
    ///
    /// Default: the tunneld beside tunnelctl.
    #[arg(long, value_name = "PATH")]
    pub(crate) tunneld: Option<PathBuf>,
    /// Let systemd hold the ports, so that a restart refuses nobody; this is the default
    #[arg(long, overrides_with = "no_socket")]
    socket: bool,
    /// Let the daemon open its ports itself
    #[arg(long, overrides_with = "socket")]
    no_socket: bool,
    /// Go without the parts of the sandbox that need user namespaces, where the system forbids them
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// Replace units that were changed by hand; they are kept as .bak
    #[arg(long)]
    pub(crate) force: bool,
}

impl Install {
    /// Whether systemd is to hold the ports.
    pub(crate) fn socket(&self) -> bool {
        self.socket || !self.no_socket
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say what is wrong with a configuration file, without a daemon
    ///
    /// Looks at the file alone, not at environment variables. Ends with code 7 if there are faults.
    Check {
        /// The file; default: the one that tunneld would read
        file: Option<PathBuf>,
    },
    /// Take over the original system's connection_config.json
    ///
    /// Its addresses become keys of the configuration, its token goes to where tunneld keeps tokens. The file is not
    /// changed; delete it afterwards.
    Import {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Wait until it is done, at most this long: 30, 30s, 2m
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

/// What `tunnelctl wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The tunnel is up
    Tunnel,
    /// Requests would be answered: a model server is connected
    Ready,
}

/// Reads `60s`, `2m`, `500ms`, `1h`, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("must look like 60s, 2m or 500ms".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "must look like 60s, 2m or 500ms".to_owned())?;
    // A week: nobody waits longer, and sums with it cannot overflow.
    Duration::try_from_secs_f64(seconds * seconds_per_unit)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(7 * 24 * 3600))
        .ok_or_else(|| "must be at most a week".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "s", "-1", "1y", "1e9", "1..2", "99999999h", "nan", "inf"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn socket_is_the_default_and_the_last_word_wins() {
        let socket = |line: &str| match Cli::parse_from(line.split(' ')).verb {
            Verb::Service(ServiceVerb::Install(install)) => install.socket(),
            other => panic!("{other:?}"),
        };
        assert!(socket("tunnelctl service install"));
        assert!(!socket("tunnelctl service install --no-socket"));
        assert!(socket("tunnelctl service install --no-socket --socket"));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["tunnelctl --json status", "tunnelctl status --json"] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().global.json);
        }
        assert!(Cli::try_parse_from("tunnelctl --url https://x status".split(' ')).is_err());
    }
}
