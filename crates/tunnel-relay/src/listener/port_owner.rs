//! Who has a port, as far as `/proc` shows it.

use std::fs;
use std::path::Path;

/// Returns the name and pid of the process that listens on a TCP port.
///
/// `None` when it belongs to another user, or to another network namespace.
pub(super) fn find(port: u16) -> Option<String> {
    let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if has_socket(&process.path(), &inodes) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let command: String = command.chars().filter(|c| !c.is_control()).collect();
            return Some(format!("{command} (pid {pid})"));
        }
    }
    None
}

/// Returns the inodes of the sockets that listen on a port, out of a table such as `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let row = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
        let state = columns.nth(1)?;
        let inode = columns.nth(5)?;
        let matches = state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        if matches { inode.parse().ok() } else { None }
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn has_socket(process: &Path, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
        target
            .to_str()
            .and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_row_gives_its_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:2742 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0\n\
            \x20  1: 0100007F:2742 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20 0\n";
        assert_eq!(listening(table, 0x2742), [4711]);
        assert!(listening(table, 80).is_empty());
        assert!(listening("", 80).is_empty());
    }

    #[test]
    fn this_process_finds_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = find(listener.local_addr().unwrap().port()).unwrap();
        assert!(owner.ends_with(&format!("(pid {})", std::process::id())), "{owner}");
    }
}
