//! What each part of the daemon takes from the configuration.

use tunnel_api::Config;
use tunnel_api::config::{Fault, RemotePaths};
use tunnel_api::connection::OLLAMA_ID;
use tunnel_broker::{BackendConfig, BackendKind, BrokerConfig, PathRule, QueueLimits, RoutingPolicy};
use tunnel_transport::{DeviceName, RelayUrl};

use super::proxy::Proxies;
use crate::plugins::Place;
use crate::tunnel::Settings;

pub(super) fn tunnel(config: &Config, proxies: Proxies) -> Result<Settings, Fault> {
    let url = config.cloud_proxy_url.as_str();
    let relay = RelayUrl::parse(url).map_err(|error| Fault {
        key: "cloudProxyUrl".to_owned(),
        value: Some(format!("\"{url}\"")),
        rule: format!("Cloud proxy URL is not usable: {error}"),
        did_you_mean: None,
    })?;
    let name = config.device_name(&hostname());
    // Cannot fall back: the check of `deviceName` and the cleaning of a host name have the same rule.
    let device = name.parse().unwrap_or_else(|_| DeviceName::from_hostname(&name));
    Ok(Settings {
        enabled: config.enable_cloud_proxy,
        relay,
        device,
        preferred: config.preferred_device,
        connect_timeout: config.connection_timeout,
        ca_file: config.ca_file.clone(),
        proxy: proxies.to(&config.cloud_proxy_url).cloned(),
        proxies,
    })
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

pub(super) fn broker(config: &Config, plugins: &Place) -> Result<BrokerConfig, Fault> {
    let ollama = config
        .enable_local_ollama
        .then(|| BackendConfig::new(OLLAMA_ID, BackendKind::Ollama, config.ollama_url()));
    let configured = config.connections.iter().filter_map(|connection| {
        // The names are the same; a test says so.
        let kind = BackendKind::named(connection.kind.as_str())?;
        let url = connection.url.clone().unwrap_or_else(|| plugins.url(&connection.id));
        Some(BackendConfig {
            priority: connection.priority,
            weight: connection.weight,
            max_concurrent: connection.max_concurrent,
            models: connection.models.clone(),
            enabled: connection.enabled,
            ..BackendConfig::new(connection.id.clone(), kind, url)
        })
    });
    Ok(BrokerConfig {
        backends: ollama.into_iter().chain(configured).collect(),
        connect_timeout: config.connection_timeout,
        first_byte_timeout: config.first_byte_timeout,
        idle_timeout: config.request_timeout,
        probe_interval: config.health_check_interval,
        probe_failures: config.max_retries.get(),
        retry_delay: config.retry_delay,
        pool_size: config.connection_pool_size.get(),
        remote_paths: remote_paths(&config.remote_paths)?,
        aliases: config.aliases.clone().into_iter().collect(),
        keep_warm: config.keep_warm.clone(),
        routing_policy: match config.routing_policy {
            tunnel_api::config::RoutingPolicy::PreferLocal => RoutingPolicy::PreferLocal,
            tunnel_api::config::RoutingPolicy::PreferCloud => RoutingPolicy::PreferCloud,
            tunnel_api::config::RoutingPolicy::LocalOnly => RoutingPolicy::LocalOnly,
        },
        queue: QueueLimits { max_waiting: config.queue.max_waiting, max_wait: config.queue.max_wait },
        ca_file: config.ca_file.clone(),
        metrics_enabled: config.enable_metrics,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

pub(crate) fn remote_paths(paths: &RemotePaths) -> Result<tunnel_broker::RemotePaths, Fault> {
    let rules = match paths {
        RemotePaths::Inference => return Ok(tunnel_broker::RemotePaths::Inference),
        RemotePaths::All => return Ok(tunnel_broker::RemotePaths::All),
        RemotePaths::Rules(rules) => rules,
    };
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let path = match rule.path().strip_suffix("/*") {
            // In the file `*` at the end stands for all below; the broker writes that `**`.
            Some(above) => format!("{above}/**"),
            None => rule.path().to_owned(),
        };
        let text = format!("{} {path}", rule.method().unwrap_or("*"));
        text.parse::<PathRule>().map_err(|error| Fault {
            key: format!("remotePaths[{index}]"),
            value: Some(format!("\"{rule}\"")),
            rule: error.to_string(),
            did_you_mean: None,
        })
    });
    rules.collect::<Result<_, _>>().map(tunnel_broker::RemotePaths::Rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use url::Url;

    use super::*;
    use crate::secrets::Endpoint;

    #[test]
    fn every_type_of_the_configuration_is_one_of_the_broker() {
        for kind in tunnel_api::config::ConnectionType::ALL {
            let name = kind.as_str();
            assert_eq!(BackendKind::named(name).map(BackendKind::as_str), Some(name));
            assert_eq!(tunnel_api::connection::ConnectionKind::named(name).as_str(), name);
        }
    }

    #[test]
    fn everyone_agrees_on_what_is_this_machine() {
        let hosts = [
            ("localhost", true),
            ("LOCALHOST", true),
            ("localhost.", true),
            ("a.localhost", true),
            ("a.localhost.", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0x7f.1", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost..", false),
            ("notlocalhost", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("[::]", false),
            ("[::ffff:10.0.0.1]", false),
            ("[::127.0.0.1]", false),
        ];
        for (host, local) in hosts {
            let url = format!("http://{host}:7000");
            let keys = json!({ "cloudProxyUrl": url });
            assert_eq!(Config::check(keys.as_object().unwrap()).is_ok(), local, "configuration: {url}");
            assert_eq!(RelayUrl::parse(&url).is_ok(), local, "transport: {url}");
            assert_eq!(Endpoint::parse(&url).is_ok(), local, "secrets: {url}");
            assert_eq!(tunnel_transport::is_loopback(&Url::parse(&url).unwrap()), local, "{url}");
        }
    }
}
