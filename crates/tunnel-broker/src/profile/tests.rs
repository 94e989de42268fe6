use std::collections::HashSet;

use http::uri::PathAndQuery;
use serde_json::json;

use super::*;
use crate::config::BackendKind;

#[test]
fn every_kind_has_a_profile_of_its_own_and_is_found_by_its_name() {
    let names: HashSet<&str> = BackendKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), BackendKind::ALL.len());
    for kind in BackendKind::ALL {
        assert_eq!(BackendKind::named(kind.as_str()), Some(kind));
    }
    assert_eq!(BackendKind::named("Ollama"), None);
}

#[test]
fn every_profile_can_be_followed() {
    for kind in BackendKind::ALL {
        let profile = kind.profile();
        let name = &profile.name;
        let lists = profile.lists.all().iter().chain(&profile.running);
        let paths = lists
            .clone()
            .map(|list| &list.path)
            .chain(profile.health.iter().map(|health| &health.path))
            .chain(profile.version.iter().map(|version| &version.path))
            .chain(&profile.metrics)
            .chain(profile.load.iter().chain(&profile.unload).map(|call| &call.path));
        for path in paths {
            assert!(path.starts_with('/') && PathAndQuery::try_from(&**path).is_ok(), "{name}: {path}");
        }
        assert!(!profile.lists.all().is_empty(), "{name}");
        for list in lists {
            assert!(!list.names.is_empty() && !list.entries.is_empty(), "{name}");
        }
        for call in profile.load.iter().chain(&profile.unload) {
            let body = call.body_for("a\"b{keep_alive}", &json!("5m"));
            let body: Value = serde_json::from_str(&body).unwrap();
            let named = body.get("model").or_else(|| body.get("instance_id"));
            assert_eq!(named, Some(&json!("a\"b{keep_alive}")), "{name}");
        }
        assert!(!profile.start_step.is_empty() && !profile.product.is_empty(), "{name}");
    }
}

#[test]
fn only_what_is_elsewhere_is_asked_rarely() {
    for kind in BackendKind::ALL {
        let profile = kind.profile();
        assert_eq!(profile.side == Side::Cloud, profile.is_rarely_asked(), "{}", profile.name);
    }
    assert!(CLOUD.least_interval >= Duration::from_secs(30));
}

#[test]
fn an_ollama_is_told_how_long_to_keep_a_model() {
    let load = OLLAMA.load.as_ref().unwrap();
    assert_eq!(load.body_for("m", &json!(-1)), r#"{"model":"m","keep_alive":-1,"stream":false}"#);
    assert_eq!(load.body_for("m", &json!("5m")), r#"{"model":"m","keep_alive":"5m","stream":false}"#);
    let unload = OLLAMA.unload.as_ref().unwrap();
    assert_eq!(unload.body_for("m", &Value::Null), r#"{"model":"m","keep_alive":0,"stream":false}"#);
}
