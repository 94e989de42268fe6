//! Judging the keys of a configuration, all of them at once.

use serde_json::{Map, Value};

use super::section::Section;
use super::{Alerts, Config, Fault, LanGateway, Queue, SCHEMA_KEY, connection, models, remote_paths, rule};

impl Config {
    /// Reads a configuration from the keys that are there; the others take their default.
    ///
    /// Each key is judged on its own, and all faults are returned at once, in the order of the fields above,
    /// unknown keys last.
    pub fn check(keys: &Map<String, Value>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut top = Section::new(keys, String::new(), &mut faults);
        let default = Self::default();

        let enable_local_ollama =
            top.read("enableLocalOllama", default.enable_local_ollama, rule::flag("Enable local Ollama"));
        let ollama_host = top.read("ollamaHost", default.ollama_host, rule::host("Ollama host"));
        let ollama_port = top.read("ollamaPort", default.ollama_port, rule::port("Ollama port"));
        let enable_cloud_proxy =
            top.read("enableCloudProxy", default.enable_cloud_proxy, rule::flag("Enable cloud proxy"));
        let enable_api_server =
            top.read("enableApiServer", default.enable_api_server, rule::flag("Enable API server"));
        let api_server_port =
            top.read("apiServerPort", default.api_server_port, rule::port("API server port"));
        let enable_gateway = top.read("enableGateway", default.enable_gateway, rule::flag("Enable gateway"));
        let gateway_port = top.read("gatewayPort", default.gateway_port, rule::port("Gateway port"));

        let lan_gateway = lan_gateway(&mut top, default.lan_gateway);

        let config = Self {
            enable_local_ollama,
            ollama_host,
            ollama_port,
            connection_timeout: top.read(
                "connectionTimeout",
                default.connection_timeout,
                rule::seconds("Connection timeout", 1, 300),
            ),
            enable_cloud_proxy,
            cloud_proxy_url: top.read("cloudProxyUrl", default.cloud_proxy_url, rule::relay_url),
            cloud_proxy_audience: top.read(
                "cloudProxyAudience",
                default.cloud_proxy_audience,
                rule::text("Cloud proxy audience"),
            ),
            api_server_port,
            enable_api_server,
            allowed_origins: top.list("allowedOrigins", default.allowed_origins, rule::origin),
            health_check_interval: top.read(
                "healthCheckInterval",
                default.health_check_interval,
                rule::seconds("Health check interval", 5, 300),
            ),
            max_retries: top.read("maxRetries", default.max_retries, rule::positive("Max retries")),
            retry_delay: top.read(
                "retryDelay",
                default.retry_delay,
                rule::seconds("Retry delay", 1, rule::NO_MAXIMUM),
            ),
            connection_pool_size: top.read(
                "connectionPoolSize",
                default.connection_pool_size,
                rule::pool_size("Connection pool size"),
            ),
            request_timeout: top.read(
                "requestTimeout",
                default.request_timeout,
                rule::seconds("Request timeout", 5, rule::NO_MAXIMUM),
            ),
            enable_metrics: top.read("enableMetrics", default.enable_metrics, rule::flag("Enable metrics")),
            minimize_to_tray: top.read(
                "minimizeToTray",
                default.minimize_to_tray,
                rule::flag("Minimize to tray"),
            ),
            start_minimized: top.read(
                "startMinimized",
                default.start_minimized,
                rule::flag("Start minimized"),
            ),
            show_notifications: top.read(
                "showNotifications",
                default.show_notifications,
                rule::flag("Show notifications"),
            ),
            log_level: top.read("logLevel", default.log_level, rule::log_level),
            auto_start_tunnel: top.read(
                "autoStartTunnel",
                default.auto_start_tunnel,
                rule::flag("Auto start tunnel"),
            ),
            auto_start_on_boot: top.read(
                "autoStartOnBoot",
                default.auto_start_on_boot,
                rule::flag("Auto start on boot"),
            ),
            gateway_port,
            enable_gateway,
            first_byte_timeout: top.read(
                "firstByteTimeout",
                default.first_byte_timeout,
                rule::seconds("First byte timeout", 5, rule::NO_MAXIMUM),
            ),
            connections: connection::connections(&mut top),
            aliases: models::aliases(&mut top),
            keep_warm: models::kept_warm(&mut top),
            routing_policy: top.read("routingPolicy", default.routing_policy, rule::routing_policy),
            queue: queue(&mut top, default.queue),
            lan_gateway,
            remote_paths: remote_paths::remote_paths(&mut top, default.remote_paths),
            device_name: top.read("deviceName", default.device_name, rule::optional(rule::device_name)),
            preferred_device: top.read(
                "preferredDevice",
                default.preferred_device,
                rule::flag("Preferred device"),
            ),
            alerts: alerts(&mut top, default.alerts),
            metrics_update_interval: top.read(
                "metricsUpdateInterval",
                default.metrics_update_interval,
                rule::seconds("Metrics update interval", 1, 300),
            ),
            proxy_url: top.read("proxyUrl", default.proxy_url, rule::optional(rule::proxy_url)),
            ca_file: top.read("caFile", default.ca_file, rule::optional(rule::absolute_path("CA file"))),
        };

        // Names the schema that an editor completes the file by.
        top.read(SCHEMA_KEY, String::new(), rule::text("Schema"));
        config.check_together(&mut top);
        top.finish();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// Checks what no key can tell alone.
    ///
    /// A key that already has a fault stands here with its default; so each check tells only of values that
    /// were really asked for or are in force, except that it may miss something until the first fault is mended.
    fn check_together(&self, top: &mut Section<'_>) {
        if self.enable_api_server && self.enable_gateway && self.api_server_port == self.gateway_port {
            top.fault("gatewayPort", "Gateway port must differ from the API server port");
        }
        let lan = &self.lan_gateway;
        let beside = [
            ("API server", self.enable_api_server, self.api_server_port),
            ("gateway", self.enable_gateway, self.gateway_port),
        ];
        for (door, open, port) in beside {
            if lan.enabled && open && lan.port == port {
                top.fault("lanGateway.port", &format!("LAN gateway port must differ from the {door}'s port"));
            }
        }
        if lan.cert_file.is_some() != lan.key_file.is_some() {
            let key = if lan.cert_file.is_some() { "lanGateway.keyFile" } else { "lanGateway.certFile" };
            top.fault(key, "LAN gateway certificate file and key file must be set together");
        }
        let own_ports = [
            ("API server", self.enable_api_server, self.api_server_port),
            ("gateway", self.enable_gateway, self.gateway_port),
            ("LAN gateway", lan.enabled, lan.port),
        ];
        for (door, open, own) in own_ports {
            let ollama = self.ollama_url();
            if self.enable_local_ollama && open && self.ollama_port == own && rule::is_loopback(&ollama) {
                top.fault(
                    "ollamaPort",
                    &format!("Ollama port must differ from the {door}'s port on this machine"),
                );
            }
            // What is forwarded comes from this user's own process: whoever may ask models could configure us.
            for (index, connection) in self.connections.iter().enumerate() {
                let Some(url) = &connection.url else { continue };
                if open && url.port_or_known_default() == Some(own.get()) && rule::is_loopback(url) {
                    let rule = format!("Connection URL must not lead to the {door} of this daemon");
                    top.fault(&format!("connections[{index}].url"), &rule);
                }
            }
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let path = format!("connections[{index}].id");
            let taken = |other: &str| {
                (other == crate::connection::OLLAMA_ID && self.enable_local_ollama)
                    // Also while it is off: whoever reads a status takes what is called so for the tunnel.
                    || other == crate::connection::CLOUD_ID
            };
            if self.connections[..index].iter().any(|earlier| earlier.id == connection.id) {
                top.fault(&path, "Connection ids must be unique");
            } else if taken(&connection.id) {
                let rule = format!("Connection id {} belongs to the built-in connection", connection.id);
                top.fault(&path, &rule);
            }
        }
        models::check_together(self, top);
    }
}

fn queue(top: &mut Section<'_>, default: Queue) -> Queue {
    top.section("queue", default, |queue, default| Queue {
        max_waiting: queue.read("maxWaiting", default.max_waiting, rule::max_waiting),
        max_wait: queue.read("maxWait", default.max_wait, rule::seconds("Queue max wait", 1, 3600)),
    })
}

fn lan_gateway(top: &mut Section<'_>, default: LanGateway) -> LanGateway {
    let path = |name| rule::optional(rule::absolute_path(name));
    top.section("lanGateway", default, |lan, default| LanGateway {
        enabled: lan.read("enabled", default.enabled, rule::flag("LAN gateway enabled")),
        address: lan.read("address", default.address, rule::ip("LAN gateway address")),
        port: lan.read("port", default.port, rule::port("LAN gateway port")),
        cert_file: lan.read("certFile", default.cert_file, path("LAN gateway certificate file")),
        key_file: lan.read("keyFile", default.key_file, path("LAN gateway key file")),
        allowed_hosts: lan.list("allowedHosts", default.allowed_hosts, rule::host_name),
    })
}

fn alerts(top: &mut Section<'_>, default: Alerts) -> Alerts {
    top.section("alerts", default, |alerts, default| Alerts {
        latency_ms: alerts.read("latencyMs", default.latency_ms, rule::milliseconds("Alert latency")),
        error_rate_percent: alerts.read(
            "errorRatePercent",
            default.error_rate_percent,
            rule::percent("Alert error rate"),
        ),
        consecutive_failures: alerts.read(
            "consecutiveFailures",
            default.consecutive_failures,
            rule::positive("Alert consecutive failures"),
        ),
        memory_mb: alerts.read("memoryMB", default.memory_mb, rule::positive("Alert memory")),
    })
}
