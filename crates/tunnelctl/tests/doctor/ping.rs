use serde_json::{Value, json};

use super::scene::{Scene, version};

fn daemon(cloud_ok: bool) -> Scene {
    let connection = |id: &str, ms: f64| json!({ "id": id, "latency": ms });
    let test =
        |ok: bool, connection: Value| json!({ "ok": ok, "message": "no token", "connection": connection });
    Scene::with_daemon(vec![
        version(),
        ("GET /livez", json!({})),
        (
            "GET /api/connections",
            json!({ "connections": [connection("cloud", 9.0), connection("ollama", 9.0)] }),
        ),
        ("POST /api/connections/cloud/test", test(cloud_ok, connection("cloud", 23.4))),
        ("POST /api/connections/ollama/test", test(true, connection("ollama", 3.25))),
    ])
}

#[test]
fn rounds_and_their_summary_are_told() {
    let (code, stdout, stderr) = daemon(true).run(&["ping", "-c", "2"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("  1  daemon ") && lines[1].starts_with("  2  daemon "), "{stdout}");
    assert!(lines[0].ends_with("ms  relay 23 ms  ollama 3.2 ms"), "{stdout}");
    assert!(lines[3].starts_with("HOP "), "{stdout}");
    let words: Vec<&str> = lines[5].split_whitespace().collect();
    assert_eq!(words.join(" "), "relay 2 of 2 23 ms 23 ms 23 ms");
}

#[test]
fn rounds_are_lines_of_json() {
    let (code, stdout, _) = daemon(false).run(&["ping", "relay", "-c", "2", "--json"]);
    assert_eq!(code, 4, "{stdout}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["round"], 2);
    assert_eq!(lines[1]["hops"][0]["ok"], true);
    assert_eq!(
        lines[1]["hops"][1],
        json!({ "hop": "relay", "kind": "relay", "ok": false, "error": "no token" })
    );
    assert_eq!(lines[2]["summary"][1]["answered"], 0);
    assert_eq!(lines[2]["summary"][1]["kind"], "relay");
    assert_eq!(lines[2]["summary"][1]["avg_ms"], Value::Null);
}

#[test]
fn hop_that_fails_says_why() {
    let (code, stdout, _) = daemon(false).run(&["ping", "-c", "1"]);
    assert_eq!(code, 4, "{stdout}");
    assert!(stdout.contains("  relay failed: no token  ollama 3.2 ms\n"), "{stdout}");
}

#[test]
fn unknown_target_and_absent_daemon_have_their_codes() {
    let (code, stdout, stderr) = daemon(true).run(&["ping", "nope"]);
    assert_eq!((code, stdout.as_str()), (6, ""));
    assert!(stderr.contains("tunnelctl connections list"), "{stderr}");
    assert_eq!(Scene::bare().run(&["ping"]).0, 3);
}
