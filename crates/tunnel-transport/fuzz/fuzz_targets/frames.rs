//! Whatever message a peer sends: no panic, and what decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunnel_transport_fuzz::frame::Frame;

fuzz_target!(|message: &[u8]| {
    if let Ok(frame) = Frame::decode(message.to_vec().into()) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, message);
    }
});
