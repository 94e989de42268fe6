#[path = "../../src/link/core.rs"]
pub(crate) mod core;
#[path = "../../src/link/socket.rs"]
mod socket;
