//! Probes the schema and `Config::check` with the same values.

use serde_json::{Map, Value, json};
use tunnel_api::Config;
use tunnel_api::config::Fault;

use crate::judge::takes;

fn check(keys: &Value) -> Result<Config, Vec<Fault>> {
    Config::check(keys.as_object().unwrap())
}

fn keys(schema: &Value) -> &Map<String, Value> {
    schema["properties"].as_object().unwrap()
}

/// Values around every bound that the schema names, and of every other type.
fn around(schema: &Value) -> Vec<Value> {
    let mut probes = vec![json!(null), json!(true), json!("7"), json!(""), json!(7.5), json!([]), json!(-1)];
    for bound in ["minimum", "maximum"] {
        if let Some(bound) = schema[bound].as_i64() {
            probes.extend([bound - 1, bound, bound + 1].map(Value::from));
        }
    }
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        probes.extend([choice["const"].clone(), json!(format!("{}x", choice["const"].as_str().unwrap()))]);
    }
    probes
}

/// Where a key stands in a file: at the top, or below others.
type Place = fn(&str, &Value) -> Value;

fn compare(schema: &Value, key: &str, probe: &Value, place: Place) {
    let file = place(key, probe);
    let faults = check(&file).err().unwrap_or_default();
    assert_eq!(takes(schema, &file), faults.is_empty(), "{file}: {faults:?}");
}

#[test]
fn bounds_of_the_schema_are_those_of_the_check() {
    let schema = Config::schema();
    let places: [(&Value, Place); 6] = [
        (&schema, |key, value| json!({ key: value })),
        (&schema["properties"]["queue"], |key, value| json!({ "queue": { key: value } })),
        // Its two files go together, which the schema does not know.
        (&schema["properties"]["lanGateway"], |key, value| match (key, value) {
            ("certFile" | "keyFile", file) => json!({ "lanGateway": { "certFile": file, "keyFile": file } }),
            (key, value) => json!({ "lanGateway": { key: value } }),
        }),
        (&schema["properties"]["alerts"], |key, value| json!({ "alerts": { key: value } })),
        (&schema["properties"]["connections"]["items"], |key, value| {
            // On this machine: that the cloud takes no plain http elsewhere is a matter of both keys.
            let mut entry = json!({ "id": "a", "type": "plugin", "url": "http://127.0.0.1" });
            entry[key] = value.clone();
            json!({ "connections": [entry] })
        }),
        (&schema["properties"]["connections"]["items"]["properties"]["sandbox"], |key, value| {
            let sandbox = json!({ key: value });
            let entry = json!({ "id": "a", "type": "plugin", "command": ["/p"], "sandbox": sandbox });
            json!({ "connections": [entry] })
        }),
    ];
    let mut probed = 0;
    for (section, place) in places {
        for (key, described) in keys(section) {
            // Two ports of ours that are the same are a matter of both; the probes avoid the defaults.
            for probe in around(described) {
                compare(&schema, key, &probe, place);
                probed += 1;
            }
        }
    }
    assert!(probed > 300, "{probed}");
}

#[test]
fn patterns_of_the_schema_take_what_the_check_takes() {
    let schema = Config::schema();
    let top: [(&str, &[&str]); 8] = [
        (
            "cloudProxyUrl",
            &[
                "https://relay.example.org",
                "http://127.0.0.1:1/x",
                "ftp://h",
                "relay",
                "https://h?k=1",
                "https://u@h",
            ],
        ),
        (
            "ollamaHost",
            &[
                "localhost",
                "::1",
                "[::1]",
                "https://gpu.lan",
                " h ",
                "a/b",
                "a b",
                "x?y",
                "u@h",
                "%zz",
                "http://",
            ],
        ),
        ("logLevel", &["TRACE", "debug", "Info", "WARN", "error", "LOUD", "INFO ", "INF"]),
        ("deviceName", &["desk-1", "Desk", "a_b", "a.b", "a b", "x"]),
        (
            "proxyUrl",
            &["http://p:3128", "socks5://p", "SOCKS5H://p", "https://p", "ftp://p", "p:3128", "http://u:p@p"],
        ),
        ("caFile", &["/etc/ca.pem", "ca.pem", "./ca.pem"]),
        ("cloudProxyAudience", &["a", "a b", "a\nb", "a\u{7f}"]),
        ("remotePaths", &["inference", "all", "some"]),
    ];
    for (key, values) in top {
        for value in values {
            compare(&schema, key, &json!(value), |key, value| json!({ key: value }));
        }
    }
    for length in [62, 63, 64] {
        compare(&schema, "deviceName", &json!("x".repeat(length)), |key, value| json!({ key: value }));
    }
    let lists: [(&str, &[&str]); 2] = [
        (
            "allowedOrigins",
            &[
                "http://localhost:*",
                "https://a.b",
                "tauri://localhost",
                "http://[::1]:80",
                "*",
                "localhost",
                "https://a/",
                "https://a b",
                "http://a:b",
                "http://u:p@h",
                "null",
            ],
        ),
        (
            "remotePaths",
            &["POST /api/chat", "* /v1/*", "get /x", "/api/chat", "POST", "P0ST /x", "GET /a?b", "GET /a;b"],
        ),
    ];
    for (key, values) in lists {
        for value in values {
            compare(&schema, key, &json!(value), |key, value| json!({ key: [value] }));
        }
    }
    let lan: [(&str, &[&str]); 2] = [
        (
            "address",
            &["0.0.0.0", "::", " 192.168.1.5 ", "fd00::1", "localhost", "", "1.2.3", "[::1]", "1.2.3.4:5"],
        ),
        (
            "allowedHosts",
            &["box", "Box.example.org", "a_b", "", "a b", "box:1", "*.example.org", "a..b", "[::1]"],
        ),
    ];
    for (key, values) in lan {
        for value in values {
            compare(&schema, key, &json!(value), |key, value| {
                let value = if key == "allowedHosts" { json!([value]) } else { value.clone() };
                json!({ "lanGateway": { key: value } })
            });
        }
    }
    let connection: [(&str, &[&str]); 4] = [
        ("id", &["a", "A.b_c-1", "", "a b", "ä", "a/b"]),
        ("url", &["http://h:1/v1", "unix:///run/p.sock", "h:1", "https://h/?key=1", "ftp://h"]),
        ("credential", &["lab-key", "sk-secret", "a b", "a sk-b"]),
        ("type", &["ollama", "openai", "llamacpp", "cloud", "plugin", "lama", "Ollama"]),
    ];
    for (key, values) in connection {
        for value in values {
            compare(&schema, key, &json!(value), |key, value| {
                let mut entry = json!({ "id": "a", "type": "plugin", "url": "http://127.0.0.1" });
                entry[key] = value.clone();
                json!({ "connections": [entry] })
            });
        }
    }
}

#[test]
fn aliases_and_their_models_are_judged_alike() {
    let schema = Config::schema();
    for target in
        [json!("qwen3:8b"), json!("desk/llama3"), json!(""), json!("a\u{7}b"), json!(7), json!(null)]
    {
        compare(&schema, "aliases", &target, |key, target| json!({ key: { "gpt-4o": target } }));
    }
}

#[test]
fn keys_and_defaults_of_the_schema_are_those_of_the_types() {
    let schema = Config::schema();
    for (key, default) in Config::default().to_map() {
        assert_eq!(schema["properties"][&key]["default"], default, "{key}");
        let description = schema["properties"][&key]["description"].as_str().unwrap_or_default();
        assert!(!description.is_empty(), "{key}");
        assert!(!description.contains("[`") && !description.contains('\\'), "{key}: {description}");
    }
    let known: Vec<&String> = keys(&schema).keys().filter(|key| *key != "$schema").collect();
    assert_eq!(known, Config::default().to_map().keys().collect::<Vec<_>>());
}

#[test]
fn unknown_keys_are_refused_at_every_depth() {
    let schema = Config::schema();
    for file in [
        json!({ "olamaPort": 1 }),
        json!({ "queue": { "maxwait": 1 } }),
        json!({ "alerts": { "x": 1 } }),
        json!({ "connections": [{ "id": "a", "type": "ollama", "url": "http://h", "modells": [] }] }),
        json!({ "connections": [{ "id": "a" }] }),
    ] {
        assert!(!takes(&schema, &file) && check(&file).is_err(), "{file}");
    }
}

#[test]
fn file_may_name_its_schema() {
    let file = json!({ "$schema": "./tunnel_config.schema.json", "logLevel": "WARN" });
    assert!(takes(&Config::schema(), &file));
    assert!(check(&file).is_ok());
}
