//! The cases, from the backend's side.

use anyhow::{Result, ensure};

use super::Answer;

/// What a backend says, and what a caller is to see of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) reply: Vec<u8>,
    expected: Expected,
}

enum Expected {
    /// This status with this body, whole; and none of these words.
    Whole(u16, &'static str, &'static [&'static str]),
    /// An error of the daemon or the relay, or a body that breaks off: nothing that could be taken for a whole answer.
    Broken,
}

impl Case {
    pub(super) fn check(&self, answer: &Answer) -> Result<()> {
        let text = answer.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        ensure!(answer.statuses().len() <= 1, "more than one response");
        match self.expected {
            Expected::Whole(status, wanted, nowhere) => {
                ensure!(answer.statuses() == [status], "status");
                ensure!(is_whole(head, body), "the answer breaks off");
                ensure!(plain(head, body) == wanted, "body {:?}", plain(head, body));
                for word in nowhere {
                    ensure!(!text.contains(word), "{word:?} came through");
                }
            }
            Expected::Broken => {
                let refused = answer.statuses().iter().all(|status| *status >= 500);
                // Where the response had begun, its end is missing or says what happened.
                let told = body.contains("error");
                ensure!(refused || told || !is_whole(head, body), "taken for a whole answer");
            }
        }
        ensure!(answer.closed, "the connection goes on");
        Ok(())
    }
}

fn is_chunked(head: &str) -> bool {
    head.to_ascii_lowercase().contains("transfer-encoding: chunked")
}

/// Tells whether a body is complete by its own framing.
fn is_whole(head: &str, body: &str) -> bool {
    if is_chunked(head) {
        return body.ends_with("0\r\n\r\n");
    }
    let lower = head.to_ascii_lowercase();
    let len = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    len.is_none_or(|len| body.len() == len || body.is_empty())
}

fn plain(head: &str, body: &str) -> String {
    if !is_chunked(head) {
        return body.to_owned();
    }
    let (mut rest, mut plain) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let Some(chunk) = after.get(..size) else { break };
        plain.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    plain
}

fn case(name: &'static str, head: &str, body: &str, expected: Expected) -> Case {
    Case { name, reply: format!("HTTP/1.1 {head}\r\n{body}").into_bytes(), expected }
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
        Case { name: "no status", reply: b"ok ok ok ok\r\n\r\n".to_vec(), expected: Broken },
        Case { name: "nothing at all", reply: Vec::new(), expected: Broken },
        case(
            "a head of 200,000 bytes",
            &format!("200 OK\r\nx-long: {}\r\ncontent-length: 2\r\n", "a".repeat(200_000)),
            "ok",
            Broken,
        ),
        case("a status of 99", "099 Odd\r\ncontent-length: 2\r\n", "ok", Broken),
    ]
}
