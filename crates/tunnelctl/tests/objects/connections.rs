//! `tunnelctl connections`.

use serde_json::{Value, json};

use crate::support::{Daemon, OLLAMA, Script, Told, tunnelctl};

const LLAMA: &str = "http://127.0.0.1:8080";

fn lab() -> Value {
    json!({ "id": "lab", "type": "openai", "url": "http://10.0.0.2:8000", "weight": 3 })
}

fn old() -> Value {
    json!({ "id": "old", "type": "ollama", "url": "http://10.0.0.3:11434", "enabled": false })
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let entries = daemon.script().config["connections"].clone();
    entries.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn connections_are_listed_with_those_that_are_off() {
    let daemon = Daemon::start(Script::with_connections(json!([lab(), old()])));
    let told = daemon.run("connections list");
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert!(told.stdout.contains("OK    ollama  ollama  connected      1.5 ms       1"), "{}", told.stdout);
    assert!(told.stdout.contains("FAIL  lab     openai  disconnected"), "{}", told.stdout);
    assert!(told.stdout.contains("off   old     ollama  off"), "{}", told.stdout);
    assert!(told.stdout.contains("\nlab: connection refused\n"), "{}", told.stdout);
    let json = daemon.run("connections list --json").json();
    assert_eq!((&json["total_connections"], &json["connections"][3]["state"]), (&json!(3), &json!("off")));
}

#[test]
fn test_ends_with_4_when_one_does_not_answer() {
    let daemon = Daemon::start(Script::with_connections(json!([lab(), old()])));
    let told = daemon.run("connections test");
    assert_eq!(told.code, 4);
    assert!(told.stdout.contains("FAIL  lab") && told.stdout.contains("OK    ollama"), "{}", told.stdout);
    // The cloud has no token, which is no failure.
    assert!(!told.stdout.contains("cloud") && told.stderr.contains("tunnelctl login"), "{}", told.stderr);
    assert_eq!(daemon.run("connections test ollama").code, 0);
    let told = daemon.run("connections test lab --json");
    assert_eq!((told.code, &told.json()["tests"][0]["ok"]), (4, &json!(false)));
    daemon.script().config["connections"] = json!([]);
    assert_eq!(daemon.run("connections test").code, 0);
}

#[test]
fn test_of_what_is_not_there_names_what_is() {
    let daemon = Daemon::start(Script::with_connections(json!([old()])));
    let told = daemon.run("connections test nope");
    assert_eq!((told.code, told.stdout.as_str()), (6, ""));
    assert_eq!(told.stderr, "error: there is no connection nope; there are: ollama, cloud, old\n");
    let told = daemon.run("connections test old");
    assert_eq!(told.code, 4);
    assert!(told.stderr.contains("tunnelctl connections enable old"), "{}", told.stderr);
}

#[test]
fn server_that_is_found_at_its_address_is_added_as_what_it_is() {
    let daemon = Daemon::start(Script::with_connections(json!([lab()])).detects("openai", LLAMA, None));
    let told = daemon.run("connections add localhost:8080/v1/ --priority 2");
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert!(
        told.stdout.starts_with("llama-cpp is added: openai at http://localhost:8080/v1\n"),
        "{}",
        told.stdout
    );
    assert_eq!(
        daemon.script().config["connections"],
        json!([lab(), { "id": "llama-cpp", "type": "openai", "url": "http://localhost:8080/v1", "priority": 2 }])
    );
    let told = daemon.run("connections add 127.0.0.1:8080");
    assert_eq!(told.code, 9);
    assert!(told.stderr.contains("llama-cpp leads to http://127.0.0.1:8080 already"), "{}", told.stderr);
}

#[test]
fn added_server_that_does_not_answer_is_told_with_the_next_step() {
    let daemon = Daemon::start(Script::default());
    let told = daemon.run("connections add http://10.0.0.9:1 --type openai --id far");
    assert_eq!(told.code, 0);
    assert!(told.stdout.contains("FAIL Disconnected: connection refused"), "{}", told.stdout);
    assert!(told.stdout.contains("tunnelctl connections test far"), "{}", told.stdout);
    let told = daemon.run("connections add http://10.0.0.9:2 --type openai --json");
    assert_eq!((&told.json()["added"]["id"], &told.json()["test"]["ok"]), (&json!("openai"), &json!(false)));
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let daemon = Daemon::start(Script::with_connections(json!([lab()])));
    for (line, code, says) in [
        ("connections add http://10.0.0.9:1", 2, "--type openai"),
        ("connections add http://u:canary@h --type openai", 2, "no secrets"),
        ("connections add http://h --type openai --id lab", 9, "a connection lab already"),
        ("connections add http://h --type openai --id cloud", 9, "a connection cloud already"),
    ] {
        let told = daemon.run(line);
        assert_eq!((told.code, told.stdout.as_str()), (code, ""), "{line}");
        assert!(told.stderr.contains(says) && !told.stderr.contains("canary"), "{}", told.stderr);
    }
    assert_eq!(daemon.script().heard, Vec::<String>::new());
}

#[test]
fn two_who_change_it_at_once_lose_nothing() {
    let rivals = vec![json!({ "id": "openai", "type": "openai", "url": "http://h:2" }), lab()];
    let script = Script { rivals, ..Script::default() };
    let daemon = Daemon::start(script);
    let told = daemon.run("connections add http://h:1 --type openai");
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert_eq!(ids(&daemon), ["lab", "openai", "openai-2"]);
}

#[test]
fn change_that_never_gets_through_is_a_conflict() {
    let rival = |n| json!({ "id": format!("r{n}"), "type": "openai", "url": "http://h" });
    let script = Script { rivals: (0..20).map(rival).collect(), ..Script::default() };
    let daemon = Daemon::start(script);
    let told = daemon.run("connections add http://h:1 --type openai --id mine");
    assert_eq!(told.code, 9);
    assert!(!ids(&daemon).contains(&"mine".to_owned()));
}

#[test]
fn connections_are_switched_and_removed() {
    let daemon = Daemon::start(Script::with_connections(json!([lab(), old()])));
    assert_eq!(daemon.run("connections disable lab").code, 0);
    assert_eq!(daemon.run("connections enable old").code, 0);
    assert_eq!(daemon.run("connections disable ollama").code, 0);
    assert_eq!(daemon.run("connections disable cloud").code, 0);
    let config = daemon.script().config.clone();
    assert_eq!((&config["enableLocalOllama"], &config["enableCloudProxy"]), (&json!(false), &json!(false)));
    let enabled = |at: usize| config["connections"][at]["enabled"].clone();
    assert_eq!(
        (enabled(0), enabled(1), &config["connections"][0]["weight"]),
        (json!(false), json!(true), &json!(3))
    );

    let changes = daemon.script().heard.len();
    let told = daemon.run("connections disable lab");
    assert_eq!((told.code, told.stdout.as_str()), (0, "lab is disabled already\n"));
    assert_eq!(daemon.run("connections disable lab --json").json()["changed"], false);
    assert_eq!(daemon.script().heard.len(), changes);

    assert_eq!(daemon.run("connections remove lab").code, 0);
    assert_eq!(ids(&daemon), ["old"]);
    let told = daemon.run("connections remove ollama");
    assert_eq!(told.code, 9);
    assert!(told.stderr.contains("tunnelctl connections disable ollama"), "{}", told.stderr);
    for verb in ["remove", "enable", "disable"] {
        let told = daemon.run(&format!("connections {verb} nope"));
        assert_eq!(told.code, 6);
        assert!(told.stderr.contains("there are: ollama, cloud, old"), "{}", told.stderr);
    }
}

#[test]
fn detected_servers_are_listed_and_added_with_one_change() {
    let script = Script::default().detects("ollama", OLLAMA, Some("ollama"));
    let daemon =
        Daemon::start(script.detects("openai", LLAMA, None).detects("openai", "http://127.0.0.1:8081", None));
    let told = daemon.run("connections detect");
    assert_eq!(told.code, 0);
    assert!(told.stdout.contains("http://127.0.0.1:8080   not added"), "{}", told.stdout);
    assert!(told.stdout.contains("tunnelctl connections detect --add"), "{}", told.stdout);
    let told = daemon.run("connections detect --add");
    assert!(told.stdout.contains("llama-cpp (added)"), "{}", told.stdout);
    assert_eq!(
        (ids(&daemon), daemon.script().heard.len()),
        (vec!["llama-cpp".to_owned(), "llama-cpp-2".to_owned()], 1)
    );
    // It goes by addresses, even when the daemon tells the servers as new.
    assert_eq!(daemon.run("connections detect --add --json").json()["added"], json!([]));
}

#[test]
fn nothing_detected_says_what_to_do() {
    let told = Daemon::start(Script::default()).run("connections detect");
    assert_eq!((told.code, told.stdout.as_str()), (0, ""));
    assert!(told.stderr.contains("tunnelctl connections add URL"), "{}", told.stderr);
}

#[test]
fn change_that_a_variable_makes_void_is_not_told_as_done() {
    let mut script = Script::with_connections(json!([lab()])).detects("openai", LLAMA, None);
    script.overridden = vec!["connections", "enableLocalOllama"];
    let daemon = Daemon::start(script);
    for line in
        ["disable ollama", "disable lab", "remove lab", "add http://h --type openai", "add 127.0.0.1:8080"]
    {
        let told = daemon.run(&format!("connections {line}"));
        assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{line}");
        assert!(told.stderr.contains("without effect as long as $TUNNELD_X sets"), "{line}: {}", told.stderr);
    }
    let json = daemon.run("connections disable ollama --json").json();
    assert_eq!(json["configuration"]["overridden"][0]["key"], "enableLocalOllama");
}

#[test]
fn file_with_faults_is_told_with_the_way_to_mend_it() {
    let daemon = Daemon::start(Script { has_faults: true, ..Script::default() });
    for line in ["connections disable ollama", "connections add http://h --id h --type openai"] {
        let told = daemon.run(line);
        assert_eq!((told.code, told.stdout.as_str()), (9, ""));
        assert!(
            told.stderr.ends_with("has faults; mend it with: tunnelctl config edit\n"),
            "{}",
            told.stderr
        );
    }
}

#[test]
fn key_that_is_taken_out_of_the_file_is_told_though_its_value_stays() {
    let daemon = Daemon::start(Script::default());
    let told = daemon.run("config set ollamaPort 11434");
    assert!(told.stdout.starts_with("ollamaPort: 11434 -> 11434"), "{}", told.stdout);
}

#[test]
fn help_of_a_command_is_shown_by_both_ways() {
    let help = |line: &str| Told::from(tunnelctl().args(line.split(' ')).output().unwrap());
    let told = help("help connections add");
    assert_eq!((told.code, &told.stdout), (0, &help("connections add --help").stdout));
    let told = help("help connections nope");
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(told.stderr.contains("there is no command connections nope"), "{}", told.stderr);
}
