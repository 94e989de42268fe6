//! The balancer in front of two relays in the tests: HAProxy from Debian, unpacked and not installed, so that no service
//! starts.

use std::fs;
use std::path::Path;

use crate::apt::{self, Suite};
use crate::{run, talk, workspace};

const PROGRAM: &str = "haproxy";

/// Unpacks it below `.cache/haproxy`, unless the system has it or it is there.
pub(crate) fn install() -> anyhow::Result<()> {
    let root = workspace::cache("haproxy");
    // Not only there: the wrapper knows its folder, and is void when that has moved.
    if apt::find(Path::new("/"), PROGRAM).is_some() || run::succeeds(root.join("run").join(PROGRAM), &["-v"])
    {
        return Ok(());
    }
    talk::step("unpacking from Debian: haproxy");
    apt::remove(&root)?;
    fs::create_dir_all(&root)?;
    apt::unpack(Suite::Own, &[PROGRAM], &root)?;
    apt::write_wrapper(&root, PROGRAM)
}
