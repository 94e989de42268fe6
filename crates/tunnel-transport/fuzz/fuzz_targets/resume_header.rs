//! Whatever a dial's headers hold: no panic, and a resume names only what was written.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tunnel_transport_fuzz::dial_request::{DialKind, DialRequest};

fuzz_target!(|value: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let mut headers = HeaderMap::new();
    for (name, text) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "tunnel.v1"),
        ("tunnel-device", "desk"),
    ] {
        headers.insert(name, HeaderValue::from_static(text));
    }
    headers.insert("tunnel-resume", value.clone());
    if let Ok(DialRequest { kind: DialKind::Resume { session, received }, .. }) = DialRequest::parse(&headers) {
        let text = value.to_str().expect("what parses is text");
        let (id, offset) = text.split_once(' ').expect("two words");
        assert_eq!(session.to_string(), id.to_ascii_lowercase());
        assert_eq!(offset.parse(), Ok(received));
    }
});
