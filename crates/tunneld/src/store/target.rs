//! What the user wants of the tunnel, over a crash and a restart of the daemon.

use std::fs;

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};
use tunnel_api::tunnel::Target;

use super::counts::time;

/// Names one boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootId(String);

impl BootId {
    /// Asks the kernel. `None` where it does not tell, as in some sandboxes.
    pub(crate) fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = text.trim();
        (!id.is_empty()).then(|| Self(id.to_owned()))
    }
}

/// What the user said last, and during which boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTarget {
    pub(crate) target: Target,
    /// `None` when the boot had no name; then it holds for no other run.
    pub(crate) boot: Option<BootId>,
    pub(crate) at: Timestamp,
}

/// Decides what is wanted of the tunnel at the start of the daemon.
///
/// What the user said during this `boot` holds, whatever ended the daemon since. At a new boot, and where boots
/// cannot be told apart, the configuration's `autoStartTunnel` decides.
pub(crate) fn target_at_start(
    stored: Option<&StoredTarget>,
    boot: Option<&BootId>,
    auto_start: bool,
) -> Target {
    let configured = if auto_start { Target::Up } else { Target::Down };
    let Some(stored) = stored.filter(|stored| boot.is_some() && stored.boot.as_ref() == boot) else {
        return configured;
    };
    match stored.target {
        Target::Up => Target::Up,
        Target::Down => Target::Down,
        Target::Unknown => configured,
    }
}

pub(super) async fn save(
    connection: &mut SqliteConnection,
    target: &StoredTarget,
) -> Result<(), sqlx::Error> {
    let name = match target.target {
        Target::Up => "up",
        Target::Down => "down",
        Target::Unknown => return Ok(()),
    };
    sqlx::query("INSERT OR REPLACE INTO target (id, target, boot_id, set_at) VALUES (1, ?, ?, ?)")
        .bind(name)
        .bind(target.boot.as_ref().map_or("", |boot| boot.0.as_str()))
        .bind(target.at.as_millisecond())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Option<StoredTarget>, sqlx::Error> {
    let row = sqlx::query("SELECT target, boot_id, set_at FROM target").fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    let target = match row.try_get("target")? {
        "up" => Target::Up,
        "down" => Target::Down,
        _ => Target::Unknown,
    };
    let boot: String = row.try_get("boot_id")?;
    let boot = (!boot.is_empty()).then_some(BootId(boot));
    Ok(Some(StoredTarget { target, boot, at: time(row.try_get("set_at")?) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_said_holds_until_the_machine_boots_again() {
        let boot = |name: &str| BootId(name.to_owned());
        let said = |target, boot| StoredTarget { target, boot, at: Timestamp::UNIX_EPOCH };
        let this = boot("this");
        let up = said(Target::Up, Some(this.clone()));
        let down = said(Target::Down, Some(this.clone()));

        assert_eq!(target_at_start(Some(&up), Some(&this), false), Target::Up);
        assert_eq!(target_at_start(Some(&down), Some(&this), true), Target::Down);
        let unknown = said(Target::Unknown, Some(this.clone()));
        for (stored, boot) in [
            (None, Some(&this)),
            (Some(&down), Some(&boot("next"))),
            (Some(&up), Some(&boot("next"))),
            (Some(&down), None),
            (Some(&up), None),
            (Some(&said(Target::Down, None)), None),
            (Some(&said(Target::Down, None)), Some(&this)),
            (Some(&unknown), Some(&this)),
        ] {
            assert_eq!(target_at_start(stored, boot, true), Target::Up, "{stored:?} {boot:?}");
            assert_eq!(target_at_start(stored, boot, false), Target::Down, "{stored:?} {boot:?}");
        }
    }

    #[test]
    fn kernel_names_the_boot_and_keeps_to_it() {
        assert!(BootId::read().is_some());
        assert_eq!(BootId::read(), BootId::read());
    }
}
