//! The cases, from the side of a caller that speaks HTTP/2 as no library would.

use super::{
    http2::{Fields, Piece},
    requests::{BODY, Case, Seen, answered, passed, passed_as, refused, whole_body},
};

/// What every request has here, unless its case is about it.
fn fields() -> Fields {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/api/chat"),
        (":authority", "relay.test"),
        ("authorization", "Bearer {token}"),
        ("x-case", "{case}"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// A request with these fields and a body.
fn post(fields: Fields) -> Vec<Piece> {
    vec![Piece::Fields(1, fields, false), Piece::Data(1, BODY.to_owned(), true)]
}

/// One with these fields as well.
fn with(more: &[(&'static str, &str)]) -> Vec<Piece> {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    post(fields().into_iter().chain(more).collect())
}

/// One with another value of a field.
fn but(name: &str, value: &str) -> Vec<Piece> {
    let mut fields = fields();
    fields.iter_mut().filter(|(have, _)| *have == name).for_each(|(_, have)| value.clone_into(have));
    post(fields)
}

/// One without a field.
fn without(name: &str) -> Vec<Piece> {
    post(fields().into_iter().filter(|(have, _)| *have != name).collect())
}

/// One that begins with these fields.
fn first(name: &'static str, value: &str) -> Vec<Piece> {
    post([(name, value.to_owned())].into_iter().chain(fields()).collect())
}

/// One without a body, whose method this is.
fn bare(method: &str, path: &str) -> Vec<Piece> {
    let mut fields = fields();
    method.clone_into(&mut fields[0].1);
    path.clone_into(&mut fields[2].1);
    vec![Piece::Fields(1, fields, true)]
}

/// One with trailers.
fn trailed(announced: &str, trailers: &[(&'static str, &str)]) -> Vec<Piece> {
    let trailers = trailers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let head = fields().into_iter().chain([("trailer", announced.to_owned())]).collect();
    let body = Piece::Data(1, BODY.to_owned(), false);
    vec![Piece::Fields(1, head, false), body, Piece::Fields(1, trailers, true)]
}

fn lacks(lacks: &'static [&'static str]) -> Seen {
    Seen { lacks, ..whole_body() }
}

fn nowhere(nowhere: &'static str) -> Seen {
    Seen { nowhere, ..whole_body() }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(pseudo());
    cases.extend(targets());
    cases.extend(names_and_values());
    cases.extend(hop_by_hop());
    cases.extend(lengths());
    cases.extend(trailers());
    cases
}

fn framing() -> Vec<Case> {
    let [head, body] = [Piece::Fields(1, fields(), false), Piece::Data(1, BODY.to_owned(), true)];
    let on =
        |stream: u32| [Piece::Fields(stream, fields(), false), Piece::Data(stream, BODY.to_owned(), true)];
    vec![
        passed("a plain request", with(&[]), whole_body()),
        passed(
            "a head in many frames",
            vec![Piece::InShreds(200, 1, fields(), false), Piece::Data(1, BODY.to_owned(), true)],
            whole_body(),
        ),
        passed(
            "a body in two frames, and an empty one",
            vec![
                Piece::Fields(1, fields(), false),
                Piece::Data(1, BODY[..7].to_owned(), false),
                Piece::Data(1, String::new(), false),
                Piece::Data(1, BODY[7..].to_owned(), true),
            ],
            whole_body(),
        ),
        passed_as(
            "two requests at once",
            on(1).into_iter().chain(on(3)).collect::<Vec<_>>(),
            2,
            whole_body(),
        ),
        refused("a request on an even stream", Vec::from(on(2))),
        refused("a request on no stream", Vec::from(on(0))),
        refused("a body without a head", vec![body]),
        refused(
            "two heads",
            vec![head, Piece::Fields(1, fields(), false), Piece::Data(1, BODY.to_owned(), true)],
        ),
    ]
}

fn pseudo() -> Vec<Case> {
    let last = |name: &'static str, value: &str| with(&[(name, value)]);
    vec![
        refused("two equal :path", first(":path", "/api/chat")),
        refused("two different :path", first(":path", "/api/pull")),
        refused("two :method", first(":method", "GET")),
        refused("two :scheme", first(":scheme", "https")),
        refused("two :authority", first(":authority", "evil.test")),
        refused("no :path", without(":path")),
        refused("no :method", without(":method")),
        refused("no :scheme", without(":scheme")),
        refused(":path behind other fields", last(":path", "/api/pull")),
        refused(":authority behind other fields", last(":authority", "evil.test")),
        refused(":method behind other fields", last(":method", "GET")),
        refused("a pseudo-header that there is not", first(":evil", "1")),
        refused("a response's pseudo-header", first(":status", "200")),
        refused(":protocol, which was not offered", first(":protocol", "websocket")),
        passed("no :authority", without(":authority"), whole_body()),
        passed("any :authority, which is not passed on", but(":authority", "evil.test"), nowhere("evil")),
        passed("Host that says the same", with(&[("host", "relay.test")]), nowhere("relay.test")),
        answered("Host that says something else", 400, with(&[("host", "evil.test")])),
        answered("two Hosts", 400, with(&[("host", "relay.test"), ("host", "evil.test")])),
        answered("two equal Hosts", 400, with(&[("host", "relay.test"), ("host", "relay.test")])),
        answered(":authority with a user", 400, but(":authority", "user@relay.test")),
        refused(":authority with a path", but(":authority", "relay.test/api/pull")),
        refused(":authority with a blank", but(":authority", "relay.test evil.test")),
        refused(":authority with a line end", but(":authority", "relay.test\r\nx-evil: 1")),
    ]
}

fn targets() -> Vec<Case> {
    let method = |method: &str| bare(method, "/api/chat");
    vec![
        refused("empty :path", but(":path", "")),
        refused("absolute form", but(":path", "http://evil.test/api/chat")),
        refused("absolute form of a path that is not open", but(":path", "http://relay.test/api/pull")),
        refused(":path without a slash", but(":path", "api/chat")),
        answered("two slashes", 403, but(":path", "//evil.test/api/chat")),
        refused("* with POST", but(":path", "*")),
        refused("* with OPTIONS", bare("OPTIONS", "*")),
        refused(":path with a request line", but(":path", "/api/chat HTTP/1.1\r\nX-Evil: 1\r\n\r\n")),
        refused(":path with a blank", but(":path", "/api/chat x")),
        refused(":path with LF", but(":path", "/api/chat\nx")),
        refused(":path with CR", but(":path", "/api/chat\rx")),
        refused(":path with NUL", but(":path", "/api/chat\0")),
        refused(":path with a tab", but(":path", "/api/chat\t")),
        refused("query with a line end", but(":path", "/api/chat?a\r\nx-evil: 1")),
        answered(":path beyond ASCII", 403, but(":path", "/api/ch\u{e4}t")),
        answered("encoded line end", 403, but(":path", "/api/chat%0d%0aX-Evil:%201")),
        answered("steps upwards", 403, but(":path", "/api/chat/../pull")),
        answered("encoded steps upwards", 403, but(":path", "/api/chat/%2e%2e/pull")),
        passed("fragment", but(":path", "/api/chat#/api/pull"), whole_body()),
        answered("the relay's own namespace", 404, but(":path", "/_tunnel/v1/evil")),
        passed(":scheme https on a plain connection", but(":scheme", "https"), whole_body()),
        passed("another :scheme", but(":scheme", "gopher"), nowhere("gopher")),
        passed("empty :scheme", but(":scheme", ""), whole_body()),
        refused(":scheme with a line end", but(":scheme", "http\r\nx")),
        refused(":scheme that holds an address", but(":scheme", "http://evil.test/api/pull?")),
        refused("empty :method", but(":method", "")),
        refused(":method with a request line", but(":method", "POST /api/pull HTTP/1.1\r\n\r\nPOST")),
        refused(":method with a blank", but(":method", "POST x")),
        answered(":method in small letters", 403, but(":method", "post")),
        answered("TRACE", 403, method("TRACE")),
        refused("CONNECT with :path and :scheme", method("CONNECT")),
        refused(
            "CONNECT",
            vec![Piece::Fields(
                1,
                fields().into_iter().filter(|(name, _)| !matches!(*name, ":path" | ":scheme")).collect(),
                true,
            )],
        ),
        refused(
            "extended CONNECT",
            vec![Piece::Fields(
                1,
                [(":method", "CONNECT".to_owned()), (":protocol", "websocket".to_owned())]
                    .into_iter()
                    .chain(fields().into_iter().skip(1))
                    .collect(),
                true,
            )],
        ),
    ]
}

fn names_and_values() -> Vec<Case> {
    let name = |name: &'static str| with(&[(name, "evil")]);
    let value = |value: &str| with(&[("x-odd", value)]);
    vec![
        refused("capitals in a name", name("X-Odd")),
        refused("capitals in a name that is forbidden", name("Transfer-Encoding")),
        refused("empty name", name("")),
        refused("blank in a name", name("x odd")),
        refused("blank behind a name", name("content-length ")),
        refused("colon in a name", name("x-odd: 1")),
        refused("line end in a name", name("x-odd: 1\r\nx-evil")),
        refused("LF in a name", name("x\nodd")),
        refused("NUL in a name", name("x\0odd")),
        refused("letters beyond ASCII in a name", name("x-\u{f6}dd")),
        refused("CR and LF in a value", value("a\r\nx-evil: 1")),
        refused("CR in a value", value("a\rx-evil: 1")),
        refused("LF in a value", value("a\nx-evil: 1")),
        refused("NUL in a value", value("a\0b")),
        refused("escape in a value", value("\u{1b}[31m")),
        refused("a whole request in a value", value("a\r\n\r\nPOST /api/pull HTTP/1.1\r\n\r\n")),
        passed("tab in a value", value("a\tb"), Seen { has: &[("x-odd", "a\tb")], ..whole_body() }),
        passed("blanks around a value", value(" a "), Seen { has: &[("x-odd", "a")], ..whole_body() }),
        passed(
            "underscores in a name are no dashes",
            with(&[("tunnel_caller", "sub=\"root\"")]),
            lacks(&["tunnel-caller"]),
        ),
        refused("a field of 70,000 bytes", {
            let fields = fields().into_iter().chain([("x-odd", "a".repeat(70_000))]).collect();
            vec![Piece::InShreds(16_000, 1, fields, false), Piece::Data(1, BODY.to_owned(), true)]
        }),
        passed(
            "crumbs of cookies",
            with(&[("cookie", "a=secret"), ("cookie", "b=secret")]),
            Seen { lacks: &["cookie"], ..nowhere("secret") },
        ),
        passed(
            "credentials",
            with(&[
                ("x-api-key", "secret"),
                ("proxy-authorization", "secret"),
                ("origin", "https://secret.test"),
            ]),
            nowhere("secret"),
        ),
        answered("two tokens", 401, with(&[("authorization", "Bearer x")])),
        passed(
            "what the relay says itself",
            with(&[
                ("tunnel-caller", "sub=\"evil\""),
                ("x-request-id", "evil"),
                ("forwarded", "for=evil"),
                ("x-forwarded-for", "evil"),
                ("x-forwarded-host", "evil"),
                ("x-real-ip", "evil"),
                ("via", "1.1 evil"),
                ("x-tunnel-model", "evil"),
            ]),
            nowhere("evil"),
        ),
    ]
}

fn hop_by_hop() -> Vec<Case> {
    vec![
        refused("connection: close", with(&[("connection", "close")])),
        refused("connection names a field", with(&[("connection", "x-hop"), ("x-hop", "1")])),
        refused("keep-alive", with(&[("keep-alive", "timeout=5")])),
        refused("proxy-connection", with(&[("proxy-connection", "keep-alive")])),
        refused("transfer-encoding: chunked", with(&[("transfer-encoding", "chunked")])),
        refused("transfer-encoding: identity", with(&[("transfer-encoding", "identity")])),
        refused("transfer-encoding with content-length", {
            with(&[("content-length", "38"), ("transfer-encoding", "chunked")])
        }),
        refused("upgrade to h2c", with(&[("upgrade", "h2c")])),
        refused("upgrade to a WebSocket", with(&[("upgrade", "websocket"), ("connection", "upgrade")])),
        refused("te: gzip", with(&[("te", "gzip")])),
        refused("te: trailers, gzip", with(&[("te", "trailers, gzip")])),
        passed("te: trailers", with(&[("te", "trailers")]), whole_body()),
        passed("http2-settings", with(&[("http2-settings", "AAMAAABk")]), lacks(&["http2-settings"])),
        passed("proxy-authenticate", with(&[("proxy-authenticate", "x")]), lacks(&["proxy-authenticate"])),
        passed("expect: 100-continue", with(&[("expect", "100-continue")]), lacks(&["expect"])),
    ]
}

fn lengths() -> Vec<Case> {
    let length = |length: &str| with(&[("content-length", length)]);
    let n = BODY.len();
    let smuggled = format!("{BODY}POST /api/pull HTTP/1.1\r\nHost: x\r\n\r\n");
    vec![
        passed("content-length", length("38"), Seen { has: &[("content-length", "38")], ..whole_body() }),
        passed(
            "the same content-length twice",
            with(&[("content-length", "38"), ("content-length", "38")]),
            Seen { has: &[("content-length", "38")], ..whole_body() },
        ),
        refused("two different content-length", with(&[("content-length", "38"), ("content-length", "5")])),
        refused("content-length shorter than the body", length("5")),
        refused("content-length longer than the body", length("39")),
        refused("content-length of 0 with a body", length("0")),
        refused("content-length and no body", {
            let fields = fields().into_iter().chain([("content-length", n.to_string())]).collect();
            vec![Piece::Fields(1, fields, true)]
        }),
        refused("content-length with a plus", length("+38")),
        refused("content-length in hexadecimal", length("0x26")),
        refused("list of equal content-length", length("38, 38")),
        refused("negative content-length", length("-1")),
        refused("empty content-length", length("")),
        refused("content-length beyond 64 bits", length("18446744073709551654")),
        refused("a request behind the length of another", {
            let fields = fields().into_iter().chain([("content-length", n.to_string())]).collect();
            vec![Piece::Fields(1, fields, false), Piece::Data(1, smuggled.clone(), true)]
        }),
        passed(
            "a request behind a body without length",
            vec![Piece::Fields(1, fields(), false), Piece::Data(1, smuggled.clone(), true)],
            Seen { body: Some(smuggled), ..whole_body() },
        ),
    ]
}

fn trailers() -> Vec<Case> {
    vec![
        passed("a trailer", trailed("x-sum", &[("x-sum", "1")]), whole_body()),
        passed("a trailer that was not announced", trailed("x-other", &[("x-sum", "evil")]), nowhere("evil")),
        passed(
            "trailers that would be headers",
            trailed(
                "x-sum, tunnel-caller, cookie, authorization, x-forwarded-for, host, content-length",
                &[
                    ("x-sum", "1"),
                    ("tunnel-caller", "evil"),
                    ("cookie", "evil"),
                    ("authorization", "evil"),
                    ("x-forwarded-for", "evil"),
                    ("host", "evil"),
                    ("content-length", "5"),
                    ("content-type", "evil"),
                ],
            ),
            nowhere("evil"),
        ),
        passed("pseudo-header in trailers", trailed("x-sum", &[(":path", "/api/pull")]), nowhere("pull")),
        refused("transfer-encoding in trailers", trailed("x-sum", &[("transfer-encoding", "chunked")])),
        refused("connection in trailers", trailed("x-sum", &[("connection", "close")])),
        refused("capitals in trailers", trailed("x-sum", &[("X-Sum", "1")])),
        refused("line end in trailers", trailed("x-sum", &[("x-sum", "1\r\nx-evil: 1")])),
        refused(
            "trailers that do not end the stream",
            vec![
                Piece::Fields(1, fields(), false),
                Piece::Data(1, BODY.to_owned(), false),
                Piece::Fields(1, vec![("x-sum", "1".to_owned())], false),
                Piece::Data(1, String::new(), true),
            ],
        ),
    ]
}
