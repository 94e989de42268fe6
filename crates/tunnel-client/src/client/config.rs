//! The configuration, with the version of the file behind it.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH};
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value};
use tunnel_api::config_api::{
    BackupAnswer, ConfigAnswer, ConfigBackups, ConfigCheck, ConfigOrigins, ImportAnswer,
};

use super::{ANSWER, CHANGE, Client};
use crate::Error;

/// How often a change is tried while others change the file at the same moment.
const TRIES: u32 = 5;
/// Wait before the next try: the daemon reads a file that was edited after 200 ms of rest.
const PAUSE: Duration = Duration::from_millis(300);

/// Every key as it is in force, and which version of the file that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionedConfig {
    /// The keys, as `GET /api/config` answers them.
    pub keys: Map<String, Value>,
    /// The version, for [`Client::patch_config_of`]. None when the daemon tells none.
    pub version: Option<HeaderValue>,
}

impl Client {
    /// Asks `GET /api/config`: every key as it is in force.
    pub async fn config(&self) -> Result<Map<String, Value>, Error> {
        self.get("/api/config").await
    }

    /// Asks `GET /api/config`, and for the version of the file that it is made from.
    pub async fn versioned_config(&self) -> Result<VersionedConfig, Error> {
        let answer = self.deliver(self.request(Method::GET, "/api/config"), ANSWER).await?;
        Ok(VersionedConfig { keys: self.read(&answer.body)?, version: answer.headers.get(ETAG).cloned() })
    }

    /// Changes keys of exactly this version of the configuration: `PATCH /api/config` with `If-Match`.
    ///
    /// Somebody else's change in between is an [`Error::Refused`] with status 412, and nothing is changed. Without
    /// a version whatever is there is changed.
    pub async fn patch_config_of(
        &self,
        version: Option<&HeaderValue>,
        change: &Map<String, Value>,
    ) -> Result<ConfigAnswer, Error> {
        let request = of_version(self.request(Method::PATCH, "/api/config"), version);
        self.read(&self.deliver(request.json(change), CHANGE).await?.body)
    }

    /// Changes the configuration by `edit`, which gets every key as it is in force and returns those to change.
    ///
    /// When somebody else's change comes in between, `edit` is asked anew, so that neither is lost. Nothing is sent
    /// when it changes no key. Also returns what else `edit` returned, and the daemon's answer if it was asked.
    pub async fn change_config<T, E: From<Error>>(
        &self,
        edit: impl Fn(&Map<String, Value>) -> Result<(Map<String, Value>, T), E>,
    ) -> Result<(T, Option<ConfigAnswer>), E> {
        let mut tries = 0;
        loop {
            tries += 1;
            let newest = self.versioned_config().await?;
            let (change, told) = edit(&newest.keys)?;
            if change.is_empty() {
                return Ok((told, None));
            }
            match self.patch_config_of(newest.version.as_ref(), &change).await {
                Ok(answer) => return Ok((told, Some(answer))),
                Err(Error::Refused(body))
                    if body.status_code == StatusCode::PRECONDITION_FAILED.as_u16() && tries < TRIES =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks what is wrong with a text as the file's whole content: `POST /api/config/validate`.
    pub async fn validate_config(&self, text: &str) -> Result<ConfigCheck, Error> {
        let request = self.request(Method::POST, "/api/config/validate");
        self.read(&self.deliver(with_text(request, text), CHANGE).await?.body)
    }

    /// Makes a text the file's whole content: `PUT /api/config` with `If-Match`.
    ///
    /// Somebody else's change in between is an [`Error::Refused`] with status 412, and nothing is changed. Without
    /// a version whatever is there is replaced.
    pub async fn replace_config(
        &self,
        text: &str,
        version: Option<&HeaderValue>,
    ) -> Result<ConfigAnswer, Error> {
        let request = of_version(self.request(Method::PUT, "/api/config"), version);
        self.read(&self.deliver(with_text(request, text), CHANGE).await?.body)
    }

    /// Changes the keys that `change` names, and no others: `PATCH /api/config`.
    pub async fn patch_config(&self, change: &Map<String, Value>) -> Result<ConfigAnswer, Error> {
        self.send(Method::PATCH, "/api/config", Some(change), CHANGE).await
    }

    /// Asks `GET /api/config/origins`: which file, variable or flag each value came from.
    pub async fn config_origins(&self) -> Result<ConfigOrigins, Error> {
        self.get("/api/config/origins").await
    }

    /// Has the configuration file read anew: `POST /api/config/reload`.
    pub async fn reload_config(&self) -> Result<ConfigAnswer, Error> {
        self.ask(Method::POST, "/api/config/reload", CHANGE).await
    }

    /// Has the configuration file copied: `POST /api/config/backup`.
    pub async fn back_up_config(&self) -> Result<BackupAnswer, Error> {
        self.ask(Method::POST, "/api/config/backup", CHANGE).await
    }

    /// Asks `GET /api/config/backups`.
    pub async fn config_backups(&self) -> Result<ConfigBackups, Error> {
        self.get("/api/config/backups").await
    }

    /// Puts a copy back in the configuration file's place: `POST /api/config/restore`.
    ///
    /// With `force` a file that has faults is replaced too.
    pub async fn restore_config(&self, name: &str, force: bool) -> Result<ConfigAnswer, Error> {
        let order = Map::from_iter([
            ("name".to_owned(), Value::from(name)),
            ("force".to_owned(), Value::from(force)),
        ]);
        self.send(Method::POST, "/api/config/restore", Some(&order), CHANGE).await
    }

    /// Has the original's `connection_config.json` taken over; `file` is its content.
    pub async fn import_config(&self, file: &Map<String, Value>) -> Result<ImportAnswer, Error> {
        self.send(Method::POST, "/api/config/import", Some(file), CHANGE).await
    }
}

fn of_version(request: RequestBuilder, version: Option<&HeaderValue>) -> RequestBuilder {
    match version {
        Some(version) => request.header(IF_MATCH, version),
        None => request,
    }
}

/// Gives a request a text as it is: a configuration file keeps its order and its blanks.
fn with_text(request: RequestBuilder, text: &str) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(text.to_owned())
}
