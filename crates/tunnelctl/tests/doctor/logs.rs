use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::Value;

use super::scene::{LOG, Scene};

const LINES: &str = "2026-01-31T00:00:00Z  INFO tunneld: one request_id=\"ab\"\n\
                     2026-01-31T00:00:01Z  INFO tunneld: two request_id=abc\n\
                     2026-01-31T00:00:02Z  WARN tunneld: three\x1b[2J\n";

#[test]
fn file_is_shown_where_there_is_no_journal() {
    let scene = Scene::bare().file(LOG, LINES);
    let (code, stdout, stderr) = scene.run(&["logs", "-n", "2"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout.lines().count(), 2);
    assert!(stdout.ends_with("tunneld: three?[2J\n"), "{stdout}");
    assert!(stderr.contains("tunneld.log"), "{stderr}");
    let (_, stdout, _) = scene.run(&["logs", "--request", "ab"]);
    assert!(stdout.contains("one") && stdout.lines().count() == 1, "{stdout}");
    let (_, stdout, stderr) = scene.run(&["logs", "-n", "1", "--json"]);
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert!(line["line"].as_str().unwrap().contains("three"), "{line}");
    assert_eq!(stderr, "");
}

#[test]
fn file_is_followed_over_its_rotation() {
    let scene = Scene::bare().file(LOG, LINES);
    let mut child = scene
        .command(&["logs", "-f", "-n", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("three"));
    let path = scene.path(LOG);
    let append = |text: &str| {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    };
    append("four\nfi");
    assert_eq!(next(), "four");
    append("ve\n");
    fs::rename(&path, path.with_extension("log.1")).unwrap();
    append("six\n");
    assert_eq!((next(), next()), ("five".to_owned(), "six".to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Writes its arguments down, and an entry.
const JOURNALCTL: &str = r#"echo "$@" >> "$0.asked"
echo '{"__REALTIME_TIMESTAMP":"1900000000000000","PRIORITY":"6","TARGET":"api","MESSAGE":"answered","F_STATUS":"200"}'"#;

#[test]
fn journal_is_shown_where_it_is_newer() {
    let scene = Scene::bare().file(LOG, LINES).tool("journalctl", JOURNALCTL);
    let (code, stdout, stderr) = scene.run(&["logs", "-n", "7", "--request", "ab"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "2030-03-17T17:46:40.000000Z  INFO api: answered status=200\n");
    let asked = fs::read_to_string(scene.path("tools/journalctl.asked")).unwrap();
    let last = asked.lines().last().unwrap();
    assert_eq!(
        last,
        "--user --user-unit tunneld.service --no-pager -q -o json --lines=7 F_REQUEST_ID=ab F_REQUEST_ID=\"ab\""
    );
    let (_, stdout, _) = scene.run(&["logs", "--json"]);
    let entry: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&entry["MESSAGE"], &entry["schema"]), (&"answered".into(), &"tunnelctl/v1".into()));
}

#[test]
fn what_is_no_request_id_reaches_no_program() {
    let scene = Scene::bare().tool("journalctl", JOURNALCTL);
    for id in ["a b", "x\ny", ""] {
        let (code, _, stderr) = scene.run(&["logs", "--request", id]);
        assert_eq!(code, 2, "{stderr}");
    }
    assert!(!super::scene::exists(&scene.path("tools/journalctl.asked")));
}

#[test]
fn without_any_log_it_says_where_one_would_be() {
    let (code, stdout, stderr) = Scene::bare().run(&["logs"]);
    assert_eq!((code, stdout.as_str()), (6, ""));
    assert!(stderr.contains(".local/state/cloudtolocalllm/tunneld.log"), "{stderr}");
}
