//! What the configuration makes of the servers that were found: pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tunnel_api::connection::{CLOUD_ID, ConnectionKind, OLLAMA_ID};
use tunnel_api::detect::Product;
use tunnel_api::{Config, Detected, DetectedServer};
use url::{Host, Url};

use super::Seen;
use super::site::base_path;

/// Tells of each server which connection leads there, and under which name it could be added.
pub(super) fn report(seen: &[Seen], config: &Config, now: Timestamp) -> Detected {
    let mut taken: BTreeSet<String> =
        config.connections.iter().map(|connection| connection.id.clone()).collect();
    // The built-in ones have these as soon as they are switched on.
    taken.extend([OLLAMA_ID, CLOUD_ID].map(str::to_owned));
    let server = |seen: &Seen| {
        let suggested_id = free_id(stem(seen.identity.product), &taken);
        taken.insert(suggested_id.clone());
        DetectedServer {
            product: seen.identity.product,
            kind: match seen.identity.product {
                Product::Ollama => ConnectionKind::Ollama,
                Product::LlamaCpp => ConnectionKind::Llamacpp,
                Product::Vllm => ConnectionKind::Vllm,
                Product::LmStudio => ConnectionKind::Lmstudio,
                Product::Other | Product::Unknown => ConnectionKind::Openai,
            },
            url: seen.url.as_str().trim_end_matches('/').to_owned(),
            version: seen.identity.version.clone(),
            models: seen.identity.models.clone(),
            connection: leads_to(&seen.url, config),
            suggested_id,
        }
    };
    Detected { servers: seen.iter().map(server).collect(), timestamp: now }
}

fn stem(product: Product) -> &'static str {
    match product {
        Product::Ollama => "ollama",
        Product::LlamaCpp => "llama-cpp",
        Product::Vllm => "vllm",
        Product::LmStudio => "lm-studio",
        Product::Other | Product::Unknown => "openai",
    }
}

fn free_id(stem: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2..).map(|n: u32| format!("{stem}-{n}"));
    let mut names = std::iter::once(stem.to_owned()).chain(numbered);
    // Cannot fall back: there are more numbers than names that are taken.
    names.find(|name| !taken.contains(name)).unwrap_or_else(|| stem.to_owned())
}

/// Returns the connection that leads to `server`, one that is switched off too: adding it again would be wrong.
fn leads_to(server: &Url, config: &Config) -> Option<String> {
    let built_in = || Some((OLLAMA_ID, config.ollama_url()));
    let configured =
        config.connections.iter().filter_map(|entry| Some((entry.id.as_str(), entry.url.clone()?)));
    // While it is switched off an entry comes first, and may even have its name.
    let is_taken = || config.connections.iter().any(|connection| connection.id == OLLAMA_ID);
    let used = built_in().filter(|_| config.enable_local_ollama);
    let unused = built_in().filter(|_| !config.enable_local_ollama && !is_taken());
    let mut all = used.into_iter().chain(configured).chain(unused);
    all.find(|(_, url)| is_same(url, server)).map(|(id, _)| id.to_owned())
}

/// Tells whether two addresses lead to the same server.
fn is_same(url: &Url, server: &Url) -> bool {
    if tunnel_transport::is_loopback(server) {
        return server.port_or_known_default().is_some_and(|port| is_at(url, port));
    }
    let place = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
    (url.scheme(), place(url), base_path(url)) == (server.scheme(), place(server), base_path(server))
}

/// Tells whether an address means this port of this machine, by whichever of its names.
fn is_at(url: &Url, port: u16) -> bool {
    // Who connects to "any address" gets to this machine.
    let any = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_unspecified(),
        Some(Host::Domain(_)) | None => false,
    };
    url.port_or_known_default() == Some(port) && (any || tunnel_transport::is_loopback(url))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::identity::Identity;
    use super::*;

    fn seen(address: &str, product: Product) -> Seen {
        let identity = Identity { product, version: None, models: Vec::new() };
        Seen { url: format!("http://{address}").parse().unwrap(), identity }
    }

    fn told(seen: &[Seen], config: Value) -> Vec<(String, Option<String>, String)> {
        let config = Config::check(config.as_object().unwrap()).unwrap();
        let detected = report(seen, &config, Timestamp::UNIX_EPOCH);
        detected
            .servers
            .into_iter()
            .map(|server| (server.url, server.connection, server.suggested_id))
            .collect()
    }

    fn one(seen: Seen, config: Value) -> (Option<String>, String) {
        let (_, connection, id) = told(&[seen], config).remove(0);
        (connection, id)
    }

    #[test]
    fn built_in_ollama_covers_the_one_at_its_address_switched_off_too() {
        let ollama = || seen("127.0.0.1:11434", Product::Ollama);
        assert_eq!(one(ollama(), json!({})), (Some("ollama".to_owned()), "ollama-2".to_owned()));
        let off = |connections: Value| {
            one(ollama(), json!({ "enableLocalOllama": false, "connections": connections })).0
        };
        assert_eq!(off(json!([])).as_deref(), Some("ollama"));
        let entry = |id: &str, url: &str| json!([{ "id": id, "type": "ollama", "url": url }]);
        assert_eq!(off(entry("mine", "http://localhost:11434")).as_deref(), Some("mine"));
        assert_eq!(off(entry("ollama", "http://gpu.lan:11434")), None);
        assert_eq!(one(ollama(), json!({ "ollamaPort": 11500 })).0, None);
        assert_eq!(one(ollama(), json!({ "ollamaHost": "gpu.lan" })).0, None);
    }

    #[test]
    fn all_names_of_this_machine_are_equal_and_a_switched_off_entry_counts() {
        for host in ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"] {
            for address in ["127.0.0.1:8080", "[::1]:8080"] {
                let url = format!("http://{host}:8080/v1");
                let entry = json!({ "id": "mine", "type": "openai", "url": url, "enabled": false });
                let config = json!({ "connections": [entry] });
                let found = one(seen(address, Product::LlamaCpp), config);
                assert_eq!(found.0.as_deref(), Some("mine"), "{host} {address}");
            }
        }
        let other = json!({ "connections": [
            { "id": "far", "type": "openai", "url": "http://gpu.lan:8080" },
            { "id": "near", "type": "openai", "url": "http://localhost:8081" },
        ] });
        assert_eq!(one(seen("127.0.0.1:8080", Product::LlamaCpp), other).0, None);
    }

    #[test]
    fn server_far_away_is_known_by_its_whole_address() {
        let entry = |url: &str| json!({ "connections": [{ "id": "far", "type": "openai", "url": url }] });
        let found = |url| one(seen("gpu.lan:8080", Product::Vllm), entry(url)).0;
        assert_eq!(found("http://gpu.lan:8080/v1").as_deref(), Some("far"));
        for other in
            ["https://gpu.lan:8080", "http://gpu.lan:8081", "http://gpu2.lan:8080", "http://gpu.lan:8080/x"]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn suggested_names_are_free_and_differ_from_each_other() {
        let config =
            json!({ "connections": [{ "id": "vllm", "type": "openai", "url": "http://gpu.lan:1" }] });
        let servers = [
            seen("127.0.0.1:8080", Product::LlamaCpp),
            seen("[::1]:8081", Product::LlamaCpp),
            seen("127.0.0.1:8000", Product::Vllm),
            seen("127.0.0.1:1234", Product::LmStudio),
            seen("127.0.0.1:9", Product::Other),
        ];
        let told = told(&servers, config);
        let names: Vec<&str> = told.iter().map(|(_, _, name)| name.as_str()).collect();
        assert_eq!(names, ["llama-cpp", "llama-cpp-2", "vllm-2", "lm-studio", "openai"]);
        assert_eq!(told[1].0, "http://[::1]:8081");
    }
}
