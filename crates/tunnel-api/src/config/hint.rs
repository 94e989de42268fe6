//! What Ollama's own environment variable tells about where it is.

use std::net::IpAddr;

use serde_json::{Map, Value};
use url::Url;

/// Ollama's port when its variable names none.
const OLLAMA_PORT: u16 = 11434;

/// Reads `$OLLAMA_HOST` the way Ollama does and returns the keys `ollamaHost` and `ollamaPort`.
///
/// It is a hint: the layer below the configuration file. An address to listen on (`0.0.0.0`) becomes the
/// loopback address. Empty when it says nothing useful, or names one of `own_ports` on this machine: people
/// point their apps at our gateway with the same variable.
pub fn ollama_host_hint(value: &str, own_ports: &[u16]) -> Map<String, Value> {
    read(value, own_ports).unwrap_or_default()
}

fn read(value: &str, own_ports: &[u16]) -> Option<Map<String, Value>> {
    let value = value.trim().trim_matches(['"', '\'']);
    let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    // A bare IPv6 address has no brackets.
    let authority = match authority.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(_)) | Err(_) => authority.to_owned(),
    };
    let authority = match authority.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => authority,
    };
    // A scheme without a default port, so that "no port" stays visible.
    let url = Url::parse(&format!("x://{authority}")).ok()?;
    let port = url.port().unwrap_or(match scheme {
        "http" => 80,
        "https" => 443,
        _ => OLLAMA_PORT,
    });
    let host = match url.host_str()?.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if port == 0 || (here && own_ports.contains(&port)) {
        return None;
    }
    let host = if scheme == "https" { format!("https://{host}") } else { host.to_owned() };
    Some(
        [("ollamaHost".to_owned(), host.into()), ("ollamaPort".to_owned(), port.into())]
            .into_iter()
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(value: &str) -> String {
        let keys = ollama_host_hint(value, &[8765, 11435]);
        match (keys.get("ollamaHost"), keys.get("ollamaPort")) {
            (Some(host), Some(port)) => format!("{} {port}", host.as_str().unwrap()),
            _ => String::new(),
        }
    }

    #[test]
    fn reads_what_ollama_reads() {
        for (value, expected) in [
            ("192.168.1.5", "192.168.1.5 11434"),
            ("gpu.lan:9000", "gpu.lan 9000"),
            (":9000", "127.0.0.1 9000"),
            ("0.0.0.0", "127.0.0.1 11434"),
            ("0.0.0.0:9000", "127.0.0.1 9000"),
            ("[::]:9000", "::1 9000"),
            ("::1", "::1 11434"),
            ("http://gpu.lan", "gpu.lan 80"),
            ("https://gpu.lan", "https://gpu.lan 443"),
            ("https://gpu.lan:8443/ollama", "https://gpu.lan 8443"),
            ("\"gpu.lan\"", "gpu.lan 11434"),
        ] {
            assert_eq!(hint(value), expected, "{value}");
        }
    }

    #[test]
    fn useless_values_give_no_hint() {
        for value in ["", " ", "a:b:c:d", "host:99999", "host:0", "http://", "user:pass@host"] {
            assert_eq!(hint(value), "", "{value}");
        }
    }

    #[test]
    fn our_own_doors_are_no_ollama() {
        assert_eq!(hint("http://127.0.0.1:11435"), "");
        assert_eq!(hint("localhost:11435"), "");
        assert_eq!(hint("gpu.lan:11435"), "gpu.lan 11435");
    }
}
