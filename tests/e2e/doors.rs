//! Who gets in: the same user's programs, and no page of the web, no other user.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    ApiRoute, Daemon, DaemonOptions, FakeBackend, FakeBackendOptions, Lab, OfficialClients, measured, raw,
    scenario, skipped, status_of,
};
use serde_json::Value;

/// `Host` values that are none of ours, `%` standing for the port. An empty one stands for no header at all.
const FOREIGN_HOSTS: [&str; 37] = [
    "evil.example",
    "evil.example:%",
    "127.0.0.1.nip.io:%",
    "127.0.0.1.nip.io",
    "localhost.evil.example:%",
    "localhost",
    "127.0.0.1",
    "[::1]",
    "localhost.:%",
    "localhost:%.",
    "LOCALHOST:%",
    "Localhost:%",
    "localhost:80",
    "localhost:0",
    "localhost:",
    "localhost:%0",
    "localhost:0%",
    "127.0.0.1:80",
    "127.1:%",
    "127.0.0.2:%",
    "127.0.0.1@evil.example:%",
    "evil.example@127.0.0.1:%",
    "user:pass@localhost:%",
    "0.0.0.0:%",
    "[::]:%",
    "[::ffff:127.0.0.1]:%",
    "[0:0:0:0:0:0:0:1]:%",
    "::1:%",
    "2130706433:%",
    "0x7f000001:%",
    "0177.0.0.1:%",
    "localhost:%/",
    "http://localhost:%",
    "localhost :%",
    "localhost:%, evil.example",
    "evil.example, localhost:%",
    "",
];

/// Hosts that come twice, with the right one among them.
const DOUBLE_HOSTS: [(&str, &str); 3] =
    [("localhost:%", "evil.example"), ("evil.example", "localhost:%"), ("localhost:%", "localhost:%")];

/// Origins without any right. The configuration of these scenarios allows one page, and localhost pages to read.
const FOREIGN_ORIGINS: [&str; 12] = [
    "null",
    "http://evil.example",
    "https://evil.example",
    "http://localhost.evil.example:3000",
    "http://localhost@evil.example",
    "https://localhost:3000",
    "http://127.0.0.1:3000",
    "http://app.allowed.example",
    "https://app.allowed.example.evil.example",
    "https://app.allowed.example:444",
    "file://",
    "chrome-extension://abcdefghijklmnop",
];

async fn daemon(lab: &mut Lab) -> Result<(Daemon, FakeBackend)> {
    let backend = FakeBackend::start(FakeBackendOptions::default()).await?;
    let options = DaemonOptions { ollama: Some(backend.addr()), ..DaemonOptions::default() }.with(
        "allowedOrigins",
        vec![Value::from("http://localhost:*"), Value::from("https://app.allowed.example")],
    );
    let daemon = lab.daemon(options).await?;
    daemon.wait_for_backend("ollama", Duration::from_secs(10)).await?;
    Ok((daemon, backend))
}

/// What must be the same before and after.
async fn state(daemon: &Daemon) -> Result<Value> {
    let mut status = daemon.status().await?;
    let config = daemon.control().get("/api/config").send().await?.json().await?;
    let tunnel = status.get_mut("tunnel").map(Value::take).unwrap_or_default();
    Ok(serde_json::json!({ "tunnel": tunnel, "config": config }))
}

fn gateway_routes() -> Vec<ApiRoute> {
    let route =
        |(method, path): &(&str, &str)| ApiRoute { method: (*method).to_owned(), path: (*path).to_owned() };
    [
        ("GET", "/api/tags"),
        ("POST", "/api/chat"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/"),
    ]
    .iter()
    .map(route)
    .collect()
}

#[test]
fn foreign_hosts_and_origins_reach_no_route() -> Result<()> {
    scenario(async |lab| {
        let (daemon, backend) = daemon(lab).await?;
        let before = state(&daemon).await?;
        let seen = backend.requests().len();
        let (mut asked, mut wrong) = (0, Vec::new());
        let doors = [
            ("control", daemon.api(), ApiRoute::all(&daemon.control()).await?),
            ("gateway", daemon.gateway(), gateway_routes()),
        ];
        for (door, addr, routes) in doors {
            let port = addr.port().to_string();
            let mut heads: Vec<String> = FOREIGN_HOSTS
                .iter()
                .map(|host| if host.is_empty() { String::new() } else { format!("Host: {host}\r\n") })
                .collect();
            heads.extend(DOUBLE_HOSTS.iter().map(|(a, b)| format!("Host: {a}\r\nHost: {b}\r\n")));
            let own = "Host: localhost:%\r\n";
            heads.extend(FOREIGN_ORIGINS.iter().map(|origin| format!("{own}Origin: {origin}\r\n")));
            // And both at once, and as a preflight's origin.
            heads.push("Host: evil.example\r\nOrigin: http://evil.example\r\n".to_owned());
            for route in &routes {
                for head in &heads {
                    let head = head.replace('%', &port);
                    let ApiRoute { method, path } = route;
                    let (upgrade, connection) =
                        if path == "/ws" { (WEBSOCKET, "close, Upgrade") } else { ("", "close") };
                    let request = format!(
                        "{method} {path} HTTP/1.1\r\n{head}{upgrade}Connection: {connection}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"
                    );
                    let answer = raw(addr, request.as_bytes()).await?;
                    asked += 1;
                    let status = status_of(&answer);
                    if status != Some(403) || answer.to_ascii_lowercase().contains("access-control-allow") {
                        wrong.push(format!("{door} {method} {path} with {head:?}: {status:?}"));
                    }
                }
            }
        }
        measured(
            "foreign Host and Origin values on every route",
            format!(
                "{} hosts and {} origins, {asked} requests, {} let through",
                FOREIGN_HOSTS.len() + DOUBLE_HOSTS.len(),
                FOREIGN_ORIGINS.len(),
                wrong.len()
            ),
        );
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        ensure!(state(&daemon).await? == before, "something was changed");
        let reached: Vec<String> =
            backend.requests()[seen..].iter().map(|exchange| exchange.target.to_string()).collect();
        ensure!(reached.is_empty(), "the backend was asked: {reached:?}");
        Ok(())
    })
}

const WEBSOCKET: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Debian's user that owns nothing.
const NOBODY: &str = "65534";

#[test]
fn another_user_gets_nowhere() -> Result<()> {
    scenario(async |lab| {
        if !rustix::process::geteuid().is_root() {
            return skipped("another user", "only root can ask as somebody else");
        }
        let (daemon, _backend) = daemon(lab).await?;
        let before = state(&daemon).await?;
        let mut n_routes = 0;
        // The gateway says how to get in, with a key; nothing leads to the control API.
        for (addr, routes, refusal) in [
            (daemon.api(), ApiRoute::all(&daemon.control()).await?, "403"),
            (daemon.gateway(), gateway_routes(), "401"),
        ] {
            for ApiRoute { method, path } in routes {
                let url = format!("http://{addr}{path}");
                let printed =
                    curl_as(NOBODY, &["-X", &method, "-d", "{}", "-w", "\n%{http_code}", &url]).await?;
                let text = String::from_utf8_lossy(&printed.stdout).into_owned();
                let (body, status) = text.rsplit_once('\n').context("curl prints the status last")?;
                ensure!(status == refusal, "{method} {path}: {status} {body}");
                ensure!(body.contains("another user"), "{method} {path}: {body}");
                n_routes += 1;
            }
        }
        // The socket is not even reachable for them; and if its directory were open, it is 0600.
        let socket = daemon.dir().join("run/tunneld/api.sock");
        let closed =
            curl_as(NOBODY, &["--unix-socket", &socket.display().to_string(), "http://localhost/livez"])
                .await?;
        ensure!(!closed.status.success(), "the socket let another user in");
        let mode =
            |path: &std::path::Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&socket)? == 0o600 && mode(socket.parent().context("in a folder")?)? == 0o700);
        ensure!(state(&daemon).await? == before, "something was changed");
        measured("another user", format!("refused on all of {n_routes} routes, no access to the socket"));
        Ok(())
    })
}

async fn curl_as(uid: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", uid, "--regid", uid, "--clear-groups", "curl", "-s", "--max-time", "10"])
        .args(args);
    tokio::task::spawn_blocking(move || command.output()).await?.context("running curl as another user")
}

/// A page of another port, in a real browser, tries what pages can: forms, fetches, images, WebSockets.
#[test]
fn a_web_page_changes_nothing_and_reads_nothing() -> Result<()> {
    scenario(async |lab| {
        let Some(clients) = OfficialClients::find().filter(OfficialClients::has_browser) else {
            return skipped("a web page", "Chromium or playwright-core is not there: cargo xtask setup");
        };
        let (daemon, backend) = daemon(lab).await?;
        let routes = ApiRoute::all(&daemon.control()).await?;
        let file = lab.dir().join("routes.json");
        let route =
            |ApiRoute { method, path }: &ApiRoute| serde_json::json!({ "method": method, "path": path });
        let list = serde_json::json!({
            "control": { "port": daemon.api().port(), "routes": routes.iter().map(route).collect::<Vec<_>>() },
            "gateway": { "port": daemon.gateway().port(), "routes": gateway_routes().iter().map(route).collect::<Vec<_>>() },
        });
        fs::write(&file, list.to_string())?;
        let before = state(&daemon).await?;
        let seen = backend.requests().len();
        let printed = clients.run("page.mjs", &[&file.display().to_string()]).await?;
        let result: BTreeMap<String, Value> =
            serde_json::from_str(printed.trim()).context("what the page reports")?;
        let number = |key: &str| result.get(key).and_then(Value::as_u64);
        measured(
            "a page of another origin in Chromium",
            format!(
                "{:?} attempts, {:?} readable answers, {:?} WebSockets opened",
                number("attempts"),
                number("readable"),
                number("sockets")
            ),
        );
        ensure!(number("attempts") > Some(100), "{result:?}");
        ensure!(number("readable") == Some(0) && number("sockets") == Some(0), "{result:?}");
        ensure!(
            number("control_reads") == Some(1),
            "a page that may read could not, so the others prove nothing: {result:?}"
        );
        ensure!(state(&daemon).await? == before, "something was changed");
        let reached: Vec<String> =
            backend.requests()[seen..].iter().map(|exchange| exchange.target.to_string()).collect();
        ensure!(reached.is_empty(), "the backend was asked: {reached:?}");
        Ok(())
    })
}
