use proptest::prelude::*;

use super::*;

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

fn rules(texts: &[&str]) -> RemotePaths {
    RemotePaths::Rules(texts.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn inference_opens_exactly_its_list() {
    let open = [
        "GET /",
        "HEAD /",
        "GET /api/tags",
        "HEAD /api/tags",
        "GET /api/ps",
        "HEAD /api/ps",
        "GET /api/version",
        "HEAD /api/version",
        "POST /api/chat",
        "POST /api/generate",
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /api/show",
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/embeddings",
        "POST /v1/responses",
        "POST /v1/messages",
        "POST /v1/messages/count_tokens",
        "POST /v1/rerank",
        "POST /api/v0/chat/completions",
        "POST /completion",
        "GET /v1/models",
        "GET /v1/models/llama3",
        "GET /v1/models/Qwen/Qwen2:7b@x+y",
        "GET /v1/models/Qwen%2FQwen2%3A7b",
        "GET /v1/models/a%40b",
        "POST /api/chat?x=../%2e&y=//",
        "GET /api/tags?",
        "GET /v1/models/..a/.b/c..",
    ];
    for request in open {
        let (name, target) = request.split_once(' ').unwrap();
        assert_eq!(RemotePaths::Inference.allows(&method(name), target), Ok(()), "{request}");
    }
}

/// Spellings by which other proxies have been talked into something.
const SPELLINGS: &[&str] = &[
    "POST /api/pull",
    "POST /api/push",
    "POST /api/create",
    "POST /api/copy",
    "DELETE /api/delete",
    "POST /api/delete",
    "POST /api/blobs/sha256:0",
    "HEAD /api/blobs/sha256:0",
    "GET /api/chat",
    "PUT /api/chat",
    "OPTIONS /api/chat",
    "CONNECT /api/chat",
    "TRACE /api/chat",
    "POST /api/tags",
    "POST /",
    "DELETE /",
    "get /api/tags",
    "POST /api/chat/",
    "POST //api/chat",
    "POST /api//chat",
    "POST /api/./chat",
    "POST /./api/chat",
    "POST /api/../api/pull",
    "POST /api/chat/../pull",
    "POST /api/chat/..",
    "POST /api/chat/.",
    "POST /api/chat/%2e%2e/pull",
    "POST /api/%2e%2e/api/pull",
    "POST /api/.%2e/api/pull",
    "POST /api/%2fpull",
    "POST /api%2fpull",
    "POST /api%2Fchat",
    "POST /%61pi/chat",
    "POST /api/ch%61t",
    "POST /api/p%75ll",
    "POST /api/pull%00",
    "POST /api/chat%00",
    "POST /api/chat%0a",
    "POST /api/chat%0d%0aX:y",
    "POST /api/chat%20",
    "POST /api/chat%3fx",
    "POST /api/chat%23",
    "POST /api/chat;x",
    "POST /api;x/chat",
    "POST /api/chat;/../pull",
    "POST /api\\chat",
    "POST \\api\\chat",
    "POST /api/chat\\..\\pull",
    "POST /API/chat",
    "POST /api/Chat",
    "POST /Api/Pull",
    "POST /api/chat#",
    "POST /api/chat#/../pull",
    "POST /api/chat\0",
    "POST /api/chat\t",
    "POST /api/chat\n",
    "POST api/chat",
    "POST ",
    "POST ?x",
    "POST *",
    "POST http://127.0.0.1:11434/api/chat",
    "POST //evil/api/chat",
    "POST /api/ｃhat",
    "POST /api/chat\u{2025}",
    "POST /api/%c0%ae%c0%ae/pull",
    "POST /api/%252e%252e/pull",
    "POST /api/%u002e/pull",
    "POST /v1/chat/completions/",
    "POST /v1/chat",
    "POST /v1/models",
    "GET /v1",
    "GET /v1/",
    "GET /v1/models/",
    "GET /v1/models//",
    "GET /v1/models/.",
    "GET /v1/models/..",
    "GET /v1/models/../files",
    "GET /v1/models/a/../../files",
    "GET /v1/models/a%2F..%2F..%2Ffiles",
    "GET /v1/models/a//b",
    "GET /v1/models/a/",
    "GET /v1/models/%2F",
    "GET /v1/models/a%2F",
    "GET /v1/models/%2e%2e/files",
    "GET /v1/models/a%252Fb",
    "GET /v1/models/a%2fb",
    "GET /v1/models/a%3ab",
    "GET /v1/models/a%5Cb",
    "GET /v1/models/a;b",
    "GET /v1/models/a%",
    "GET /v1/models/a%2",
    "GET /v1/models/a b",
    "GET /v1/models/a\\b",
    "GET /v1/models/é",
    "GET /v1/models/a%3F",
    "DELETE /v1/models/a",
    "POST /v1/files",
    "GET /v1/files",
    "POST /v1/fine_tuning/jobs",
    "GET /metrics",
    "GET /slots",
    "GET /props",
    "POST /props",
    "POST /slots/0",
    "POST /models/load",
    "POST /lora-adapters",
    "GET /health",
    "POST /v1/load_lora_adapter",
    "POST /_tunnel/v1/migrate",
    "GET /_tunnel/v1/connect",
    "GET /favicon.ico",
];

#[test]
fn no_spelling_slips_past_inference() {
    assert!(SPELLINGS.len() >= 60);
    for request in SPELLINGS {
        let (name, target) = request.split_once(' ').unwrap();
        assert!(RemotePaths::Inference.allows(&method(name), target).is_err(), "{request:?}");
    }
}

#[test]
fn rules_match_whole_normal_paths_only() {
    let rules = rules(&["POST /api/pull", "* /api/blobs/**", "GET /v1/files/*/content"]);
    for (request, open) in [
        ("POST /api/pull", true),
        ("POST /api/pull?x", true),
        ("GET /api/pull", false),
        ("POST /api/pull/", false),
        ("POST /api/pullx", false),
        ("PUT /api/blobs/sha256:ab", true),
        ("PUT /api/blobs/a/b", true),
        ("PUT /api/blobs", true),
        ("PUT /api/blobs/..", false),
        ("PUT /api/blobs/../pull", false),
        ("PUT /api/blobs/%2e%2e/pull", false),
        ("PUT /api/blobs//pull", false),
        ("GET /v1/files/a/content", true),
        ("GET /v1/files/a/b/content", false),
        ("GET /v1/files//content", false),
        ("GET /v1/files/%2F/content", false),
        ("GET /", false),
        // A list stands for itself: it does not add to the default.
        ("POST /api/chat", false),
    ] {
        let (name, target) = request.split_once(' ').unwrap();
        assert_eq!(rules.allows(&method(name), target).is_ok(), open, "{request}");
    }
    assert_eq!(RemotePaths::Rules(Vec::new()).allows(&Method::GET, "/"), Err(Denied::NotOpen));
}

#[test]
fn all_still_refuses_what_can_be_read_in_two_ways() {
    for (path, open) in [
        ("/api/pull", true),
        ("/anything/at/all/", true),
        ("/a%20b", true),
        ("/a;b=c", true),
        ("/A/.well-known/..x", true),
        ("/a//b", false),
        ("//a", false),
        ("/a/../b", false),
        ("/a/.", false),
        ("/a/..;x/b", false),
        ("/a/%2e%2e/b", false),
        ("/a/%2E./b", false),
        ("/a%2fb", false),
        ("/a%5cb", false),
        ("/a\\b", false),
        ("/a%00", false),
        ("/a%0d%0a", false),
        ("/a%252f", false),
        ("/a%", false),
        ("/a%+1", false),
        ("/a%c0%ae", false),
        ("/é", false),
        ("/a#b", false),
        ("/a b", false),
        ("a", false),
    ] {
        let expected = if open { Ok(()) } else { Err(Denied::Ambiguous) };
        assert_eq!(RemotePaths::All.allows(&Method::POST, path), expected, "{path:?}");
    }
}

/// How a careless server might read a path: decodes twice, folds case, resolves dots, drops parameters.
fn careless(path: &str) -> String {
    let mut bytes = path.split('?').next().unwrap_or_default().as_bytes().to_vec();
    for _ in 0..2 {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) if bytes[at] == b'%' => {
                    decoded.push(byte);
                    at += 3;
                }
                _ => {
                    decoded.push(bytes[at]);
                    at += 1;
                }
            }
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/").to_ascii_lowercase();
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split(['#', '\0']).next().unwrap_or_default().split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn spelling() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "/",
            "//",
            ".",
            "..",
            "%2e",
            "%2E",
            "%2f",
            "%2F",
            "%5c",
            "\\",
            ";",
            "%00",
            "%25",
            "?",
            "#",
            "%3A",
            "%40",
            "api",
            "v1",
            "chat",
            "pull",
            "delete",
            "models",
            "tags",
            "blobs",
            "completions",
            "create",
            "show",
            "API",
            "é",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9%./]{1,3}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_open_reads_the_same_to_everyone(target in spelling(), post in any::<bool>()) {
        let method = if post { Method::POST } else { Method::GET };
        if RemotePaths::Inference.allows(&method, &target).is_ok() {
            let read = careless(&target);
            let listed = if post { asks_a_model(&read) } else { READS.contains(&read.as_str()) };
            let model = !post && read.starts_with("/v1/models");
            prop_assert!(model || listed, "{target} reads as {read}");
        }
    }

    #[test]
    fn all_never_lets_two_readings_pass(target in spelling()) {
        if RemotePaths::All.allows(&Method::POST, &target).is_ok() {
            let plain = target.split('?').next().unwrap_or_default();
            let read = careless(&target);
            // Apart from case, parameters and a final slash, the careless reading is the spelling.
            let segments: Vec<&str> = plain.split('/').map(|s| s.split(';').next().unwrap_or_default()).collect();
            let full = |path: &[&str]| path.iter().filter(|segment| !segment.is_empty()).count();
            prop_assert_eq!(full(&read.split('/').collect::<Vec<_>>()), full(&segments), "{} reads as {}", target, read);
            if !plain.contains(['%', ';']) {
                let plain = plain.trim_end_matches('/').to_ascii_lowercase();
                prop_assert_eq!(read.trim_end_matches('/'), plain);
            }
        }
    }
}
