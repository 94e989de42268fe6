//! The login of the real program: kept over a restart, shown nowhere, and waiting for no bus.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{ask, ask_socket};
use crate::program::{Home, eventually, free_address};

const CANARY: &str = "canary-3c1f";

fn home() -> Home {
    let home = Home::new(free_address());
    // A relay that is not there: the token is dialled with all the same.
    let relay = format!("http://{}", free_address());
    home.configure(json!({ "enableCloudProxy": true, "cloudProxyUrl": relay }));
    home
}

fn login(home: &Home) -> Value {
    ask(home.control, "GET", "/api/auth", &[], "").json()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn assert_nowhere(home: &Home) {
    for path in files(home.path()) {
        let bytes = fs::read(&path).unwrap_or_default();
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

#[test]
fn login_outlives_the_program_and_is_shown_nowhere() {
    let home = home();
    let log = home.path().join("log");
    let start = || {
        let mut command = home.command();
        command
            .env("TUNNELD_LOG", "trace")
            .stderr(File::options().create(true).append(true).open(&log).unwrap());
        home.start_with(&mut command)
    };
    let mut program = start();
    let body = json!({ "token": CANARY, "refresh_token": CANARY, "token_endpoint": format!("https://x.example/{CANARY}") });
    let stored = ask(home.control, "PUT", "/api/auth/token", &[], &body.to_string());
    assert_eq!((stored.status, &stored.json()["stored_in"]), (200, &json!("file")), "{stored:?}");
    let refused = ask(home.control, "PUT", "/api/auth/token", &[], &format!("{{\"token\":\"{CANARY}\",}}"));
    assert_eq!(refused.status, 400);
    eventually("a dial", || {
        let status = ask(home.control, "GET", "/api/status", &[], "").json();
        status["warnings"].to_string().contains("relay_unreachable")
    });
    for path in ["/api/auth", "/api/status", "/api/connections", "/api/health"] {
        assert!(!ask_socket(&home.socket(), "GET", path).body.contains(CANARY), "{path}");
    }
    assert!(!stored.body.contains(CANARY) && !refused.body.contains(CANARY));
    program.signal(Signal::TERM);
    assert!(program.wait().success());

    let mut program = start();
    eventually("the login", || login(&home)["authenticated"] == true);
    assert_eq!(login(&home)["refreshable"], true);
    let removed = ask(home.control, "DELETE", "/api/auth/token", &[], "");
    assert_eq!((removed.status, &removed.json()["stored_in"]), (200, &json!("none")));
    program.signal(Signal::TERM);
    assert!(program.wait().success());
    assert!(fs::read_to_string(&log).unwrap().contains("token stored"), "the log is there to be searched");
    assert_nowhere(&home);
}

#[test]
fn bus_that_hangs_delays_neither_start_nor_end() {
    let home = home();
    let bus = home.path().join("bus");
    let _accepts_in_the_backlog = UnixListener::bind(&bus).unwrap();
    let mut command = home.command();
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()));
    let mut program = home.start_with(&mut command);
    let health = ask(home.control, "GET", "/api/health", &[], "");
    assert_eq!(health.status, 200);
    assert_eq!(login(&home)["stored_in"], "none");
    let mut status = Value::Null;
    eventually("the warning", || {
        status = ask(home.control, "GET", "/api/status", &[], "").json();
        status["warnings"].to_string().contains("keyring_timeout")
    });
    let codes: Vec<&Value> = status["warnings"].as_array().unwrap().iter().map(|w| &w["code"]).collect();
    assert_eq!(codes.iter().filter(|code| **code == "keyring_timeout").count(), 1, "{codes:?}");
    let begun = Instant::now();
    program.signal(Signal::TERM);
    assert!(program.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
