//! The cases, from the caller's side.

use anyhow::{Result, ensure};
use e2e::RawRequest;

use super::{Told, World, http1, http2};

/// A body that names the model, so that the daemon knows where it belongs.
pub(super) const BODY: &str = r#"{"model":"scripted:1b","stream":false}"#;
/// What a smuggler would like to be a request of its own; it carries the case, so that it is seen if it arrives.
const HIDDEN: &str =
    "POST /api/show HTTP/1.1\r\nHost: x\r\nX-Case: {case}-hidden\r\nContent-Length: 0\r\n\r\n";

/// One connection of a caller, and what is to come of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// `{token}` and `{case}` are filled in.
    sends: Sends,
    expected: Expected,
}

/// What a caller sends.
pub(super) enum Sends {
    Bytes(Vec<u8>),
    Frames(Vec<http2::Piece>),
}

impl From<Vec<u8>> for Sends {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<http2::Piece>> for Sends {
    fn from(pieces: Vec<http2::Piece>) -> Self {
        Self::Frames(pieces)
    }
}

pub(super) enum Expected {
    /// Nothing arrives, the answer is an error, and the connection ends; of HTTP/2, the stream.
    Refused,
    /// Nothing arrives, the answer is this, and the connection may go on: the request was understood.
    Answered(u16),
    /// As many requests arrive, each as told.
    Passed(usize, Seen),
    /// One arrives, and the connection ends with its answer.
    PassedAndClosed(Seen),
}

/// What the backend sees of each request.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) line: Option<&'static str>,
    pub(super) body: Option<String>,
    /// Headers with their only value.
    pub(super) has: &'static [(&'static str, &'static str)],
    pub(super) lacks: &'static [&'static str],
    /// Text that is nowhere in the head or the trailers.
    pub(super) nowhere: &'static str,
}

impl Case {
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.expected, Expected::Refused | Expected::Answered(_))
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sends, Sends::Frames(_))
    }

    /// Plays the caller.
    pub(super) async fn check(&self, world: &World, case: &str) -> Result<()> {
        let addr = world.relay.listen();
        let Told { statuses, over, text, .. } = match &self.sends {
            Sends::Bytes(bytes) => {
                // The bytes need not be text.
                let bytes = replace(bytes, b"{token}", world.token.as_bytes());
                http1::exchange(addr, &replace(&bytes, b"{case}", case.as_bytes())).await?
            }
            Sends::Frames(pieces) => {
                let fill = |text: &str| text.replace("{token}", &world.token).replace("{case}", case);
                http2::exchange(addr, pieces, fill).await?
            }
        };
        let seen = world.backend.seen(case);
        match &self.expected {
            Expected::Refused => {
                ensure!(seen.is_empty(), "the backend saw {seen:?}\n{text}");
                ensure!(statuses.iter().all(|status| (400..600).contains(status)), "answered {text}");
                ensure!(statuses.len() <= 1, "answered more than once: {text}");
                ensure!(over, "it goes on after {text}");
            }
            Expected::Answered(status) => {
                ensure!(seen.is_empty(), "the backend saw {seen:?}\n{text}");
                ensure!(statuses == [*status], "answered {text}");
            }
            Expected::Passed(n, wanted) => {
                ensure!(seen.len() == *n, "the backend saw {} requests: {seen:#?}\n{text}", seen.len());
                ensure!(
                    statuses.len() == *n && statuses.iter().all(|status| *status == 200),
                    "answered {text}"
                );
                seen.iter().try_for_each(|request| wanted.check(request))?;
            }
            Expected::PassedAndClosed(wanted) => {
                ensure!(seen.len() == 1, "the backend saw {} requests: {seen:#?}\n{text}", seen.len());
                ensure!(statuses == [200] && over, "answered {text}");
                wanted.check(&seen[0])?;
            }
        }
        Ok(())
    }
}

impl Seen {
    fn check(&self, request: &RawRequest) -> Result<()> {
        if let Some(line) = self.line {
            ensure!(request.line() == line, "the backend saw {:?}", request.line());
        }
        if let Some(body) = &self.body {
            ensure!(request.body == body.as_bytes(), "the backend saw {request:?}");
        }
        for (name, value) in self.has {
            ensure!(request.header(name) == [*value], "{name}: {:?}", request.header(name));
        }
        for name in self.lacks {
            ensure!(request.header(name).is_empty(), "{name}: {:?}", request.header(name));
        }
        let told = [&*request.head, &*request.trailers].concat();
        ensure!(self.nowhere.is_empty() || !told.contains(self.nowhere), "{:?} is in {told}", self.nowhere);
        Ok(())
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// A request line and headers around which a case is made; the empty line ends it.
fn head(line: &str, headers: &str) -> String {
    format!(
        "{line}\r\nHost: relay.test\r\nAuthorization: Bearer {{token}}\r\nX-Case: {{case}}\r\n{headers}\r\n"
    )
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("{}{body}", head("POST /api/chat HTTP/1.1", headers)).into_bytes()
}

/// A whole request with these headers as well.
fn with(headers: &str) -> Vec<u8> {
    post(&format!("{}{headers}", sized()), BODY)
}

/// A whole request with this request line.
fn line(line: &str) -> Vec<u8> {
    format!("{}{BODY}", head(line, &sized())).into_bytes()
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

fn sized() -> String {
    format!("Content-Length: {}\r\n", BODY.len())
}

fn case(name: &'static str, sends: impl Into<Sends>, expected: Expected) -> Case {
    Case { name, sends: sends.into(), expected }
}

pub(super) fn refused(name: &'static str, sends: impl Into<Sends>) -> Case {
    case(name, sends, Expected::Refused)
}

pub(super) fn answered(name: &'static str, status: u16, sends: impl Into<Sends>) -> Case {
    case(name, sends, Expected::Answered(status))
}

pub(super) fn passed(name: &'static str, sends: impl Into<Sends>, seen: Seen) -> Case {
    passed_as(name, sends, 1, seen)
}

/// It arrives as so many requests.
pub(super) fn passed_as(name: &'static str, sends: impl Into<Sends>, n: usize, seen: Seen) -> Case {
    case(name, sends, Expected::Passed(n, seen))
}

/// RFC 9112 §6.1: read by its coding alone, passed on with one length, and the connection ends, so that nothing behind it
/// is taken for a request.
fn by_coding(name: &'static str, bytes: Vec<u8>) -> Case {
    let seen = Seen { has: &[("content-length", "38")], lacks: &["transfer-encoding"], ..whole_body() };
    case(name, bytes, Expected::PassedAndClosed(seen))
}

pub(super) fn whole_body() -> Seen {
    Seen { body: Some(BODY.to_owned()), line: Some("POST /api/chat HTTP/1.1"), ..Seen::default() }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(codings());
    cases.extend(chunks());
    cases.extend(lines_and_names());
    cases.extend(targets());
    cases.extend(hosts());
    cases.extend(hop_by_hop());
    cases.extend(spoofed());
    cases.extend(sequences());
    cases
}

fn lengths() -> Vec<Case> {
    let n = BODY.len();
    let with = |headers: String| post(&headers, BODY);
    vec![
        passed("one Content-Length", with(sized()), whole_body()),
        passed(
            "the same Content-Length twice",
            with(sized() + &sized()),
            Seen { has: &[("content-length", "38")], ..whole_body() },
        ),
        refused("two different Content-Length", with(format!("{}Content-Length: 5\r\n", sized()))),
        refused(
            "two different Content-Length, the shorter first",
            with(format!("Content-Length: 5\r\n{}", sized())),
        ),
        refused("list of different Content-Length", with(format!("Content-Length: {n}, 5\r\n"))),
        refused("list of equal Content-Length", with(format!("Content-Length: {n}, {n}\r\n"))),
        refused("negative Content-Length", with(format!("Content-Length: -{n}\r\n"))),
        refused("Content-Length with plus", with(format!("Content-Length: +{n}\r\n"))),
        refused("Content-Length in hexadecimal", with(format!("Content-Length: 0x{n:x}\r\n"))),
        refused("Content-Length with a fraction", with(format!("Content-Length: {n}.0\r\n"))),
        refused("empty Content-Length", with("Content-Length: \r\n".to_owned())),
        refused("Content-Length of words", with("Content-Length: many\r\n".to_owned())),
        refused("Content-Length beyond 64 bits", with("Content-Length: 18446744073709551617\r\n".to_owned())),
        refused(
            "Content-Length of the largest number",
            with("Content-Length: 18446744073709551615\r\n".to_owned()),
        ),
        refused("blank within Content-Length", with("Content-Length: 3 8\r\n".to_owned())),
        refused("blank before the colon of Content-Length", with(format!("Content-Length : {n}\r\n"))),
        passed(
            "no length, no body",
            post("Connection: close\r\n", ""),
            Seen { body: Some(String::new()), ..Seen::default() },
        ),
    ]
}

fn codings() -> Vec<Case> {
    let chunk = chunked(BODY);
    let both = |headers: String, body: String| post(&headers, &body);
    vec![
        passed("chunked", post("Transfer-Encoding: chunked\r\n", &chunk), whole_body()),
        passed("chunked, in capitals", post("Transfer-Encoding: CHUNKED\r\n", &chunk), whole_body()),
        by_coding(
            "CL.TE",
            both(format!("{}Transfer-Encoding: chunked\r\n", sized()), format!("{chunk}{HIDDEN}")),
        ),
        by_coding(
            "TE.CL",
            both(format!("Transfer-Encoding: chunked\r\n{}", sized()), format!("{chunk}{HIDDEN}")),
        ),
        by_coding(
            "CL.TE with zero",
            both("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".to_owned(), chunk.clone()),
        ),
        refused("TE.TE, xchunked", post("Transfer-Encoding: xchunked\r\n", &chunk)),
        refused("TE.TE, chunked then identity", post("Transfer-Encoding: chunked, identity\r\n", &chunk)),
        refused(
            "TE.TE, chunked then another",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", &chunk),
        ),
        refused(
            "TE.TE, another then chunked",
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", &chunk),
        ),
        refused("chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", &chunk)),
        refused("gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", &chunk)),
        refused("gzip alone", post("Transfer-Encoding: gzip\r\n", &chunk)),
        refused(
            "identity with a length",
            both(format!("Transfer-Encoding: identity\r\n{}", sized()), BODY.to_owned()),
        ),
        refused("empty Transfer-Encoding", post("Transfer-Encoding: \r\n", &chunk)),
        refused("quoted chunked", post("Transfer-Encoding: \"chunked\"\r\n", &chunk)),
        refused("vertical tab before chunked", post("Transfer-Encoding: \x0bchunked\r\n", &chunk)),
        refused(
            "blank before the colon of Transfer-Encoding",
            post("Transfer-Encoding : chunked\r\n", &chunk),
        ),
        refused(
            "Transfer-Encoding on a line of its own, folded",
            post("Transfer-Encoding:\r\n chunked\r\n", &chunk),
        ),
        refused(
            "chunked in HTTP/1.0",
            format!("{}{chunk}", head("POST /api/chat HTTP/1.0", "Transfer-Encoding: chunked\r\n"))
                .into_bytes(),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let n = BODY.len();
    let with = |body: String| post("Transfer-Encoding: chunked\r\n", &body);
    vec![
        passed("extension of a chunk", with(format!("{n:x};a=b\r\n{BODY}\r\n0\r\n\r\n")), whole_body()),
        passed(
            "zeros before the size of a chunk",
            with(format!("000{n:x}\r\n{BODY}\r\n0\r\n\r\n")),
            whole_body(),
        ),
        refused("size of a chunk that is no number", with(format!("zz\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("size of a chunk with a minus", with(format!("-{n:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("size of a chunk with a plus", with(format!("+{n:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("size of a chunk with 0x", with(format!("0x{n:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("size of a chunk beyond 64 bits", with(format!("10000000000000026\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("empty size of a chunk", with(format!("\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("bare LF after the size of a chunk", with(format!("{n:x}\n{BODY}\r\n0\r\n\r\n"))),
        refused("bare LF within an extension", with(format!("{n:x};a\nb\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("chunk that is longer than it says", with(format!("5\r\n{BODY}\r\n0\r\n\r\n"))),
        refused("no line end after a chunk", with(format!("{n:x}\r\n{BODY}0\r\n\r\n"))),
        refused(
            "extension without end",
            with(format!("{n:x};{}\r\n{BODY}\r\n0\r\n\r\n", "a".repeat(20_000))),
        ),
        passed("trailer", with(format!("{n:x}\r\n{BODY}\r\n0\r\nX-Sum: 1\r\n\r\n")), whole_body()),
        passed(
            "trailers that would be headers",
            with(format!(
                "{n:x}\r\n{BODY}\r\n0\r\nContent-Length: 5\r\nHost: evil\r\nAuthorization: Bearer x\r\nTransfer-Encoding: x\r\n\r\n"
            )),
            Seen { nowhere: "evil", ..whole_body() },
        ),
        passed(
            "announced trailers that are not the caller's to set",
            post(
                "Transfer-Encoding: chunked\r\nTrailer: X-Sum, Tunnel-Caller, Cookie, X-Forwarded-For\r\n",
                &format!(
                    "{n:x}\r\n{BODY}\r\n0\r\nX-Sum: 1\r\nTunnel-Caller: evil\r\nCookie: evil\r\nX-Forwarded-For: evil\r\n\r\n"
                ),
            ),
            Seen { nowhere: "evil", ..whole_body() },
        ),
    ]
}

fn lines_and_names() -> Vec<Case> {
    let raw = |text: &str| text.as_bytes().to_vec();
    let start = "POST /api/chat HTTP/1.1\r\nContent-Length: 0\r\nHost: x\r\nAuthorization: Bearer {token}\r\nX-Case: {case}\r\n";
    vec![
        refused("folded header", with("X-Folded: a\r\n b\r\n")),
        refused("folded header with a tab", with("X-Folded: a\r\n\tb\r\n")),
        refused("blank before the first header", raw(&start.replace("\r\nHost", "\r\n Host")).end()),
        refused("bare CR in a value", with("X-Odd: a\rX-Injected: 1\r\n")),
        refused("NUL in a value", with("X-Odd: a\0b\r\n")),
        refused("NUL in a name", with("X-O\0dd: a\r\n")),
        refused("blank in a name", with("X Odd: a\r\n")),
        refused("header without a colon", with("X-Odd\r\n")),
        refused("empty name", with(": a\r\n")),
        refused("parentheses in a name", with("X-(Odd): a\r\n")),
        refused("letters beyond ASCII in a name", with("X-Ödd: a\r\n")),
        refused("escape in a value", with("X-Odd: \x1b[31m\r\n")),
        passed(
            "underscores in a name are no dashes",
            with("Tunnel_Caller: sub=\"root\"\r\n"),
            Seen { lacks: &["tunnel-caller"], ..Seen::default() },
        ),
        refused("one header of 70,000 bytes", with(&format!("X-Long: {}\r\n", "a".repeat(70_000)))),
        refused("2,000 headers", with(&"X-Many: a\r\n".repeat(2_000))),
        refused("target of 70,000 bytes", line(&format!("POST /api/chat?{} HTTP/1.1", "a".repeat(70_000)))),
        refused("HTTP/1.2", line("POST /api/chat HTTP/1.2")),
        refused("HTTP/9.9", line("POST /api/chat HTTP/9.9")),
        refused("no version", line("POST /api/chat")),
        refused("two blanks in the request line", line("POST  /api/chat HTTP/1.1")),
        refused("tab in the request line", line("POST\t/api/chat HTTP/1.1")),
        refused("method with a colon", line("PO:ST /api/chat HTTP/1.1")),
        refused(
            "the preface of HTTP/2 with a body of HTTP/1",
            raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        ),
    ]
}

trait End {
    /// Adds the empty line.
    fn end(self) -> Self;
}

impl End for Vec<u8> {
    fn end(mut self) -> Self {
        self.extend_from_slice(b"\r\n");
        self
    }
}

fn targets() -> Vec<Case> {
    vec![
        passed(
            "absolute form",
            line("POST http://evil.test/api/chat HTTP/1.1"),
            Seen { line: Some("POST /api/chat HTTP/1.1"), nowhere: "evil", ..Seen::default() },
        ),
        answered("two slashes", 403, line("POST //evil.test/api/chat HTTP/1.1")),
        refused("CONNECT", line("CONNECT evil.test:443 HTTP/1.1")).or_answered(400),
        refused("OPTIONS *", line("OPTIONS * HTTP/1.1")).or_answered(400),
        answered("TRACE", 403, line("TRACE /api/chat HTTP/1.1")),
        answered("encoded line end in the path", 403, line("POST /api/chat%0d%0aX-Injected:%201 HTTP/1.1")),
        passed(
            "encoded line end in the query",
            line("POST /api/chat?a=%0d%0aX-Injected:%201 HTTP/1.1"),
            Seen {
                line: Some("POST /api/chat?a=%0d%0aX-Injected:%201 HTTP/1.1"),
                lacks: &["x-injected"],
                ..Seen::default()
            },
        ),
        passed(
            "fragment",
            line("POST /api/chat#/api/pull HTTP/1.1"),
            Seen { line: Some("POST /api/chat HTTP/1.1"), ..Seen::default() },
        ),
    ]
}

impl Case {
    /// The request is clear, and refused for what it asks.
    fn or_answered(self, status: u16) -> Self {
        Self { expected: Expected::Answered(status), ..self }
    }
}

fn hosts() -> Vec<Case> {
    let with = |hosts: &str| {
        format!(
            "POST /api/chat HTTP/1.1\r\n{hosts}Authorization: Bearer {{token}}\r\nX-Case: {{case}}\r\n\r\n"
        )
        .into_bytes()
    };
    let kept_out = || Seen { nowhere: "evil", ..Seen::default() };
    vec![
        passed("any Host, which is not passed on", with("Host: evil.test\r\n"), kept_out()),
        refused("two Hosts", with("Host: relay.test\r\nHost: evil.test\r\n")),
        refused("no Host", with("")),
        refused("Host with a path", with("Host: evil.test/api\r\n")),
        refused("Host with a user", with("Host: user@evil.test\r\n")),
        refused("Host with a blank", with("Host: relay.test evil.test\r\n")),
        refused("two Hosts in one", with("Host: relay.test, evil.test\r\n")),
    ]
}

fn hop_by_hop() -> Vec<Case> {
    let named =
        |names: &str, headers: &str| post(&format!("{}Connection: {names}\r\n{headers}", sized()), BODY);
    vec![
        passed(
            "Connection: close, x-hop",
            named("close, x-hop", "X-Hop: 1\r\n"),
            Seen { lacks: &["x-hop"], ..whole_body() },
        ),
        passed("Connection names what frames the body", named("close, content-length", ""), whole_body()),
        passed("Connection names Host", named("close, host", ""), whole_body()),
        passed(
            "Connection names the relay's own headers",
            named("close, x-request-id, forwarded, tunnel-caller", ""),
            Seen { ..whole_body() },
        ),
        answered("Connection names the credentials", 200, named("close, authorization", "")).passes(),
        passed(
            "several Connection headers",
            named("close\r\nConnection: x-a", "X-A: 1\r\n"),
            Seen { lacks: &["x-a"], ..whole_body() },
        ),
        passed(
            "Keep-Alive",
            with("Keep-Alive: timeout=5\r\n"),
            Seen { lacks: &["keep-alive"], ..Seen::default() },
        ),
        passed("TE: trailers", with("TE: trailers\r\nConnection: te\r\n"), Seen { ..Seen::default() }),
        passed(
            "TE: gzip",
            with("TE: gzip\r\nConnection: te\r\n"),
            Seen { lacks: &["te"], ..Seen::default() },
        ),
        passed(
            "Upgrade to h2c",
            with(
                "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n",
            ),
            Seen { lacks: &["upgrade", "http2-settings"], ..Seen::default() },
        ),
        answered("Upgrade to a WebSocket", 501, with("Upgrade: websocket\r\nConnection: Upgrade\r\n")),
        passed(
            "Proxy-*",
            with("Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nProxy-Foo: 1\r\n"),
            Seen { lacks: &["proxy-authorization", "proxy-connection", "proxy-foo"], ..Seen::default() },
        ),
        passed(
            "Expect: 100-continue",
            post(&format!("{}Expect: 100-continue\r\n", sized()), BODY),
            Seen { lacks: &["expect"], ..whole_body() },
        ),
        passed(
            "Expect something else",
            post(&format!("{}Expect: 200-ok\r\n", sized()), BODY),
            Seen { lacks: &["expect"], ..whole_body() },
        ),
    ]
}

impl Case {
    /// It passes as it would without what it tried.
    fn passes(self) -> Self {
        Self { expected: Expected::Passed(1, whole_body()), ..self }
    }
}

fn spoofed() -> Vec<Case> {
    vec![
        passed(
            "Tunnel-Caller",
            with("Tunnel-Caller: sub=\"root\"\r\nTunnel-Caller: sub=\"x\"\r\n"),
            Seen { lacks: &["tunnel-caller"], nowhere: "root", ..Seen::default() },
        ),
        passed("X-Request-Id", with("X-Request-Id: mine\r\n"), Seen { nowhere: "mine", ..Seen::default() }),
        passed(
            "Forwarded",
            with("Forwarded: for=192.0.2.66\r\n"),
            Seen { nowhere: "192.0.2.66", ..Seen::default() },
        ),
        passed(
            "what proxies say",
            with(
                "X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Host: 192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\nVia: 192.0.2.66\r\n",
            ),
            Seen { nowhere: "192.0.2.66", ..Seen::default() },
        ),
        passed("X-Tunnel-*", with("X-Tunnel-Model: other\r\n"), Seen { nowhere: "other", ..Seen::default() }),
        passed(
            "credentials and cookies",
            with(
                "Cookie: a=secret\r\nX-Api-Key: secret\r\nOrigin: https://secret\r\nReferer: https://secret\r\n",
            ),
            Seen {
                lacks: &["authorization", "cookie", "x-api-key", "origin", "referer"],
                nowhere: "secret",
                ..Seen::default()
            },
        ),
    ]
}

fn sequences() -> Vec<Case> {
    let good = String::from_utf8_lossy(&with("")).into_owned();
    let n = BODY.len();
    vec![
        passed_as("two requests in one piece", (good.clone() + &good).into_bytes(), 2, whole_body()),
        refused(
            "a request behind one that cannot be read",
            (head("POST /api/chat HTTP/1.1", "Content-Length: x\r\n") + &good).into_bytes(),
        ),
        refused(
            "a request behind a broken chunk",
            (head("POST /api/chat HTTP/1.1", "Transfer-Encoding: chunked\r\n") + "zz\r\n" + &good)
                .into_bytes(),
        ),
        passed(
            "a request as the body of another",
            post(&format!("Content-Length: {}\r\n", n + HIDDEN.len()), &format!("{BODY}{HIDDEN}")),
            Seen { line: Some("POST /api/chat HTTP/1.1"), ..Seen::default() },
        ),
        passed("empty lines before a request", format!("\r\n\r\n{good}").into_bytes(), whole_body()),
    ]
}
