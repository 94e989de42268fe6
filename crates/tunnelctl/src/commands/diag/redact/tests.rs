use proptest::prelude::*;
use serde_json::json;

use super::*;

fn redact(text: &str) -> String {
    Redactor::default().text(text)
}

#[test]
fn what_helps_stays_as_it_is() {
    for text in [
        "tunneld_time_to_first_token_seconds_bucket{connection=\"ollama\",le=\"0.5\"} 12",
        "2026-01-31T12:34:56.123456Z  WARN tunneld::doors::accept: the gateway 127.0.0.1:11435 is taken",
        "FragmentPath=/usr/lib/systemd/user/tunneld.service",
        "ReadWritePaths=-%h/.local/state/cloudtolocalllm -%t/tunneld",
        "cgroup 0::/user.slice/user-1000.slice/user@1000.service/app.slice/tunneld.service",
        "http://localhost:11434 http://127.0.0.1:8765/api/status http://[::1]:1/ http://localhost:*",
        "unix:///run/user/1000/tunneld/api.sock",
        "Linux 6.1.0-31-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.128-1 (2025-02-07) x86_64",
        "prompt_tokens=12 tokens_per_s=3.5 requests=7 the token has expired",
        "what next?",
        "\"tokens_per_s\": 3.5, \"token_expired\": true",
    ] {
        assert_eq!(redact(text), text);
    }
}

#[test]
fn secrets_are_known_by_what_stands_before_them() {
    for (text, wanted) in [
        ("Authorization: Bearer abc.d-e", "Authorization: Bearer <token>"),
        ("\"authorization\": \"Basic dTpw\"", "\"authorization\": \"<secret>\""),
        ("token=abc rest", "token=<secret> rest"),
        ("X_API_KEY=abc", "X_API_KEY=<secret>"),
        ("{\"password\": \"a b\", \"x\": 1}", "{\"password\": \"<secret>\", \"x\": 1}"),
        ("{\\\"client_secret\\\":\\\"ab\\\"}", "{\\\"client_secret\\\":\\\"<secret>\"}"),
        ("tunneld --token abc --x", "tunneld --token <secret> --x"),
        ("got eyJhbGciOiJIUzI1NiJ9.e30.sig!", "got <token>!"),
    ] {
        assert_eq!(redact(text), wanted);
    }
}

#[test]
fn addresses_lose_who_and_where_but_keep_their_form() {
    for (text, wanted) in [
        (
            "to https://u:p@relay.example.org:8443/x?k=v#f now",
            "to https://<credentials>@<host-1>:8443/x?<query>#<fragment> now",
        ),
        ("http://u:p/w@h.example/", "http://<credentials>@<host-1>/"),
        ("http://127.0.0.1:1/?a=b", "http://127.0.0.1:1/?<query>"),
        ("GET /v1/models?key=abc 200", "GET /v1/models?<query> 200"),
        ("a.b+c@mail.example.org", "<e-mail>"),
        ("from 192.168.1.7:11434, 10.0.0.1.", "from <address-1>:11434, <address-2>."),
        ("to [2001:db8::1]:443", "to [<address-1>]:443"),
        ("/home/jane/x", "/home/<user>/x"),
    ] {
        assert_eq!(redact(text), wanted);
    }
}

#[test]
fn one_thing_has_one_placeholder_in_all_texts() {
    let mut redactor = Redactor::default();
    redactor.home("/home/jane");
    redactor.name(Kind::User, "jane");
    redactor.name(Kind::Host, "Workhorse");
    redactor.learn_json(&json!({
        "tunnel": { "relay": "https://relay.example.org", "device": "bench" },
        "connections": { "ollama": { "models": ["llama3.2:1b", "secretproject"] } },
        "nas": { "url": "http://nas.lan:8080" },
    }));
    assert_eq!(
        redactor.text(
            "could not reach RELAY.example.org: dns; nas.lan; ~ is /home/jane; jane on workhorse; bench"
        ),
        "could not reach <relay-1>: dns; <host-1>; ~ is ~; <user-1> on <this-host-1>; <device-1>"
    );
    assert_eq!(
        redactor.json(&json!({ "model": "secretproject", "models": ["llama3.2:1b", { "name": "x" }] })),
        json!({ "model": "<model-2>", "models": ["<model-1>", { "name": "<model-3>" }] })
    );
    assert_eq!(redactor.text("model=secretproject janet"), "model=<model-2> janet");
    assert_eq!(redactor.counts()["model"], 4);
}

#[test]
fn known_secrets_are_found_inside_of_words() {
    let mut redactor = Redactor::default();
    redactor.secret("hunter2!");
    redactor.secret("short");
    assert_eq!(redactor.text("xhunter2!y"), "x<secret>y");
}

#[test]
fn escapes_of_json_hide_nothing() {
    let mut redactor = Redactor::default();
    redactor.name(Kind::User, "jane");
    let redacted = redactor.json(&json!({ "jane": "a\njane", "token": "t", "list": ["\tjane"] }));
    assert!(!redacted.to_string().contains("jane"), "{redacted}");
    assert_eq!(redacted["token"], "<secret>");
}

#[test]
fn a_secret_with_many_signs_is_no_row_of_words() {
    for secret in ["0++Aaa+A+0+++a+++aa/Aaaa", "a/Bb/c/D/ee/F/g/Hh/i/J/k/l"] {
        assert!(!redact(secret).contains(secret), "{secret}");
    }
    for words in [
        "tunnel_relay_connections_cut_off_total",
        "/usr/lib/x86_64-linux-gnu/systemd",
        "x-forwarded-for-and-proto",
    ] {
        assert!(redact(words).contains(words), "{words}");
    }
}

/// Characters of a secret.
fn base64(least: usize, most: usize) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&format!("[A-Za-z0-9+/]{{{least},{most}}}")).unwrap()
}

proptest! {
    /// A secret does not come through, whatever stands around it.
    #[test]
    fn canary_never_survives(
        canary in base64(24, 80),
        hex in "[0-9a-f]{24,64}",
        before in "[ -~]{0,20}",
        after in "[ -~]{0,20}",
    ) {
        for secret in [&canary, &hex] {
            let text = format!("{before} {secret} {after}");
            prop_assert!(!redact(&text).contains(secret.as_str()), "{}", redact(&text));
            let value = json!({ "x": { "message": format!("{before}\n{secret}\n{after}") } });
            let redacted = Redactor::default().json(&value).to_string();
            prop_assert!(!redacted.contains(secret.as_str()), "{redacted}");
        }
    }

    /// Also short ones, where they stand behind what says that they are secrets.
    #[test]
    fn named_canary_never_survives(canary in "Q[A-Za-z0-9]{7,20}Q", before in "[ -~]{0,20}") {
        for text in [
            format!("Bearer {canary}"),
            format!("{before} token={canary}"),
            format!("{{\"api_key\": \"{canary}\"}}"),
            format!("http://{canary}:{canary}@127.0.0.1/"),
            format!("http://127.0.0.1/a?{canary}={canary}"),
            format!("https://{canary}.example.org/"),
            format!("{canary}@example.org"),
            format!("/home/{canary}/x"),
        ] {
            prop_assert!(!redact(&text).contains(&canary), "{text}: {}", redact(&text));
        }
    }

    /// Known names do not come through, whatever stands around them.
    #[test]
    fn known_canary_never_survives(name in "[a-z][a-z0-9-]{3,15}[a-z]", text in "[ -~]{0,40}") {
        prop_assume!(!["user", "token", "secret", "redacted", "address", "query", "fragment", "host", "model", "mail",
            "credentials"].iter().any(|word| word.contains(&name)));
        let mut redactor = Redactor::default();
        redactor.name(Kind::Model, &name);
        for text in [format!("{text} {name} {text}"), format!("\"{name}\""), format!("<{name}>x"), format!("a_{name}")] {
            let redacted = redactor.text(&text);
            let left = scan::replace_words(&redacted, &name, |_| "!".to_owned());
            prop_assert!(left == redacted, "{redacted}");
        }
    }

    /// It ends, and what came out goes through once more unchanged in what matters: no panic on any text.
    #[test]
    fn any_text_is_taken(text in "\\PC{0,200}") {
        let _redacted = redact(&text);
    }
}
