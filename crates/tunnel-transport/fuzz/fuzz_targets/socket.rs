//! Whatever bytes a socket gives, in whatever pieces: no panic, no bytes from nowhere, bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|wire: &[u8]| tunnel_transport_fuzz::receive(wire));
