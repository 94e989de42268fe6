//! The program itself: its command line, its signals.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::PATIENCE;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tunnel-relay");

fn token(data_dir: &Path, more: &[&str]) -> Output {
    let base = ["token", "create", "--subject", "alice", "--data-dir"];
    Command::new(PROGRAM).args(base).arg(data_dir).args(more).output().unwrap()
}

fn serve(data_dir: &Path, more: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["serve", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn token_create_prints_the_token_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let made =
        token(&data, &["--scope", "tunnel", "--scope", "inference", "--device", "desk", "--ttl", "1h"]);
    assert!(made.status.success());
    assert_eq!(text(&made.stderr), "");
    let printed = text(&made.stdout);
    let token = printed.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3);
    let verifier = tunnel_relay::auth::LocalIssuer::open(&data).unwrap().verifier();
    let principal = verifier.verify(token, crate::harness::now()).unwrap();
    assert_eq!((&*principal.subject, principal.scopes.as_str()), ("alice", "tunnel inference"));
}

#[test]
fn tokens_made_at_the_same_time_are_all_good() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let making: Vec<_> = (0..6)
        .map(|_| {
            let data = data.clone();
            thread::spawn(move || text(&token(&data, &["--scope", "inference"]).stdout))
        })
        .collect();
    let tokens: Vec<String> = making.into_iter().map(|making| making.join().unwrap()).collect();
    let verifier = tunnel_relay::auth::LocalIssuer::open(&data).unwrap().verifier();
    for token in tokens {
        verifier.verify(token.trim(), crate::harness::now()).unwrap();
    }
}

#[test]
fn bad_orders_are_refused_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert_eq!(token(&data, &["--scope", "admin"]).status.code(), Some(2));
    assert_eq!(token(&data, &["--scope", "tunnel", "--ttl", "soon"]).status.code(), Some(2));
    assert!(!data.exists(), "nothing was made");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = serve(&data, &["--listen", &address]).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    let port = taken.local_addr().unwrap().port();
    assert!(said.contains(&format!("port {port} is taken by ")), "{said}");
    assert!(said.contains(&format!("pid {}", std::process::id())) && said.contains("--listen"), "{said}");

    let config = dir.path().join("relay.toml");
    std::fs::write(&config, "a = 1\nb = 2\nidle_timeout_s = -1\n").unwrap();
    let args = ["--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
    let refused = serve(&data, &args).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(7), "the unit's RestartPreventExitStatus= has this one");
    assert!(text(&refused.stderr).contains("3 fault(s)"));
    std::fs::remove_file(&config).unwrap();
    let refused = serve(&data, &args).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "it may come");
}

#[test]
fn serve_says_where_it_listens_and_ends_politely() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("addresses.json"));
    let mut child = serve(&data, &["--listen", "127.0.0.1:0", "--addr-file", file.to_str().unwrap()]);
    let waiting = Instant::now();
    let addresses = loop {
        if let Ok(written) = std::fs::read_to_string(&file) {
            break written;
        }
        assert!(waiting.elapsed() < PATIENCE, "no address file");
        assert_eq!(child.try_wait().unwrap(), None);
        thread::sleep(Duration::from_millis(10));
    };
    let addresses: serde_json::Value = serde_json::from_str(&addresses).unwrap();
    for key in ["listen", "admin"] {
        std::net::TcpStream::connect(addresses[key].as_str().unwrap()).unwrap();
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), "");
    let log = text(&ended.stderr);
    let listen = addresses["listen"].as_str().unwrap();
    assert!(log.contains("listening") && log.contains(&format!("listen={listen}")), "{log}");
}
