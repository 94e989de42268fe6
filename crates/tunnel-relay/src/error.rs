//! What the relay itself answers when it does not forward: status, `code`, a sentence for people, in the shape
//! that the caller's library expects.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::auth::{Scope, Scopes, TokenError};
use crate::body::RelayBody;

/// The request's id, on requests to the desktop and on answers to the caller.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Carries the `code` of an answer that the relay made itself: Ollama's error body has no place for it, and it tells
/// the relay's answers from a backend's.
pub(crate) const TUNNEL_ERROR: HeaderName = HeaderName::from_static("tunnel-error");

/// Which API the caller speaks, told from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Ollama,
    Plain,
}

impl Dialect {
    pub(crate) fn of(path: &str) -> Self {
        let under =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // LM Studio's own paths answer as OpenAI's do.
        if under("/v1") || under("/api/v0") {
            Self::OpenAi
        } else if under("/api") {
            Self::Ollama
        } else {
            Self::Plain
        }
    }
}

/// Why a request was not forwarded, or brought no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No or bad credentials.
    Token(TokenError),
    /// The token does not allow what was tried.
    Scope { needed: Scope, has: Scopes },
    /// The token holds for another device.
    OtherDevice { asked: String, bound: String },
    /// The subject has no such device.
    UnknownDevice { asked: Option<String>, known: Vec<String> },
    /// The subject has several devices and the caller named none.
    DeviceRequired { online: Vec<String> },
    /// The device is known and not connected.
    DeviceOffline { device: String, retry_after: Duration },
    /// The subject or the address asks for more than it may.
    RateLimited { what: &'static str, retry_after: Duration, headers: Box<HeaderMap> },
    /// The body is longer than the tier allows.
    BodyTooLarge { limit: u64 },
    /// The body comes too slowly for the device to wait for it.
    UploadTooSlow { least_per_second: u64 },
    /// No device of the subject has the model.
    ModelNotFound { model: String, devices: Vec<String> },
    /// The token does not hold for the model, or the request names none that could be checked.
    ModelNotAllowed { why: &'static str },
    /// One of the relay's own resources was asked for something that it does not take.
    BadRequest { why: String },
    /// One of the relay's own resources was asked with a method that it does not take.
    MethodNotAllowed { allow: &'static str },
    /// A token could not be put on the list of those that are revoked, or not for good.
    NotRevoked { why: String },
    /// There is no login here: no issuer is configured for it.
    LoginUnavailable,
    /// The subject has too many requests under way.
    TooManyStreams { limit: usize },
    /// What the relay holds for the subject's requests is as much as it may be.
    TooMuchWaiting,
    /// The subject has too many devices.
    TooManyDevices { limit: usize },
    /// The session ended before the response began.
    TunnelLost { device: String },
    /// The desktop gave the request up before the response began.
    StreamReset { device: String },
    /// The desktop sent no response in time.
    FirstByteTimeout { device: String, after: Duration },
    /// The caller's own upload ended too early.
    BadUpload,
    /// A path that the relay keeps for itself.
    Reserved,
    /// A request that cannot be forwarded, and why.
    Unforwardable { status: StatusCode, code: &'static str, why: &'static str },
    /// A dial that does not follow the protocol.
    BadDial { status: StatusCode, code: &'static str, why: String },
    /// The session that a desktop wants to resume was taken over.
    Replaced,
    /// The session that a desktop wants to resume is not known.
    SessionGone,
    /// The relay shuts down and takes no new tunnels.
    Draining { retry_after: Duration },
    /// More desktops dial than the relay takes up at a time.
    Busy { retry_after: Duration },
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Token(TokenError::IssuerAway | TokenError::Crowded) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Scope { .. } | Self::OtherDevice { .. } | Self::ModelNotAllowed { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::UnknownDevice { .. }
            | Self::Reserved
            | Self::ModelNotFound { .. }
            | Self::LoginUnavailable => StatusCode::NOT_FOUND,
            Self::DeviceRequired { .. } | Self::BadUpload | Self::BadRequest { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UploadTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::DeviceOffline { .. }
            | Self::Draining { .. }
            | Self::Busy { .. }
            | Self::NotRevoked { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyStreams { .. }
            | Self::TooMuchWaiting
            | Self::TooManyDevices { .. }
            | Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TunnelLost { .. } | Self::StreamReset { .. } => StatusCode::BAD_GATEWAY,
            Self::FirstByteTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unforwardable { status, .. } | Self::BadDial { status, .. } => *status,
            Self::Replaced => StatusCode::CONFLICT,
            Self::SessionGone => StatusCode::GONE,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Token(TokenError::Missing) => "token_missing",
            Self::Token(TokenError::Invalid) => "token_invalid",
            Self::Token(TokenError::Expired) => "token_expired",
            // For whoever holds it there is no difference: it takes another one.
            Self::Token(TokenError::Revoked) => "token_invalid",
            Self::Token(TokenError::IssuerAway | TokenError::Crowded) => "issuer_unavailable",
            Self::RateLimited { .. } => "rate_limited",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UploadTooSlow { .. } => "upload_too_slow",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelNotAllowed { .. } => "not_allowed",
            Self::BadRequest { .. } => "bad_request",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::LoginUnavailable => "login_unavailable",
            Self::NotRevoked { .. } => "not_revoked",
            Self::Scope { .. } | Self::OtherDevice { .. } => "not_allowed",
            Self::UnknownDevice { .. } => "unknown_device",
            Self::DeviceRequired { .. } => "device_required",
            Self::DeviceOffline { .. } => "device_offline",
            Self::TooManyStreams { .. } => "too_many_streams",
            Self::TooMuchWaiting => "too_much_waiting",
            Self::TooManyDevices { .. } => "too_many_devices",
            Self::TunnelLost { .. } => "tunnel_lost",
            Self::StreamReset { .. } => "backend_unreachable",
            Self::FirstByteTimeout { .. } => "first_byte_timeout",
            Self::BadUpload => "bad_request",
            Self::Reserved => "not_found",
            Self::Unforwardable { code, .. } | Self::BadDial { code, .. } => code,
            Self::Replaced => "replaced",
            Self::SessionGone => "session_gone",
            Self::Draining { .. } => "draining",
            Self::Busy { .. } => "busy",
        }
    }

    /// Says what happened, why, and what to do next.
    fn sentence(&self) -> Cow<'static, str> {
        match self {
            Self::Token(TokenError::Missing) => "No token was sent. Put one into the header \"Authorization: Bearer \
                <token>\"; most clients call it the API key. Make one with: tunnelctl keys create; or have the relay's \
                operator make one with: tunnel-relay token create"
                .into(),
            Self::Token(TokenError::Invalid) => "The token is not one that this relay takes: it is damaged, made for \
                something else, or neither this relay nor an issuer that it trusts has made it. Copy it again in full, \
                log in again with: tunnelctl login; or have the relay's operator make one with: tunnel-relay token create"
                .into(),
            Self::Token(TokenError::Expired) => "The token has expired (judged by the relay's clock, see the Date \
                header). Log in again with: tunnelctl login; make a new key with: tunnelctl keys create; or have the relay's \
                operator make a token with: tunnel-relay token create"
                .into(),
            Self::Token(TokenError::Revoked) => "The token was revoked, by its owner or by the relay's operator. Make a \
                new one with: tunnelctl keys create"
                .into(),
            Self::Token(TokenError::Crowded) => "The relay cannot check the token now: it is signed with a key that the relay does \
                not know, and many such tokens from your address wait for their issuer's keys. Send the request again after \
                the time in Retry-After."
                .into(),
            Self::Token(TokenError::IssuerAway) => "The relay cannot check the token now: the issuer that it names does \
                not hand its keys out. Send the request again after the time in Retry-After."
                .into(),
            Self::RateLimited { what, retry_after, .. } => format!(
                "Too many requests: {what}. Send it again after {} s.",
                retry_after.as_secs().max(1)
            )
            .into(),
            Self::BodyTooLarge { limit } => format!(
                "The request's body is longer than the {limit} bytes that this account may send at once. Send less, or ask \
                 the relay's operator for more."
            )
            .into(),
            Self::UploadTooSlow { least_per_second } => format!(
                "The request's body came at less than {least_per_second} bytes a second, so it was given up. Send the \
                 request again; if your connection is that slow, send less."
            )
            .into(),
            Self::ModelNotFound { model, devices } => format!(
                // Begins as Ollama's own sentence does, which its clients look for.
                "model '{model}' not found: none of your devices that are connected ({}) has it. Load it on one of \
                 them, or name a device: put /d/<device> in front of the path.",
                devices.join(", ")
            )
            .into(),
            Self::ModelNotAllowed { why } => (*why).into(),
            Self::BadRequest { why } => why.clone().into(),
            Self::MethodNotAllowed { allow } => format!("This address takes {allow} only.").into(),
            Self::NotRevoked { why } => {
                format!("Not done for good: {why}. Tell the relay's operator; its log says more.").into()
            }
            Self::LoginUnavailable => "This relay has no login of its own. Its operator hands out tokens: tunnelctl \
                login --token-stdin"
                .into(),
            Self::Scope { needed, has } => {
                let has = match has.as_str() {
                    "" => "none that this relay knows",
                    scopes => scopes,
                };
                let needed = needed.as_str();
                format!(
                    "The token does not allow this: it has the scope {has}, and {needed} is needed. Make one with: \
                     tunnel-relay token create --data-dir DIR --subject NAME --scope {needed}"
                )
                .into()
            }
            Self::OtherDevice { asked, bound } => format!(
                "The token holds for the device {bound} only, not for {asked}. Use {bound}, or a token that was made \
                 without --device."
            )
            .into(),
            Self::UnknownDevice { asked: Some(asked), known } => format!(
                "No device {asked} of yours has connected to this relay. {} Check the name, and on that machine: \
                 tunnelctl status",
                list_known(known)
            )
            .into(),
            Self::UnknownDevice { asked: None, .. } => "No device of yours has connected to this relay. Start tunneld \
                on your machine with a token of the same subject, and check there: tunnelctl status"
                .into(),
            Self::DeviceRequired { online } => format!(
                "Several devices of yours are connected ({}), so the request must say which one: put /d/<device> in \
                 front of the path, or send the header Tunnel-Device: <device>, or use a token made with --device.",
                online.join(", ")
            )
            .into(),
            Self::DeviceOffline { device, .. } => format!(
                "The device {device} is known and not connected now. It is switched off, asleep or without network; \
                 the request can be sent again. On that machine: tunnelctl status"
            )
            .into(),
            Self::TooManyStreams { limit } => format!(
                "Your account has {limit} requests under way, the most that this relay allows at once. Wait until \
                 some are done and send it again."
            )
            .into(),
            Self::TooMuchWaiting => "The relay holds as many bytes for your account's requests as it may: long bodies \
                whose model it looks for, and lists of models that are not read. Send the request again when others are \
                done; where you have one device, or name it with /d/<device>, and a token for all models, nothing is held."
                .into(),
            Self::TooManyDevices { limit } => format!(
                "This account has {limit} devices connected, the most that this relay allows. Stop one that is not \
                 needed."
            )
            .into(),
            Self::TunnelLost { device } => format!(
                "The connection to the device {device} ended before it answered. It is not known whether the request \
                 was worked on; send it again if that does no harm."
            )
            .into(),
            Self::StreamReset { device } => format!(
                "The device {device} gave the request up before it answered. Its log says why: journalctl --user -u \
                 tunneld"
            )
            .into(),
            Self::FirstByteTimeout { device, after } => format!(
                "The device {device} sent no answer within {} s. The model server may hang or still be loading the \
                 model; check there: tunnelctl status",
                after.as_secs()
            )
            .into(),
            Self::BadUpload => "The request's body ended before it was complete. Send the request again.".into(),
            Self::Reserved => "There is nothing here: paths under /_tunnel belong to the tunnel itself.".into(),
            Self::Unforwardable { why, .. } => (*why).into(),
            Self::BadDial { why, .. } => why.clone().into(),
            Self::Replaced => "Another dial of the same device took this session over. Two machines may use the same \
                device name; give each its own, then start the tunnel again: tunnelctl start"
                .into(),
            Self::SessionGone => "The session is not known here: its grace time is over, or the relay was restarted. \
                Dial a new one."
                .into(),
            Self::Draining { .. } => "The relay is shutting down and takes no new tunnels. Dial again after the time \
                in Retry-After."
                .into(),
            Self::Busy { .. } => "Many desktops dial this relay at the moment, as they do after a restart. Dial again after \
                the time in Retry-After."
                .into(),
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::DeviceOffline { retry_after, .. }
            | Self::Draining { retry_after }
            | Self::Busy { retry_after } => Some(*retry_after),
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            Self::Token(TokenError::IssuerAway | TokenError::Crowded) => Some(Duration::from_secs(5)),
            Self::TooManyStreams { .. } => Some(Duration::from_secs(1)),
            Self::TooMuchWaiting => Some(Duration::from_secs(2)),
            Self::TooManyDevices { .. } => Some(Duration::from_secs(60)),
            Self::Token(_)
            | Self::BodyTooLarge { .. }
            | Self::UploadTooSlow { .. }
            | Self::ModelNotFound { .. }
            | Self::ModelNotAllowed { .. }
            | Self::BadRequest { .. }
            | Self::MethodNotAllowed { .. }
            | Self::LoginUnavailable
            | Self::NotRevoked { .. }
            | Self::Scope { .. }
            | Self::OtherDevice { .. }
            | Self::UnknownDevice { .. }
            | Self::DeviceRequired { .. }
            | Self::TunnelLost { .. }
            | Self::StreamReset { .. }
            | Self::FirstByteTimeout { .. }
            | Self::BadUpload
            | Self::Reserved
            | Self::Unforwardable { .. }
            | Self::BadDial { .. }
            | Self::Replaced
            | Self::SessionGone => None,
        }
    }

    /// Returns the answer in the caller's dialect.
    pub(crate) fn response(&self, dialect: Dialect, request_id: &HeaderValue) -> Response<RelayBody> {
        let (status, code, sentence) = (self.status(), self.code(), self.sentence());
        let (content_type, body) = match dialect {
            Dialect::OpenAi => ("application/json", openai_error(status, code, &sentence)),
            Dialect::Ollama => ("application/json", json!({ "error": sentence })),
            Dialect::Plain => (
                "application/problem+json",
                json!({
                    "type": "about:blank",
                    "title": status.canonical_reason().unwrap_or("Error"),
                    "status": status.as_u16(),
                    "detail": sentence,
                    "code": code,
                    "request_id": request_id.to_str().unwrap_or_default(),
                }),
            ),
        };
        let mut response = Response::new(RelayBody::full(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(TUNNEL_ERROR, HeaderValue::from_static(code));
        headers.insert(X_REQUEST_ID, request_id.clone());
        if let Some(after) = self.retry_after() {
            // Whole seconds, rounded up: 0 would say "at once".
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1_000).max(1) as u64));
        }
        if let Self::Token(error) = self {
            // RFC 6750 §3: without credentials no error code.
            let challenge = match error {
                TokenError::Missing => "Bearer realm=\"tunnel-relay\"",
                TokenError::Invalid | TokenError::Expired | TokenError::Revoked => {
                    "Bearer realm=\"tunnel-relay\", error=\"invalid_token\""
                }
                TokenError::IssuerAway | TokenError::Crowded => "",
            };
            if !challenge.is_empty() {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        match self {
            // The rest of the body is not waited for.
            Self::BodyTooLarge { .. } | Self::UploadTooSlow { .. } => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::RateLimited { headers: limits, .. } => headers.extend((**limits).clone()),
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response
    }
}

fn list_known(known: &[String]) -> Cow<'static, str> {
    if known.is_empty() {
        "None has yet.".into()
    } else {
        format!("These have: {}.", known.join(", ")).into()
    }
}

/// OpenAI's error object.
pub(crate) fn openai_error(status: StatusCode, code: &str, sentence: &str) -> Value {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    json!({ "error": { "message": sentence, "type": kind, "param": null, "code": code } })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn answer(refusal: &Refusal, path: &str) -> (Response<()>, Value) {
        let id = HeaderValue::from_static("id-1");
        let (head, body) = refusal.response(Dialect::of(path), &id).into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
        (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap())
    }

    fn offline() -> Refusal {
        Refusal::DeviceOffline { device: "desk".into(), retry_after: Duration::from_millis(4_200) }
    }

    #[test]
    fn errors_take_the_shape_of_the_path() {
        let (head, body) = answer(&offline(), "/v1/chat/completions");
        assert_eq!(head.status(), 503);
        assert_eq!(head.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(body["error"]["code"], "device_offline");
        assert_eq!(body["error"]["type"], "server_error");
        assert!(body["error"]["message"].as_str().unwrap().contains("desk"));

        let (_, body) = answer(&offline(), "/api/chat");
        assert!(body["error"].as_str().unwrap().contains("desk"), "Ollama's clients want a string");
        assert_eq!(body.as_object().unwrap().len(), 1);

        let (head, body) = answer(&offline(), "/metrics");
        assert_eq!(head.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!((&body["status"], &body["code"]), (&json!(503), &json!("device_offline")));
        assert_eq!(body["request_id"], "id-1");
    }

    #[test]
    fn the_code_and_the_time_to_wait_are_headers_too() {
        let (head, _) = answer(&offline(), "/api/chat");
        assert_eq!(head.headers()[RETRY_AFTER], "5");
        assert_eq!(head.headers()[TUNNEL_ERROR], "device_offline");
        assert_eq!(head.headers()[X_REQUEST_ID], "id-1");
    }

    #[test]
    fn missing_credentials_get_a_challenge() {
        let (head, body) = answer(&TokenError::Missing.into(), "/v1/models");
        assert_eq!(head.status(), 401);
        assert_eq!(head.headers()[WWW_AUTHENTICATE], "Bearer realm=\"tunnel-relay\"");
        assert_eq!(body["error"]["type"], "authentication_error");
        let (head, _) = answer(&TokenError::Expired.into(), "/v1/models");
        assert!(head.headers()[WWW_AUTHENTICATE].to_str().unwrap().contains("invalid_token"));
    }

    #[test]
    fn only_whole_path_segments_make_a_dialect() {
        assert_eq!(Dialect::of("/v1"), Dialect::OpenAi);
        assert_eq!(Dialect::of("/v10/models"), Dialect::Plain);
        assert_eq!(Dialect::of("/api/tags"), Dialect::Ollama);
        assert_eq!(Dialect::of("/apis"), Dialect::Plain);
        assert_eq!(Dialect::of("/api/v0/embeddings"), Dialect::OpenAi);
        assert_eq!(Dialect::of("/"), Dialect::Plain);
    }
}
