//! The end-to-end scenarios: the real binaries, on loopback, with scripted peers and real ones around them.
//!
//! By default each row of the bars gets a few samples; `SOAK=1` runs the full counts. Each scenario prints what it measured
//! in lines that start with `measured:`.

mod backpressure;
mod bad_input;
mod bulk;
mod canaries;
mod cancelling;
mod clients;
mod commands;
mod contract;
mod crashes;
mod devices;
mod diag;
mod doors;
mod drain;
mod errors;
mod first_steps;
mod fleet;
mod floods;
mod footprint;
mod handover;
mod identity;
mod liveness;
mod local_api;
mod login;
mod many_streams;
mod operate;
mod plugins;
mod policy;
mod premium;
mod proxying;
mod reloading;
mod resuming;
mod service;
mod smuggling;
mod state;
mod streaming;
mod streams;
mod surroundings;
mod takeover;
mod terminal;
mod tiers;
mod tls;
mod tray;
mod tunnels;
mod walk_through;
mod watching;
