use std::net::TcpListener;

use serde_json::{Value, json};

use super::scene::{CONFIG, Scene, config, version};

const UNIT_RUNS: &str = "echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=enabled";

fn diagnosis(verdict: &str) -> (&'static str, Value) {
    let check = |id: &str, title: &str, verdict: &str, detail: &str, step: &str| json!({ "id": id, "title": title, "verdict": verdict, "detail": detail, "next_step": step });
    let checks = [
        check("config", "configuration", "pass", "is fine", ""),
        check(
            "relay_dns",
            "relay: name",
            verdict,
            "relay.example.org has no address",
            "correct cloudProxyUrl",
        ),
        check("relay_tcp", "relay: connection", "skip", "needs the name", ""),
    ];
    ("POST /api/diagnosis", json!({ "checks": checks }))
}

/// Returns the check with this id.
fn check(stdout: &str, id: &str) -> Value {
    let answer: Value = serde_json::from_str(stdout).unwrap();
    let found = answer["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
    found.unwrap_or_else(|| panic!("{id}: {answer:#}")).clone()
}

#[test]
fn failures_of_the_daemon_are_shown_and_repeated() {
    let scene = Scene::with_daemon(vec![version(), diagnosis("fail")]).tool("systemctl", UNIT_RUNS);
    let (code, stdout, stderr) = scene.run(&["doctor"]);
    assert_eq!((code, stderr.as_str()), (4, ""), "{stdout}");
    for line in [
        "  PASS  daemon             answers at http://",
        "  PASS  user service       runs, and starts with your session\n",
        "  FAIL  relay: name        relay.example.org has no address\n                           -> correct cloudProxyUrl\n",
        "  SKIP  relay: connection  needs the name\n",
        "\n1 thing to do:\n  relay: name: relay.example.org has no address\n    -> correct cloudProxyUrl\n",
    ] {
        assert!(stdout.contains(line), "{line}\n{stdout}");
    }
    assert!(stdout.is_ascii(), "{stdout}");
}

#[test]
fn nothing_that_fails_is_a_success() {
    let scene = Scene::with_daemon(vec![version(), diagnosis("warn")]).tool("systemctl", UNIT_RUNS);
    let (code, stdout, _) = scene.run(&["doctor", "--json"]);
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &answer["failed"], &answer["schema"]), (0, &json!(0), &json!("tunnelctl/v1")));
    assert_eq!(check(&stdout, "relay_dns")["verdict"], "warn");
}

#[test]
fn older_daemon_skips_its_checks() {
    let (code, stdout, _) = Scene::with_daemon(vec![version()]).run(&["doctor", "--json"]);
    assert_eq!(code, 0, "{stdout}");
    assert_eq!(check(&stdout, "diagnosis")["verdict"], "skip");
    // Without systemctl nothing is known of units.
    assert_eq!(check(&stdout, "unit")["verdict"], "skip");
}

#[test]
fn daemon_of_another_version_is_worth_a_look() {
    let other = ("GET /api/version", json!({ "tunnel_manager": "0.0.1" }));
    let (_, stdout, _) = Scene::with_daemon(vec![other, diagnosis("pass")]).run(&["doctor", "--json"]);
    let daemon = check(&stdout, "daemon");
    assert_eq!(daemon["verdict"], "warn");
    assert!(daemon["next_step"].as_str().unwrap().contains("systemctl --user restart tunneld"), "{daemon}");
}

#[test]
fn without_a_daemon_the_rest_is_looked_at_from_here() {
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gateway.local_addr().unwrap().port();
    let scene = Scene::bare().file(CONFIG, &config(&json!({ "gatewayPort": port })));
    let (code, stdout, _) = scene.run(&["doctor", "--json"]);
    assert_eq!(code, 4, "{stdout}");
    let verdict = |id: &str| check(&stdout, id)["verdict"].as_str().unwrap().to_owned();
    assert_eq!(verdict("daemon"), "fail");
    assert_eq!(check(&stdout, "daemon")["next_step"], "start it with: tunnelctl start");
    assert_eq!(verdict("config"), "pass");
    assert_eq!(verdict("relay"), "skip");
    assert_eq!(verdict("tray_host"), "skip");
    assert_eq!(verdict("ports"), "fail");
    let ports = check(&stdout, "ports");
    let detail = ports["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("{port} (the gateway) is taken by ")), "{detail}");
    assert!(detail.ends_with(&format!("(pid {})", std::process::id())), "{detail}");
    assert_eq!(verdict("connection:ollama"), "fail");
    assert!(["pass", "warn"].contains(&verdict("disk").as_str()));
}

#[test]
fn faults_of_the_configuration_are_found_without_a_daemon() {
    let scene = Scene::bare().file(CONFIG, r#"{"ollamaPort": 70000}"#);
    let (_, stdout, _) = scene.run(&["doctor", "--json"]);
    let found = check(&stdout, "config");
    assert_eq!(found["verdict"], "fail");
    assert_eq!(found["next_step"], "see all that is wrong: tunnelctl config check");
}

#[test]
fn model_server_is_asked_without_a_daemon() {
    let ollama = Scene::with_daemon(vec![("GET /api/version", json!({ "version": "0.5.1" }))]);
    let port: u16 = ollama.url().rsplit(':').next().unwrap().parse().unwrap();
    let scene = Scene::bare().file(CONFIG, &config(&json!({ "ollamaPort": port })));
    let (_, stdout, _) = scene.run(&["doctor", "--json"]);
    let found = check(&stdout, "connection:ollama");
    assert_eq!(found["verdict"], "warn");
    assert!(found["detail"].as_str().unwrap().contains("0.5.1 is older than 0.9"), "{found}");
}

#[test]
fn unit_that_failed_is_a_failure_and_one_that_is_absent_is_not() {
    let failed =
        "echo LoadState=loaded; echo ActiveState=failed; echo Result=watchdog; echo ExecMainStatus=6";
    let daemon = || Scene::with_daemon(vec![version(), diagnosis("pass")]);
    let (code, stdout, _) = daemon().tool("systemctl", failed).run(&["doctor", "--json"]);
    assert_eq!((code, &check(&stdout, "unit")["verdict"]), (4, &json!("fail")), "{stdout}");
    let (code, stdout, _) = daemon().tool("systemctl", "echo LoadState=not-found").run(&["doctor", "--json"]);
    assert_eq!((code, &check(&stdout, "unit")["verdict"]), (0, &json!("warn")), "{stdout}");
    let no_manager = "echo 'Failed to connect to bus: No medium found' >&2; exit 1";
    let (code, stdout, _) = daemon().tool("systemctl", no_manager).run(&["doctor", "--json"]);
    assert_eq!((code, &check(&stdout, "unit")["verdict"]), (0, &json!("skip")), "{stdout}");
}

#[test]
fn something_else_at_the_daemons_place_is_told() {
    // A web server that names no version of tunneld.
    let other = Scene::with_stranger();
    let scene = Scene::bare().file(CONFIG, &config(&json!({}))).at(other.url());
    let (code, stdout, _) = scene.run(&["doctor", "--json"]);
    let daemon = check(&stdout, "daemon");
    assert_eq!((code, &daemon["verdict"]), (4, &json!("fail")));
    assert!(daemon["detail"].as_str().unwrap().contains("is not tunneld"), "{daemon}");
    assert_eq!(daemon["next_step"], "name the right address with --url");
}
