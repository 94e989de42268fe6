//! Jumps of the clock, and sleep that no login manager tells about.
//!
//! The kernel cancels a timer on the wall clock when that clock is set or the machine wakes (`TFD_TIMER_CANCEL_ON_SET`),
//! so the daemon need not look. Where there is no such timer it looks twice a minute.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::debug;

use super::{Cause, readiness, report};

/// How often the clocks are compared where the kernel does not tell of jumps.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// When the timer that exists to be cancelled would fire, in seconds of the wall clock: never in practice, and small
/// enough for the kernel's nanoseconds in 64 bits.
const FAR_FUTURE_S: i64 = 9_000_000_000;

/// Reports sleep and clock changes for ever.
pub(super) async fn listen(causes: mpsc::Sender<Cause>) {
    let mut detector = Detector::new(Readings::now());
    let timer = CancelledTimer::arm();
    if let Err(error) = &timer {
        debug!(%error, "the kernel does not tell of clock changes, comparing the clocks now and then");
    }
    let mut timer = timer.ok();
    loop {
        let changed = async {
            match &timer {
                Some(timer) => timer.cancelled().await,
                None => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    Ok(())
                }
            }
        };
        if let Err(error) = changed.await {
            debug!(%error, "the timer on the clock is lost, comparing the clocks now and then");
            timer = None;
        }
        match detector.observe(Readings::now()) {
            Some(Jump::Slept(slept)) => {
                debug!(slept_s = slept.as_secs(), "the machine slept");
                report(&causes, Cause::Resume);
            }
            Some(Jump::Set { forward, by }) => {
                debug!(forward, by_s = by.as_secs(), "the clock was set");
                report(&causes, Cause::Clock);
            }
            None => {}
        }
    }
}

/// A timer on the wall clock that is waited for only because a change of the clock cancels it.
struct CancelledTimer(AsyncFd<OwnedFd>);

impl CancelledTimer {
    fn arm() -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let never = Timespec { tv_sec: FAR_FUTURE_S, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: never };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
        Ok(Self(readiness(timer)?))
    }

    /// Waits until the clock has changed. The timer stays armed: one read takes note of one cancellation.
    async fn cancelled(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| {
                let mut expirations = [0; 8];
                rustix::io::read(timer, &mut expirations).map_err(Into::into)
            });
            match read {
                // It has fired, so the clock was set beyond it; it will not fire twice.
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// The three clocks at one moment, each since its own beginning.
#[derive(Debug, Clone, Copy)]
struct Readings {
    /// Wall clock: jumps when it is set.
    real: i128,
    /// Time since boot without sleep.
    awake: i128,
    /// Time since boot with sleep.
    boot: i128,
}

impl Readings {
    fn now() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        Self { real: read(ClockId::Realtime), awake: read(ClockId::Monotonic), boot: read(ClockId::Boottime) }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Jump {
    Slept(Duration),
    Set { forward: bool, by: Duration },
}

/// Finds jumps in a row of readings.
struct Detector {
    last: Readings,
}

impl Detector {
    /// Shorter sleeps cut no connection, and smaller steps of the clock change no token's fate; a clock that is
    /// slewed by NTP drifts by 15 ms between two looks.
    const WORTH_A_WORD: Duration = Duration::from_secs(2);

    fn new(now: Readings) -> Self {
        Self { last: now }
    }

    /// Compares with the readings before. A sleep counts more than the clock that was mended after it.
    fn observe(&mut self, now: Readings) -> Option<Jump> {
        let last = std::mem::replace(&mut self.last, now);
        let slept = duration((now.boot - now.awake) - (last.boot - last.awake));
        let set = (now.real - now.boot) - (last.real - last.boot);
        if slept >= Self::WORTH_A_WORD {
            Some(Jump::Slept(slept))
        } else if duration(set.abs()) >= Self::WORTH_A_WORD {
            Some(Jump::Set { forward: set > 0, by: duration(set.abs()) })
        } else {
            None
        }
    }
}

/// Nanoseconds as a duration; what is negative is none.
fn duration(nanos: i128) -> Duration {
    u64::try_from(nanos.max(0)).map_or(Duration::MAX, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;
    const START: Readings =
        Readings { real: 1_800_000_000 * SECOND, awake: 500 * SECOND, boot: 700 * SECOND };

    /// The readings after `awake_s` of work, `asleep_s` of sleep and a clock set by `set_s`.
    fn after(before: Readings, awake_s: i128, asleep_s: i128, set_ms: i128) -> Readings {
        let boot = awake_s + asleep_s;
        Readings {
            real: before.real + boot * SECOND + set_ms * SECOND / 1000,
            awake: before.awake + awake_s * SECOND,
            boot: before.boot + boot * SECOND,
        }
    }

    #[test]
    fn sleep_is_told_from_work_and_from_a_set_clock() {
        let cases = [
            (30, 0, 0, None),
            (30, 1, 0, None),
            (30, 3600, 0, Some(Jump::Slept(Duration::from_secs(3600)))),
            // NTP mends the clock when the machine wakes.
            (1, 3600, -5000, Some(Jump::Slept(Duration::from_secs(3600)))),
            (30, 0, 15, None),
            (30, 0, 86_400_000, Some(Jump::Set { forward: true, by: Duration::from_secs(86_400) })),
            (30, 0, -2500, Some(Jump::Set { forward: false, by: Duration::from_millis(2500) })),
        ];
        for (awake, asleep, set_ms, jump) in cases {
            let found = Detector::new(START).observe(after(START, awake, asleep, set_ms));
            assert_eq!(found, jump, "{awake} s of work, {asleep} s of sleep, clock set by {set_ms} ms");
        }
    }

    #[test]
    fn jump_is_told_once_and_slow_drift_never() {
        let mut detector = Detector::new(START);
        let mut now = after(START, 30, 100, 0);
        assert!(detector.observe(now).is_some());
        for _ in 0..1000 {
            now = after(now, 30, 0, 15);
            assert_eq!(detector.observe(now), None);
        }
    }

    #[tokio::test]
    async fn timer_on_this_kernel_is_quiet_while_nobody_sets_the_clock() {
        let timer = CancelledTimer::arm().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), timer.cancelled()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}
