//! The schema of the database, and which version of it is there.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr, SqliteConnection};

/// All migrations, the oldest first: version, name, text. Only ever added to.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "state", include_str!("../../migrations/0001_state.sql")),
    (2, "key", include_str!("../../migrations/0002_key.sql")),
    (3, "local key", include_str!("../../migrations/0003_local_key.sql")),
    (4, "usage times", include_str!("../../migrations/0004_usage_times.sql")),
];

/// The newest schema that this program knows.
pub(super) const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Brings the schema to [`SCHEMA`]. Each migration is one transaction.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into()).run(connection).await
}

/// Returns the schema's version; 0 in a database without one.
pub(super) async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let table = "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(table).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    let newest = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations";
    sqlx::query_scalar(newest).fetch_one(connection).await
}

/// Returns the version of the program that wrote the database; `None` where a later schema tells it elsewhere.
pub(super) async fn program(connection: &mut SqliteConnection) -> Option<String> {
    sqlx::query_scalar("SELECT program FROM store").fetch_optional(connection).await.ok().flatten()
}
