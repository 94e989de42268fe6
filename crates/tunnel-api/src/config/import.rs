//! The original system's `connection_config.json`, read once to bring its users along.

use std::fmt;

use serde_json::{Map, Value};
use url::Url;

use super::{Config, Fault};

/// What an original's `connection_config.json` says, in our terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Import {
    /// Keys of our configuration file that follow from it.
    pub keys: Map<String, Value>,
    /// The relay's token, which stood there in clear text and belongs into a store of secrets.
    pub token: Option<ImportedToken>,
    /// What cannot be taken over. With one of them nothing should be.
    pub faults: Vec<Fault>,
}

/// A token out of a file. Its text is in no `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct ImportedToken(String);

impl ImportedToken {
    /// Returns the text, for whoever keeps secrets.
    pub fn into_inner(self) -> String {
        self.0
    }
}

impl fmt::Debug for ImportedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImportedToken(…)")
    }
}

/// The keys of the file that are switches and seconds, and what they are here.
const PLAIN: [(&str, &str, &str); 3] = [
    ("local_ollama", "enabled", "enableLocalOllama"),
    ("cloud_proxy", "enabled", "enableCloudProxy"),
    ("local_ollama", "timeout", "connectionTimeout"),
];

/// Reads the object of a `connection_config.json`: `local_ollama` with `host`, `port`, `api_base_url`, `enabled`,
/// `timeout`, and `cloud_proxy` with `api_base_url`, `auth_token`, `enabled`, `timeout`.
///
/// Each part may be missing, null stands for missing, and keys that mean nothing here are skipped: it is a file of
/// another program. The local `timeout` wins over the cloud's, since there is one key for both. Faults name the
/// keys of the file; none shows a value that may be secret.
pub fn import(file: &Map<String, Value>) -> Import {
    let mut import = Import::default();
    for section in ["local_ollama", "cloud_proxy"] {
        if file.get(section).is_some_and(|value| !value.is_object() && !value.is_null()) {
            import.faults.push(Fault::hidden(section, "must be an object"));
        }
    }
    let find = |section: &str, key: &str| {
        file.get(section).and_then(|section| section.get(key)).filter(|value| !value.is_null())
    };
    for (section, key, ours) in PLAIN {
        if let Some(value) = find(section, key) {
            import.take(&format!("{section}.{key}"), ours, value.clone());
        }
    }
    if find("local_ollama", "timeout").is_none()
        && let Some(value) = find("cloud_proxy", "timeout")
    {
        import.take("cloud_proxy.timeout", "connectionTimeout", value.clone());
    }
    let base = find("local_ollama", "api_base_url").and_then(Value::as_str).and_then(address);
    for (key, ours) in [("host", "ollamaHost"), ("port", "ollamaPort")] {
        match (find("local_ollama", key), &base) {
            (Some(value), _) => import.take(&format!("local_ollama.{key}"), ours, value.clone()),
            (None, Some(base)) => import.take("local_ollama.api_base_url", ours, base[ours].clone()),
            (None, None) => {}
        }
    }
    if let Some(value) = find("cloud_proxy", "api_base_url").filter(|value| **value != "") {
        import.take("cloud_proxy.api_base_url", "cloudProxyUrl", value.clone());
    }
    match find("cloud_proxy", "auth_token") {
        None => {}
        Some(Value::String(token)) if token.trim().is_empty() => {}
        Some(Value::String(token)) => import.token = Some(ImportedToken(token.trim().to_owned())),
        Some(_) => import.faults.push(Fault::hidden("cloud_proxy.auth_token", "must be a text")),
    }
    import
}

impl Import {
    /// Takes a value over if its key here takes it.
    fn take(&mut self, theirs: &str, ours: &str, value: Value) {
        let alone = Map::from_iter([(ours.to_owned(), value.clone())]);
        match Config::check(&alone) {
            Ok(_) => drop(self.keys.insert(ours.to_owned(), value)),
            // What two keys must be together is told when all keys are.
            Err(faults) => {
                match faults.into_iter().find(|fault| fault.key == ours && fault.value.is_some()) {
                    Some(fault) => self.faults.push(Fault { key: theirs.to_owned(), ..fault }),
                    None => self.take_hidden(theirs, ours, value),
                }
            }
        }
    }

    /// Tells the fault of a value that may not be shown; one without a value may also be about two keys.
    fn take_hidden(&mut self, theirs: &str, ours: &str, value: Value) {
        let switched_off =
            [(ours, value.clone()), ("enableGateway", false.into()), ("enableApiServer", false.into())];
        let alone = switched_off.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        match Config::check(&alone).err().and_then(|faults| faults.into_iter().next()) {
            Some(fault) => self.faults.push(Fault { key: theirs.to_owned(), ..fault }),
            None => drop(self.keys.insert(ours.to_owned(), value)),
        }
    }
}

/// Returns host and port of a base address.
fn address(text: &str) -> Option<Map<String, Value>> {
    let url = Url::parse(text.trim()).ok()?;
    let host = url.host_str()?;
    let host = if url.scheme() == "https" { format!("https://{host}") } else { host.to_owned() };
    let keys = [("ollamaHost", host.into()), ("ollamaPort", url.port_or_known_default()?.into())];
    Some(keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(file: Value) -> Import {
        import(file.as_object().unwrap())
    }

    #[test]
    fn whole_file_becomes_keys_and_a_token() {
        let import = read(json!({
            "local_ollama": {
                "connection_type": "local_ollama", "host": "gpu.lan", "port": 11500,
                "api_base_url": "http://elsewhere:1", "enabled": true, "timeout": 20,
            },
            "cloud_proxy": {
                "connection_type": "cloud_proxy", "api_base_url": "https://relay.example.org/base",
                "auth_token": " eyJ-canary ", "enabled": false, "timeout": 40,
            },
        }));
        assert_eq!(
            Value::Object(import.keys.clone()),
            json!({
                "enableLocalOllama": true, "enableCloudProxy": false, "ollamaHost": "gpu.lan", "ollamaPort": 11500,
                "connectionTimeout": 20, "cloudProxyUrl": "https://relay.example.org/base",
            })
        );
        assert!(import.faults.is_empty());
        assert!(!format!("{import:?}").contains("canary"));
        assert_eq!(import.token.unwrap().into_inner(), "eyJ-canary");
    }

    #[test]
    fn parts_may_be_missing() {
        for file in [json!({}), json!({ "local_ollama": null, "cloud_proxy": {} }), json!({ "other": 1 })] {
            assert_eq!(read(file), Import::default());
        }
        let import = read(json!({ "cloud_proxy": { "timeout": 40, "auth_token": "" } }));
        assert_eq!(Value::Object(import.keys), json!({ "connectionTimeout": 40 }));
        assert_eq!(import.token, None);
    }

    #[test]
    fn base_address_stands_in_for_host_and_port() {
        let keys = |url: &str| Value::Object(read(json!({ "local_ollama": { "api_base_url": url } })).keys);
        assert_eq!(keys("http://10.0.0.2:11500/"), json!({ "ollamaHost": "10.0.0.2", "ollamaPort": 11500 }));
        assert_eq!(keys("https://gpu.lan"), json!({ "ollamaHost": "https://gpu.lan", "ollamaPort": 443 }));
        assert_eq!(keys("http://[::1]:11500"), json!({ "ollamaHost": "[::1]", "ollamaPort": 11500 }));
    }

    #[test]
    fn faults_name_the_files_own_keys_and_no_secret() {
        let import = read(json!({
            "local_ollama": { "port": 70000, "host": "user:hunter2@h", "enabled": "yes" },
            "cloud_proxy": { "api_base_url": "https://u:hunter2@relay", "auth_token": ["hunter2"], "timeout": 0 },
        }));
        let told: Vec<String> = import.faults.iter().map(ToString::to_string).collect();
        for key in [
            "local_ollama.port",
            "local_ollama.host",
            "local_ollama.enabled",
            "cloud_proxy.api_base_url",
            "cloud_proxy.auth_token",
            "cloud_proxy.timeout",
        ] {
            assert!(told.iter().any(|fault| fault.starts_with(&format!("{key}: "))), "{key}: {told:#?}");
        }
        assert!(!format!("{import:?}").contains("hunter2"), "{told:#?}");
        assert_eq!(import.keys, Map::new());
        assert_eq!(read(json!({ "local_ollama": 7 })).faults.len(), 1);
    }
}
