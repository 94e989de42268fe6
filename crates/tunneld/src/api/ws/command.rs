//! The commands that a client may send, with the names of the original system's tray protocol.

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tunnel_api::ws::Command;

use super::{Call, Client, legacy};
use crate::api::author::{PAGE_REFUSED, PAGE_REFUSED_SENTENCE};
use crate::config::Author;
use crate::daemon::chain;
use crate::secrets::{self, Credentials, TokenHandle};
use crate::view;

/// Reads one command. The error is for its sender, and repeats nothing of it.
pub(super) fn parse(text: &[u8]) -> Result<Command, &'static str> {
    serde_json::from_slice(text)
        .map_err(|_| "send JSON objects with a member command, such as {\"command\": \"PING\"}")
}

impl Client {
    /// Carries a command out. `None` if its answer comes later or there is none.
    pub(super) async fn carry_out(&mut self, command: Command) -> Option<Value> {
        let Command { command: name, id, payload } = command;
        let changes = !matches!(
            name.as_str(),
            "PING" | "GET_CONNECTION_STATUS" | "AUTH_STATUS" | "SUBSCRIBE_LEGACY" | "CANCEL"
        );
        if changes && !self.may_change {
            return Some(json!({
                "error": "this web page's origin may only read here, since a wildcard allows it; add it to allowedOrigins \
                          without a wildcard",
                "code": "origin_not_allowed",
            }));
        }
        match name.as_str() {
            "PING" => Some(json!({ "status": "pong" })),
            "GET_CONNECTION_STATUS" => {
                let status = view::current(&self.api.status.borrow(), &self.api.broker);
                Some(json!({ "status": legacy::connections(&status) }))
            }
            "SUBSCRIBE_LEGACY" => {
                let told = legacy::Told::of(&self.api.status.borrow());
                self.legacy = Some(told);
                Some(json!({ "status": "subscribed" }))
            }
            "TAKE_NOTIFICATIONS" => {
                let left = &self.api.clients.left;
                self.notifies.get_or_insert_with(|| left.take());
                Some(json!({ "status": "success" }))
            }
            "AUTH_STATUS" => Some(self.auth_status()),
            // The same as `PUT` and `DELETE /api/auth/token`: a page may take the token away, and bring none.
            "UPDATE_AUTH_TOKEN" if self.author == Author::Page && !is_empty(payload.get("token")) => {
                Some(json!({ "error": PAGE_REFUSED_SENTENCE, "code": PAGE_REFUSED }))
            }
            "UPDATE_AUTH_TOKEN" => Some(update_token(self.api.token.clone(), &payload).await),
            "PROXY_REQUEST" if self.leaving => {
                Some(json!({ "error": "tunneld is shutting down", "code": "shutting_down" }))
            }
            "PROXY_REQUEST" => self.proxies.start(id, &payload).err().map(|why| json!({ "error": why })),
            "CANCEL" => {
                let cancelled = self.proxies.cancel(&id);
                Some(json!({ "cancelled": cancelled }))
            }
            "UPDATE_TOOLTIP" => Some(self.pass_on(&name, text(&payload, "text"))),
            "UPDATE_ICON" => Some(self.pass_on(&name, text(&payload, "state"))),
            "SHOW" | "HIDE" | "SETTINGS" | "QUIT" => Some(self.pass_on(&name, from(&payload))),
            _ => Some(json!({
                "error": "there is no such command; see docs/local-api.md", "code": "unknown_command",
            })),
        }
    }

    fn auth_status(&self) -> Value {
        let status = self.api.token.status(Timestamp::now());
        json!({
            "authenticated": status.authenticated, "subject": status.subject, "expires_at": status.expires_at,
        })
    }

    /// Tells the other clients, which act on it.
    fn pass_on(&self, name: &str, member: Result<(&'static str, String), String>) -> Value {
        let (key, value) = match member {
            Ok(member) => member,
            Err(why) => return json!({ "error": why, "code": "bad_request" }),
        };
        let mut message = Map::from_iter([("command".to_owned(), Value::from(name))]);
        if !key.is_empty() {
            message.insert(key.to_owned(), value.into());
        }
        let call = Call { from: self.id, message: Value::Object(message) };
        // This client hears it too, and skips it.
        let n_others = self.api.clients.calls.send(call).map_or(0, |heard| heard.saturating_sub(1));
        json!({ "status": "success", "clients": n_others })
    }
}

/// Stores a token, or forgets the one that there is.
async fn update_token(handle: TokenHandle, payload: &Map<String, Value>) -> Value {
    let failed = |why: String, code: &str| json!({ "error": why, "code": code });
    let Some(token) = payload.get("token").and_then(Value::as_str) else {
        return failed("token is missing, or no text".to_owned(), "bad_request");
    };
    let stored = if token.is_empty() {
        handle.remove().await
    } else {
        let Some(token) = secrets::parse_token(SecretString::from(token)) else {
            let rule = "token must be one token as it was issued: no spaces, no line ends, at most 32 KiB";
            return failed(rule.to_owned(), "bad_request");
        };
        let login = Credentials::bare(token, Timestamp::now().as_second());
        handle.set(login).await.map(drop)
    };
    match stored {
        Ok(()) => json!({ "status": "success" }),
        Err(error) => failed(chain(&error), error.code()),
    }
}

fn is_empty(text: Option<&Value>) -> bool {
    text.is_some_and(|text| text == "")
}

/// Longest text that is passed on to other clients.
const MAX_TEXT_CHARS: usize = 500;

/// Returns who asks, for those who leave some askers' wishes alone. Nobody has to say it.
fn from(payload: &Map<String, Value>) -> Result<(&'static str, String), String> {
    if payload.contains_key("from") { text(payload, "from") } else { Ok(("", String::new())) }
}

fn text(payload: &Map<String, Value>, key: &'static str) -> Result<(&'static str, String), String> {
    match payload.get(key).and_then(Value::as_str) {
        Some(text) if text.chars().count() <= MAX_TEXT_CHARS => Ok((key, text.to_owned())),
        Some(_) => Err(format!("{key} has more than {MAX_TEXT_CHARS} characters")),
        None => Err(format!("{key} is missing, or no text")),
    }
}
