//! The parts of tunnel-transport that read what a peer sends, without its dependencies: they build in seconds.

#![expect(dead_code, reason = "the crate's own modules, of which the targets use a part")]

#[path = "../../src/closed.rs"]
mod closed;
#[path = "../../src/acceptor/dial_request.rs"]
pub mod dial_request;
#[path = "../../src/frame.rs"]
pub mod frame;
#[path = "../../src/frame_meter.rs"]
pub mod frame_meter;
mod link;
#[path = "../../src/names.rs"]
mod names;
#[path = "../../src/pace.rs"]
mod pace;
#[path = "../../src/replay.rs"]
mod replay;
#[path = "../../src/ws.rs"]
mod ws;

use std::time::Instant;

use link::core::Core;
use ws::Role;

const SUBPROTOCOL: &str = "tunnel.v1";

/// Feeds a link of either role what a socket might give. The first byte chooses the role, the second the pieces.
pub fn receive(wire: &[u8]) {
    let [role, step, wire @ ..] = wire else { return };
    let role = if role % 2 == 0 { Role::Client } else { Role::Server };
    let now = Instant::now();
    let mut core = Core::new(role, 64 * 1024, now);
    if core.attach(0, 0, now).is_err() {
        return;
    }
    let mut read = 0;
    for piece in wire.chunks(usize::from(*step).max(1)) {
        core.input().extend_from_slice(piece);
        if core.arrived(piece.len(), now).is_err() {
            return;
        }
        read += core.read(usize::MAX, now, |_| {});
        assert!(read <= wire.len());
        assert_eq!(core.received(), read as u64);
    }
}
