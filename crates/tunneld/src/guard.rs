//! Who may ask what: one gate in front of the control API and the gateway.
//!
//! Three questions, in this order: is the process at the other end this user's ([`Peer`]), is the `Host` one of
//! ours (a page that rebinds its DNS name to loopback sends its own name), and does a browser's `Origin` have a
//! right to this request. CORS answers come from the same list as the `Origin` rule.
//!
//! Callers with a key are asked the last question only, at the gateway, and a weaker form of the second from the network:
//! a browser attaches no key of its own accord, so a page that gets here by a trick is a caller without one.

mod cors;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use tunnel_api::config::OriginPattern;

pub(crate) use self::cors::{Cors, Preflight};
use crate::doors::peer::Peer;

/// The rules of one door. Cheap to check: a request without `Origin` costs one comparison of its `Host`.
#[derive(Debug)]
pub(crate) struct Guard {
    hosts: Hosts,
    own_origins: Vec<String>,
    allowed: Vec<OriginPattern>,
}

/// What a request would do if it went through: decides whether a wildcard entry is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It only reads, or asks a model.
    Reads,
    /// It changes something that outlives the answer.
    Changes,
}

/// The gate's decision.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on; the answer gets these headers if a browser's page asked.
    Pass(Option<Cors>),
    /// A preflight of an origin that may: answer 204 with these headers, ask nobody else.
    Preflight(Preflight),
    /// Answer 403.
    Refuse(Refusal),
}

/// Why a request is refused, as a sentence that says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "this door is open to the user who runs tunneld only, and your connection is another user's \
         or comes from a container; ask through a process of that user"
    )]
    Stranger,
    #[error(
        "the Host header is none of this daemon's; ask for localhost, 127.0.0.1 or [::1] with the port, \
         exactly so"
    )]
    Host,
    #[error(
        "the Host header is no name of this machine that is known here; ask for its IP address, or add the name to \
         lanGateway.allowedHosts in the config"
    )]
    LanHost,
    #[error("this web page's origin is not allowed here; add it to allowedOrigins in the config")]
    Origin,
    #[error(
        "this web page's origin may only read here, since a wildcard allows it; \
         add it to allowedOrigins without a wildcard"
    )]
    WildcardOrigin,
}

impl Refusal {
    /// The status of every refusal.
    pub(crate) const STATUS: StatusCode = StatusCode::FORBIDDEN;

    /// The machine-readable code.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Stranger => "not_same_user",
            Self::Host | Self::LanHost => "host_not_allowed",
            Self::Origin | Self::WildcardOrigin => "origin_not_allowed",
        }
    }
}

/// The rules of all doors, replaced when the config changes.
#[derive(Debug)]
pub(crate) struct Guards {
    socket: ArcSwap<Guard>,
    control: ArcSwap<Guard>,
    gateway: ArcSwap<Guard>,
    keyed: ArcSwap<Guard>,
    lan: ArcSwap<Guard>,
}

/// The rules of one door as they are now; held for the check only.
type Current = arc_swap::Guard<Arc<Guard>>;

impl Guards {
    /// Rules for the doors on these ports.
    pub(crate) fn new(
        control_port: u16,
        gateway_port: u16,
        allowed_origins: &[OriginPattern],
        lan_hosts: &[String],
    ) -> Self {
        Self {
            socket: ArcSwap::from_pointee(Guard::socket(allowed_origins)),
            control: ArcSwap::from_pointee(Guard::loopback(control_port, control_port, allowed_origins)),
            gateway: ArcSwap::from_pointee(Guard::loopback(gateway_port, control_port, allowed_origins)),
            keyed: ArcSwap::from_pointee(Guard::socket(allowed_origins)),
            lan: ArcSwap::from_pointee(Guard::network(lan_hosts, allowed_origins)),
        }
    }

    /// Takes over a new list. Requests that have passed already go on.
    pub(crate) fn replace(
        &self,
        control_port: u16,
        gateway_port: u16,
        allowed_origins: &[OriginPattern],
        lan_hosts: &[String],
    ) {
        let fresh = Self::new(control_port, gateway_port, allowed_origins, lan_hosts);
        self.socket.store(fresh.socket.into_inner());
        self.control.store(fresh.control.into_inner());
        self.gateway.store(fresh.gateway.into_inner());
        self.keyed.store(fresh.keyed.into_inner());
        self.lan.store(fresh.lan.into_inner());
    }

    /// The rules of the control socket.
    pub(crate) fn socket(&self) -> Current {
        self.socket.load()
    }

    /// The rules of the control port.
    pub(crate) fn control(&self) -> Current {
        self.control.load()
    }

    /// The rules of the gateway.
    pub(crate) fn gateway(&self) -> Current {
        self.gateway.load()
    }

    /// The rules of the gateway for who is let in by a key.
    pub(crate) fn keyed(&self) -> Current {
        self.keyed.load()
    }

    /// The rules of the gateway for other machines.
    pub(crate) fn lan(&self) -> Current {
        self.lan.load()
    }
}

/// Which `Host` values a door takes.
#[derive(Debug)]
enum Hosts {
    /// The control socket: no browser reaches it, and clients put anything there.
    Any,
    Exactly(Vec<String>),
    /// The network: IP addresses, names that no public DNS has, and these, with any port.
    OfNetwork(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OriginRight {
    Everything,
    Reads,
    Nothing,
}

impl Guard {
    /// The rules of the control socket.
    pub(crate) fn socket(allowed_origins: &[OriginPattern]) -> Self {
        Self { hosts: Hosts::Any, own_origins: Vec::new(), allowed: allowed_origins.to_vec() }
    }

    /// The rules of a door on the network; `hosts` are in lower case.
    pub(crate) fn network(hosts: &[String], allowed_origins: &[OriginPattern]) -> Self {
        let (hosts, allowed) = (Hosts::OfNetwork(hosts.to_vec()), allowed_origins.to_vec());
        Self { hosts, own_origins: Vec::new(), allowed }
    }

    /// The rules of a loopback door on `port`.
    ///
    /// Our own pages come from `page_port`, the control port: at the control port itself the same number.
    pub(crate) fn loopback(port: u16, page_port: u16, allowed_origins: &[OriginPattern]) -> Self {
        const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
        let mut hosts: Vec<String> = NAMES.iter().map(|name| format!("{name}:{port}")).collect();
        let mut own_origins: Vec<String> =
            NAMES.iter().map(|name| format!("http://{name}:{page_port}")).collect();
        own_origins.extend(hosts.iter().map(|host| format!("http://{host}")));
        if port == 80 {
            // Clients leave the default port out.
            hosts.extend(NAMES.map(str::to_owned));
        }
        Self { hosts: Hosts::Exactly(hosts), own_origins, allowed: allowed_origins.to_vec() }
    }

    /// Judges a request. `effect` is asked only when a browser's page is behind it.
    pub(crate) fn check<B>(
        &self,
        peer: Peer,
        request: &Request<B>,
        effect: impl Fn(&Method, &Uri) -> Effect,
    ) -> Verdict {
        match peer {
            Peer::SameUser => self.check_page(request, effect),
            Peer::Stranger => Verdict::Refuse(Refusal::Stranger),
        }
    }

    /// Judges what a request says of itself, whoever sends it.
    pub(crate) fn check_page<B>(
        &self,
        request: &Request<B>,
        effect: impl Fn(&Method, &Uri) -> Effect,
    ) -> Verdict {
        if !self.host_is_ours(request.headers(), request.uri()) {
            return Verdict::Refuse(match self.hosts {
                Hosts::Any | Hosts::Exactly(_) => Refusal::Host,
                Hosts::OfNetwork(_) => Refusal::LanHost,
            });
        }
        let headers = request.headers();
        let Some(origin) = headers.get(ORIGIN) else {
            return self.check_fetch_metadata(request, effect);
        };
        if headers.get_all(ORIGIN).iter().nth(1).is_some() {
            return Verdict::Refuse(Refusal::Origin);
        }
        let right = self.right_of(origin);
        if right == OriginRight::Nothing {
            return Verdict::Refuse(Refusal::Origin);
        }
        let preflight_for = (request.method() == Method::OPTIONS)
            .then(|| headers.get(ACCESS_CONTROL_REQUEST_METHOD))
            .flatten()
            .map(|method| Method::from_bytes(method.as_bytes()));
        let method = match &preflight_for {
            Some(Ok(method)) => method,
            Some(Err(_)) => return Verdict::Refuse(Refusal::Origin),
            None => request.method(),
        };
        if right == OriginRight::Reads && effect(method, request.uri()) == Effect::Changes {
            return Verdict::Refuse(Refusal::WildcardOrigin);
        }
        let cors = Cors::of(origin);
        match preflight_for {
            Some(_) => Verdict::Preflight(Preflight::asked(cors, headers)),
            None => Verdict::Pass(Some(cors)),
        }
    }

    /// Refuses what a browser sends for a foreign page without an `Origin`: images, frames, scripts.
    ///
    /// The page could read none of it, but a model server would have been asked. A link that a person follows is
    /// another thing. Programs send no `Sec-Fetch-Site`, and a page cannot keep its browser from sending it.
    fn check_fetch_metadata<B>(
        &self,
        request: &Request<B>,
        effect: impl Fn(&Method, &Uri) -> Effect,
    ) -> Verdict {
        let headers = request.headers();
        let Some(site) = headers.get(FETCH_SITE) else { return Verdict::Pass(None) };
        let ours = matches!(site.as_bytes(), b"same-origin" | b"none");
        let says = |name, value: &str| headers.get(name).is_some_and(|said| said == value);
        let followed = || {
            says(FETCH_MODE, "navigate")
                && says(FETCH_DEST, "document")
                && effect(request.method(), request.uri()) == Effect::Reads
        };
        if ours || followed() { Verdict::Pass(None) } else { Verdict::Refuse(Refusal::Origin) }
    }

    fn host_is_ours(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let ours = |host: &[u8]| match &self.hosts {
            Hosts::Any => true,
            Hosts::Exactly(hosts) => hosts.iter().any(|ours| ours.as_bytes() == host),
            Hosts::OfNetwork(hosts) => std::str::from_utf8(host).is_ok_and(|host| is_of_network(host, hosts)),
        };
        if matches!(self.hosts, Hosts::Any) {
            return true;
        }
        let mut values = headers.get_all(HOST).iter();
        let (Some(host), None) = (values.next(), values.next()) else { return false };
        // RFC 9112 §3.2.2: the authority of an absolute request target stands above the Host header.
        ours(host.as_bytes()) && uri.authority().is_none_or(|authority| ours(authority.as_str().as_bytes()))
    }

    fn right_of(&self, origin: &HeaderValue) -> OriginRight {
        let Ok(origin) = origin.to_str() else { return OriginRight::Nothing };
        if self.own_origins.iter().any(|own| own == origin) {
            return OriginRight::Everything;
        }
        let mut matching = self.allowed.iter().filter(|entry| entry.matches(origin)).peekable();
        if matching.peek().is_none() {
            OriginRight::Nothing
        } else if matching.all(OriginPattern::has_wildcard) {
            OriginRight::Reads
        } else {
            OriginRight::Everything
        }
    }
}

/// Tells whether a `Host` is an IP address, a name that only the network itself can give (`box`, `box.local`), or one of
/// `hosts`.
fn is_of_network(host: &str, hosts: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    // Whoever has a name here cannot have a user's as well.
    if authority.as_str().contains('@') || name.is_empty() {
        return false;
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = name.to_ascii_lowercase();
    // Digits alone are another spelling of an address.
    let short = !name.contains('.') && name.bytes().any(|b| b.is_ascii_alphabetic());
    short || name.ends_with(".local") || hosts.contains(&name)
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

#[cfg(test)]
mod tests {
    use http::header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    };

    use super::*;

    const PORT: u16 = 8765;

    fn guard() -> Guard {
        let allowed = [
            "http://localhost:*",
            "https://app.example.org",
            "http://127.0.0.1:3000",
            "https://x.example:443",
        ];
        Guard::loopback(PORT, PORT, &allowed.map(|entry| entry.parse().unwrap()))
    }

    fn by_method(method: &Method, _: &Uri) -> Effect {
        if method.is_safe() { Effect::Reads } else { Effect::Changes }
    }

    fn request(method: Method, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.body(()).unwrap()
    }

    fn refusal(guard: &Guard, request: &Request<()>) -> Option<Refusal> {
        match guard.check(Peer::SameUser, request, by_method) {
            Verdict::Refuse(refusal) => Some(refusal),
            Verdict::Pass(_) | Verdict::Preflight(_) => None,
        }
    }

    #[test]
    fn only_our_own_hosts_pass() {
        let ours = ["localhost:8765", "127.0.0.1:8765", "[::1]:8765"];
        let foreign = [
            "evil.com",
            "evil.com:8765",
            "127.0.0.1.nip.io:8765",
            "localhost.:8765",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "::1:8765",
            "localhost:8766",
            "localhost:08765",
            "localhost:",
            "LOCALHOST:8765",
            "Localhost:8765",
            "127.0.0.1@evil.com:8765",
            "127.0.0.1:8765@evil.com",
            "evil.com@127.0.0.1:8765",
            "localhost:8765.evil.com",
            "localhost.evil.com:8765",
            "127.1:8765",
            "127.0.0.2:8765",
            "0.0.0.0:8765",
            "0:8765",
            "2130706433:8765",
            "0x7f000001:8765",
            "017700000001:8765",
            "[::]:8765",
            "[::ffff:127.0.0.1]:8765",
            "[0:0:0:0:0:0:0:1]:8765",
            "[::1%25lo]:8765",
            "[::1]8765",
            "localhost:8765 ",
            " localhost:8765",
            "localhost:8765/",
            "localhost:8765#",
            "localhost:8765,evil.com",
            "http://localhost:8765",
            "localhost\t:8765",
            "löcalhost:8765",
            "ip6-localhost:8765",
            "",
        ];
        assert!(ours.len() + foreign.len() >= 40);
        for host in ours {
            assert_eq!(refusal(&guard(), &request(Method::GET, "/", &[("host", host)])), None, "{host:?}");
        }
        for host in foreign {
            let refused = refusal(&guard(), &request(Method::GET, "/", &[("host", host)]));
            assert_eq!(refused, Some(Refusal::Host), "{host:?}");
        }
    }

    #[test]
    fn missing_and_doubled_hosts_are_refused() {
        assert_eq!(refusal(&guard(), &request(Method::GET, "/", &[])), Some(Refusal::Host));
        let twice = [("host", "localhost:8765"), ("host", "localhost:8765")];
        assert_eq!(refusal(&guard(), &request(Method::GET, "/", &twice)), Some(Refusal::Host));
    }

    #[test]
    fn authority_of_an_absolute_target_must_be_ours_too() {
        let host = [("host", "localhost:8765")];
        let refused = refusal(&guard(), &request(Method::GET, "http://evil.com:8765/api/status", &host));
        assert_eq!(refused, Some(Refusal::Host));
        assert_eq!(refusal(&guard(), &request(Method::GET, "http://127.0.0.1:8765/api/status", &host)), None);
    }

    #[test]
    fn port_80_may_be_left_out() {
        let guard = Guard::loopback(80, PORT, &[]);
        assert_eq!(refusal(&guard, &request(Method::GET, "/", &[("host", "localhost")])), None);
        assert_eq!(refusal(&guard, &request(Method::GET, "/", &[("host", "localhost:80")])), None);
    }

    #[test]
    fn socket_takes_any_host_but_no_foreign_page() {
        let guard = Guard::socket(&[]);
        assert_eq!(refusal(&guard, &request(Method::POST, "/", &[("host", "anything")])), None);
        assert_eq!(refusal(&guard, &request(Method::POST, "/", &[])), None);
        let foreign = [("host", "tunneld"), ("origin", "http://evil.com")];
        assert_eq!(refusal(&guard, &request(Method::GET, "/", &foreign)), Some(Refusal::Origin));
    }

    #[test]
    fn network_is_addressed_by_what_no_foreign_page_can_be_named() {
        let guard = Guard::network(&["box.example.org".to_owned()], &[]);
        for host in [
            "192.168.1.5:11436",
            "192.168.1.5",
            "[fd00::1]:11436",
            "box",
            "Box:1",
            "box.local",
            "BOX.example.org:2",
        ] {
            assert!(
                matches!(
                    guard.check_page(&request(Method::GET, "/", &[("host", host)]), by_method),
                    Verdict::Pass(_)
                ),
                "{host}"
            );
        }
        for host in [
            "evil.com",
            "192.168.1.5.nip.io",
            "box.example.org.evil.com",
            "a@box",
            "2130706433",
            "",
            "box.example.com:1",
        ] {
            let verdict = guard.check_page(&request(Method::GET, "/", &[("host", host)]), by_method);
            assert!(matches!(verdict, Verdict::Refuse(Refusal::LanHost)), "{host}: {verdict:?}");
        }
        let page = request(Method::POST, "/", &[("host", "box"), ("origin", "http://evil.com")]);
        assert!(matches!(guard.check_page(&page, by_method), Verdict::Refuse(Refusal::Origin)));
    }

    #[test]
    fn stranger_is_refused_whatever_he_sends() {
        let request = request(Method::GET, "/", &[("host", "localhost:8765")]);
        for guard in [guard(), Guard::socket(&[])] {
            let verdict = guard.check(Peer::Stranger, &request, by_method);
            assert!(matches!(verdict, Verdict::Refuse(Refusal::Stranger)), "{verdict:?}");
        }
    }

    #[test]
    fn origins_get_what_the_list_gives_them() {
        let (all, reads, none) = (
            (None, None),
            (None, Some(Refusal::WildcardOrigin)),
            (Some(Refusal::Origin), Some(Refusal::Origin)),
        );
        let table = [
            ("http://localhost:8765", all),
            ("http://127.0.0.1:8765", all),
            ("http://[::1]:8765", all),
            ("https://app.example.org", all),
            ("http://127.0.0.1:3000", all),
            ("https://x.example", all),
            ("http://localhost:3000", reads),
            ("http://localhost", reads),
            ("http://localhost:65535", reads),
            ("http://localhost:", none),
            ("http://localhost:*", none),
            ("http://localhost:3000.evil.com", none),
            ("http://localhost.evil.com", none),
            ("http://localhost:65536", none),
            ("http://localhost:80@evil.com", none),
            ("https://localhost:3000", none),
            ("https://app.example.org:8443", none),
            ("https://app.example.org.evil.com", none),
            ("http://app.example.org", none),
            ("https://evil.com", none),
            ("http://127.0.0.1:3001", none),
            ("http://LOCALHOST:8765", reads),
            ("null", none),
            ("", none),
            ("file://", none),
            ("chrome-extension://abcdef", none),
        ];
        for (origin, (read, change)) in table {
            let headers = [("host", "localhost:8765"), ("origin", origin)];
            assert_eq!(refusal(&guard(), &request(Method::GET, "/", &headers)), read, "GET {origin:?}");
            assert_eq!(refusal(&guard(), &request(Method::POST, "/", &headers)), change, "POST {origin:?}");
        }
    }

    #[test]
    fn two_origins_are_refused() {
        let headers =
            [("host", "localhost:8765"), ("origin", "http://localhost:8765"), ("origin", "http://evil.com")];
        assert_eq!(refusal(&guard(), &request(Method::GET, "/", &headers)), Some(Refusal::Origin));
    }

    #[test]
    fn foreign_page_gets_nothing_without_an_origin_either_and_links_can_be_followed() {
        let send = |method, site, mode, dest| {
            let headers = [
                ("host", "localhost:8765"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            refusal(&guard(), &request(method, "/", &headers))
        };
        for site in ["cross-site", "same-site"] {
            assert_eq!(send(Method::POST, site, "no-cors", "empty"), Some(Refusal::Origin));
            assert_eq!(send(Method::GET, site, "no-cors", "image"), Some(Refusal::Origin));
            assert_eq!(send(Method::GET, site, "navigate", "iframe"), Some(Refusal::Origin));
            assert_eq!(send(Method::POST, site, "navigate", "document"), Some(Refusal::Origin));
            assert_eq!(send(Method::GET, site, "navigate", "document"), None);
        }
        assert_eq!(send(Method::POST, "same-origin", "cors", "empty"), None);
        assert_eq!(send(Method::GET, "none", "navigate", "document"), None);
    }

    fn preflight(origin: &str, method: &str) -> Verdict {
        let headers = [
            ("host", "localhost:8765"),
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", "content-type, authorization"),
            ("access-control-request-private-network", "true"),
        ];
        guard().check(Peer::SameUser, &request(Method::OPTIONS, "/api/tunnel/stop", &headers), by_method)
    }

    #[test]
    fn preflight_is_granted_for_just_what_the_request_may_do() {
        let Verdict::Preflight(granted) = preflight("https://app.example.org", "POST") else { panic!() };
        let mut headers = HeaderMap::new();
        granted.apply(&mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.org");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "POST");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "content-type, authorization");
        assert_eq!(headers["access-control-allow-private-network"], "true");
        assert!(matches!(preflight("http://localhost:3000", "GET"), Verdict::Preflight(_)));
        assert!(matches!(
            preflight("http://localhost:3000", "POST"),
            Verdict::Refuse(Refusal::WildcardOrigin)
        ));
        assert!(matches!(preflight("https://evil.com", "GET"), Verdict::Refuse(Refusal::Origin)));
        assert!(matches!(
            preflight("https://app.example.org", "bad method"),
            Verdict::Refuse(Refusal::Origin)
        ));
    }

    #[test]
    fn cors_answer_replaces_what_a_backend_says() {
        let request =
            request(Method::GET, "/", &[("host", "localhost:8765"), ("origin", "http://localhost:3000")]);
        let Verdict::Pass(Some(cors)) = guard().check(Peer::SameUser, &request, by_method) else { panic!() };
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        cors.apply(&mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:3000");
        assert_eq!(headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().count(), 1);
        assert_eq!(headers["vary"], "origin");
    }
}
