//! Room for the daemon's state.

use std::path::Path;

use tunnel_api::paths;

use super::finding::Finding;
use crate::output::words::bytes;

/// Free space below which someone should look, in bytes.
const LITTLE: u64 = 100_000_000;

/// Looks at the disk that holds, or would hold, the state directory.
pub(super) fn look() -> Finding {
    let Some(directory) = paths::state_dir(None, |name| std::env::var_os(name)) else {
        return Finding::skip("there is no home, so no state is kept");
    };
    // It may not have been made yet.
    let Some(there) = directory.ancestors().find(|path| path.exists()) else {
        return Finding::skip(format!("{} has no disk", directory.display()));
    };
    match rustix::fs::statvfs(there) {
        Ok(disk) => judge(disk.f_bavail.saturating_mul(disk.f_frsize), &directory),
        Err(error) => Finding::skip(format!("the disk of {} does not tell: {error}", directory.display())),
    }
}

fn judge(free_bytes: u64, directory: &Path) -> Finding {
    let detail = format!("{} are free for {}", bytes(free_bytes), directory.display());
    if free_bytes < LITTLE {
        Finding::warn(detail, "make room on that disk: with none left, usage and events are lost")
    } else {
        Finding::pass(detail)
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    #[test]
    fn little_room_is_worth_a_look() {
        assert_eq!(judge(LITTLE - 1, Path::new("/s")).verdict, Verdict::Warn);
        assert_eq!(judge(LITTLE, Path::new("/s")), Finding::pass("100.0 MB are free for /s"));
    }
}
