//! What can be said on the command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel_client::Door;

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not running, 4 not ready, 5 not allowed, \
                          6 not found, 8 timeout, 9 conflict";

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
    /// Show the versions of tunnelctl and tunneld
    Version,
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
    fn global_flags_stand_anywhere() {
        for line in ["tunnelctl --json status", "tunnelctl status --json"] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().global.json);
        }
        assert!(Cli::try_parse_from("tunnelctl --url https://x status".split(' ')).is_err());
    }
}
