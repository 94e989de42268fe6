//! The way to the relay, as people are told of it: pure.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use tunnel_api::tunnel::Target;
use tunnel_api::{Check, TunnelState};
use tunnel_transport::SUBPROTOCOL;

use super::certificate::Certificate;
use super::check::{Subject, span, took};
use super::login;
use super::steps::{Answer, Step, Walk};
use crate::tunnel::{Settings, TunnelReport};
use crate::view;

/// A certificate that ends within so many days needs renewal, or the program that renews it does.
const DAYS_LEFT: u64 = 14;
/// Clocks may differ so far before it is worth a word …
const CLOCK_WARN_S: u64 = 30;
/// … and so far before tokens are judged wrongly.
const CLOCK_FAIL_S: u64 = 5 * 60;

fn dns() -> Subject {
    Subject::new("relay_dns", "relay: name")
}

fn tcp() -> Subject {
    Subject::new("relay_tcp", "relay: connection")
}

fn tls() -> Subject {
    Subject::new("relay_tls", "relay: TLS")
}

fn http() -> Subject {
    Subject::new("relay_http", "relay: answer")
}

fn clock() -> Subject {
    Subject::new("clock", "clock")
}

fn websocket() -> Subject {
    Subject::new("relay_websocket", "relay: tunnel")
}

/// The checks of a daemon that is to have no tunnel.
pub(super) fn switched_off() -> Vec<Check> {
    let off = "the tunnel is switched off in the config (enableCloudProxy)";
    not_dialled(login::subject().skip(off), off)
}

/// The checks of a daemon that has no token.
pub(super) fn without_token(token: Check) -> Vec<Check> {
    not_dialled(token, "nothing is dialled without a token")
}

fn not_dialled(token: Check, why: &str) -> Vec<Check> {
    let steps = [dns(), tcp(), tls(), http(), clock(), websocket()].map(|subject| subject.skip(why));
    std::iter::once(token).chain(steps).collect()
}

/// Judges a walk to the relay, and how the tunnel stands. `round_trip` was just measured over the tunnel.
pub(super) fn checks(
    walk: &Walk,
    settings: &Settings,
    report: &TunnelReport,
    round_trip: Option<Duration>,
) -> Vec<Check> {
    let now = Timestamp::now();
    let connected = report.tunnel.state == TunnelState::Connected;
    let mut checks = vec![
        judge(&dns(), &walk.dns, |subject, addresses| name(subject, settings, addresses)),
        judge(&tcp(), &walk.tcp, |subject, ()| connection(subject, settings)),
        judge(&tls(), &walk.tls, |subject, read| certificate(subject, read.as_ref(), now)),
        judge(&http(), &walk.http, |subject, answer| health(subject, settings, answer, connected)),
        time(&walk.http),
    ];
    let broken = checks.iter().find(|check| check.verdict == tunnel_api::Verdict::Fail);
    let broken = broken.filter(|check| check.id != "clock").map(|check| check.title.clone());
    checks.push(tunnel(settings, report, round_trip, broken.as_deref()));
    checks
}

/// Judges a step that was taken; what becomes of the others is the same for all.
fn judge<T>(subject: &Subject, step: &Step<T>, done: impl FnOnce(&Subject, &T) -> Check) -> Check {
    match step {
        Step::Done { found, took: duration } => took(done(subject, found), *duration),
        Step::Failed { why, took: duration } => took(subject.fail_as(why), *duration),
        Step::NotNeeded(why) => subject.skip(*why),
        Step::NotReached => subject.skip("not looked at, because a step before it failed"),
    }
}

fn name(subject: &Subject, settings: &Settings, addresses: &[SocketAddr]) -> Check {
    let host = settings.relay.host();
    let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    match list.as_slice() {
        [one] if one == host => subject.pass(format!("{host} is an address")),
        list => subject.pass(format!("{host} is {}", list.join(", "))),
    }
}

fn connection(subject: &Subject, settings: &Settings) -> Check {
    let place = format!("{} port {}", settings.relay.host(), settings.relay.port());
    match &settings.proxy {
        Some(proxy) => {
            subject.pass(format!("{place} takes connections, through the proxy {}", proxy.address()))
        }
        None => subject.pass(format!("{place} takes connections")),
    }
}

fn certificate(subject: &Subject, read: Option<&Certificate>, now: Timestamp) -> Check {
    let Some(Certificate { issuer, ends }) = read else {
        return subject.pass("the certificate is accepted");
    };
    let by = issuer.as_deref().map_or_else(String::new, |issuer| format!(", issued by {issuer}"));
    let days = u64::try_from(ends.as_second().saturating_sub(now.as_second())).unwrap_or_default() / 86_400;
    let detail = format!("the certificate is accepted{by}, and holds for {days} days more");
    if days < DAYS_LEFT {
        subject.warn(detail, "have it renewed by the relay's operator")
    } else {
        subject.pass(detail)
    }
}

fn health(subject: &Subject, settings: &Settings, answer: &Answer, connected: bool) -> Check {
    let relay = &settings.relay;
    match &answer.relay {
        Some(says) if answer.status.is_success() => {
            let version = says.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
            subject.pass(format!("{relay} is a relay{version} and speaks {SUBPROTOCOL}"))
        }
        Some(_) => {
            let detail = format!("{relay} is a relay in trouble: it answered {}", answer.status);
            subject.fail(detail, "ask the relay's operator; tunneld dials again by itself")
        }
        None => {
            let detail = format!("{relay} answered {}, and not as a relay does", answer.status);
            let next_step = "check cloudProxyUrl in the config: tunnelctl config get cloudProxyUrl";
            // What stands before a relay may let nothing but tunnels through.
            if connected { subject.warn(detail, next_step) } else { subject.fail(detail, next_step) }
        }
    }
}

fn time(http: &Step<Answer>) -> Check {
    let subject = clock();
    let Step::Done { found, .. } = http else { return subject.skip("there is no answer to compare it with") };
    let Some(off) = found.clock_off_s else {
        return subject.skip("the answer has no date to compare it with");
    };
    let side = if off < 0 { "behind" } else { "ahead of" };
    let next_step = "timedatectl set-ntp true, here or at the relay";
    match off.unsigned_abs() {
        0..=CLOCK_WARN_S => subject.pass("it agrees with the relay's"),
        s @ 0..=CLOCK_FAIL_S => subject.warn(format!("it is {} {side} the relay's", span(s)), next_step),
        s => subject.fail(format!("it is {} {side} the relay's", span(s)), next_step),
    }
}

/// Judges the tunnel itself: what the last dial said, unless it is known already what is in its way.
fn tunnel(
    settings: &Settings,
    report: &TunnelReport,
    round_trip: Option<Duration>,
    broken: Option<&str>,
) -> Check {
    let subject = websocket();
    let tunnel = &report.tunnel;
    if tunnel.state == TunnelState::Connected {
        let detail = format!("connected as {} with {SUBPROTOCOL}", settings.device);
        return match round_trip {
            Some(time) => {
                let ms = view::milliseconds(time.as_secs_f64());
                took(subject.pass(format!("{detail}, round trip {ms} ms")), time)
            }
            None => subject.warn(
                format!("{detail}, but a ping was not answered just now"),
                "look again in a moment: tunnelctl ping relay",
            ),
        };
    }
    if tunnel.target == Target::Down {
        return subject.warn("it was stopped", "tunnelctl start");
    }
    if let Some(broken) = broken {
        return subject.skip(format!("not looked at, because this failed: {broken}"));
    }
    match &report.warning {
        Some(warning) if tunnel.state == TunnelState::Connecting => subject.warn_as(warning),
        Some(warning) => subject.fail_as(warning),
        None => subject.warn("it is being opened", "look again in a moment: tunnelctl status"),
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::warning::{RELAY_UNREACHABLE, REPLACED};
    use tunnel_api::{Tunnel, Verdict, Warning};
    use tunnel_transport::{Proxy, RelayUrl};

    use super::*;

    fn settings() -> Settings {
        Settings {
            enabled: true,
            relay: RelayUrl::parse("https://relay.example").unwrap(),
            device: "desk".parse().unwrap(),
            preferred: false,
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
            proxy: None,
            proxies: crate::config::Proxies::default(),
        }
    }

    fn report(state: TunnelState, warning: Option<&str>) -> TunnelReport {
        let tunnel = Tunnel { state, target: Target::Up, ..Tunnel::default() };
        TunnelReport { tunnel, warning: warning.map(|code| Warning::new(code, "the last dial", "do this")) }
    }

    fn answered(clock_off_s: Option<i64>) -> Step<Answer> {
        let found = Answer { status: http::StatusCode::OK, relay: None, clock_off_s };
        Step::Done { found, took: Duration::ZERO }
    }

    #[test]
    fn certificate_that_ends_soon_warns() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let judged = |end: &str| {
            let read = Certificate { issuer: Some("Our CA".to_owned()), ends: end.parse().unwrap() };
            certificate(&tls(), Some(&read), now)
        };
        let good = judged("2026-01-15T00:00:00Z");
        assert_eq!(good.verdict, Verdict::Pass);
        assert_eq!(good.detail, "the certificate is accepted, issued by Our CA, and holds for 14 days more");
        let soon = judged("2026-01-14T23:59:59Z");
        assert_eq!((soon.verdict, soon.next_step.is_empty()), (Verdict::Warn, false));
        assert_eq!(certificate(&tls(), None, now).verdict, Verdict::Pass);
    }

    #[test]
    fn clocks_that_differ_warn_and_then_fail() {
        for (off, verdict) in [
            (Some(0), Verdict::Pass),
            (Some(-30), Verdict::Pass),
            (Some(31), Verdict::Warn),
            (Some(-300), Verdict::Warn),
            (Some(301), Verdict::Fail),
            (None, Verdict::Skip),
        ] {
            assert_eq!(time(&answered(off)).verdict, verdict, "{off:?}");
        }
        assert_eq!(time(&answered(Some(-600))).detail, "it is 10 minutes behind the relay's");
        assert_eq!(time(&Step::NotReached).verdict, Verdict::Skip);
    }

    #[test]
    fn tunnel_is_judged_by_its_own_state_and_not_twice_for_what_is_in_its_way() {
        let judged = |state, warning, broken| tunnel(&settings(), &report(state, warning), None, broken);
        let up = tunnel(
            &settings(),
            &report(TunnelState::Connected, None),
            Some(Duration::from_micros(12_340)),
            Some("relay: answer"),
        );
        assert_eq!(up.verdict, Verdict::Pass);
        assert_eq!(up.detail, "connected as desk with tunnel.v1, round trip 12.34 ms");
        assert_eq!(judged(TunnelState::Connected, None, None).verdict, Verdict::Warn);
        let refused = judged(TunnelState::Refused, Some(REPLACED), None);
        assert_eq!((refused.verdict, refused.detail.as_str()), (Verdict::Fail, "the last dial"));
        let waits = judged(TunnelState::Backoff, Some(RELAY_UNREACHABLE), Some("relay: name"));
        assert_eq!(waits.verdict, Verdict::Skip);
        assert_eq!(judged(TunnelState::Connecting, None, None).verdict, Verdict::Warn);
        let mut stopped = report(TunnelState::Disconnected, None);
        stopped.tunnel.target = Target::Down;
        let stopped = tunnel(&settings(), &stopped, None, Some("relay: name"));
        assert_eq!((stopped.verdict, stopped.next_step.as_str()), (Verdict::Warn, "tunnelctl start"));
    }

    #[test]
    fn proxy_on_the_way_is_named_without_its_login() {
        let proxy = Proxy::parse("http://me:hunter2@proxy.example:3128").unwrap();
        let check = connection(&tcp(), &Settings { proxy: Some(proxy), ..settings() });
        let expected = "relay.example port 443 takes connections, through the proxy proxy.example:3128";
        assert_eq!(check.detail, expected);
    }

    #[test]
    fn answer_that_is_no_relays_fails_only_while_there_is_no_tunnel() {
        let Step::Done { found, .. } = answered(None) else { unreachable!() };
        assert_eq!(health(&http(), &settings(), &found, false).verdict, Verdict::Fail);
        assert_eq!(health(&http(), &settings(), &found, true).verdict, Verdict::Warn);
    }
}
