use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use serde_json::json;

use super::*;

/// A directory with a configuration file in it.
struct Home {
    directory: tempfile::TempDir,
    options: Options,
}

impl Home {
    fn new(text: Option<&str>, env: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.json");
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let options = Options { config: Some(path), env, ..Options::default() };
        Self { directory, options }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.directory.path().join("c.json")).unwrap()
    }

    fn make(&self, edit: Edit) -> Result<Written, ChangeError> {
        self.make_as(Author::Program, edit, &ConfigState::defaults())
    }

    fn make_as(&self, author: Author, edit: Edit, in_force: &ConfigState) -> Result<Written, ChangeError> {
        Change { edit, if_match: None, author }.make(&self.options, in_force, Timestamp::now())
    }

    fn patch(&self, patch: Value) -> Result<Written, ChangeError> {
        self.make(Edit::Patch(patch.as_object().unwrap().clone()))
    }

    fn backups(&self) -> Backups {
        Backups::of(&self.directory.path().join("c.json"))
    }

    /// Names of everything beside the file, temporary ones too.
    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "c.json" && name != "backups").collect()
    }
}

const FILE: &str = "{\n   \"logLevel\": \"WARN\",\n\n   \"ollamaPort\" : 11500\n}\n";

#[test]
fn patch_changes_what_it_names_and_keeps_a_copy() {
    let home = Home::new(Some(FILE), &[]);
    let written = home.patch(json!({ "logLevel": "ERROR" })).unwrap();
    assert_eq!(home.text(), FILE.replace("WARN", "ERROR"));
    assert!(written.changed && written.overridden.is_empty());
    assert_eq!(written.loaded.config.ollama_port.get(), 11500);
    let copy = home.backups().find(&written.backup.unwrap()).unwrap().unwrap();
    assert_eq!(fs::read_to_string(copy).unwrap(), FILE);
    assert!(home.litter().is_empty());
}

#[test]
fn change_that_changes_nothing_writes_nothing() {
    let home = Home::new(Some(FILE), &[]);
    let written = home.patch(json!({ "logLevel": "WARN", "deviceName": null })).unwrap();
    assert!(!written.changed && written.backup.is_none());
    assert!(home.backups().list().unwrap().is_empty());
}

#[test]
fn first_change_makes_the_file() {
    let home = Home::new(None, &[]);
    let written = home.patch(json!({ "ollamaPort": 1 })).unwrap();
    assert!(written.changed && written.backup.is_none());
    assert_eq!(home.text(), "{\n  \"ollamaPort\": 1\n}\n");
    assert_eq!(
        fs::metadata(home.directory.path().join("c.json")).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn content_with_faults_is_not_written_and_all_of_them_are_told() {
    let home = Home::new(Some(FILE), &[]);
    let error = home.patch(json!({ "ollamaPort": 0, "logLevel": "LOUD" })).unwrap_err();
    assert!(matches!(&error, ChangeError::Invalid(faults) if faults.len() == 2), "{error}");
    assert!(matches!(home.make(Edit::Replace("{".to_owned())), Err(ChangeError::NotJson(_))));
    assert_eq!(home.text(), FILE);
    assert!(home.backups().list().unwrap().is_empty() && home.litter().is_empty());
}

#[test]
fn file_that_is_broken_by_hand_is_not_overwritten() {
    for broken in ["{ \"ollamaPort\": ", "{ \"ollamaPort\": 0 }", "[]"] {
        let home = Home::new(Some(broken), &[]);
        for edit in [Edit::Patch(Map::new()), Edit::Replace("{}".to_owned())] {
            assert!(matches!(home.make(edit), Err(ChangeError::FileInvalid { .. })), "{broken}");
        }
        assert_eq!(home.text(), broken);
    }
}

#[test]
fn copy_is_put_back_over_a_broken_file_only_by_force() {
    let home = Home::new(Some(FILE), &[]);
    let name = home.patch(json!({ "logLevel": "ERROR" })).unwrap().backup.unwrap();
    fs::write(home.directory.path().join("c.json"), "{ broken").unwrap();
    let restore = |force| home.make(Edit::Restore { name: name.clone(), force });
    assert!(matches!(restore(false), Err(ChangeError::FileInvalid { .. })));
    let written = restore(true).unwrap();
    assert_eq!(home.text(), FILE);
    let copy = home.backups().find(&written.backup.unwrap()).unwrap().unwrap();
    assert_eq!(fs::read_to_string(copy).unwrap(), "{ broken");
    let other = home.make(Edit::Restore { name: "../c.json".to_owned(), force: true });
    assert!(matches!(other, Err(ChangeError::NoSuchBackup)));
}

#[test]
fn single_line_becomes_readable_and_lines_stay() {
    let home = Home::new(None, &[]);
    home.make(Edit::Replace(r#"{"ollamaPort":1.0e1,"logLevel":"WARN"}"#.to_owned())).unwrap();
    assert_eq!(home.text(), "{\n  \"ollamaPort\": 1.0e1,\n  \"logLevel\": \"WARN\"\n}\n");
    home.make(Edit::Replace(FILE.to_owned())).unwrap();
    assert_eq!(home.text(), FILE);
}

#[test]
fn variable_that_wins_is_told() {
    let home = Home::new(None, &[("TUNNELD_LOG_LEVEL", "ERROR"), ("TUNNELD_QUEUE", r#"{"maxWait": 3}"#)]);
    let written =
        home.patch(json!({ "logLevel": "WARN", "queue": { "maxWait": 9 }, "maxRetries": 2 })).unwrap();
    let told: Vec<(&str, &str)> =
        written.overridden.iter().map(|one| (one.key.as_str(), one.by.as_str())).collect();
    assert_eq!(told, [("logLevel", "TUNNELD_LOG_LEVEL"), ("queue", "TUNNELD_QUEUE")]);
    assert_eq!(written.loaded.config.log_level, tunnel_api::config::LogLevel::Error);
}

#[test]
fn fault_that_a_variable_hides_is_a_fault_all_the_same() {
    let home = Home::new(None, &[("TUNNELD_LOG_LEVEL", "ERROR")]);
    let error = home.patch(json!({ "logLevel": "LOUD" })).unwrap_err();
    assert!(matches!(error, ChangeError::Invalid(faults) if faults[0].key == "logLevel"));
}

#[test]
fn change_for_another_version_is_refused() {
    let home = Home::new(Some(FILE), &[]);
    let change = |if_match: String| {
        let edit = Edit::Patch(json!({ "maxRetries": 3 }).as_object().unwrap().clone());
        Change { edit, if_match: Some(if_match), author: Author::Program }.make(
            &home.options,
            &ConfigState::defaults(),
            Timestamp::now(),
        )
    };
    let etag = Source::read(&home.options).unwrap().revision().etag();
    assert!(matches!(change("\"other\"".to_owned()), Err(ChangeError::FileChanged { .. })));
    assert!(change(etag.clone()).unwrap().changed);
    assert!(matches!(change(etag), Err(ChangeError::FileChanged { .. })));
}

#[test]
fn change_for_another_version_is_told_of_the_faults_that_keep_it_from_being_read_anew() {
    let home = Home::new(Some(FILE), &[]);
    let etag = Source::read(&home.options).unwrap().revision().etag();
    fs::write(home.directory.path().join("c.json"), "{ bad").unwrap();
    let change = Change { edit: Edit::Patch(Map::new()), if_match: Some(etag), author: Author::Program };
    let refused = change.make(&home.options, &ConfigState::defaults(), Timestamp::now());
    assert!(matches!(refused, Err(ChangeError::FileInvalid { .. })));
}

#[test]
fn places_that_cannot_be_written_are_told() {
    let nowhere = Options::default();
    let edit = || Edit::Replace("{}".to_owned());
    let make = |options: &Options| {
        Change { edit: edit(), if_match: None, author: Author::Program }.make(
            options,
            &ConfigState::defaults(),
            Timestamp::now(),
        )
    };
    assert!(matches!(make(&nowhere), Err(ChangeError::NoPlace)));
    let below_a_file = Options { config: Some("/dev/null/c.json".into()), ..Options::default() };
    assert!(matches!(make(&below_a_file), Err(ChangeError::ReadOnly { .. })));
    let home = Home::new(Some(FILE), &[]);
    let path = home.directory.path().join("c.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(matches!(make(&home.options), Err(ChangeError::ReadOnly { .. })));
    assert_eq!(home.text(), FILE);
}

#[test]
fn copy_on_demand_is_of_the_file_as_it_is() {
    let home = Home::new(None, &[]);
    assert!(matches!(back_up(&home.options, Timestamp::now()), Err(ChangeError::NoFile)));
    fs::write(home.directory.path().join("c.json"), "{ broken").unwrap();
    let name = back_up(&home.options, Timestamp::now()).unwrap();
    let copy = home.backups().find(&name).unwrap().unwrap();
    assert_eq!(fs::read_to_string(copy).unwrap(), "{ broken");
}

#[test]
fn web_page_changes_what_is_served_and_never_what_is_started() {
    let program = json!({ "id": "p", "type": "plugin", "command": ["/bin/p"] });
    let with = |entries: Value| {
        let mut state = ConfigState::defaults();
        let keys = json!({ "connections": entries });
        state.config = Arc::new(Config::check(keys.as_object().unwrap()).unwrap());
        state
    };
    let started = with(json!([program]));
    let made = |in_force: &ConfigState, entries: Value| {
        let home = Home::new(Some("{}"), &[]);
        let keys = json!({ "connections": entries });
        let patch = keys.as_object().unwrap().clone();
        home.make_as(Author::Page, Edit::Patch(patch), in_force)
    };
    let changed = |keys: Value| {
        let mut entry = program.clone();
        entry.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        json!([entry])
    };
    for (in_force, entries) in [
        (with(json!([])), json!([program])),
        (with(json!([])), changed(json!({ "enabled": false }))),
        (started.clone(), changed(json!({ "command": ["/bin/other"] }))),
        (started.clone(), changed(json!({ "sandbox": { "network": true } }))),
        (started.clone(), changed(json!({ "id": "q" }))),
        (with(changed(json!({ "enabled": false }))), json!([program])),
        (
            with(json!([])),
            json!([{ "id": "s", "type": "plugin", "url": "unix:///run/p.sock", "models": ["x"] }]),
        ),
        (with(json!([])), json!([{ "id": "s", "type": "plugin", "url": "http://127.0.0.1:2375" }])),
    ] {
        let refused = made(&in_force, entries.clone());
        assert!(
            matches!(&refused, Err(ChangeError::ByPage(PageRefusal::Plugin { .. }))),
            "{entries}: {refused:?}"
        );
    }
    assert!(made(&started, changed(json!({ "priority": 3, "enabled": false }))).is_ok());
    assert!(made(&started, json!([])).is_ok());
    let beside = json!([program, { "id": "o", "type": "openai", "url": "http://h" }]);
    assert!(made(&started, beside).is_ok());
}

#[test]
fn web_page_has_no_secret_sent_anywhere_else_and_opens_no_door() {
    let entry = json!({ "id": "a", "type": "openai", "url": "https://api.example", "credential": "key" });
    let lan = json!({ "enabled": true, "port": 11440 });
    let before = json!({ "connections": [entry], "lanGateway": lan, "caFile": "/ca.pem" });
    let made = |before: &Value, patch: Value| {
        let home = Home::new(Some(&before.to_string()), &[]);
        let mut state = ConfigState::defaults();
        state.config = Arc::new(Config::check(before.as_object().unwrap()).unwrap());
        home.make_as(Author::Page, Edit::Patch(patch.as_object().unwrap().clone()), &state)
    };
    let changed = |keys: Value| {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        json!({ "connections": [entry] })
    };
    for (before, patch) in [
        (&json!({}), changed(json!({}))),
        (&before, changed(json!({ "url": "https://evil.example" }))),
        (&before, changed(json!({ "id": "b", "url": "https://evil.example" }))),
        (&before, changed(json!({ "type": "cloud" }))),
        (&before, changed(json!({ "credential": "other" }))),
        (&json!({}), json!({ "lanGateway": lan })),
        (&before, json!({ "lanGateway": { "address": "192.0.2.1" } })),
        (&json!({}), json!({ "caFile": "/home/u/Downloads/ca.pem" })),
        (&before, json!({ "caFile": "/other.pem" })),
    ] {
        let refused = made(before, patch.clone());
        assert!(
            matches!(&refused, Err(ChangeError::ByPage(why)) if why.code() == "page_change_refused"),
            "{patch}: {refused:?}"
        );
    }
    for patch in [
        json!({ "logLevel": "WARN" }),
        changed(json!({ "priority": 3, "enabled": false })),
        changed(json!({ "credential": null, "url": "https://other.example" })),
        json!({ "lanGateway": { "enabled": false } }),
        json!({ "lanGateway": null, "caFile": null, "connections": null }),
    ] {
        assert!(made(&before, patch.clone()).is_ok(), "{patch}");
    }
}

#[test]
fn web_page_plants_nothing_under_what_a_variable_hides() {
    let planted = json!({ "connections": [{ "id": "p", "type": "plugin", "command": ["/bin/p"] }] });
    let patch = || Edit::Patch(planted.as_object().unwrap().clone());
    let env = [("TUNNELD_CONNECTIONS", "[]")];
    let home = Home::new(Some("{}"), &env);
    let refused = home.make_as(Author::Page, patch(), &ConfigState::defaults());
    assert!(matches!(refused, Err(ChangeError::ByPage(_))), "{refused:?}");
    assert_eq!(home.text(), "{}");
    let home = Home::new(Some(&planted.to_string()), &env);
    let other = Edit::Patch(json!({ "logLevel": "WARN" }).as_object().unwrap().clone());
    assert!(home.make_as(Author::Page, other, &ConfigState::defaults()).is_ok(), "it stood there before");
}

/// Each key with another value than the default, and whether a web page may bring it in. A new key is added here: ask
/// yourself what somebody could do with it who has taken over a page.
fn keys_and_whether_a_page_may_change_them() -> Vec<(&'static str, Value, bool)> {
    let entry = json!([{ "id": "o", "type": "openai", "url": "http://h" }]);
    vec![
        ("enableLocalOllama", json!(false), true),
        ("ollamaHost", json!("gpu.lan"), true),
        ("ollamaPort", json!(1), true),
        ("connectionTimeout", json!(1), true),
        ("enableCloudProxy", json!(false), true),
        ("cloudProxyUrl", json!("https://evil.example"), false),
        ("cloudProxyAudience", json!("https://evil.example"), false),
        ("apiServerPort", json!(1), false),
        ("enableApiServer", json!(false), false),
        ("allowedOrigins", json!(["https://evil.example"]), false),
        ("healthCheckInterval", json!(5), true),
        ("maxRetries", json!(1), true),
        ("retryDelay", json!(1), true),
        ("connectionPoolSize", json!(1), true),
        ("requestTimeout", json!(5), true),
        ("enableMetrics", json!(false), true),
        ("minimizeToTray", json!(false), true),
        ("startMinimized", json!(true), true),
        ("showNotifications", json!(false), true),
        ("logLevel", json!("WARN"), true),
        ("autoStartTunnel", json!(false), true),
        ("autoStartOnBoot", json!(true), true),
        ("gatewayPort", json!(1), false),
        ("enableGateway", json!(false), false),
        ("lanGateway", json!({ "enabled": true }), false),
        ("firstByteTimeout", json!(5), true),
        // Within limits, which have tests of their own.
        ("connections", entry, true),
        ("aliases", json!({ "a": "b" }), true),
        ("keepWarm", json!(["a"]), true),
        ("routingPolicy", json!("localOnly"), true),
        ("queue", json!({ "maxWaiting": 1 }), true),
        ("remotePaths", json!("all"), false),
        ("deviceName", json!("other"), true),
        ("preferredDevice", json!(true), true),
        ("alerts", json!({ "latencyMs": 1 }), true),
        ("metricsUpdateInterval", json!(1), true),
        ("proxyUrl", json!("http://evil.example:3128"), false),
        ("caFile", json!("/ca.pem"), false),
    ]
}

#[test]
fn each_key_is_one_that_a_web_page_may_change_or_not() {
    let keys = keys_and_whether_a_page_may_change_them();
    let classified: Vec<&str> = keys.iter().map(|(key, ..)| *key).collect();
    let mut all: Vec<String> = Config::default().to_map().keys().cloned().collect();
    all.retain(|key| !classified.contains(&key.as_str()));
    assert!(all.is_empty(), "keys that nobody has classified: {all:?}");
    for (key, value, allowed) in keys {
        let patch = Map::from_iter([(key.to_owned(), value)]);
        let whole = json!(patch).to_string();
        for (way, edit) in [("patch", Edit::Patch(patch)), ("replace", Edit::Replace(whole))] {
            let home = Home::new(Some("{}"), &[]);
            match home.make_as(Author::Page, edit, &ConfigState::defaults()) {
                Ok(written) => assert!(allowed && written.changed, "{key} by {way}"),
                Err(ChangeError::ByPage(why)) => {
                    assert!(!allowed && why.code() == "page_change_refused", "{key} by {way}: {why}");
                    assert_eq!(home.text(), "{}");
                }
                Err(other) => panic!("{key} by {way}: {other}"),
            }
        }
    }
}

#[test]
fn web_page_narrows_and_does_not_widen_nor_reset() {
    let origins = ["https://a.example", "https://b.example", "http://localhost:*"];
    let before = json!({
        "remotePaths": ["POST /api/chat", "GET /api/tags"],
        "allowedOrigins": origins,
        "cloudProxyUrl": "https://relay.example",
        "proxyUrl": "socks5://127.0.0.1:9050",
    });
    let made = |before: &Value, edit: Edit| {
        let home = Home::new(Some(&before.to_string()), &[]);
        let mut state = ConfigState::defaults();
        state.config = Arc::new(Config::check(before.as_object().unwrap()).unwrap());
        home.make_as(Author::Page, edit, &state)
    };
    let patch = |keys: Value| Edit::Patch(keys.as_object().unwrap().clone());
    let (all, inference) = (json!({ "remotePaths": "all" }), json!({}));
    for (before, keys) in [
        (&before, json!({ "remotePaths": ["POST /api/chat"], "allowedOrigins": ["https://b.example"] })),
        (&before, json!({ "remotePaths": [], "allowedOrigins": [] })),
        (&all, json!({ "remotePaths": "inference" })),
        (&all, json!({ "remotePaths": ["* /api/*"] })),
        (&inference, json!({ "remotePaths": [] })),
    ] {
        assert!(made(before, patch(keys.clone())).is_ok(), "{keys}");
    }
    for (before, edit) in [
        (&before, patch(json!({ "remotePaths": ["POST /api/chat", "POST /api/pull"] }))),
        (&before, patch(json!({ "remotePaths": null }))),
        (&before, patch(json!({ "allowedOrigins": ["https://a.example", "https://evil.example"] }))),
        // From reading to everything.
        (&before, patch(json!({ "allowedOrigins": ["http://localhost:3000"] }))),
        (&before, patch(json!({ "allowedOrigins": null }))),
        (&before, patch(json!({ "cloudProxyUrl": null }))),
        (&before, patch(json!({ "proxyUrl": null }))),
        (&before, Edit::Replace("{}".to_owned())),
        (&inference, patch(json!({ "remotePaths": ["POST /api/pull"] }))),
    ] {
        let refused = made(before, edit);
        assert!(matches!(&refused, Err(ChangeError::ByPage(_))), "{refused:?}");
    }
}

#[test]
fn web_page_may_change_the_rest_where_variables_move_the_relay() {
    let env = [("TUNNELD_CLOUD_PROXY_URL", "https://relay.example"), ("TUNNELD_ALLOWED_ORIGINS", "[]")];
    for text in [None, Some("{}")] {
        let home = Home::new(text, &env);
        let mut state = ConfigState::defaults();
        let in_force = json!({ "cloudProxyUrl": "https://relay.example", "allowedOrigins": [] });
        state.config = Arc::new(Config::check(in_force.as_object().unwrap()).unwrap());
        let patch = |keys: Value| Edit::Patch(keys.as_object().unwrap().clone());
        assert!(home.make_as(Author::Page, patch(json!({ "maxRetries": 2 })), &state).is_ok(), "{text:?}");
        let planted = patch(json!({ "cloudProxyUrl": "https://evil.example" }));
        let refused = home.make_as(Author::Page, planted, &state);
        assert!(matches!(refused, Err(ChangeError::ByPage(PageRefusal::Relay { .. }))), "{refused:?}");
    }
}

#[test]
fn web_page_does_not_bring_back_a_copy_with_another_relay() {
    let home = Home::new(Some(r#"{ "cloudProxyUrl": "https://old.example" }"#), &[]);
    home.make(Edit::Replace("{}".to_owned())).unwrap();
    let name = home.backups().list().unwrap().remove(0).name;
    for force in [false, true] {
        let restore = Edit::Restore { name: name.clone(), force };
        let refused = home.make_as(Author::Page, restore, &ConfigState::defaults());
        assert!(matches!(refused, Err(ChangeError::ByPage(PageRefusal::Relay { .. }))), "{refused:?}");
    }
}
