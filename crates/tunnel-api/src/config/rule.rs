//! The rules of single values. Each returns what the value means or a sentence that says what would be right.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use url::{Host, Url};

use super::origin::OriginPattern;
use super::{LogLevel, RoutingPolicy};

/// For [`seconds`] without an upper bound that a user would meet: about 136 years.
pub(super) const NO_MAXIMUM: u64 = u32::MAX as u64;

/// For `queue.maxWaiting`: each waiting request costs memory; who needs more than this needs another backend.
pub(super) const MOST_WAITING: u64 = 100_000;

/// Why a value is refused: the rule that it breaks.
pub(super) enum Rejection {
    /// The value may be repeated to the user.
    Shown(String),
    /// The value may hold a secret.
    Hidden(String),
}

impl From<String> for Rejection {
    fn from(rule: String) -> Self {
        Self::Shown(rule)
    }
}

impl From<&str> for Rejection {
    fn from(rule: &str) -> Self {
        Self::Shown(rule.to_owned())
    }
}

type Judged<T> = Result<T, Rejection>;

pub(super) fn flag(name: &str) -> impl FnOnce(&Value) -> Judged<bool> {
    move |value| value.as_bool().ok_or_else(|| format!("{name} must be true or false").into())
}

pub(super) fn text(name: &str) -> impl FnOnce(&Value) -> Judged<String> {
    move |value| match value.as_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.trim().to_owned()),
        _ => Err(format!("{name} must be a text of one line").into()),
    }
}

pub(super) fn port(name: &str) -> impl FnOnce(&Value) -> Judged<NonZeroU16> {
    move |value| {
        whole(value)
            .and_then(|port| NonZeroU16::new(u16::try_from(port).ok()?))
            .ok_or_else(|| format!("{name} must be between 1 and 65535").into())
    }
}

pub(super) fn seconds(name: &str, min: u64, max: u64) -> impl FnOnce(&Value) -> Judged<Duration> {
    move |value| match whole(value) {
        Some(seconds) if (min..=max).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ if max < NO_MAXIMUM => Err(format!("{name} must be between {min} and {max} seconds").into()),
        _ => {
            let unit = if min == 1 { "second" } else { "seconds" };
            Err(format!("{name} must be at least {min} {unit}").into())
        }
    }
}

pub(super) fn milliseconds(name: &str) -> impl FnOnce(&Value) -> Judged<Duration> {
    move |value| match whole(value) {
        Some(ms) if (1..=NO_MAXIMUM).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{name} must be at least 1 millisecond").into()),
    }
}

pub(super) fn percent(name: &str) -> impl FnOnce(&Value) -> Judged<f64> {
    move |value| match value.as_f64() {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("{name} must be between 0 and 100 percent").into()),
    }
}

pub(super) fn positive(name: &str) -> impl FnOnce(&Value) -> Judged<NonZeroU32> {
    move |value| {
        whole(value)
            .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
            .ok_or_else(|| format!("{name} must be at least 1").into())
    }
}

pub(super) fn natural(name: &str) -> impl FnOnce(&Value) -> Judged<u32> {
    move |value| {
        whole(value)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| format!("{name} must be a whole number from 0").into())
    }
}

pub(super) fn pool_size(name: &str) -> impl FnOnce(&Value) -> Judged<NonZeroUsize> {
    move |value| {
        whole(value)
            .and_then(|size| NonZeroUsize::new(usize::try_from(size).ok()?))
            .filter(|size| size.get() <= 1000)
            .ok_or_else(|| format!("{name} must be between 1 and 1000").into())
    }
}

pub(super) fn max_waiting(value: &Value) -> Judged<usize> {
    whole(value)
        .filter(|count| *count <= MOST_WAITING)
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(|| "Queue max waiting must be between 0 and 100000".into())
}

pub(super) fn log_level(value: &Value) -> Judged<LogLevel> {
    let level = value.as_str().unwrap_or_default().to_ascii_uppercase();
    match level.as_str() {
        "TRACE" => Ok(LogLevel::Trace),
        "DEBUG" => Ok(LogLevel::Debug),
        "INFO" => Ok(LogLevel::Info),
        "WARN" => Ok(LogLevel::Warn),
        "ERROR" => Ok(LogLevel::Error),
        _ => Err("Log level must be one of: DEBUG, INFO, WARN, ERROR".into()),
    }
}

pub(super) fn routing_policy(value: &Value) -> Judged<RoutingPolicy> {
    match value.as_str() {
        Some("preferLocal") => Ok(RoutingPolicy::PreferLocal),
        Some("preferCloud") => Ok(RoutingPolicy::PreferCloud),
        Some("localOnly") => Ok(RoutingPolicy::LocalOnly),
        _ => Err("Routing policy must be one of: preferLocal, preferCloud, localOnly".into()),
    }
}

pub(super) fn origin(value: &Value) -> Judged<OriginPattern> {
    let text = value.as_str().unwrap_or_default();
    // `https://user:password@host` is no origin; people paste such things.
    let rejected = if text.contains('@') { Rejection::Hidden } else { Rejection::Shown };
    text.parse().map_err(|_| {
        rejected("Allowed origin must look like https://example.org or http://localhost:*".to_owned())
    })
}

pub(super) fn device_name(value: &Value) -> Judged<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match value.as_str() {
        Some(name) if (1..=63).contains(&name.len()) && name.chars().all(fits) => Ok(name.to_owned()),
        _ => Err("Device name must be 1 to 63 characters of a-z, 0-9 and -".into()),
    }
}

pub(super) fn absolute_path(name: &str) -> impl FnOnce(&Value) -> Judged<PathBuf> {
    move |value| {
        let path = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
        path.ok_or_else(|| format!("{name} must be an absolute path").into())
    }
}

pub(super) fn ip(name: &str) -> impl FnOnce(&Value) -> Judged<IpAddr> {
    move |value| {
        let address = value.as_str().and_then(|text| text.trim().parse().ok());
        address.ok_or_else(|| format!("{name} must be an IP address such as 0.0.0.0 or 192.168.1.5").into())
    }
}

/// A name as it stands in a `Host` header, without a port; in lower case.
pub(super) fn host_name(value: &Value) -> Judged<String> {
    let fits = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match value.as_str().map(str::trim) {
        Some(name) if name.split('.').all(fits) => Ok(name.to_ascii_lowercase()),
        _ => {
            Err("LAN gateway allowed host must be a host name without a port, such as box.example.org".into())
        }
    }
}

/// Takes null as "not set".
pub(super) fn optional<T>(
    rule: impl FnOnce(&Value) -> Judged<T>,
) -> impl FnOnce(&Value) -> Judged<Option<T>> {
    move |value| if value.is_null() { Ok(None) } else { rule(value).map(Some) }
}

pub(super) fn host(name: &str) -> impl FnOnce(&Value) -> Judged<String> {
    move |value| {
        let Some(host) = value.as_str() else { return Err(format!("{name} must be a text").into()) };
        let host = host.trim();
        if host.is_empty() {
            return Err(format!("{name} cannot be empty").into());
        }
        if host.contains('@') {
            return Err(Rejection::Hidden(format!("{name} must not contain a user name or password")));
        }
        match ollama_url(host, NonZeroU16::MIN) {
            Some(_) => Ok(host.to_owned()),
            None => {
                Err(format!("{name} must be a host name or an IP address; the port has its own key").into())
            }
        }
    }
}

/// Returns the base address of a host (with `https://` or `http://` before it, or without) and a port.
pub(super) fn ollama_url(host: &str, port: NonZeroU16) -> Option<Url> {
    let (scheme, host) = match host.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host),
        Some(_) => return None,
        None => ("http", host),
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Err(_) if host.contains([':', '/', '?', '#', '\\', '@', '%']) => return None,
        Err(_) => host.to_owned(),
    };
    Url::parse(&format!("{scheme}://{host}:{port}/")).ok()
}

pub(super) fn relay_url(value: &Value) -> Judged<Url> {
    let url = http_url("Cloud proxy URL", value)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err("Cloud proxy URL must start with https:// unless it is a loopback address".into());
    }
    Ok(url)
}

/// Takes an http or https address without credentials, query and fragment.
pub(super) fn http_url(name: &str, value: &Value) -> Judged<Url> {
    let wrong_scheme = || format!("{name} must start with http:// or https://");
    let text = value.as_str().map(str::trim).ok_or_else(wrong_scheme)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err(hide_credentials(text, wrong_scheme()));
    }
    bare_url(name, text)
}

pub(super) fn proxy_url(value: &Value) -> Judged<Url> {
    let rule = "Proxy URL must start with http://, https:// or socks5://";
    let text = value.as_str().map(str::trim).ok_or(rule)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https" | "socks5" | "socks5h")) {
        return Err(hide_credentials(text, rule.to_owned()));
    }
    bare_url("Proxy URL", text)
}

fn bare_url(name: &str, text: &str) -> Judged<Url> {
    let url = Url::parse(text)
        .map_err(|error| hide_credentials(text, format!("{name} must be a valid address: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Rejection::Hidden(format!("{name} must not contain a user name or password")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        // A query may carry a key.
        return Err(Rejection::Hidden(format!("{name} must not have a query or a fragment")));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{name} must name a host").into());
    }
    Ok(url)
}

/// An address that is not understood may still hold a password before an `@`, or a key in its query.
fn hide_credentials(text: &str, rule: String) -> Rejection {
    if text.contains(['@', '?']) { Rejection::Hidden(rule) } else { Rejection::Shown(rule) }
}

/// Tells whether an address stays on this machine by what it says: `localhost`, `*.localhost`, a loopback IP.
///
/// The transport has the same rule; a test of the daemon holds the two together.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

/// Returns a number without a fraction; `30.0` counts, since other languages write whole numbers so.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        // Up to 2^53 a float is exact.
        let exact = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
        exact.then_some(number as u64)
    })
}
