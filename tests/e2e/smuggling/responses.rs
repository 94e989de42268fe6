//! The cases, from the backend's side.

use anyhow::{Result, ensure};

use super::{Told, World, http1, http2, http2::Piece, requests::BODY};

/// What a backend says, and what a caller is to see of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) reply: Vec<u8>,
    /// Whether the caller asks with HEAD.
    is_head: bool,
    expected: Expected,
}

enum Expected {
    /// This status with this body, whole; and none of these words.
    Whole(u16, &'static str, &'static [&'static str]),
    /// An error of the daemon or the relay, or a body that breaks off: nothing that could be taken for a whole answer.
    Broken,
}

impl Case {
    /// Asks for it over both versions of HTTP.
    pub(super) async fn ask(&self, world: &World, number: usize) -> Result<[(&'static str, Told); 2]> {
        let (addr, token) = (world.relay.listen(), &world.token);
        let (path, body) =
            if self.is_head { ("HEAD /api/blobs/sha256:00", "") } else { ("POST /api/chat", BODY) };
        let head = format!(
            "{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nX-Case: r{number}\r\nX-Reply: {number}\r\n\
             Connection: close\r\n"
        );
        let length = if self.is_head { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let first = http1::exchange(addr, format!("{head}{length}\r\n{body}").as_bytes()).await?;
        let (method, path) = path.split_once(' ').unwrap_or_default();
        let fields = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("authorization", "Bearer {token}"),
            ("x-case", "r"),
            ("x-reply", "{number}"),
        ];
        let fields = fields.map(|(name, value)| (name, value.to_owned())).into();
        let pieces = [Piece::Fields(1, fields, self.is_head), Piece::Data(1, body.to_owned(), true)];
        let pieces = if self.is_head { &pieces[..1] } else { &pieces };
        let fill = |text: &str| text.replace("{token}", token).replace("{number}", &number.to_string());
        Ok([("HTTP/1.1", first), ("HTTP/2", http2::exchange(addr, pieces, fill).await?)])
    }

    pub(super) fn check(&self, told: &Told) -> Result<()> {
        ensure!(told.statuses.len() <= 1, "more than one response");
        match self.expected {
            Expected::Whole(status, wanted, nowhere) => {
                ensure!(told.statuses == [status], "status {:?}", told.statuses);
                ensure!(told.whole, "the answer breaks off");
                ensure!(told.body == wanted, "body {:?}", told.body);
                for word in nowhere {
                    ensure!(!told.text.contains(word), "{word:?} came through");
                }
            }
            Expected::Broken => {
                let refused = told.statuses.iter().all(|status| *status >= 500);
                // Where the response had begun, its end is missing or says what happened.
                ensure!(refused || told.body.contains("error") || !told.whole, "taken for a whole answer");
            }
        }
        ensure!(told.over, "it goes on");
        Ok(())
    }
}

fn case(name: &'static str, head: &str, body: &str, expected: Expected) -> Case {
    Case { name, reply: format!("HTTP/1.1 {head}\r\n{body}").into_bytes(), is_head: false, expected }
}

/// An answer to HEAD, of which the caller sees its status and no body, whatever comes.
fn to_head(name: &'static str, head: &str, body: &str, status: u16) -> Case {
    Case { is_head: true, ..case(name, head, body, Expected::Whole(status, "", &["evil"])) }
}

fn whole(body: &'static str) -> Expected {
    Expected::Whole(200, body, &[])
}

pub(super) fn cases() -> Vec<Case> {
    use Expected::{Broken, Whole};

    let sized = "200 OK\r\ncontent-length: 2\r\n";
    let chunked = "200 OK\r\ntransfer-encoding: chunked\r\n";
    vec![
        case("a plain one", sized, "ok", whole("ok")),
        case(
            "bytes behind the body",
            sized,
            "okHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "CL and TE",
            "200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n",
            "2\r\nok\r\n0\r\n\r\n",
            whole("ok"),
        ),
        case("TE that is not chunked", "200 OK\r\ntransfer-encoding: gzip\r\n", "ok", whole("ok")),
        case("two lengths", "200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n", "ok", Broken),
        case("negative length", "200 OK\r\ncontent-length: -2\r\n", "ok", Broken),
        case("length with plus", "200 OK\r\ncontent-length: +2\r\n", "ok", Broken),
        case("body shorter than its length", "200 OK\r\ncontent-length: 9\r\n", "ok", Broken),
        case("bad size of a chunk", chunked, "zz\r\nok\r\n0\r\n\r\n", Broken),
        case("chunk longer than it says", chunked, "1\r\nok\r\n0\r\n\r\n", Broken),
        case("no last chunk", chunked, "2\r\nok\r\n", Broken),
        case(
            "trailers",
            chunked,
            "2\r\nok\r\n0\r\nset-cookie: evil\r\ncontent-length: 1\r\n\r\n",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "Connection names a header",
            "200 OK\r\ncontent-length: 2\r\nconnection: x-hop, close\r\nx-hop: evil\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "cookie of the backend",
            "200 OK\r\ncontent-length: 2\r\nset-cookie: evil=1\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "origins of the backend",
            "200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: https://evil\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "the relay's request id",
            "200 OK\r\ncontent-length: 2\r\nx-request-id: evil\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        case("folded header", "200 OK\r\ncontent-length: 2\r\nx-folded: a\r\n b\r\n", "ok", Broken),
        case("NUL in a header", "200 OK\r\ncontent-length: 2\r\nx-odd: a\0b\r\n", "ok", Broken),
        case("blank before a colon", "200 OK\r\ncontent-length : 2\r\n", "ok", Broken),
        case("204 with a body", "204 No Content\r\ncontent-length: 4\r\n", "evil", Whole(204, "", &["evil"])),
        case(
            "304 with a body",
            "304 Not Modified\r\ncontent-length: 4\r\n",
            "evil",
            Whole(304, "", &["evil"]),
        ),
        case(
            "101 that nobody asked for",
            "101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n",
            "evil",
            Broken,
        ),
        case(
            "a few 1xx first",
            "103 Early Hints\r\nlink: evil\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        case(
            "200 of 1xx first",
            &("103 Early Hints\r\nlink: evil\r\n\r\nHTTP/1.1 ".repeat(200) + sized),
            "ok",
            whole("ok"),
        ),
        case("1xx and nothing else", &"100 Continue\r\n\r\nHTTP/1.1 ".repeat(20_000), "", Broken),
        case(
            "204 with chunks",
            "204 No Content\r\ntransfer-encoding: chunked\r\n",
            "4\r\nevil\r\n0\r\n\r\n",
            Whole(204, "", &["evil"]),
        ),
        case(
            "304 with chunks",
            "304 Not Modified\r\ntransfer-encoding: chunked\r\n",
            "4\r\nevil\r\n0\r\n\r\n",
            Whole(304, "", &["evil"]),
        ),
        case("205 with a body", "205 Reset Content\r\ncontent-length: 2\r\n", "ok", Whole(205, "ok", &[])),
        case(
            "what would speak for the relay's name",
            "200 OK\r\ncontent-length: 2\r\nalt-svc: evil\r\nclear-site-data: evil\r\nnel: evil\r\nreport-to: evil\r\n",
            "ok",
            Whole(200, "ok", &["evil"]),
        ),
        to_head("HEAD, a length and no body", "200 OK\r\ncontent-length: 9\r\n", "", 200),
        to_head("HEAD, with a body", "200 OK\r\ncontent-length: 4\r\n", "evil", 200),
        to_head("HEAD, with a longer body", "200 OK\r\ncontent-length: 2\r\n", "evilevil", 200),
        to_head("HEAD, with a body and no length", "200 OK\r\n", "evil", 200),
        to_head(
            "HEAD, with chunks",
            "200 OK\r\ntransfer-encoding: chunked\r\n",
            "4\r\nevil\r\n0\r\n\r\n",
            200,
        ),
        to_head(
            "HEAD, with another response as its body",
            "200 OK\r\ncontent-length: 44\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil!!",
            200,
        ),
        to_head("HEAD, 204 with a body", "204 No Content\r\ncontent-length: 4\r\n", "evil", 204),
        to_head("HEAD, 304 with a body", "304 Not Modified\r\ncontent-length: 4\r\n", "evil", 304),
        to_head(
            "HEAD, some 1xx first",
            &("103 Early Hints\r\nlink: evil\r\n\r\nHTTP/1.1 ".repeat(50) + sized),
            "",
            200,
        ),
        Case {
            is_head: true,
            ..case("HEAD, two lengths", "200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n", "", Broken)
        },
        Case { reply: b"ok ok ok ok\r\n\r\n".to_vec(), ..case("no status", "", "", Broken) },
        Case { reply: Vec::new(), ..case("nothing at all", "", "", Broken) },
        case(
            "a head of 200,000 bytes",
            &format!("200 OK\r\nx-long: {}\r\ncontent-length: 2\r\n", "a".repeat(200_000)),
            "ok",
            Broken,
        ),
        case("a status of 99", "099 Odd\r\ncontent-length: 2\r\n", "ok", Broken),
    ]
}
