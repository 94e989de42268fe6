//! Who stands behind a request: a program of the user's, or a web page in the user's browser.
//!
//! A page whose origin is allowed may start, stop and configure. What decides whose secrets the daemon holds, to whom it
//! is logged in and who else gets in stays with the user's programs: a page that is taken over by somebody must not be
//! able to leave anything behind that outlives it.

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use http::header::ORIGIN;
use http::{HeaderMap, HeaderName, StatusCode};

use super::Api;
use super::error::ApiError;
use crate::config::Author;

/// The code of each refusal to a page.
pub(super) const PAGE_REFUSED: &str = "page_change_refused";
pub(super) const PAGE_REFUSED_SENTENCE: &str = "a web page cannot change logins, keys and stored secrets, nor \
     import them; do it with tunnelctl on this machine (login, keys, credential, config import)";

/// Browsers add it to each request, and no page can keep it away; programs do not send it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Tells who sends a request with these headers.
///
/// Whatever the origin, our own included: a browser names it with each request that changes something.
pub(super) fn author(headers: &HeaderMap) -> Author {
    let by_page = headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE);
    if by_page { Author::Page } else { Author::Program }
}

/// Closes the methods of a route that were added so far to web pages.
pub(super) fn programs_only(route: MethodRouter<Api>) -> MethodRouter<Api> {
    route.route_layer(middleware::from_fn(refuse_pages))
}

async fn refuse_pages(request: Request, next: Next) -> Response {
    match author(request.headers()) {
        Author::Program => next.run(request).await,
        Author::Page => {
            ApiError::new(StatusCode::FORBIDDEN, PAGE_REFUSED, PAGE_REFUSED_SENTENCE).into_response()
        }
    }
}
