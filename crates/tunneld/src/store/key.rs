//! Keys for apps that were made from this machine.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tunnel_api::Key;

use super::counts::time;

/// Replaces all keys of the database.
pub(super) async fn save(connection: &mut SqliteConnection, keys: &[Key]) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM key").execute(&mut *connection).await?;
    for key in keys {
        let sql = "INSERT OR REPLACE INTO key
                   (relay, id, name, scopes, device, models, created_at, expires_at, revoked_at)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Reads them, the oldest first.
pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Vec<Key>, sqlx::Error> {
    let sql = "SELECT relay, id, name, scopes, device, models, created_at, expires_at, revoked_at FROM key
               ORDER BY created_at, id";
    sqlx::query(sql).fetch_all(connection).await?.iter().map(key).collect()
}

fn key(row: &SqliteRow) -> Result<Key, sqlx::Error> {
    let moment = |column| row.try_get(column).map(|ms: Option<i64>| ms.map(time));
    Ok(Key {
        id: row.try_get("id")?,
        relay: row.try_get("relay")?,
        name: row.try_get("name")?,
        scopes: texts(row.try_get("scopes")?),
        device: row.try_get("device")?,
        models: texts(row.try_get("models")?),
        created_at: time(row.try_get("created_at")?),
        expires_at: moment("expires_at")?,
        revoked_at: moment("revoked_at")?,
    })
}

fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

fn texts(list: &str) -> Vec<String> {
    serde_json::from_str(list).unwrap_or_default()
}
