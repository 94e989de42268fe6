//! A real HAProxy, where it is installed.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;

use crate::{binaries, ports, process::Process, wait::eventually};

/// Where the recipe is that users are given; the tests run it with their own addresses.
const RECIPE: &str = "dist/haproxy/tunnel-relay.cfg";
const START_LIMIT: Duration = Duration::from_secs(10);

/// A relay behind the balancer: where it takes callers and desktops, and where it says how it is.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// `--listen`
    pub listen: SocketAddr,
    /// `--admin-listen`
    pub admin: SocketAddr,
}

/// A running HAProxy with the recipe of `dist/`. Dropping it kills it.
#[derive(Debug)]
pub struct Balancer {
    _process: Process,
    addr: SocketAddr,
}

impl Balancer {
    /// Finds HAProxy: of the system, or what `cargo xtask setup` has unpacked.
    pub fn program() -> Option<PathBuf> {
        let unpacked = binaries::workspace_dir().join(".cache/haproxy/run/haproxy");
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).chain(["/usr/sbin".into()]).map(|folder| folder.join("haproxy"));
        places.chain([unpacked]).find(|program| program.is_file())
    }

    /// Puts one name before two relays.
    pub async fn start(program: &Path, dir: &Path, a: Node, b: Node) -> Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let recipe = fs::read_to_string(binaries::workspace_dir().join(RECIPE)).context(RECIPE)?;
        let file = dir.join("haproxy.cfg");
        fs::write(&file, with_addresses(&recipe, addr, peer, a, b)?)?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-L").arg("here").arg("-f").arg(&file);
        let process = Process::spawn("haproxy", &mut command, &dir.join("haproxy.log"))?;
        eventually("the balancer listens", START_LIMIT, async || TcpStream::connect(addr).await.is_ok())
            .await
            .with_context(|| process.printed())?;
        Ok(Self { _process: process, addr })
    }

    /// Where callers and desktops come.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// Fills the recipe's blanks. TLS is left out: these tests run on loopback.
fn with_addresses(recipe: &str, addr: SocketAddr, peer: SocketAddr, a: Node, b: Node) -> Result<String> {
    let server = |node: Node| format!("{} check port {}", node.listen, node.admin.port());
    let blanks = [
        ("maxconn 50000".to_owned(), "maxconn 2000".to_owned()),
        (
            "bind <public address>:443 ssl crt <certificate and key>.pem alpn h2,http/1.1".to_owned(),
            format!("bind {addr}"),
        ),
        ("peer <this machine's name> 127.0.0.1:10000".to_owned(), format!("peer here {peer}")),
        ("<relay a>:8080 check port 9090".to_owned(), server(a)),
        ("<relay b>:8080 check port 9090".to_owned(), server(b)),
    ];
    let mut text = recipe.to_owned();
    for (blank, value) in blanks {
        ensure!(text.contains(&blank), "the recipe has no {blank:?} any more");
        text = text.replace(&blank, &value);
    }
    Ok(text)
}
