//! One line: an event as JSON, with the hash of the line before and its own.

use std::net::IpAddr;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::Event;
use crate::audit::pseudonym::{Kind, Pseudonyms};
use crate::hex::hex;

/// An event on its way to the disk, with names still in clear.
#[derive(Clone, Debug)]
pub(super) struct Record {
    at: Timestamp,
    event: &'static str,
    subject: Option<Box<str>>,
    device: Option<Box<str>>,
    client: Option<IpAddr>,
    token: Option<Box<str>>,
    code: Option<Code>,
    scopes: Option<&'static str>,
    action: Option<&'static str>,
    detail: Option<Box<str>>,
    /// Like events since the line before that were not written.
    pub(super) more: Option<u64>,
    count: Option<u64>,
    of: Option<String>,
    genesis: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum Code {
    Word(&'static str),
    Number(u16),
}

/// What follows the last member that a line's hash covers.
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
/// Bytes of that, of 64 digits, and of what closes the line.
const SEAL_BYTES: usize = HASH_MEMBER.len() + 64 + 2;

/// What the first line of all has for the hash of the line before.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Names of events that the log itself writes and reads.
pub(super) const OPENED: &str = "opened";
pub(super) const TORN: &str = "torn";
pub(super) const HEAD_DIFFERS: &str = "head_differs";

impl Record {
    /// Takes an event over. Nothing is hashed here: this is the data path's time.
    pub(super) fn of(event: &Event<'_>, at: Timestamp) -> Self {
        let owned = |text: &str| Some(text.into());
        match *event {
            Event::Started => Self { detail: owned(env!("CARGO_PKG_VERSION")), ..Self::plain("started", at) },
            Event::Stopped => Self::plain("stopped", at),
            Event::KeyCreated { subject, token_id, scopes } => Self {
                subject: owned(subject),
                token: owned(token_id),
                scopes: Some(scopes),
                ..Self::plain("key_created", at)
            },
            Event::TokenRevoked { subject, token_id } => {
                Self { subject: owned(subject), token: owned(token_id), ..Self::plain("token_revoked", at) }
            }
            Event::TokenRefused { client, code } => Self {
                client: Some(client),
                code: Some(Code::Word(code)),
                ..Self::plain("token_refused", at)
            },
            Event::TunnelUp { subject, device, token_id, client } => Self {
                subject: owned(subject),
                device: owned(device),
                token: owned(token_id),
                client: Some(client),
                ..Self::plain("tunnel_up", at)
            },
            Event::TunnelDown { subject, device, code } => Self {
                subject: owned(subject),
                device: owned(device),
                code: Some(Code::Number(code)),
                ..Self::plain("tunnel_down", at)
            },
            Event::Takeover { subject, device } => {
                Self { subject: owned(subject), device: owned(device), ..Self::plain("takeover", at) }
            }
            Event::LimitHit { subject, client, code } => Self {
                subject: subject.map(Into::into),
                client: Some(client),
                code: Some(Code::Word(code)),
                ..Self::plain("limit_hit", at)
            },
            Event::Admin { action, subject, detail } => Self {
                subject: subject.map(Into::into),
                action: Some(action),
                detail: (!detail.is_empty()).then(|| detail.into()),
                ..Self::plain("admin", at)
            },
        }
    }

    fn plain(event: &'static str, at: Timestamp) -> Self {
        Self {
            at,
            event,
            subject: None,
            device: None,
            client: None,
            token: None,
            code: None,
            scopes: None,
            action: None,
            detail: None,
            more: None,
            count: None,
            of: None,
            genesis: None,
        }
    }

    /// The first line of a file. Its random number makes two logs with the same events differ.
    pub(super) fn opened(at: Timestamp) -> Self {
        Self { genesis: Some(hex(&rand::random::<[u8; 16]>())), ..Self::plain(OPENED, at) }
    }

    /// So many events are in no line.
    pub(super) fn lost(n: u64, at: Timestamp) -> Self {
        Self { count: Some(n), ..Self::plain("lost", at) }
    }

    /// So many more tokens were refused than lines say, and no refused one has come since.
    pub(super) fn more_refused(n: u64, at: Timestamp) -> Self {
        Self { more: Some(n), ..Self::plain("token_refused", at) }
    }

    /// So many bytes before this line are the rest of a line that a crash cut off.
    pub(super) fn torn(bytes: &[u8], at: Timestamp) -> Self {
        Self { count: Some(bytes.len() as u64), of: Some(sha256(bytes)), ..Self::plain(TORN, at) }
    }

    /// The head that was written last does not fit the log as it was found: so many lines are missing, or, with 0, the
    /// last one is another.
    pub(super) fn head_differs(missing: u64, at: Timestamp) -> Self {
        Self { count: Some(missing), ..Self::plain(HEAD_DIFFERS, at) }
    }
}

/// The members of a line in their order. Nothing is left out but what is not there.
#[derive(Debug, Serialize)]
struct Members<'a> {
    seq: u64,
    at: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    genesis: Option<&'a str>,
    prev: &'a str,
}

/// Where a chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The number of the last line.
    pub(super) seq: u64,
    /// Its hash.
    pub(super) hash: String,
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, hash: NO_HASH.to_owned() }
    }
}

impl Chain {
    /// Appends the next line to `out`, with its newline.
    pub(super) fn push(&mut self, record: &Record, names: &Pseudonyms, out: &mut Vec<u8>) {
        let name = |kind, text: &Option<Box<str>>| text.as_deref().map(|text| names.of(kind, text));
        let members = Members {
            seq: self.seq + 1,
            at: format!("{:.3}", record.at),
            event: record.event,
            subject: name(Kind::Subject, &record.subject),
            device: name(Kind::Device, &record.device),
            client: record.client.map(|client| names.of_address(client)),
            token: name(Kind::Token, &record.token),
            code: record.code,
            scopes: record.scopes,
            action: record.action,
            detail: record.detail.as_deref(),
            more: record.more,
            count: record.count,
            of: record.of.as_deref(),
            genesis: record.genesis.as_deref(),
            prev: &self.hash,
        };
        let body = serde_json::to_vec(&members).expect("numbers and text are always JSON");
        let hash = sha256(&body);
        out.extend_from_slice(&body[..body.len() - 1]);
        out.extend_from_slice(HASH_MEMBER);
        out.extend_from_slice(hash.as_bytes());
        out.extend_from_slice(b"\"}\n");
        *self = Self { seq: members.seq, hash };
    }
}

/// What a reader needs of a line.
#[derive(Debug, Deserialize)]
pub(super) struct Read {
    pub(super) seq: u64,
    pub(super) at: String,
    pub(super) event: String,
    pub(super) prev: String,
    pub(super) hash: String,
    #[serde(default)]
    pub(super) count: u64,
    #[serde(default)]
    pub(super) of: String,
}

/// Reads a line, without its newline, whose hash is right.
pub(super) fn read(line: &[u8]) -> Result<Read, &'static str> {
    const NO_LINE: &str = "this is no line of an audit log";
    let at = line.len().checked_sub(SEAL_BYTES).ok_or(NO_LINE)?;
    let (body, seal) = line.split_at(at);
    let digits = seal.strip_prefix(HASH_MEMBER).and_then(|rest| rest.strip_suffix(b"\"}")).ok_or(NO_LINE)?;
    let hash = sha256(&[body, b"}"].concat());
    if digits != hash.as_bytes() {
        return Err("the line was changed: its hash is another");
    }
    serde_json::from_slice(line).map_err(|_| NO_LINE)
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}
