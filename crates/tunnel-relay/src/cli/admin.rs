//! `tunnel-relay admin …`: a thin client of the admin API.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::Url;

use crate::admin::{addresses_path, token_path};
use crate::private_file;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read: a page of a thousand.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// `tunnel-relay admin`.
#[derive(Debug, Args)]
pub struct Admin {
    /// Directory in which the relay keeps admin-token and addresses.json
    #[arg(long, value_name = "DIR", default_value = super::DATA_DIR, global = true)]
    pub data_dir: PathBuf,
    /// Where the relay takes operators, such as http://127.0.0.1:9090; without it, what the relay wrote at its start
    #[arg(long, value_name = "URL", global = true)]
    pub url: Option<Url>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What an operator asks or orders.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List the accounts that have been here of late
    Tenants(PageArgs),
    /// List the tunnels
    Sessions(PageArgs),
    /// Close a tunnel; its desktop may dial again
    Close {
        /// The id that `sessions` shows
        id: String,
    },
    /// Show the limits in force and who has reached theirs
    Limits,
    /// Show what is configured
    Config,
    /// Begin the orderly end, as SIGTERM does
    Drain,
    /// Take a token no more, or none of an account's that there is now
    Revoke(Revoke),
    /// Print the last lines of the audit log
    Audit {
        /// How many
        #[arg(short, default_value_t = 20)]
        n: usize,
    },
}

/// What is revoked.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Whose tokens; without --token all that were issued until now, keys for apps included
    #[arg(long, value_name = "NAME")]
    pub subject: String,
    /// The id (jti) of the only one that is meant
    #[arg(long, value_name = "ID")]
    pub token: Option<String>,
    /// When that one ends, so that it need not be remembered for longer; ids that this relay makes say so themselves
    #[arg(long, value_name = "TIME", requires = "token")]
    pub expires: Option<Timestamp>,
    /// All that were issued before this time, such as 2030-01-31T12:00:00Z, instead of now
    #[arg(long, value_name = "TIME", conflicts_with = "token")]
    pub issued_before: Option<Timestamp>,
}

impl Revoke {
    fn order(&self) -> Value {
        match (&self.token, self.issued_before) {
            (Some(id), _) => json!({ "subject": self.subject, "token_id": id, "expires_at": self.expires }),
            (None, Some(before)) => json!({ "subject": self.subject, "issued_before": before }),
            // By the relay's clock, not by this machine's.
            (None, None) => json!({ "subject": self.subject, "issued_before": "now" }),
        }
    }
}

/// Which part of a list.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Begin after this one; the page before says which it is
    #[arg(long, value_name = "NAME")]
    pub after: Option<String>,
    /// Most lines, up to 1000
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub limit: usize,
}

impl Admin {
    /// Asks, and prints the answer.
    pub async fn run(&self) -> anyhow::Result<()> {
        let (method, path, body) = self.command.request();
        let address = self.address()?;
        let token = private_file::read_secret(&token_path(&self.data_dir)).context(
            "the operators' token cannot be read; run this as the relay's user, with the data directory of `serve`",
        )?;
        let asked = ask(address, method, &path, &token, body);
        let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| {
            anyhow!("the relay at {address} did not answer within {} s", PATIENCE.as_secs())
        })??;
        let text = if self.json { format!("{answer}\n") } else { self.command.text(&answer) };
        Ok(write!(std::io::stdout(), "{text}")?)
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        if let Some(url) = &self.url {
            let addresses = url.socket_addrs(|| None);
            let plain = (url.scheme() == "http").then_some(addresses).transpose().ok().flatten();
            let first = plain.and_then(|addresses| addresses.first().copied());
            return first.with_context(|| format!("{url} is no http:// address with a host that is known"));
        }
        let path = addresses_path(&self.data_dir);
        let text = fs::read(&path).with_context(|| {
            format!("reading {}; does the relay run with this data directory?", path.display())
        })?;
        let written: Value =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        let admin = written["admin"].as_str().and_then(|address| address.parse().ok());
        let mut address: SocketAddr =
            admin.with_context(|| format!("{} names no admin address", path.display()))?;
        // Who listens everywhere is reached here, too.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        Ok(address)
    }
}

impl AdminCommand {
    fn request(&self) -> (Method, String, Option<Value>) {
        let get = |path: String| (Method::GET, path, None);
        match self {
            Self::Tenants(page) => get(page.path("tenants")),
            Self::Sessions(page) => get(page.path("sessions")),
            Self::Close { id } => (Method::DELETE, format!("/admin/v1/sessions/{}", escaped(id)), None),
            Self::Limits => get("/admin/v1/limits".to_owned()),
            Self::Config => get("/admin/v1/config".to_owned()),
            Self::Drain => (Method::POST, "/admin/v1/drain".to_owned(), None),
            Self::Revoke(revoke) => (Method::POST, "/admin/v1/revocations".to_owned(), Some(revoke.order())),
            Self::Audit { n } => get(format!("/admin/v1/audit/tail?n={n}")),
        }
    }

    /// Says the answer to a person.
    fn text(&self, answer: &Value) -> String {
        match self {
            Self::Tenants(_) => table(
                answer,
                "tenants",
                &["subject", "tier", "devices", "devices_online", "sessions", "streams"],
            ),
            Self::Sessions(_) => table(
                answer,
                "sessions",
                &["id", "subject", "device", "attached", "streams", "since", "expires_at", "agent"],
            ),
            Self::Limits => {
                let tiers = serde_json::to_string_pretty(&answer["tiers"]).unwrap_or_default();
                let at_limit = table(answer, "at_limit", &["subject", "tier", "limit", "value"]);
                format!("tiers: {tiers}\nat their limit now: {}\n{at_limit}", answer["n_at_limit"])
            }
            Self::Config => serde_json::to_string_pretty(answer).unwrap_or_default() + "\n",
            Self::Audit { .. } => {
                let lines = answer["lines"].as_array().map_or(&[][..], Vec::as_slice);
                lines.iter().map(|line| format!("{line}\n")).collect()
            }
            Self::Close { .. } => "closed; the desktop may dial again\n".to_owned(),
            Self::Drain => "draining; the relay ends when its last stream has\n".to_owned(),
            Self::Revoke(_) => {
                format!(
                    "revoked; kept in mind until {}\n",
                    answer["kept_until"].as_str().unwrap_or("the end of time")
                )
            }
        }
    }
}

impl PageArgs {
    fn path(&self, list: &str) -> String {
        let after = self.after.as_ref().map(|after| format!("&after={}", escaped(after)));
        format!("/admin/v1/{list}?limit={}{}", self.limit, after.unwrap_or_default())
    }
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    token: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let away = || format!("cannot reach the relay at {address}; does it run?");
    let stream = TcpStream::connect(address).await.with_context(away)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(away)?;
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))?;
    let (head, body) = sender.send_request(request).await.with_context(away)?.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| anyhow!(error))?.to_bytes();
    let answer = match &*body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .context("the answer is not JSON; is this the admin address of a relay?")?,
    };
    if head.status.is_success() {
        return Ok(answer);
    }
    match answer["detail"].as_str() {
        Some(detail) => bail!("{detail}"),
        None => bail!("the relay answered {}", head.status),
    }
}

/// Lays the items of a list out under these members' names.
fn table(answer: &Value, list: &str, columns: &[&str]) -> String {
    let items = answer[list].as_array().map_or(&[][..], Vec::as_slice);
    let cell = |item: &Value, column: &str| match &item[column] {
        Value::Null => "-".to_owned(),
        // Names that strangers chose must not move the cursor.
        Value::String(text) => tunnel_transport::printable(text),
        other => other.to_string(),
    };
    let head = columns.iter().map(|column| column.to_uppercase()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()))
        .collect();
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    if let Some(next) = answer["next"].as_str() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "more: --after {}", tunnel_transport::printable(next));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_tables_that_say_how_to_go_on() {
        let answer = json!({
            "tenants": [
                { "subject": "alice", "tier": null, "devices": 2 },
                { "subject": "a\u{1b}[2J", "tier": "free", "devices": 10 },
            ],
            "next": "bob\u{1b}[2J",
        });
        let text = table(&answer, "tenants", &["subject", "tier", "devices"]);
        assert_eq!(
            text,
            "SUBJECT  TIER  DEVICES\nalice    -     2\na[2J     free  10\nmore: --after bob[2J\n"
        );
    }

    #[test]
    fn without_a_token_all_that_were_issued_until_now_are_meant() {
        let revoke = |token: Option<&str>, issued_before: Option<&str>| {
            let revoke = Revoke {
                subject: "alice".to_owned(),
                token: token.map(str::to_owned),
                expires: None,
                issued_before: issued_before.map(|at| at.parse().unwrap()),
            };
            revoke.order()
        };
        assert_eq!(revoke(None, None), json!({"subject": "alice", "issued_before": "now"}));
        let then = "2030-01-31T12:00:00.5Z";
        assert_eq!(revoke(None, Some(then)), json!({"subject": "alice", "issued_before": then}));
        let one = json!({"subject": "alice", "token_id": "t1", "expires_at": null});
        assert_eq!(revoke(Some("t1"), None), one);
    }

    #[test]
    fn names_are_escaped_on_their_way() {
        let page = PageArgs { after: Some("a b&limit=1/ü".to_owned()), limit: 5 };
        assert_eq!(page.path("tenants"), "/admin/v1/tenants?limit=5&after=a%20b%26limit%3D1%2F%C3%BC");
    }
}
