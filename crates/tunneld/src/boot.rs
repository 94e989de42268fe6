//! `autoStartOnBoot` and systemd's idea of it, kept in step.
//!
//! Only a value that somebody has set is carried over: the default must not disable a unit that its user enabled
//! by hand. The daemon asks systemd over D-Bus; it starts no program for it.

mod manager;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_api::{Severity, Warning};

use crate::config::{ConfigState, Options};
use crate::daemon::chain;
use crate::secrets::SessionBus;
use crate::warnings::{Condition, Reports};
use manager::{Manager, ManagerError};

/// The unit that starts the daemon.
const UNIT: &str = "tunneld.service";
/// Longest wait for systemd, over all that is asked of it at one time.
const LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked again while something is left to do, which a person or systemd may have done by then.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// systemd's list of users whose services run without a login.
const LINGER: &str = "/var/lib/systemd/linger";

/// Carries the key over whenever it changes.
pub(crate) struct Boot {
    config: watch::Receiver<Arc<ConfigState>>,
    bus: SessionBus,
    linger: Option<PathBuf>,
    reports: Reports,
}

/// Whether systemd starts the unit; see `systemctl is-enabled`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum UnitState {
    Enabled,
    Disabled,
    /// There is no such unit.
    Missing,
    /// Its user has forbidden it.
    Masked,
    /// Nothing that can be enabled: `static`, `generated`, `transient`.
    Fixed(String),
}

/// What brings the unit in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Enable,
    Disable,
}

impl Boot {
    pub(crate) fn new(
        options: &Options,
        config: watch::Receiver<Arc<ConfigState>>,
        reports: Reports,
    ) -> Self {
        let user = options.var("LOGNAME").or_else(|| options.var("USER"));
        let linger = user.filter(|user| !user.is_empty()).map(|user| Path::new(LINGER).join(user));
        Self { config, bus: SessionBus::of(options), linger, reports }
    }

    /// Runs until `soft` ends.
    pub(crate) async fn run(mut self, soft: CancellationToken) {
        let (mut carried_over, mut warnings) = (None, Vec::new());
        loop {
            let wish = self.config.borrow_and_update().starts_at_boot;
            if wish != carried_over || !warnings.is_empty() {
                let now = match wish {
                    Some(wish) => self.carry_over(wish).await,
                    None => Vec::new(),
                };
                for warning in now.iter().filter(|warning| !warnings.contains(*warning)) {
                    let (code, next_step) = (&warning.code, &warning.next_step);
                    match warning.severity {
                        Severity::Info | Severity::Unknown => info!(code, next_step, "{}", warning.message),
                        Severity::Warning | Severity::Error => warn!(code, next_step, "{}", warning.message),
                    }
                }
                warnings = now;
                self.reports.set("boot", warnings.iter().cloned().map(Condition::new).collect());
                carried_over = wish;
            }
            let again = tokio::time::Instant::now() + LOOK_AGAIN;
            loop {
                tokio::select! {
                    changed = self.config.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Any other key says nothing about systemd.
                        if self.config.borrow_and_update().starts_at_boot != carried_over {
                            break;
                        }
                    }
                    () = tokio::time::sleep_until(again), if !warnings.is_empty() => break,
                    () = soft.cancelled() => return,
                }
            }
        }
    }

    /// Brings the unit in step and returns what a person has to do for it.
    async fn carry_over(&self, wish: bool) -> Vec<Warning> {
        let lingers = self.linger.as_deref().map(Path::exists);
        let step = async {
            let manager = Manager::connect(&self.bus).await?;
            let (change, warnings) = judge(wish, &manager.unit_state(UNIT).await?, lingers);
            match change {
                Some(Change::Enable) => manager.enable(UNIT).await?,
                Some(Change::Disable) => manager.disable(UNIT).await?,
                None => {}
            }
            if let Some(change) = change {
                info!(unit = UNIT, ?change, "autoStartOnBoot is carried over to systemd");
            }
            Ok::<_, ManagerError>(warnings)
        };
        let failed = match tokio::time::timeout(LIMIT, step).await {
            Ok(Ok(warnings)) => return warnings,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("systemd did not answer within {} s", LIMIT.as_secs()),
        };
        let verb = if wish { "enable" } else { "disable" };
        let message = format!("autoStartOnBoot is {wish}, but systemd could not be told: {failed}");
        vec![Warning::new("boot_unknown", message, format!("systemctl --user {verb} {UNIT}"))]
    }
}

/// Says what to change, and what only a person can. `lingers` is `None` where that cannot be known.
fn judge(wish: bool, state: &UnitState, lingers: Option<bool>) -> (Option<Change>, Vec<Warning>) {
    let stuck = |code, why: String, next_step: &str| {
        vec![Warning::new(code, format!("autoStartOnBoot is on, but {why}"), next_step)]
    };
    let change = match (wish, state) {
        (true, UnitState::Enabled) => None,
        (true, UnitState::Disabled) => Some(Change::Enable),
        (true, UnitState::Missing) => {
            let why = format!("systemd has no unit {UNIT}");
            return (None, stuck("boot_no_unit", why, "tunnelctl service install"));
        }
        (true, UnitState::Masked) => {
            let why = format!("{UNIT} is masked");
            return (None, stuck("boot_masked", why, "systemctl --user unmask tunneld.service"));
        }
        (true, UnitState::Fixed(state)) => {
            let why = format!("{UNIT} is {state} and cannot be enabled");
            return (None, stuck("boot_no_unit", why, "tunnelctl service install"));
        }
        (false, UnitState::Enabled) => return (Some(Change::Disable), Vec::new()),
        (false, UnitState::Disabled | UnitState::Missing | UnitState::Masked | UnitState::Fixed(_)) => {
            return (None, Vec::new());
        }
    };
    let mut warnings = Vec::new();
    if lingers == Some(false) {
        let message = "tunneld starts when you log in and ends when you log out, not at boot";
        let next_step = "to have it from boot on: loginctl enable-linger";
        warnings.push(Warning::new("no_linger", message, next_step).with_severity(Severity::Info));
    }
    (change, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(warnings: &[Warning]) -> Vec<&str> {
        warnings.iter().map(|warning| warning.code.as_str()).collect()
    }

    #[test]
    fn unit_is_changed_only_where_it_differs() {
        let change = |wish, state| judge(wish, &state, Some(true)).0;
        assert_eq!(change(true, UnitState::Disabled), Some(Change::Enable));
        assert_eq!(change(false, UnitState::Enabled), Some(Change::Disable));
        assert_eq!(change(true, UnitState::Enabled), None);
        for state in [UnitState::Disabled, UnitState::Missing, UnitState::Masked] {
            assert_eq!(judge(false, &state, Some(false)), (None, Vec::new()));
        }
    }

    #[test]
    fn what_cannot_be_enabled_is_told_with_the_way_out() {
        for (state, code) in [
            (UnitState::Missing, "boot_no_unit"),
            (UnitState::Masked, "boot_masked"),
            (UnitState::Fixed("static".to_owned()), "boot_no_unit"),
        ] {
            let (change, warnings) = judge(true, &state, Some(false));
            assert_eq!((change, codes(&warnings)), (None, vec![code]));
            assert!(!warnings[0].next_step.is_empty());
        }
    }

    #[test]
    fn lingering_is_suggested_where_it_is_known_to_be_off() {
        for (lingers, expected) in [(Some(false), vec!["no_linger"]), (Some(true), vec![]), (None, vec![])] {
            let (_, warnings) = judge(true, &UnitState::Enabled, lingers);
            assert_eq!(codes(&warnings), expected);
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Info));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_systemd_is_told_after_the_limit() {
        let home = tempfile::tempdir().unwrap();
        // Accepts, and says nothing.
        let path = home.path().join("bus");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let bus = format!("unix:path={}", path.display());
        let options =
            Options { env: vec![("DBUS_SESSION_BUS_ADDRESS".into(), bus.into())], ..Options::default() };
        let state = ConfigState { starts_at_boot: Some(true), ..ConfigState::defaults() };
        let (_config, reader) = watch::channel(Arc::new(state));
        let reports = Reports::new();
        let mut raised = reports.follow();
        let soft = CancellationToken::new();
        let boot = Boot::new(&options, reader, reports).run(soft.clone());
        let begun = tokio::time::Instant::now();
        let told = async {
            raised.changed().await.unwrap();
            soft.cancel();
            raised.borrow()["boot"].iter().map(|condition| condition.warning.clone()).collect::<Vec<_>>()
        };
        let ((), warnings) = tokio::join!(boot, told);
        assert_eq!(codes(&warnings), ["boot_unknown"]);
        assert!(warnings[0].next_step.contains("systemctl --user enable"), "{warnings:?}");
        assert!(begun.elapsed() < LIMIT + Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_to_do_is_looked_at_again_and_the_bus_is_sought_anew() {
        let home = tempfile::tempdir().unwrap();
        let runtime_dir = home.path().as_os_str().to_owned();
        let options = Options { env: vec![("XDG_RUNTIME_DIR".into(), runtime_dir)], ..Options::default() };
        let state = ConfigState { starts_at_boot: Some(true), ..ConfigState::defaults() };
        let (_config, reader) = watch::channel(Arc::new(state));
        let reports = Reports::new();
        let mut raised = reports.follow();
        let soft = CancellationToken::new();
        let boot = Boot::new(&options, reader, reports).run(soft.clone());
        let begun = tokio::time::Instant::now();
        let told = async {
            let mut told = Vec::new();
            let mut _bus = None;
            for _ in 0..2 {
                raised.changed().await.unwrap();
                told.push(raised.borrow_and_update()["boot"][0].warning.message.clone());
                // A bus comes, which accepts and says nothing.
                _bus = _bus.or_else(|| std::os::unix::net::UnixListener::bind(home.path().join("bus")).ok());
            }
            soft.cancel();
            told
        };
        let both = tokio::time::timeout(10 * LOOK_AGAIN, async { tokio::join!(boot, told) });
        let ((), told) = both.await.unwrap();
        assert!(told[0].contains("no session bus") && told[1].contains("did not answer"), "{told:?}");
        assert!(begun.elapsed() >= LOOK_AGAIN && begun.elapsed() < LOOK_AGAIN + 2 * LIMIT);
    }
}
