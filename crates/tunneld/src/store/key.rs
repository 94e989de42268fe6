//! Keys for apps that were made from this machine.

use std::num::NonZeroU32;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tunnel_api::config::RemotePaths;
use tunnel_api::{Key, KeyLimits, KeyReach};

use super::counts::time;
use crate::keys::SecretHash;

/// A key as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredKey {
    pub(crate) key: Key,
    /// What a caller's secret is compared with. None: the key is good at its relay, which knows it.
    pub(crate) hash: Option<SecretHash>,
}

/// Replaces all keys of the database.
pub(super) async fn save(connection: &mut SqliteConnection, keys: &[StoredKey]) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM key").execute(&mut *connection).await?;
    let sql = "INSERT OR REPLACE INTO key
               (relay, id, name, scopes, device, models, created_at, expires_at, revoked_at, reach, hash, paths,
                requests_per_minute, tokens_per_minute, concurrent, last_used_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    for StoredKey { key, hash } in keys {
        let limit = |limit: Option<NonZeroU32>| limit.map(NonZeroU32::get);
        sqlx::query(sql)
            .bind(&key.relay)
            .bind(&key.id)
            .bind(&key.name)
            .bind(list(&key.scopes))
            .bind(&key.device)
            .bind(list(&key.models))
            .bind(key.created_at.as_millisecond())
            .bind(key.expires_at.map(Timestamp::as_millisecond))
            .bind(key.revoked_at.map(Timestamp::as_millisecond))
            .bind(match key.reach {
                KeyReach::Local => LOCAL,
                KeyReach::Remote | KeyReach::Unknown => "remote",
            })
            .bind(hash.as_ref().map(SecretHash::as_bytes))
            .bind(serde_json::to_string(&key.paths).ok())
            .bind(limit(key.limits.requests_per_minute))
            .bind(limit(key.limits.tokens_per_minute))
            .bind(limit(key.limits.concurrent))
            .bind(key.last_used_at.map(Timestamp::as_millisecond))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

const LOCAL: &str = "local";

/// Reads them, the oldest first.
pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Vec<StoredKey>, sqlx::Error> {
    let sql = "SELECT relay, id, name, scopes, device, models, created_at, expires_at, revoked_at, reach, hash, paths,
               requests_per_minute, tokens_per_minute, concurrent, last_used_at FROM key ORDER BY created_at, id";
    sqlx::query(sql).fetch_all(connection).await?.iter().map(key).collect()
}

fn key(row: &SqliteRow) -> Result<StoredKey, sqlx::Error> {
    let moment = |column| row.try_get(column).map(|ms: Option<i64>| ms.map(time));
    let limit = |column| row.try_get(column).map(|n: Option<u32>| n.and_then(NonZeroU32::new));
    let reach: String = row.try_get("reach")?;
    let paths: Option<String> = row.try_get("paths")?;
    let hash: Option<Vec<u8>> = row.try_get("hash")?;
    let is_local = reach == LOCAL;
    let models = texts(row.try_get("models")?);
    // Keys from before there were paths have none.
    let paths = paths.map_or(Some(RemotePaths::default()), |paths| serde_json::from_str(&paths).ok());
    // What it allows cannot be read any more, and a guess could open more than it did: it is void.
    let is_damaged = is_local && (models.is_none() || paths.is_none());
    let revoked_at: Option<Timestamp> = moment("revoked_at")?;
    let key = Key {
        id: row.try_get("id")?,
        reach: if is_local { KeyReach::Local } else { KeyReach::Remote },
        relay: row.try_get("relay")?,
        name: row.try_get("name")?,
        scopes: texts(row.try_get("scopes")?).unwrap_or_default(),
        device: row.try_get("device")?,
        models: models.unwrap_or_default(),
        paths: paths.unwrap_or_default(),
        limits: KeyLimits {
            requests_per_minute: limit("requests_per_minute")?,
            tokens_per_minute: limit("tokens_per_minute")?,
            concurrent: limit("concurrent")?,
        },
        created_at: time(row.try_get("created_at")?),
        expires_at: moment("expires_at")?,
        last_used_at: moment("last_used_at")?,
        revoked_at: revoked_at.or_else(|| is_damaged.then(Timestamp::now)),
    };
    // A remote key opens nothing here, whatever its row says.
    let hash = hash.filter(|_| is_local && !is_damaged).and_then(|bytes| SecretHash::of_bytes(&bytes));
    Ok(StoredKey { key, hash })
}

fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

fn texts(list: &str) -> Option<Vec<String>> {
    serde_json::from_str(list).ok()
}
