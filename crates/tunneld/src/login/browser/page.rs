//! The pages that a browser is shown when it comes back.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// What a browser is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    LoggedIn,
    Denied,
    Failed,
    /// It is no answer to the login that waits.
    Stranger,
    /// There is nothing at this address.
    Nothing,
    /// It is there for `GET` alone.
    WrongMethod,
}

impl Page {
    fn status(self) -> StatusCode {
        match self {
            Self::LoggedIn | Self::Denied | Self::Failed => StatusCode::OK,
            Self::Stranger => StatusCode::BAD_REQUEST,
            Self::Nothing => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// Title and text. Nothing that the browser brought is repeated.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::LoggedIn => ("You are logged in", "tunneld has its token. You can close this page."),
            Self::Denied => {
                ("Access was denied", "tunneld has no token. To try again: <code>tunnelctl login</code>")
            }
            Self::Failed => (
                "The login failed",
                "tunneld has no token. <code>tunnelctl login</code> says why, where it was begun; so does \
                 <code>tunnelctl events</code>.",
            ),
            Self::Stranger => (
                "This is another login",
                "It is not the one that tunneld waits for, so it was refused. To begin anew: <code>tunnelctl \
                 login</code>",
            ),
            Self::Nothing => ("There is nothing here", "tunneld waits here for the end of a login."),
            Self::WrongMethod => ("This does not work", "tunneld waits here for a browser that comes back."),
        }
    }

    /// Returns the answer. It runs no script, loads nothing, is kept by nobody, and tells no other site its address,
    /// in which the code is.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let (title, text) = self.words();
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
             <body><h1>{title}</h1><p>{text}</p></body></html>\n"
        );
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            (
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (CONNECTION, "close"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self == Self::WrongMethod {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}
