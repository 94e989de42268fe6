//! What the daemon itself uses: memory, processor, descriptors, threads.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// One reading. What the kernel does not tell (no `/proc`) is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Resources {
    /// Memory that is in RAM, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// Share of one processor since the reading before, in percent; more than 100 if several threads were busy.
    /// None at the first reading.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) threads: Option<u64>,
}

/// Reads them: three system calls on `/proc/self`, some ten microseconds. How often is for the caller to say.
#[derive(Debug, Default)]
pub(crate) struct ResourceMeter {
    last: Option<(Instant, Duration)>,
}

impl ResourceMeter {
    pub(crate) fn read(&mut self, now: Instant) -> Resources {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::try_from(used).unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Resources {
            memory_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            cpu_percent: self.cpu_percent(now, used),
            open_fds: open_fds(),
            threads: field(&status, "Threads:"),
        }
    }

    /// Pure but for what it remembers: `used` is the processor time of the process until `now`.
    fn cpu_percent(&mut self, now: Instant, used: Duration) -> Option<f64> {
        let (before, used_before) = self.last.replace((now, used))?;
        let elapsed = now.saturating_duration_since(before);
        let busy = used.saturating_sub(used_before);
        (!elapsed.is_zero()).then(|| 100.0 * busy.as_secs_f64() / elapsed.as_secs_f64())
    }
}

/// Returns the number behind a name in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Counts the open descriptors. From Linux 6.2 on the directory's size says how many; before that, it is read.
fn open_fds() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // One of the entries is the directory that is being read.
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(entries.saturating_sub(1) as u64)
}

/// The newest reading for whoever asks. Clones share it.
///
/// Read anew at most once a second, so that many who ask do not make the processor's share one of microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedReading(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
struct Reading {
    meter: ResourceMeter,
    newest: Option<(Instant, tunnel_api::metrics::Resources)>,
}

/// Least age of a reading before another one is made.
const FRESH: Duration = Duration::from_secs(1);

impl SharedReading {
    /// Returns the newest reading as the API shows it; what the kernel does not tell is 0.
    pub(crate) fn read(&self) -> tunnel_api::metrics::Resources {
        let now = Instant::now();
        // Replaced whole: sound after a panic.
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, newest)) = &reading.newest
            && now.saturating_duration_since(*at) < FRESH
        {
            return newest.clone();
        }
        let read = reading.meter.read(now);
        let shown = tunnel_api::metrics::Resources {
            memory_bytes: read.memory_bytes.unwrap_or(0),
            cpu_percent: read.cpu_percent.map_or(0.0, |percent| (percent * 100.0).round() / 100.0),
            open_fds: read.open_fds.unwrap_or(0),
        };
        reading.newest = Some((now, shown.clone()));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_share_is_that_since_the_last_reading() {
        let (mut meter, start) = (ResourceMeter::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(meter.cpu_percent(at(0), Duration::from_secs(100)), None);
        assert_eq!(meter.cpu_percent(at(10), Duration::from_secs(101)), Some(10.0));
        assert_eq!(meter.cpu_percent(at(12), Duration::from_secs(105)), Some(200.0));
        assert_eq!(meter.cpu_percent(at(22), Duration::from_secs(105)), Some(0.0));
        assert_eq!(meter.cpu_percent(at(22), Duration::from_secs(105)), None, "no time has passed");
    }

    #[test]
    fn this_process_is_measured() {
        let mut meter = ResourceMeter::default();
        let before = meter.read(Instant::now());
        assert!(before.memory_bytes.unwrap() > 1024 * 1024, "{before:?}");
        assert!(before.threads.unwrap() >= 1);
        // Other tests open files too; so many at once only this one does.
        let held: Vec<fs::File> = (0..200).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        let after = meter.read(Instant::now());
        assert!(after.open_fds.unwrap() >= before.open_fds.unwrap() + 100, "{before:?} {after:?}");
        assert!(after.cpu_percent.is_some());
        drop(held);
    }

    #[test]
    fn status_of_the_process_is_read_by_name() {
        let status = "Name:\ttunneld\nVmRSS:\t   12345 kB\nThreads:\t3\n";
        assert_eq!(field(status, "VmRSS:"), Some(12_345));
        assert_eq!(field(status, "Threads:"), Some(3));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
