use tunnel_api::tunnel::Target;
use tunnel_api::warning::NO_TOKEN;
use tunnel_api::{Severity, Warning};

use super::*;
use crate::icon::tests::view;

/// Looks at a row of (second, view) and returns what was said when.
fn said(row: &[(u64, View)]) -> Vec<(u64, String)> {
    let (mut plan, start) = (Plan::default(), Instant::now());
    let mut said = Vec::new();
    for (s, view) in row {
        for note in plan.observe(view, start + Duration::from_secs(*s)) {
            said.push((*s, note.summary));
        }
    }
    said
}

fn tunnel(state: TunnelState) -> View {
    view(Target::Up, state, &[true])
}

fn warned(code: &str, severity: Severity) -> View {
    let mut view = tunnel(TunnelState::Disconnected);
    view.status.warnings.push(Warning::new(code, "why", "do").with_severity(severity));
    view
}

fn servers(servers: &[(bool, &[&str])]) -> View {
    let up: Vec<bool> = servers.iter().map(|(up, _)| *up).collect();
    let mut view = view(Target::Up, TunnelState::Connected, &up);
    for (server, (_, models)) in view.status.connections.values_mut().zip(servers) {
        server.models = models.iter().map(|model| (*model).to_owned()).collect();
    }
    view
}

#[test]
fn tunnel_that_stays_down_is_told_once_and_so_is_its_return() {
    use TunnelState::{Backoff, Connected, Connecting};
    let row = [
        (0, tunnel(Connected)),
        (10, tunnel(Backoff)),
        (40, tunnel(Connecting)),
        (69, tunnel(Backoff)),
        (70, tunnel(Backoff)),
        (300, tunnel(Backoff)),
        (301, tunnel(Connected)),
        (302, tunnel(Connected)),
    ];
    let expected = [(70, "The tunnel is down".to_owned()), (301, "The tunnel is back".to_owned())];
    assert_eq!(said(&row), expected);
}

#[test]
fn flaps_are_nobodys_business() {
    use TunnelState::{Backoff, Connected};
    let flaps: Vec<_> =
        (0..100).map(|n| (n * 50, tunnel(if n % 2 == 0 { Connected } else { Backoff }))).collect();
    assert!(said(&flaps).is_empty());
}

#[test]
fn tunnel_that_nobody_wants_is_not_missed() {
    use TunnelState::{Backoff, Disconnected};
    let excused = warned(NO_TOKEN, Severity::Info);
    assert!(said(&[(0, excused.clone()), (500, excused)]).is_empty());
    let paused = view(Target::Down, Disconnected, &[true]);
    assert!(said(&[(0, paused.clone()), (500, paused.clone())]).is_empty());
    // Stopped after it was told of: not back.
    let row = [(0, tunnel(Backoff)), (60, tunnel(Backoff)), (61, paused)];
    assert_eq!(said(&row).len(), 1);
}

#[test]
fn login_that_is_over_and_a_takeover_are_told_for_what_they_are() {
    let expired = warned(LOGIN_EXPIRED, Severity::Error);
    let back = tunnel(TunnelState::Connected);
    let row =
        [(0, expired.clone()), (14, expired.clone()), (15, expired.clone()), (600, expired), (601, back)];
    let expected = [(15, "The login has expired".to_owned()), (601, "The login is valid again".to_owned())];
    assert_eq!(said(&row), expected);
    let taken = warned(REPLACED, Severity::Warning);
    let row = [(0, taken.clone()), (5, taken), (9, tunnel(TunnelState::Connected))];
    assert_eq!(
        said(&row),
        [(5, "The tunnel was taken over".to_owned()), (9, "The tunnel is back".to_owned())]
    );
}

#[test]
fn only_server_of_a_model_is_missed_and_one_of_two_is_not() {
    let both = servers(&[(true, &["a"]), (true, &["a"])]);
    let one = servers(&[(false, &["a"]), (true, &["a"])]);
    assert!(said(&[(0, both), (1, one.clone()), (500, one)]).is_empty());

    let up = servers(&[(true, &["a", "b"]), (true, &["b"])]);
    // The daemon forgets what a server had that is down.
    let down = servers(&[(false, &[]), (true, &["b"])]);
    let row =
        [(0, up.clone()), (10, down.clone()), (129, down.clone()), (130, down.clone()), (140, up.clone())];
    assert_eq!(said(&row), [(130, "server0 is down".to_owned()), (140, "server0 is back".to_owned())]);

    let (mut plan, start) = (Plan::default(), Instant::now());
    plan.observe(&up, start);
    plan.observe(&down, start);
    let notes = plan.observe(&down, start + SERVER);
    assert_eq!(
        (notes[0].body.as_str(), &notes[0].buttons[..]),
        ("nothing else has a", &[Button::Details][..])
    );
}

#[test]
fn while_the_daemon_is_away_nothing_begins_or_ends() {
    let away = View { daemon: Daemon::Away, ..tunnel(TunnelState::Backoff) };
    assert!(said(&[(0, away.clone()), (500, away.clone())]).is_empty());
    let row = [
        (0, tunnel(TunnelState::Backoff)),
        (60, tunnel(TunnelState::Backoff)),
        (61, away),
        (62, tunnel(TunnelState::Backoff)),
        (63, tunnel(TunnelState::Connected)),
    ];
    let expected = [(60, "The tunnel is down".to_owned()), (63, "The tunnel is back".to_owned())];
    assert_eq!(said(&row), expected);
}

#[test]
fn patience_does_not_run_on_while_the_daemon_is_away() {
    let away = View { daemon: Daemon::Away, ..View::default() };
    let down = || tunnel(TunnelState::Backoff);
    let row = [
        (0, down()),
        (6, away.clone()),
        (71, down()),
        (72, down()),
        (130, down()),
        (131, down()),
        (140, away),
        (150, tunnel(TunnelState::Connected)),
    ];
    let expected = [(131, "The tunnel is down".to_owned()), (150, "The tunnel is back".to_owned())];
    assert_eq!(said(&row), expected);
}

#[test]
fn next_look_is_due_when_patience_ends() {
    let (mut plan, start) = (Plan::default(), Instant::now());
    assert_eq!(plan.due(), None);
    plan.observe(&tunnel(TunnelState::Backoff), start);
    assert_eq!(plan.due(), Some(start + TUNNEL));
    plan.observe(&tunnel(TunnelState::Backoff), start + TUNNEL);
    assert_eq!(plan.due(), None);
}
