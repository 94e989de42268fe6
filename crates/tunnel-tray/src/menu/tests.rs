use tunnel_api::tunnel::Target;
use tunnel_api::{AuthStatus, Model, TunnelState, Warning};

use super::*;
use crate::icon::tests::view;
use crate::view::Running;

/// The menu as lines, indented; `-` a separator, `( )` greyed, `[x]` and `[ ]` check marks, `>` opens.
fn lines(entries: &[Entry]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in entries {
        let Entry::Item(item) = entry else {
            lines.push("-".to_owned());
            continue;
        };
        let label = &item.label;
        match &item.does {
            Does::Nothing => lines.push(format!("({label})")),
            Does::Act(_) => lines.push(label.clone()),
            Does::Toggle { checked, .. } => {
                lines.push(format!("[{}] {label}", if *checked { 'x' } else { ' ' }))
            }
            Does::Fixed { checked } => {
                lines.push(format!("([{}] {label})", if *checked { 'x' } else { ' ' }))
            }
            Does::Open(below) => {
                lines.push(format!("{label} >"));
                lines.extend(self::lines(below).into_iter().map(|line| format!("  {line}")));
            }
        }
    }
    lines
}

/// All that can be done with it, by label.
fn actions(entries: &[Entry]) -> Vec<(String, Action)> {
    let mut actions = Vec::new();
    for entry in entries {
        let Entry::Item(item) = entry else { continue };
        match &item.does {
            Does::Act(action) | Does::Toggle { action, .. } => {
                actions.push((item.label.clone(), action.clone()))
            }
            Does::Open(below) => actions.extend(self::actions(below)),
            Does::Nothing | Does::Fixed { .. } => {}
        }
    }
    actions
}

fn settings() -> Settings {
    let connections = [("ollama", true), ("cloud", true), ("gpu", false), ("server0", true)];
    Settings {
        start_at_login: false,
        notifications: true,
        gateway_port: Some(11435),
        connections: connections.map(|(id, on)| (id.to_owned(), on)).into(),
    }
}

fn model(name: &str, loaded: bool) -> Model {
    Model { name: name.to_owned(), loaded, ..Model::default() }
}

#[test]
fn everything_has_its_place() {
    let mut view = view(Target::Up, TunnelState::Connected, &[true, false]);
    view.status.connections.get_mut("server0").unwrap().latency = Some(12.3);
    view.status.warnings.push(Warning::new("x", "server1 does not answer", "start it"));
    view.settings = Some(settings());
    view.models = vec![model("a", false), model("z", true)];
    view.requests =
        vec![Running { id: "r1".to_owned(), model: Some("z".to_owned()), tokens_per_s: Some(41.7) }];
    view.auth =
        Some(AuthStatus { authenticated: true, subject: Some("alice".to_owned()), ..AuthStatus::default() });
    let expected = "\
(Connected, 1 of 2 model servers up)
-
Pause tunnel
Connections >
  [ ] gpu: off
  [x] server0: connected, 12 ms
  ([x] server1: disconnected)
Models >
  (z (loaded))
  (a)
Active requests >
  z: 42 tokens/s >
    Cancel
Copy base URL
Warnings >
  server1 does not answer
-
Log out (alice)
-
Show
Hide
Settings
Reconnect All
Preferences >
  [ ] Start tunneld at login
  [x] Notifications
-
Quit";
    let menu = menu(&view);
    assert_eq!(lines(&menu).join("\n"), expected);
    let actions = actions(&menu);
    let action = |label: &str| &actions.iter().find(|(it, _)| it == label).unwrap().1;
    assert_eq!(*action("gpu: off"), Action::Switch { id: "gpu".to_owned(), on: true });
    assert_eq!(*action("server0: connected, 12 ms"), Action::Switch { id: "server0".to_owned(), on: false });
    assert_eq!(*action("Cancel"), Action::Cancel { request: "r1".to_owned() });
    assert_eq!(*action("Start tunneld at login"), Action::StartAtLogin(true));
    assert_eq!(*action("Notifications"), Action::Notifications(false));
    assert_eq!(*action("server1 does not answer"), Action::Doctor);
}

#[test]
fn what_is_not_there_is_not_offered() {
    let mut paused = view(Target::Down, TunnelState::Disconnected, &[]);
    paused.settings = Some(Settings { gateway_port: None, connections: Vec::new(), ..settings() });
    let paused = lines(&menu(&paused));
    assert!(paused.contains(&"Resume tunnel".to_owned()), "{paused:?}");
    assert!(paused.contains(&"Log in…".to_owned()));
    assert!(paused.contains(&"  (None)".to_owned()));
    for absent in ["Active requests >", "Warnings >", "Copy base URL", "Pause tunnel"] {
        assert!(!paused.contains(&absent.to_owned()), "{absent}");
    }
    let mut off = view(Target::Up, TunnelState::Disconnected, &[true]);
    off.status.tunnel.relay = None;
    let off = lines(&menu(&off));
    assert!(
        off.contains(&"(Pause tunnel)".to_owned()) && off.contains(&"(Reconnect All)".to_owned()),
        "{off:?}"
    );
}

#[test]
fn daemon_that_does_not_run_can_be_started_and_one_that_refuses_cannot() {
    let away = View { daemon: Daemon::Away, ..View::default() };
    assert_eq!(lines(&menu(&away)), ["(tunneld is not running)", "-", "Start it", "-", "Quit"]);
    let barred = View { daemon: Daemon::Barred("not let in".to_owned()), ..View::default() };
    assert_eq!(lines(&menu(&barred)), ["(not let in)", "-", "Quit"]);
}

#[test]
fn long_lists_are_cut_and_counted() {
    let mut view = view(Target::Up, TunnelState::Connected, &[true]);
    view.models = (0..75).map(|n| model(&format!("m{n:02}"), n == 74)).collect();
    view.requests = (0..25).map(|n| Running { id: n.to_string(), ..Running::default() }).collect();
    let lines = lines(&menu(&view));
    let first = lines.iter().position(|line| line == "Models >").unwrap() + 1;
    assert_eq!(lines[first], "  (m74 (loaded))");
    assert_eq!(lines[first + 30], "  (and 45 more)");
    assert!(lines.contains(&"  (and 5 more)".to_owned()));
}

#[test]
fn names_from_elsewhere_are_harmless() {
    let mut view = view(Target::Up, TunnelState::Connected, &[true]);
    view.models = vec![model("evil\n\u{202e}name", false)];
    assert!(lines(&menu(&view)).contains(&"  (evil name)".to_owned()));
}
