//! Writes the default configuration: what `dist/tunnel_config.example.json` holds.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(tunnel_api::Config::default().to_json().as_bytes())
}
