//! The endpoints of the local API, as its own description lists them.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::client::Caller;

/// One method of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRoute {
    /// In capitals.
    pub method: String,
    /// Parameters are filled in with `none`.
    pub path: String,
}

impl ApiRoute {
    /// Asks a daemon what it has: `GET /openapi.json`, and what cannot be described there.
    pub async fn all(control: &Caller) -> Result<Vec<Self>> {
        let document = control.get("/openapi.json").send().await?.json().await?;
        let paths = document.get("paths").and_then(Value::as_object).context("a description has paths")?;
        let mut routes = Vec::new();
        for (path, methods) in paths {
            let path = path.replace("{id}", "none").replace("{name}", "none");
            for method in methods.as_object().into_iter().flat_map(|methods| methods.keys()) {
                routes.push(Self { method: method.to_uppercase(), path: path.clone() });
            }
        }
        // What is not there is refused all the same.
        routes.push(Self { method: "GET".to_owned(), path: "/nowhere".to_owned() });
        Ok(routes)
    }
}
