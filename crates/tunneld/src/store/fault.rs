//! What can be wrong with the database, in words that help.

use std::path::Path;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteError;
use tunnel_api::{Warning, warning};

/// Why the database could not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no room on the disk.
    Full,
    /// Another program holds it.
    Locked,
    /// It may be read but not written.
    ReadOnly,
    /// It may not be opened, or is not there.
    Closed,
    /// The disk reports errors.
    Disk,
    /// Its content makes no sense.
    Damaged,
    /// It does not answer.
    Silent,
    /// Something that only the log can tell.
    Other,
}

impl Fault {
    pub(super) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let code = error.try_downcast_ref::<SqliteError>().and_then(error_code);
                code.map_or(Self::Other, Self::of_code)
            }
            sqlx::Error::Migrate(error) => Self::of_migration(error),
            sqlx::Error::Io(_) => Self::Closed,
            sqlx::Error::PoolTimedOut => Self::Silent,
            // We wrote tables that answer our queries: who finds others does not read what we wrote.
            sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => Self::Damaged,
            _ => Self::Other,
        }
    }

    pub(super) fn of_migration(error: &MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::in_own_tables(error)
            }
            // The list of what was done to the tables is not the one that we wrote.
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
                Self::Damaged
            }
            _ => Self::Other,
        }
    }

    /// What goes wrong where only our own tables are used: what does not fit them is damage. All else that has no
    /// name here, such as a lack of memory, says nothing about the file.
    pub(super) fn in_own_tables(error: &sqlx::Error) -> Self {
        match Self::of(error) {
            Self::Other if is_misfit(error) => Self::Damaged,
            fault => fault,
        }
    }

    /// See <https://www.sqlite.org/rescode.html>; the lower byte is the primary code.
    fn of_code(code: i32) -> Self {
        const IOERR_SHORT_READ: i32 = 522;
        match (code, code & 0xff) {
            (IOERR_SHORT_READ, _) | (_, 11 | 26) => Self::Damaged,
            (_, 5 | 6 | 15) => Self::Locked,
            (_, 3 | 14 | 23) => Self::Closed,
            (_, 8) => Self::ReadOnly,
            (_, 10) => Self::Disk,
            (_, 13) => Self::Full,
            (_, 9) => Self::Silent,
            _ => Self::Other,
        }
    }

    /// Completes "the state database …".
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Full => "has no room: the disk is full",
            Self::Locked => "is locked by another program",
            Self::ReadOnly => "may not be written",
            Self::Closed => "cannot be opened",
            Self::Disk => "cannot be used: the disk reports an error",
            Self::Damaged => "is damaged",
            Self::Silent => "does not answer in time",
            Self::Other => "refuses to work",
        }
    }

    /// What to do, without an end of its own.
    fn remedy(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Full => format!("make room on the disk that holds {path}"),
            Self::Locked => format!("end the program that has {path} open, see: fuser -v {path}"),
            Self::ReadOnly | Self::Closed => {
                format!("let this user read and write {path} and its directory")
            }
            Self::Disk | Self::Silent => format!("check the disk that holds {path}, see: journalctl -k"),
            Self::Damaged => "restart tunneld, which sets a damaged file aside".to_owned(),
            Self::Other => "see the log for details: journalctl --user -u tunneld".to_owned(),
        }
    }

    /// The warning while what happens cannot be written down.
    pub(super) fn while_running(self, path: &Path) -> Warning {
        let message = format!(
            "the state database {} {}; usage and events wait in memory and would be lost at the end",
            path.display(),
            self.reason()
        );
        Warning::new(warning::STATE_DEGRADED, message, self.remedy(path))
    }

    /// The warning for a run without the database.
    pub(super) fn at_start(self, path: &Path) -> Warning {
        let message = format!(
            "the state database {} {}; usage, events and the tunnel's target are not kept",
            path.display(),
            self.reason()
        );
        let remedy = match self {
            // Nothing could be set aside, or this would not be a run without a database.
            Self::Damaged => format!("move {} away, then restart tunneld", path.display()),
            Self::Full
            | Self::Locked
            | Self::ReadOnly
            | Self::Closed
            | Self::Disk
            | Self::Silent
            | Self::Other => format!("{}; then restart tunneld", self.remedy(path)),
        };
        Warning::new(warning::STATE_DEGRADED, message, remedy)
    }
}

/// The warning for a damaged file that was put away.
pub(super) fn set_aside(aside: &Path) -> Warning {
    let message = format!(
        "the state database was damaged; it has been set aside as {} and counting begins anew",
        aside.display()
    );
    let next_step = "nothing has to be done; delete the file when you do not want to look into it";
    Warning::new(warning::STATE_CORRUPT, message, next_step)
}

/// The warning for a database that a later program wrote.
pub(super) fn newer(path: &Path, program: Option<&str>, schema: i64, known: i64) -> Warning {
    let this = env!("CARGO_PKG_VERSION");
    let writer = program.map_or_else(|| "a newer tunneld".to_owned(), |program| format!("tunneld {program}"));
    let message = format!(
        "the state database {} was written by {writer} (schema {schema}), this is tunneld {this} (schema {known}); \
         it is left untouched, and usage, events and the tunnel's target are not kept",
        path.display()
    );
    let next_step = format!("install {writer} again, or give this one a place of its own: --state-dir DIR");
    Warning::new(warning::STATE_NEWER, message, next_step)
}

/// Tells whether a statement of ours found other tables than it was written for, or other values in them.
fn is_misfit(error: &sqlx::Error) -> bool {
    // No such table, no such column.
    const SQLITE_ERROR: i32 = 1;
    match error {
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<SqliteError>()
            .and_then(error_code)
            .is_some_and(|code| code & 0xff == SQLITE_ERROR),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. } => true,
        _ => false,
    }
}

fn error_code(error: &SqliteError) -> Option<i32> {
    sqlx::error::DatabaseError::code(error)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;

    #[test]
    fn codes_become_what_a_user_can_mend() {
        // SQLITE_BUSY_SNAPSHOT, SQLITE_IOERR_WRITE, SQLITE_IOERR_SHORT_READ, SQLITE_READONLY_DIRECTORY, …
        for (code, fault) in [
            (5, Fault::Locked),
            (517, Fault::Locked),
            (778, Fault::Disk),
            (522, Fault::Damaged),
            (1544, Fault::ReadOnly),
            (13, Fault::Full),
            (14, Fault::Closed),
            (11, Fault::Damaged),
            (779, Fault::Damaged),
            (26, Fault::Damaged),
            (1, Fault::Other),
            (7, Fault::Other),
        ] {
            assert_eq!(Fault::of_code(code), fault, "{code}");
        }
    }

    #[tokio::test]
    async fn only_what_does_not_fit_our_tables_is_damage() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let misfit = sqlx::query("SELECT target FROM target").fetch_all(&mut connection).await.unwrap_err();
        assert_eq!(Fault::in_own_tables(&misfit), Fault::Damaged);
        assert_eq!(Fault::of_migration(&MigrateError::ExecuteMigration(misfit, 1)), Fault::Damaged);
        let odd = sqlx::Error::Decode("no such time".into());
        assert_eq!(Fault::in_own_tables(&odd), Fault::Damaged);
        // An error of SQLite that is none of the file's.
        let limit = sqlx::query("SELECT zeroblob(2147483647)").fetch_all(&mut connection).await.unwrap_err();
        assert_eq!(Fault::in_own_tables(&limit), Fault::Other, "{limit}");
        assert_eq!(Fault::in_own_tables(&sqlx::Error::WorkerCrashed), Fault::Other);
        let crashed = MigrateError::Execute(sqlx::Error::WorkerCrashed);
        assert_eq!(Fault::of_migration(&crashed), Fault::Other);
        assert_eq!(Fault::of_migration(&MigrateError::VersionMismatch(1)), Fault::Damaged);
    }
}
