//! How values are told to people.

use jiff::Timestamp;
use tunnel_api::Connection;
use tunnel_api::connection::{CLOUD_ID, ConnectionState, Quality};

use super::look::Mark;

/// Returns how a connection stands.
pub(crate) fn connection_mark(connection: &Connection) -> Mark {
    match (connection.state, connection.quality) {
        (ConnectionState::Connected, Quality::Poor | Quality::Critical) => Mark::Warn,
        (ConnectionState::Connected, _) => Mark::Ok,
        (ConnectionState::Connecting | ConnectionState::Unknown, _) => Mark::Warn,
        // Down without an error is meant so; the cloud is down when the tunnel was stopped or has no token.
        (ConnectionState::Disconnected, _) if connection.error.is_none() || connection.id == CLOUD_ID => {
            Mark::Off
        }
        (ConnectionState::Disconnected | ConnectionState::Error, _) => Mark::Fail,
    }
}

/// Returns milliseconds, with a decimal place where it tells something.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// Returns the time between two moments in its two largest units, such as `3 h 12 min`.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    seconds(to.as_second().saturating_sub(from.as_second()).max(0).unsigned_abs())
}

/// Returns a number of seconds in its two largest units.
pub(crate) fn seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

/// Returns a size in the largest unit of 1000 in which it is not below 1, as disks and `ollama list` count.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Returns a count with its noun, such as `1 model` and `2 models`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + seconds).unwrap()
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in
            [(-5, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90_061, "1 d 1 h")]
        {
            assert_eq!(span(at(0), at(seconds)), text);
        }
    }

    #[test]
    fn sizes_have_one_unit() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (2_019_393_189, "2.0 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
