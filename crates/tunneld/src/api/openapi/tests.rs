use std::path::Path;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::Value;

use super::super::{routes, tests::fixture};
use super::document::document;
use super::markdown::markdown;
use super::operations::{TAGS, operations};

/// Compares a file of the repository with what it should hold; `UPDATE_DOCS=1` writes it.
pub(crate) fn assert_current(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == text, "{path} is not what the code says; write it anew: cargo xtask docs");
}

#[test]
fn document_in_the_repository_is_current() {
    assert_current("docs/openapi.json", &document(operations(), TAGS));
}

#[test]
fn reference_in_the_repository_is_current() {
    let document: Value = serde_json::from_str(&document(operations(), TAGS)).unwrap();
    assert_current("docs/local-api.md", &markdown(&document));
}

/// What a route answers to each method tells which it has.
#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    // A diagnosis would look for the relay of the defaults.
    let fixture = fixture(|loaded| loaded.tunnel.enabled = false);
    let described: Vec<(String, Method)> =
        operations().into_iter().map(|operation| (operation.path.to_owned(), operation.method)).collect();
    let mut there = Vec::new();
    for (path, _) in routes() {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            // A body that no endpoint takes, so that nothing is carried out.
            let mut request: Request<Body> =
                super::super::tests::request(method.as_str(), &path.replace("{id}", "none"));
            *request.body_mut() = Body::from("\u{0}");
            let (status, _, _) = fixture.send(request).await;
            if status != StatusCode::METHOD_NOT_ALLOWED {
                there.push((path.to_owned(), method));
            }
        }
    }
    for route in &there {
        assert!(described.contains(route), "{route:?} is not described");
    }
    for operation in &described {
        assert!(there.contains(operation), "{operation:?} is described and is not there");
    }
}
