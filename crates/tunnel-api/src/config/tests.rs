use serde_json::json;

use super::*;

fn check(keys: Value) -> Result<Config, Vec<Fault>> {
    let Value::Object(keys) = keys else { panic!("an object") };
    Config::check(&keys)
}

fn faults(keys: Value) -> Vec<String> {
    check(keys).unwrap_err().iter().map(ToString::to_string).collect()
}

fn rule_of(key: &str, value: Value) -> String {
    let keys: Map<String, Value> = [(key.to_owned(), value)].into_iter().collect();
    match Config::check(&keys) {
        Ok(_) => "ok".to_owned(),
        Err(faults) => {
            assert_eq!(faults.len(), 1, "{key}: {faults:?}");
            faults[0].rule.clone()
        }
    }
}

#[test]
fn empty_file_is_the_default() {
    assert_eq!(check(json!({})), Ok(Config::default()));
}

#[test]
fn what_is_written_is_read_again() {
    let config = check(json!({
        "ollamaHost": "https://gpu.lan",
        "ollamaPort": 443,
        "cloudProxyUrl": "http://127.0.0.1:7000/base",
        "allowedOrigins": ["http://[::1]:*"],
        "connections": [{
            "id": "lab", "type": "openai", "url": "http://10.0.0.2:8000/v1", "priority": 1, "weight": 3,
            "maxConcurrent": 2, "models": ["a:1"], "credential": "lab-key", "enabled": false,
        }],
        "queue": { "maxWaiting": 0 },
        "remotePaths": ["POST /api/chat", "* /v1/*"],
        "deviceName": "desk-1",
        "preferredDevice": true,
        "alerts": { "errorRatePercent": 2.5 },
        "routingPolicy": "localOnly",
        "logLevel": "DEBUG",
        "proxyUrl": "socks5://127.0.0.1:1080",
        "caFile": "/etc/ca.pem",
    }))
    .unwrap();
    assert_eq!(Config::check(&parse(&config.to_json()).unwrap()), Ok(config.clone()));
    assert_eq!(Config::check(&config.to_map()), Ok(config.clone()));
    assert_eq!(config.connections[0].url.as_ref().unwrap().as_str(), "http://10.0.0.2:8000/v1");
    assert_eq!(config.queue.max_wait, Duration::from_secs(60));
}

#[test]
fn original_systems_file_is_taken() {
    let original = json!({
        "enableLocalOllama": true, "ollamaHost": "localhost", "ollamaPort": 11434, "connectionTimeout": 30,
        "enableCloudProxy": true, "cloudProxyUrl": "https://app.cloudtolocalllm.online",
        "cloudProxyAudience": "https://api.cloudtolocalllm.online", "apiServerPort": 8765,
        "enableApiServer": true,
        "allowedOrigins": ["http://localhost:*", "https://app.cloudtolocalllm.online"],
        "healthCheckInterval": 30, "maxRetries": 5, "retryDelay": 2, "connectionPoolSize": 10,
        "requestTimeout": 60, "enableMetrics": true, "minimizeToTray": true, "startMinimized": false,
        "showNotifications": true, "logLevel": "INFO", "autoStartTunnel": true, "autoStartOnBoot": false,
    });
    assert_eq!(check(original), Ok(Config::default()));
}

#[test]
fn five_faults_are_five_reports() {
    let faults = faults(json!({
        "ollamaPort": 70000,
        "cloudProxyUrl": "ftp://relay.example.org",
        "healthCheckInterval": 1,
        "logLevel": "LOUD",
        "requestTimeout": "soon",
    }));
    assert_eq!(
        faults,
        [
            "ollamaPort: Ollama port must be between 1 and 65535 (found 70000)",
            "cloudProxyUrl: Cloud proxy URL must start with http:// or https:// (found \"ftp://relay.example.org\")",
            "healthCheckInterval: Health check interval must be between 5 and 300 seconds (found 1)",
            "requestTimeout: Request timeout must be at least 5 seconds (found \"soon\")",
            "logLevel: Log level must be one of: DEBUG, INFO, WARN, ERROR (found \"LOUD\")",
        ]
    );
}

#[test]
fn each_bound_is_kept() {
    let seconds = |name: &str, min, max| format!("{name} must be between {min} and {max} seconds");
    for (key, low, high, rule) in [
        ("ollamaPort", 1, 65535, "Ollama port must be between 1 and 65535".to_owned()),
        ("apiServerPort", 1, 65535, "API server port must be between 1 and 65535".to_owned()),
        ("gatewayPort", 1, 65535, "Gateway port must be between 1 and 65535".to_owned()),
        ("connectionTimeout", 1, 300, seconds("Connection timeout", 1, 300)),
        ("healthCheckInterval", 5, 300, seconds("Health check interval", 5, 300)),
        ("metricsUpdateInterval", 1, 300, seconds("Metrics update interval", 1, 300)),
        ("connectionPoolSize", 1, 1000, "Connection pool size must be between 1 and 1000".to_owned()),
    ] {
        for fine in [low, high] {
            assert_eq!(rule_of(key, json!(fine)), "ok", "{key} {fine}");
        }
        for bad in
            [json!(low - 1), json!(high + 1), json!(-1), json!(7.5), json!("7"), json!(null), json!(true)]
        {
            assert_eq!(rule_of(key, bad.clone()), rule, "{key} {bad}");
        }
    }
    for (key, least, rule) in [
        ("requestTimeout", 5, "Request timeout must be at least 5 seconds"),
        ("firstByteTimeout", 5, "First byte timeout must be at least 5 seconds"),
        ("retryDelay", 1, "Retry delay must be at least 1 second"),
        ("maxRetries", 1, "Max retries must be at least 1"),
    ] {
        assert_eq!(rule_of(key, json!(least)), "ok");
        assert_eq!(rule_of(key, json!(least - 1)), rule);
        assert_eq!(rule_of(key, json!(u64::MAX)), rule);
        assert_eq!(rule_of(key, json!(1e300)), rule);
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
    assert_eq!(rule_of("ollamaPort", json!(11434.0)), "ok");
}

#[test]
fn log_level_takes_trace_and_lower_case() {
    for level in ["TRACE", "debug", "Info", "WARN", "error"] {
        assert_eq!(rule_of("logLevel", json!(level)), "ok", "{level}");
    }
    assert_eq!(rule_of("logLevel", json!(3)), "Log level must be one of: DEBUG, INFO, WARN, ERROR");
}

#[test]
fn plain_http_relay_only_on_this_machine() {
    for url in [
        "http://127.0.0.1:7000",
        "http://localhost:7000",
        "http://[::1]:1",
        "http://127.9.9.9",
        "http://a.localhost",
        "https://relay.example.org",
        "HTTPS://relay.example.org:8443/base",
    ] {
        assert_eq!(rule_of("cloudProxyUrl", json!(url)), "ok", "{url}");
    }
    for url in [
        "http://relay.example.org",
        "http://10.0.0.1",
        "http://127.0.0.1.nip.io",
        "http://localhost.evil.com",
    ] {
        assert_eq!(
            rule_of("cloudProxyUrl", json!(url)),
            "Cloud proxy URL must start with https:// unless it is a loopback address",
            "{url}"
        );
    }
    for url in [json!("wss://relay"), json!("relay.example.org"), json!(""), json!(7), json!("http:relay")] {
        assert_eq!(rule_of("cloudProxyUrl", url), "Cloud proxy URL must start with http:// or https://");
    }
}

#[test]
fn faults_never_repeat_what_could_be_secret() {
    let config = json!({
        "cloudProxyUrl": "https://user:hunter2@relay.example.org",
        "proxyUrl": "ftp://user:hunter2@proxy",
        "ollamaHost": "user:hunter2@host",
        "allowedOrigins": ["https://user:hunter2@host"],
        "cloudToken": "hunter2",
        "colour": "hunter2",
        "connections": [{ "id": "a", "type": "openai", "url": "https://h/?key=hunter2", "credential": "sk-hunter2" }],
    });
    let faults = faults(config);
    assert_eq!(faults.len(), 8, "{faults:#?}");
    assert!(!faults.join("\n").contains("hunter2"), "{faults:#?}");
    assert!(
        faults
            .iter()
            .any(|fault| fault.starts_with("cloudToken: unknown key; secrets are never in this file"))
    );
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    assert_eq!(
        faults(json!({ "olamaPort": 1, "log_level": "INFO", "zzz": 1, "queue": { "maxwait": 5 } })),
        [
            "queue.maxwait: unknown key; did you mean queue.maxWait?",
            "log_level: unknown key; did you mean logLevel?",
            "olamaPort: unknown key; did you mean ollamaPort?",
            "zzz: unknown key",
        ]
    );
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let text = faults(json!({ "a\u{1b}[31m\n": 1, "logLevel": "\u{1b}]0;x\u{7}\u{202e}" })).join("|");
    assert!(!text.contains(['\u{1b}', '\n', '\u{7}', '\u{202e}']), "{text:?}");
}

#[test]
fn long_values_are_shortened() {
    let text = faults(json!({ "logLevel": "x".repeat(10_000) })).join("");
    assert!(text.len() < 200, "{text}");
}

#[test]
fn nested_faults_name_their_place() {
    assert_eq!(
        faults(json!({
            "connections": [
                { "id": "a", "type": "ollama", "url": "http://h:1" },
                { "id": "b", "type": "lama", "url": "h:1", "weight": 0, "maxConcurrent": 0, "modells": [] },
                { "type": "openai" },
                7,
            ],
            "queue": { "maxWaiting": -1, "maxWait": 0 },
            "alerts": { "latencyMs": 0, "errorRatePercent": 101, "consecutiveFailures": 0, "memoryMB": 0 },
            "allowedOrigins": ["https://fine.example.org", "*"],
            "remotePaths": ["GET /ok", "/api/pull"],
        })),
        [
            "allowedOrigins[1]: Allowed origin must look like https://example.org or http://localhost:* (found \"*\")",
            "connections[1].type: Connection type must be one of: ollama, openai, llamacpp, vllm, lmstudio, cloud, plugin (found \"lama\")",
            "connections[1].url: Connection URL must start with http:// or https:// (found \"h:1\")",
            "connections[1].weight: Connection weight must be at least 1 (found 0)",
            "connections[1].maxConcurrent: Connection max concurrent must be at least 1 (found 0)",
            "connections[1].modells: unknown key; did you mean connections[1].models?",
            "connections[2].id: Connection id must be given",
            "connections[2].url: Connection URL must be given",
            "connections[3]: must be an object (found 7)",
            "queue.maxWaiting: Queue max waiting must be between 0 and 100000 (found -1)",
            "queue.maxWait: Queue max wait must be between 1 and 3600 seconds (found 0)",
            "remotePaths[1]: Remote path must be a method and a path such as \"POST /api/chat\" or \"* /v1/*\" \
             (found \"/api/pull\")",
            "alerts.latencyMs: Alert latency must be at least 1 millisecond (found 0)",
            "alerts.errorRatePercent: Alert error rate must be between 0 and 100 percent (found 101)",
            "alerts.consecutiveFailures: Alert consecutive failures must be at least 1 (found 0)",
            "alerts.memoryMB: Alert memory must be at least 1 (found 0)",
        ]
    );
}

#[test]
fn wrong_containers_are_told() {
    assert_eq!(
        faults(json!({ "connections": {}, "queue": [], "allowedOrigins": "x", "remotePaths": {} })),
        [
            "allowedOrigins: must be a list (found \"x\")",
            "connections: must be a list of objects (found an object)",
            "queue: must be an object (found a list)",
            "remotePaths: Remote paths must be inference, all, or a list such as [\"POST /api/chat\"] \
             (found an object)",
        ]
    );
}

#[test]
fn remote_paths_are_a_word_or_a_list() {
    let paths = |value: Value| check(json!({ "remotePaths": value })).unwrap().remote_paths;
    assert_eq!(paths(json!("inference")), RemotePaths::Inference);
    assert_eq!(paths(json!("all")), RemotePaths::All);
    assert_eq!(paths(json!([])), RemotePaths::Rules(vec![]));
    assert_eq!(paths(json!(["GET /v1/models"])), RemotePaths::Rules(vec!["GET /v1/models".parse().unwrap()]));
}

#[test]
fn connection_ids_are_unique_and_not_the_built_in_ones() {
    let backend = |id: &str| json!({ "id": id, "type": "ollama", "url": "http://h:1" });
    assert_eq!(
        faults(json!({ "connections": [backend("a"), backend("a"), backend("ollama"), backend("cloud")] })),
        [
            "connections[1].id: Connection ids must be unique",
            "connections[2].id: Connection id ollama belongs to the built-in connection",
            "connections[3].id: Connection id cloud belongs to the built-in connection",
        ]
    );
    assert!(check(json!({ "enableLocalOllama": false, "connections": [backend("ollama")] })).is_ok());
    let off = check(json!({ "enableCloudProxy": false, "connections": [backend("cloud")] }));
    assert!(off.is_err(), "a status could not tell it from the tunnel");
}

#[test]
fn connection_id_leads_to_no_other_directory() {
    for id in [".", "..", "..."] {
        assert!(!is_connection_id(id), "{id}");
        let entry = json!({ "id": id, "type": "ollama", "url": "http://h:1" });
        assert!(check(json!({ "connections": [entry] })).is_err(), "{id}");
    }
    assert!(is_connection_id(".a") && is_connection_id("..-"));
}

#[test]
fn plugin_is_an_address_or_a_program_and_never_both() {
    let entry = |extra: Value| {
        let mut entry = json!({ "id": "p", "type": "plugin" });
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        check(json!({ "connections": [entry] }))
    };
    let config = entry(json!({ "command": ["/opt/p", "--fast"], "sandbox": { "network": true } })).unwrap();
    let plugin = &config.connections[0];
    assert_eq!((plugin.command.len(), plugin.url.as_ref()), (2, None));
    assert!(plugin.sandbox.network && plugin.sandbox.memory_mb.get() == 1024);
    // What is shown can be read again.
    assert_eq!(Config::check(&config.to_map()).unwrap(), config);
    for (wrong, why) in [
        (json!({}), "must be given"),
        (json!({ "command": [] }), "must be given"),
        (json!({ "command": ["p"] }), "absolute path"),
        (json!({ "command": ["/p"], "url": "http://h" }), "in place of the URL"),
        (json!({ "command": ["/p"], "type": "openai" }), "of type plugin"),
        (json!({ "command": ["/p"], "sandbox": { "readPaths": ["x"] } }), "absolute path"),
        (json!({ "command": ["/p"], "sandbox": { "netwrk": true } }), "unknown key"),
    ] {
        let faults = entry(wrong.clone()).unwrap_err();
        assert!(faults.iter().any(|fault| fault.rule.contains(why)), "{wrong}: {faults:?}");
    }
}

#[test]
fn plugin_may_be_a_socket() {
    let backend =
        |kind: &str, url: &str| check(json!({ "connections": [{ "id": "p", "type": kind, "url": url }] }));
    assert!(backend("plugin", "unix:///run/p.sock").is_ok());
    assert!(backend("plugin", "http://127.0.0.1:9").is_ok());
    assert!(backend("ollama", "unix:///run/p.sock").is_err());
}

#[test]
fn doors_do_not_share_a_port() {
    assert_eq!(
        faults(json!({ "gatewayPort": 9000, "apiServerPort": 9000 })),
        ["gatewayPort: Gateway port must differ from the API server port"]
    );
    assert!(check(json!({ "gatewayPort": 9000, "apiServerPort": 9000, "enableApiServer": false })).is_ok());
}

#[test]
fn gateway_is_not_its_own_backend() {
    assert_eq!(
        faults(json!({ "ollamaPort": 11435 })),
        ["ollamaPort: Ollama port must differ from the gateway's port on this machine"]
    );
    assert!(check(json!({ "ollamaPort": 11435, "ollamaHost": "gpu.lan" })).is_ok());
    assert!(check(json!({ "ollamaPort": 11435, "enableGateway": false })).is_ok());
    let to = |url: &str| json!({ "connections": [{ "id": "a", "type": "openai", "url": url }] });
    for url in ["http://127.0.0.1:8765", "http://localhost:11435/v1", "http://[::1]:8765"] {
        let faults = faults(to(url));
        assert!(
            faults.len() == 1 && faults[0].starts_with("connections[0].url: Connection URL must not lead")
        );
    }
    assert!(check(to("http://gpu.lan:8765")).is_ok());
}

#[test]
fn ollama_host_is_a_host() {
    let url = |host: &str| check(json!({ "ollamaHost": host })).unwrap().ollama_url().to_string();
    assert_eq!(url("localhost"), "http://localhost:11434/");
    assert_eq!(url("::1"), "http://[::1]:11434/");
    assert_eq!(url("[::1]"), "http://[::1]:11434/");
    assert_eq!(url("https://gpu.lan"), "https://gpu.lan:11434/");
    assert_eq!(rule_of("ollamaHost", json!(" ")), "Ollama host cannot be empty");
    for host in ["gpu.lan:11434", "ftp://x", "a/b", "a b", "http://", "x?y", "%zz"] {
        assert_eq!(
            rule_of("ollamaHost", json!(host)),
            "Ollama host must be a host name or an IP address; the port has its own key",
            "{host}"
        );
    }
}

#[test]
fn device_name_comes_from_the_host_unless_set() {
    let config = Config::default();
    assert_eq!(config.device_name("Desk-1.example.org"), "desk-1");
    assert_eq!(config.device_name("My_PC"), "my-pc");
    assert_eq!(config.device_name(&"x".repeat(100)).len(), 63);
    for hostname in ["", ".", "___", "ä"] {
        assert_eq!(config.device_name(hostname), "desktop", "{hostname}");
    }
    let config = check(json!({ "deviceName": "mine" })).unwrap();
    assert_eq!(config.device_name("desk-1"), "mine");
    for bad in ["", "Mine", "a_b", "a.b", &"x".repeat(64)] {
        assert_eq!(
            rule_of("deviceName", json!(bad)),
            "Device name must be 1 to 63 characters of a-z, 0-9 and -"
        );
    }
    assert_eq!(rule_of("deviceName", json!(null)), "ok");
}

#[test]
fn gateway_for_the_network_needs_both_of_its_files_and_a_port_of_its_own() {
    assert_eq!(
        faults(json!({ "lanGateway": { "certFile": "/c" } })),
        ["lanGateway.keyFile: LAN gateway certificate file and key file must be set together"]
    );
    assert_eq!(
        faults(json!({ "lanGateway": { "enabled": true, "port": 11435 } })),
        ["lanGateway.port: LAN gateway port must differ from the gateway's port"]
    );
    assert!(check(json!({ "lanGateway": { "port": 11435 } })).is_ok(), "it is closed");
    assert_eq!(
        faults(json!({ "ollamaPort": 11436, "lanGateway": { "enabled": true } })),
        ["ollamaPort: Ollama port must differ from the LAN gateway's port on this machine"]
    );
}
