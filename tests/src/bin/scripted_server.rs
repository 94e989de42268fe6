//! The scripted model server as a process of its own, which can be killed and stopped as a real one can.
//!
//! usage: scripted-server PORT MODEL

use anyhow::{Context as _, Result};
use e2e::{FakeBackend, FakeBackendOptions};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().context("usage: scripted-server PORT MODEL")?.parse()?;
    let model = arguments.next().context("usage: scripted-server PORT MODEL")?;
    let options =
        FakeBackendOptions { port: Some(port), models: vec![model], ..FakeBackendOptions::default() };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let _backend = FakeBackend::start(options).await?;
        // Whoever started it ends it.
        std::future::pending().await
    })
}
