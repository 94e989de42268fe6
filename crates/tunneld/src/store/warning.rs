//! Since when each warning is active, over a restart too.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sqlx::{Row, SqliteConnection};
use tunnel_api::Warning;

use super::counts::time;
use super::event::{severity, severity_name};

/// A warning that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveWarning {
    /// What it is about where one code can hold several times, such as the id of a connection; else empty.
    pub(crate) subject: String,
    pub(crate) since: Timestamp,
    pub(crate) warning: Warning,
}

/// What tells one active warning from another. Its text is no part of that: numbers in it change.
type Id = (String, String);

/// The warnings that are active, with their beginnings.
#[derive(Debug)]
pub(super) struct ActiveSet {
    active: BTreeMap<Id, ActiveWarning>,
    /// Those of the run before that were not seen in this one yet.
    former: BTreeMap<Id, ActiveWarning>,
    former_until: Timestamp,
}

impl ActiveSet {
    /// How long after a start a warning of the run before may take to come back and keep its beginning: checks need
    /// a while to find the same fault again.
    const RESTART: SignedDuration = SignedDuration::from_secs(120);

    /// Begins with what the run before left behind.
    pub(super) fn after_restart(former: Vec<ActiveWarning>, now: Timestamp) -> Self {
        let former = former.into_iter().map(|left| (id(&left.warning, &left.subject), left)).collect();
        // Saturates only at the end of the calendar.
        let former_until = now.checked_add(Self::RESTART).unwrap_or(Timestamp::MAX);
        Self { active: BTreeMap::new(), former, former_until }
    }

    /// Takes over what is active now; what was active before keeps its beginning.
    pub(super) fn update(&mut self, current: &[(String, Warning)], now: Timestamp) {
        let before = std::mem::take(&mut self.active);
        if now > self.former_until {
            self.former.clear();
        }
        for (subject, warning) in current {
            let id = id(warning, subject);
            let former = self.former.remove(&id);
            let since = before.get(&id).or(former.as_ref()).map_or(now, |known| known.since);
            self.active
                .insert(id, ActiveWarning { subject: subject.clone(), since, warning: warning.clone() });
        }
    }

    /// Returns what is active now.
    pub(super) fn list(&self) -> Vec<ActiveWarning> {
        self.active.values().cloned().collect()
    }

    /// Returns what the next run should know: also what may still come back in this one.
    pub(super) fn kept(&self) -> Vec<ActiveWarning> {
        self.active.values().chain(self.former.values()).cloned().collect()
    }
}

fn id(warning: &Warning, subject: &str) -> Id {
    (warning.code.clone(), subject.to_owned())
}

/// Replaces all warnings of the database.
pub(super) async fn save(
    connection: &mut SqliteConnection,
    warnings: &[ActiveWarning],
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM warning").execute(&mut *connection).await?;
    for ActiveWarning { subject, since, warning } in warnings {
        let sql = "INSERT OR REPLACE INTO warning (code, subject, since, severity, message, next_step)
                   VALUES (?, ?, ?, ?, ?, ?)";
        sqlx::query(sql)
            .bind(&warning.code)
            .bind(subject)
            .bind(since.as_millisecond())
            .bind(severity_name(warning.severity))
            .bind(&warning.message)
            .bind(&warning.next_step)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Vec<ActiveWarning>, sqlx::Error> {
    let sql = "SELECT code, subject, since, severity, message, next_step FROM warning ORDER BY code, subject";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    let warning = |row: &sqlx::sqlite::SqliteRow| {
        let warning = Warning {
            code: row.try_get("code")?,
            severity: severity(row.try_get("severity")?),
            message: row.try_get("message")?,
            next_step: row.try_get("next_step")?,
            since: None,
        };
        Ok(ActiveWarning { subject: row.try_get("subject")?, since: time(row.try_get("since")?), warning })
    };
    rows.iter().map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + second).unwrap()
    }

    fn about(subject: &str, text: &str) -> (String, Warning) {
        (subject.to_owned(), Warning::new("connection_down", text, ""))
    }

    fn beginnings(set: &ActiveSet) -> Vec<(String, Timestamp)> {
        set.list().into_iter().map(|active| (active.subject, active.since)).collect()
    }

    #[test]
    fn warning_keeps_its_beginning_while_its_text_changes() {
        let mut set = ActiveSet::after_restart(Vec::new(), at(0));
        set.update(&[about("a", "down for 1 s")], at(10));
        set.update(&[about("a", "down for 5 s"), about("b", "down")], at(15));
        assert_eq!(beginnings(&set), [("a".to_owned(), at(10)), ("b".to_owned(), at(15))]);
        set.update(&[about("b", "down")], at(20));
        set.update(&[about("a", "down"), about("b", "down")], at(25));
        assert_eq!(beginnings(&set), [("a".to_owned(), at(25)), ("b".to_owned(), at(15))]);
    }

    #[test]
    fn warning_that_comes_back_soon_after_a_restart_keeps_its_beginning() {
        let mut set = ActiveSet::after_restart(Vec::new(), at(0));
        set.update(&[about("a", "down"), about("b", "down")], at(10));
        let mut set = ActiveSet::after_restart(set.kept(), at(50));
        assert_eq!(beginnings(&set), [], "nothing is wrong until it is seen");
        set.update(&[], at(51));
        // A second restart at once loses nothing either.
        let mut set = ActiveSet::after_restart(set.kept(), at(100));
        set.update(&[about("a", "down")], at(110));
        set.update(&[about("a", "down"), about("b", "down")], at(300));
        assert_eq!(beginnings(&set), [("a".to_owned(), at(10)), ("b".to_owned(), at(300))]);
    }
}
