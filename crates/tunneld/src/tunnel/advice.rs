//! What a failure of the tunnel means to its user: one sentence, and what to do about it.

use jiff::Timestamp;
use tunnel_api::warning::{
    CLOCK_SKEW, NO_TOKEN, NOT_A_RELAY, RELAY_TLS, RELAY_UNREACHABLE, REPLACED, TOKEN_EXPIRED, TOKEN_INVALID,
    TOKEN_SCOPE,
};
use tunnel_api::{Severity, Warning};
use tunnel_transport::{Closed, DialError, TlsError, printable};

use crate::secrets::{CallError, TokenError, TokenTimes};

/// Clocks may differ so far before it is worth a word: tokens live for days, and NTP keeps to milliseconds.
const CLOCK_TOLERANCE_S: i64 = 60;

/// How to get a token, wherever one is used up. Whether the relay offers a login is not known before somebody tries.
pub(crate) const NEW_TOKEN: &str = "log in: tunnelctl login; if the relay offers no login, get a new token from its operator (there: \
                         tunnel-relay token create --scope tunnel) and store it: tunnelctl login --token-stdin, or the token \
                         file; tunneld takes it up by itself";

/// Explains why there is nothing to dial with.
pub(crate) fn no_token(error: &TokenError) -> Warning {
    let next_step = match error {
        TokenError::None | TokenError::Removed => {
            "log in: tunnelctl login; or store a token: tunnelctl login --token-stdin, or start tunneld with \
             --token-file FILE"
                .to_owned()
        }
        TokenError::Looking | TokenError::Renewing => {
            "nothing: tunneld dials as soon as it has one".to_owned()
        }
        TokenError::Store(error) => error.next_step(),
        TokenError::Missing(path) | TokenError::Empty(path) => {
            format!("put a token into {}; tunneld takes it up by itself", path.display())
        }
        TokenError::Unreadable { path, .. } => format!("let this user read it: chmod 600 {}", path.display()),
        TokenError::NotAToken(path) => {
            format!("write just the token into {}, as tunnel-relay token create prints it", path.display())
        }
    };
    // Nobody has to have a tunnel; a file that is there and useless is another matter.
    let severity = match error {
        TokenError::Looking
        | TokenError::None
        | TokenError::Removed
        | TokenError::Renewing
        | TokenError::Missing(_)
        | TokenError::Empty(_) => Severity::Info,
        TokenError::Store(error) => error.warning().map_or(Severity::Info, |warning| warning.severity),
        TokenError::Unreadable { .. } | TokenError::NotAToken(_) => Severity::Warning,
    };
    Warning::new(NO_TOKEN, with_source(error), next_step).with_severity(severity)
}

/// Explains why TLS cannot even be tried.
pub(crate) fn no_tls(error: &TlsError) -> Warning {
    Warning::new(RELAY_TLS, with_source(error), "mend caFile in the config, or install ca-certificates")
        .with_severity(Severity::Error)
}

/// Explains a call to the relay, beside the tunnel, that got no answer.
pub(crate) fn call(error: CallError) -> Warning {
    let error = match error {
        CallError::Tls(error) => return no_tls(&error),
        CallError::Unreachable { host, source } => DialError::Unreachable { host, source },
        CallError::Timeout { host, after } => DialError::Timeout { host, after },
        CallError::Handshake { host, source } => DialError::Tls { host, source },
        CallError::Http { host, .. } => {
            DialError::NotARelay { host, detail: "it does not speak HTTP, or has hung up".to_owned() }
        }
    };
    dial(&error, TokenTimes::default(), Timestamp::now())
}

/// Explains a dial that failed. `times` are those of the token that was shown.
pub(crate) fn dial(error: &DialError, times: TokenTimes, now: Timestamp) -> Warning {
    let now = now.as_second();
    match error {
        DialError::TokenExpired { host, clock_off_s } => expired(host, *clock_off_s, times, now),
        DialError::TokenInvalid { host, detail } => invalid(host, detail, times, now),
        DialError::NotAllowed { host, detail } => Warning::new(
            TOKEN_SCOPE,
            format!("{host} accepts the token, but not for this tunnel: {}", sentence(detail)),
            "use a token with scope tunnel for this device \
             (at the relay: tunnel-relay token create --scope tunnel), then: tunnelctl start",
        )
        .with_severity(Severity::Error),
        DialError::Replaced { host } => replaced(host),
        DialError::SessionGone => Warning::new(
            RELAY_UNREACHABLE,
            "the relay no longer has the session",
            "nothing: tunneld dials anew",
        ),
        DialError::VersionUnsupported { host, detail } => Warning::new(
            NOT_A_RELAY,
            format!("{host} does not speak this version of the tunnel protocol: {}", sentence(detail)),
            "bring relay and tunneld to the same version",
        ),
        DialError::Busy { host, after } => Warning::new(
            RELAY_UNREACHABLE,
            format!("{host} is busy and asks to come back in {} s", after.as_secs()),
            "nothing: tunneld dials again by itself",
        ),
        DialError::NotARelay { host, detail } => Warning::new(
            NOT_A_RELAY,
            format!("{host} is no tunnel relay: {}", sentence(detail)),
            "check cloudProxyUrl in the config: host, port and path",
        )
        .with_severity(Severity::Error),
        DialError::Unreachable { host, source } => Warning::new(
            RELAY_UNREACHABLE,
            format!("could not reach {host}: {source}"),
            "check the network and cloudProxyUrl; tunneld goes on trying",
        ),
        DialError::Timeout { host, after } => Warning::new(
            RELAY_UNREACHABLE,
            format!("{host} did not answer within {} s", after.as_secs()),
            "check the network, a firewall or proxy on the way, and cloudProxyUrl; tunneld goes on trying",
        ),
        DialError::Tls { host, source } => tls(host, &source.to_string()),
    }
}

/// Explains a session that the relay ended.
pub(super) fn closed(host: &str, closed: &Closed) -> Warning {
    use tunnel_transport::CloseCode;
    match closed.code {
        CloseCode::Replaced => replaced(host),
        CloseCode::Token => Warning::new(
            TOKEN_EXPIRED,
            format!("{host} ended the tunnel, because the token has expired or was revoked"),
            NEW_TOKEN,
        )
        .with_severity(Severity::Error),
        CloseCode::Restarting => Warning::new(
            RELAY_UNREACHABLE,
            format!("{host} restarts"),
            "nothing: tunneld dials again by itself",
        ),
        CloseCode::Protocol | CloseCode::ShuttingDown | CloseCode::GraceOver | CloseCode::Unknown(_) => {
            Warning::new(
                RELAY_UNREACHABLE,
                format!("the tunnel to {host} was lost: {}", sentence(&closed.reason)),
                "nothing: tunneld dials again by itself",
            )
        }
    }
}

fn replaced(host: &str) -> Warning {
    Warning::new(
        REPLACED,
        format!("another tunneld with the same device name has taken over at {host}, so this one stays down"),
        "to take it back: tunnelctl start; to run both, give each its own deviceName in the config",
    )
    .with_severity(Severity::Error)
}

fn expired(host: &str, clock_off_s: Option<i64>, times: TokenTimes, now: i64) -> Warning {
    // By our clock it still holds, so one of the two clocks is wrong.
    let holds_here = times.expires.is_some_and(|expires| expires > now);
    if let Some(off) = clock_off_s.filter(|off| off.abs() > CLOCK_TOLERANCE_S)
        && holds_here
    {
        let side = if off < 0 { "behind" } else { "ahead of" };
        return Warning::new(
            CLOCK_SKEW,
            format!(
                "{host} takes the token for expired, but this machine's clock is {} {side} the relay's",
                duration(off)
            ),
            "set the clock (timedatectl set-ntp true), here or at the relay, then: tunnelctl start",
        )
        .with_severity(Severity::Error);
    }
    Warning::new(TOKEN_EXPIRED, format!("the token for {host} has expired{}", ago(times, now)), NEW_TOKEN)
        .with_severity(Severity::Error)
}

fn invalid(host: &str, detail: &str, times: TokenTimes, now: i64) -> Warning {
    let starts = times.not_before.into_iter().chain(times.issued).max();
    if let Some(ahead) =
        starts.map(|starts| starts.saturating_sub(now)).filter(|ahead| *ahead > CLOCK_TOLERANCE_S)
    {
        return Warning::new(
            CLOCK_SKEW,
            format!(
                "{host} does not accept the token, which was issued {} in the future by this machine's clock",
                duration(ahead)
            ),
            "set the clock (timedatectl set-ntp true), here or at the relay, then: tunnelctl start",
        )
        .with_severity(Severity::Error);
    }
    Warning::new(
        TOKEN_INVALID,
        format!("{host} does not know this token, another relay may have issued it: {}", sentence(detail)),
        NEW_TOKEN,
    )
    .with_severity(Severity::Error)
}

fn tls(host: &str, detail: &str) -> Warning {
    // rustls: "certificate expired", "certificate not valid yet".
    let about_time =
        detail.contains("expired") || detail.contains("not valid yet") || detail.contains("NotValidYet");
    let unknown_issuer = detail.contains("UnknownIssuer") || detail.contains("unknown issuer");
    let next_step = if about_time {
        "check this machine's clock (timedatectl); if it is right, the relay's certificate needs renewal"
    } else if unknown_issuer {
        "name the certificate authority in caFile, if the relay has one of its own"
    } else {
        "check cloudProxyUrl and what stands between: a proxy that opens TLS needs its authority in caFile"
    };
    Warning::new(RELAY_TLS, format!("could not agree on TLS with {host}: {}", sentence(detail)), next_step)
        .with_severity(Severity::Error)
}

fn ago(times: TokenTimes, now: i64) -> String {
    let past = times.expires.map(|expires| now.saturating_sub(expires)).filter(|past| *past > 0);
    past.map_or_else(String::new, |past| format!(" {} ago", duration(past)))
}

/// Writes seconds in the largest unit that fits.
fn duration(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A sentence of somebody else's, fit to stand at the end of ours: it can neither act on a terminal, nor change
/// the order in which our words are shown, nor drown them.
fn sentence(text: &str) -> String {
    let clean = printable(text);
    let clean = clean.trim().trim_end_matches('.');
    if clean.is_empty() { "it gives no reason".to_owned() } else { clean.to_owned() }
}

fn with_source(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tunnel_transport::CloseCode;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn host() -> String {
        "relay.example".to_owned()
    }

    fn explain(error: &DialError, times: TokenTimes) -> Warning {
        dial(error, times, now())
    }

    fn times(issued: i64, expires: i64) -> TokenTimes {
        TokenTimes { issued: Some(NOW + issued), expires: Some(NOW + expires), not_before: None }
    }

    #[test]
    fn each_failure_has_its_own_code_sentence_and_next_step() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let cases = [
            (
                DialError::TokenExpired { host: host(), clock_off_s: Some(0) },
                times(-900, -600),
                TOKEN_EXPIRED,
            ),
            (
                DialError::TokenExpired { host: host(), clock_off_s: Some(-86_400) },
                times(-900, 600),
                CLOCK_SKEW,
            ),
            (
                DialError::TokenInvalid { host: host(), detail: "bad signature".into() },
                times(0, 600),
                TOKEN_INVALID,
            ),
            (
                DialError::TokenInvalid { host: host(), detail: "too early".into() },
                times(7200, 9000),
                CLOCK_SKEW,
            ),
            (
                DialError::NotAllowed { host: host(), detail: "needs scope tunnel".into() },
                times(0, 600),
                TOKEN_SCOPE,
            ),
            (
                DialError::NotARelay { host: host(), detail: "it answered 404".into() },
                times(0, 600),
                NOT_A_RELAY,
            ),
            (DialError::Unreachable { host: host(), source: refused }, times(0, 600), RELAY_UNREACHABLE),
            (
                DialError::Timeout { host: host(), after: Duration::from_secs(30) },
                times(0, 600),
                RELAY_UNREACHABLE,
            ),
            (DialError::Replaced { host: host() }, times(0, 600), REPLACED),
        ];
        let mut sentences = Vec::new();
        for (error, times, code) in cases {
            let warning = explain(&error, times);
            assert_eq!(warning.code, code, "{error}");
            assert!(warning.message.contains("relay.example"), "{}", warning.message);
            assert!(!warning.message.ends_with('.') && !warning.next_step.is_empty(), "{warning:?}");
            sentences.push(warning.message);
        }
        let n = sentences.len();
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), n, "two failures share a sentence");
    }

    #[test]
    fn token_that_is_really_over_is_not_blamed_on_the_clock() {
        let error = DialError::TokenExpired { host: host(), clock_off_s: Some(-3600) };
        let warning = explain(&error, times(-9000, -7300));
        assert_eq!(warning.code, TOKEN_EXPIRED);
        assert!(warning.message.contains("2 hours ago"), "{}", warning.message);
    }

    #[test]
    fn clock_sentence_says_which_way_and_how_far() {
        let error = DialError::TokenExpired { host: host(), clock_off_s: Some(-86_400 * 3) };
        let warning = explain(&error, times(-900, 600));
        assert!(warning.message.contains("3 days behind"), "{}", warning.message);
    }

    #[test]
    fn relays_sentence_cannot_act_on_a_terminal() {
        let error = DialError::NotAllowed { host: host(), detail: "\u{1b}[2Jwrong scope.".into() };
        let warning = explain(&error, TokenTimes::default());
        assert!(warning.message.ends_with("[2Jwrong scope"), "{}", warning.message);
    }

    #[test]
    fn relays_sentence_cannot_reorder_or_drown_ours() {
        assert_eq!(sentence("\u{202e}a\u{2066}b\u{2069}\u{200f}c\u{61c}.\u{202c}"), "abc");
        assert_eq!(sentence("\u{200e} \u{2067}\n"), "it gives no reason");
        assert_eq!(sentence(&"é".repeat(1000)), "é".repeat(300));
    }

    #[test]
    fn certificate_out_of_date_points_at_the_clock_too() {
        let expired = io::Error::other("invalid peer certificate: certificate expired: verification time 1");
        let warning = explain(&DialError::Tls { host: host(), source: expired }, TokenTimes::default());
        assert!(warning.next_step.contains("clock"), "{}", warning.next_step);
        let unknown = io::Error::other("invalid peer certificate: UnknownIssuer");
        let warning = explain(&DialError::Tls { host: host(), source: unknown }, TokenTimes::default());
        assert!(warning.next_step.contains("caFile"), "{}", warning.next_step);
    }

    #[test]
    fn ends_of_a_session_are_told_apart() {
        let explain = |code| closed("relay.example", &Closed::new(code, "reason")).code;
        assert_eq!(explain(CloseCode::Replaced), REPLACED);
        assert_eq!(explain(CloseCode::Token), TOKEN_EXPIRED);
        assert_eq!(explain(CloseCode::GraceOver), RELAY_UNREACHABLE);
    }

    #[test]
    fn call_without_an_answer_is_told_from_others_by_its_code() {
        let host = || "relay.example".to_owned();
        let source = || io::Error::other("no way");
        let cases = [
            (CallError::Unreachable { host: host(), source: source() }, RELAY_UNREACHABLE),
            (CallError::Timeout { host: host(), after: Duration::from_secs(10) }, RELAY_UNREACHABLE),
            (CallError::Handshake { host: host(), source: source() }, RELAY_TLS),
            (CallError::Http { host: host(), source: "gone".into() }, NOT_A_RELAY),
        ];
        for (error, code) in cases {
            let warning = call(error);
            assert_eq!(warning.code, code, "{warning:?}");
            assert!(
                warning.message.contains("relay.example") && !warning.next_step.is_empty(),
                "{warning:?}"
            );
        }
    }
}
