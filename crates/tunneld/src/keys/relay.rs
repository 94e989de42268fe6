//! The relay's half: `POST /_tunnel/v1/tokens` and `DELETE /_tunnel/v1/tokens/<id>`.

use http::StatusCode;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tunnel_api::config::RemotePaths;
use tunnel_api::{Key, KeyReach, KeyRequest, NewKey, local_key_id};
use tunnel_transport::{DeviceName, RelayUrl, printable};

use super::KeyError;
use crate::secrets::{Answer, Call, Endpoint, Way, account_name, parse_token};

/// Longest name, in characters.
const MAX_NAME: usize = 64;
/// Most models, and scopes, of a key.
const MAX_MODELS: usize = 32;
const MAX_SCOPES: usize = 8;
/// Longest name of a model, or of a scope, in bytes.
const MAX_MODEL: usize = 256;
const MAX_SCOPE: usize = 32;
/// Longest id of a key, in bytes.
const MAX_ID: usize = 128;

/// Where keys are made: one relay, with the token of the login.
#[derive(Debug)]
pub(super) struct KeyOffice {
    relay: RelayUrl,
    token: SecretString,
    way: Way,
}

/// What the relay answers.
#[derive(Deserialize)]
struct Made {
    id: String,
    token: String,
    #[serde(default)]
    scopes: Vec<String>,
    device: Option<String>,
    models: Option<Vec<String>>,
    expires_at: Option<Timestamp>,
}

/// Checks what a program asks for, before it is sent anywhere.
pub(super) fn check(request: &KeyRequest) -> Result<(), KeyError> {
    let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    let unusable = |field, rule| Err(KeyError::Unusable { field, rule });
    if request.name.as_ref().is_some_and(|name| !plain(name) || name.chars().count() > MAX_NAME) {
        return unusable("name", "text of 1 to 64 characters");
    }
    let word = |text: &String| {
        !text.is_empty() && text.len() <= MAX_SCOPE && text.bytes().all(|c| c.is_ascii_graphic())
    };
    if request.scopes.len() > MAX_SCOPES || !request.scopes.iter().all(word) {
        return unusable("scopes", "at most 8 words such as inference");
    }
    if request.device.as_ref().is_some_and(|device| device.parse::<DeviceName>().is_err()) {
        return unusable("device", "the name of a desktop: lower-case letters, digits and hyphens");
    }
    if request.models.len() > MAX_MODELS
        || !request.models.iter().all(|model| plain(model) && model.len() <= MAX_MODEL)
    {
        return unusable("models", "at most 32 names of models");
    }
    if request.expires_in == Some(0) {
        return unusable("expires_in", "a number of seconds above 0");
    }
    Ok(())
}

/// Checks what only a local key may have.
pub(super) fn check_remote(request: &KeyRequest) -> Result<(), KeyError> {
    if request.paths == RemotePaths::default() {
        return Ok(());
    }
    let rule =
        "left out for a remote key; remotePaths in the configuration says what remote callers may reach";
    Err(KeyError::Unusable { field: "paths", rule })
}

/// Tells whether text can be the id of a key, and a segment of a path. The ids that come with a relay's requests are held
/// to the same rule: a key that could be made and not be recognised would have no limits.
pub(crate) fn is_id(text: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'~' | b':');
    !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(fit) && !text.bytes().all(|c| c == b'.')
}

impl KeyOffice {
    pub(super) fn new(relay: &RelayUrl, token: SecretString, way: Way) -> Self {
        Self { relay: relay.clone(), token, way }
    }

    /// What the relay is called beside its keys.
    pub(super) fn name(&self) -> String {
        account_name(&self.relay)
    }

    /// Has a key made. `request` has been checked.
    pub(super) async fn create(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        let endpoint = self.endpoint("");
        let body = order(&request);
        let answer = Call::post_json(&endpoint, &body).with_bearer(&self.token).make(&self.way).await?;
        if answer.status != StatusCode::CREATED {
            return Err(match answer.status {
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                    KeyError::NotOffered { relay: self.name() }
                }
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => {
                    KeyError::Refused { relay: self.name(), sentence: sentence(&answer) }
                }
                _ => self.refusal(&answer),
            });
        }
        let bad = || KeyError::BadAnswer { relay: self.name() };
        let made: Made = serde_json::from_slice(&answer.body).map_err(|_| bad())?;
        let token = parse_token(made.token.into())
            .filter(|_| is_id(&made.id) && local_key_id(&made.id).is_none())
            .ok_or_else(bad)?;
        let key = Key {
            id: made.id,
            reach: KeyReach::Remote,
            relay: self.name(),
            name: request.name,
            scopes: made.scopes.iter().map(|scope| printable(scope)).collect(),
            device: made.device.map(|device| printable(&device)),
            models: made.models.unwrap_or_default().iter().map(|model| printable(model)).collect(),
            created_at: Timestamp::now(),
            expires_at: made.expires_at,
            ..Key::default()
        };
        Ok(NewKey { key, token: token.expose_secret().to_owned() })
    }

    /// Has a key taken back.
    pub(super) async fn revoke(&self, id: &str) -> Result<(), KeyError> {
        let endpoint = self.endpoint(&format!("/{id}"));
        let answer = Call::delete(&endpoint).with_bearer(&self.token).make(&self.way).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(KeyError::Unknown),
            _ => Err(self.refusal(&answer)),
        }
    }

    /// `below` is empty, or a slash and an id, which is fit for a path.
    fn endpoint(&self, below: &str) -> Endpoint {
        Endpoint::of_relay(&self.relay, &format!("/_tunnel/v1/tokens{below}"))
    }

    fn refusal(&self, answer: &Answer) -> KeyError {
        match answer.status {
            StatusCode::UNAUTHORIZED => KeyError::TokenRefused { relay: self.name() },
            StatusCode::FORBIDDEN => {
                // The rest says how its operator makes a token for a caller, which is not what helps here.
                let told = sentence(answer);
                let why = told.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned();
                KeyError::NotAllowed { relay: self.name(), why }
            }
            status => KeyError::Unavailable { relay: self.name(), status },
        }
    }
}

/// What is asked for, without what is left to the relay.
fn order(request: &KeyRequest) -> Value {
    let mut order = serde_json::Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        order.extend(value.map(|value| (name.to_owned(), value)));
    };
    set("name", request.name.as_deref().map(Value::from));
    set("scopes", (!request.scopes.is_empty()).then(|| json!(request.scopes)));
    set("device", request.device.as_deref().map(Value::from));
    set("models", (!request.models.is_empty()).then(|| json!(request.models)));
    set("expires_in", request.expires_in.map(Value::from));
    order.into()
}

/// The relay's own sentence, fit for a terminal.
fn sentence(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    // RFC 9457, and the form of OpenAI.
    let text = [&body["detail"], &body["error"]["message"]].into_iter().find_map(Value::as_str);
    let told = text.map(printable).filter(|text| !text.is_empty());
    told.unwrap_or_else(|| format!("it answered {}.", answer.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asked_for_is_left_to_the_relay() {
        assert_eq!(order(&KeyRequest::default()), json!({}));
        let request = KeyRequest {
            name: Some("editor".to_owned()),
            models: vec!["llama3:8b".to_owned()],
            expires_in: Some(60),
            ..KeyRequest::default()
        };
        assert_eq!(order(&request), json!({ "name": "editor", "models": ["llama3:8b"], "expires_in": 60 }));
    }

    #[test]
    fn what_cannot_be_is_told_by_its_field() {
        let field = |request: KeyRequest| match check(&request) {
            Err(KeyError::Unusable { field, .. }) => field,
            Ok(()) => "",
            Err(other) => panic!("{other:?}"),
        };
        let base = KeyRequest::default;
        assert_eq!(field(KeyRequest { device: Some("desk-1".to_owned()), ..base() }), "");
        assert_eq!(field(KeyRequest { name: Some("é".repeat(64)), ..base() }), "");
        assert_eq!(field(KeyRequest { name: Some("é".repeat(65)), ..base() }), "name");
        assert_eq!(field(KeyRequest { name: Some("a\nb".to_owned()), ..base() }), "name");
        assert_eq!(field(KeyRequest { scopes: vec!["two words".to_owned()], ..base() }), "scopes");
        assert_eq!(field(KeyRequest { device: Some("Desk".to_owned()), ..base() }), "device");
        assert_eq!(field(KeyRequest { models: vec![String::new()], ..base() }), "models");
        assert_eq!(field(KeyRequest { models: vec!["m".to_owned(); 33], ..base() }), "models");
        assert_eq!(field(KeyRequest { expires_in: Some(0), ..base() }), "expires_in");
    }

    #[test]
    fn id_is_one_segment_of_a_path() {
        assert!(is_id("0191e0ab-1c2d_x.y~z:1"));
        for bad in ["", ".", "..", "a/b", "a b", "a?b", "%2e", "é", &"x".repeat(129)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
