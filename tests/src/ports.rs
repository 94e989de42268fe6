//! Free TCP ports for processes that take their port from a config file.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt as _;

// Below the kernel's ephemeral range, so that no outgoing connection takes the port between the look and the use.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// What was given away: it stays free until its taker opens it, and two takers must not get the same.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a port that is free on 127.0.0.1 and on `[::1]` (where that exists), and another one each time.
pub fn free() -> Result<u16> {
    for _ in 0..200 {
        let port = rand::rng().random_range(RANGE);
        if !GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            continue;
        }
        let Ok(_v4) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            // No IPv6 on this machine.
            Err(_) => return Ok(port),
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}
