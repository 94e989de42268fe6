#[path = "../../src/link/core.rs"]
pub(crate) mod core;
