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
