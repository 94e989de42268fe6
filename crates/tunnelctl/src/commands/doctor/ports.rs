//! The ports that the daemon would open, and who is in the way.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use tunnel_api::Config;

use super::daemon::Reach;
use super::finding::Finding;

/// The ports that a configuration opens.
#[derive(Clone, Debug)]
pub(super) struct Opened(Vec<Port>);

/// A port, what it is for, and the key that moves it.
#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    purpose: &'static str,
    key: &'static str,
}

/// The key of the only port that takes questions.
const CONTROL_KEY: &str = "apiServerPort";

/// Who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Program {
        name: String,
        pid: u32,
    },
    /// A program of another user, whose files are not shown.
    Hidden,
}

impl Opened {
    pub(super) fn of(config: &Config) -> Self {
        let control =
            Port { number: config.api_server_port.get(), purpose: "the control port", key: CONTROL_KEY };
        let gateway = Port { number: config.gateway_port.get(), purpose: "the gateway", key: "gatewayPort" };
        let lan = Port {
            number: config.lan_gateway.port.get(),
            purpose: "the LAN gateway",
            key: "lanGateway.port",
        };
        let wanted = [
            (config.enable_api_server, control),
            (config.enable_gateway, gateway),
            (config.lan_gateway.enabled, lan),
        ];
        Self(wanted.into_iter().filter(|(open, _)| *open).map(|(_, port)| port).collect())
    }

    /// Looks who listens on them, after the daemon was not reached. Goes over all processes, which may take a while.
    pub(super) fn look(&self, reach: Reach) -> Finding {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
        if tables.iter().all(Result::is_err) {
            return Finding::skip("/proc/net/tcp cannot be read, so nobody knows who listens");
        }
        let tables = tables.map(Result::unwrap_or_default);
        let owners = self.0.iter().map(|port| (*port, owner(&listeners(&tables, port.number)))).collect();
        judge(owners, reach)
    }
}

fn judge(owners: Vec<(Port, Owner)>, reach: Reach) -> Finding {
    let mut free = Vec::new();
    let mut taken = None;
    let mut odd: Option<Finding> = None;
    for (port, owner) in owners {
        let Port { number, purpose, key } = port;
        let named = format!("{number} ({purpose})");
        match owner {
            Owner::Nobody => free.push(named),
            // The socket unit holds them for the daemon, which starts when somebody comes.
            Owner::Program { name, .. } if name == "systemd" => free.push(named),
            Owner::Program { name, pid } if name == "tunneld" => {
                // The first one is the control port's, if it is open.
                odd.get_or_insert_with(|| {
                    Finding::warn(
                        format!("{named} is held by tunneld (pid {pid}), which was not reached"),
                        match reach {
                            Reach::Not if key == CONTROL_KEY => {
                                format!("ask it there: tunnelctl --url http://127.0.0.1:{number} status")
                            }
                            // It hangs, or has lost its doors.
                            Reach::Not | Reach::Silent | Reach::Answers => format!(
                                "restart it: systemctl --user restart tunneld; one that was started by hand: kill {pid}, \
                                 and kill -9 {pid} if it stays"
                            ),
                        },
                    )
                });
            }
            Owner::Program { name, pid } => {
                taken = Some(Finding::fail(
                    format!("{named} is taken by {name} (pid {pid})"),
                    format!(
                        "stop that program, or set {key} to a free port in the file of: tunnelctl config path"
                    ),
                ));
            }
            Owner::Hidden => {
                taken = Some(Finding::fail(
                    format!("{named} is taken by a program of another user"),
                    format!(
                        "see by whom: sudo ss -ltnp 'sport = :{number}'; stop it, or set {key} to a free port"
                    ),
                ));
            }
        }
    }
    taken.or(odd).unwrap_or_else(|| match free.as_slice() {
        [] => Finding::skip("the configuration opens no port"),
        free => Finding::pass(format!("{} can be opened", free.join(" and "))),
    })
}

/// `TCP_LISTEN` as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

/// Returns the inodes of the sockets that listen on a port of the loopback addresses, from the kernel's tables.
fn listeners(tables: &[String; 2], port: u16) -> Vec<u64> {
    // Each 32-bit word in host order, upper-case hex.
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let v4 = |address: Ipv4Addr| word(address.octets());
    let v6 = |last: [u8; 4]| format!("{}{}", "0".repeat(24), word(last));
    let mapped = format!("{}{}{}", "0".repeat(16), word([0, 0, 0xff, 0xff]), v4(Ipv4Addr::LOCALHOST));
    let addresses =
        [v4(Ipv4Addr::LOCALHOST), v4(Ipv4Addr::UNSPECIFIED), v6([0, 0, 0, 1]), v6([0; 4]), mapped];
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.filter_map(|row| {
        let mut columns = row.split_ascii_whitespace();
        let (address, number) = columns.nth(1)?.split_once(':')?;
        let (state, inode) = (columns.nth(1)?, columns.nth(5)?);
        let ours = state == LISTEN
            && u16::from_str_radix(number, 16) == Ok(port)
            && addresses.iter().any(|known| known == address);
        ours.then(|| inode.parse().ok())?
    })
    .collect()
}

fn owner(inodes: &[u64]) -> Owner {
    if inodes.is_empty() {
        return Owner::Nobody;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: u32| {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
        })
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // With socket activation both have it; the program is the one that serves.
    let (mut programs, mut managers) = (Vec::new(), Vec::new());
    for pid in pids.filter(|pid| holds(*pid)) {
        let name = name(pid);
        if name == "systemd" { &mut managers } else { &mut programs }.push((name, pid));
    }
    programs
        .into_iter()
        .chain(managers)
        .next()
        .map_or(Owner::Hidden, |(name, pid)| Owner::Program { name, pid })
}

/// Returns the program's own name for itself.
fn name(pid: u32) -> String {
    let mut name = String::new();
    for c in fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().chars() {
        if c.is_control() {
            // It may call itself anything.
            continue;
        }
        // Cannot fail: it is a String.
        let _infallible = name.write_char(c);
    }
    if name.is_empty() { "a program".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tunnel_api::Verdict;

    use super::*;

    fn port(number: u16) -> Port {
        Port { number, purpose: "the gateway", key: "gatewayPort" }
    }

    #[test]
    fn owner_of_a_port_is_found() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // Without IPv6 there is nothing to find.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let number = listener.local_addr().unwrap().port();
            let found = Opened(vec![port(number)]).look(Reach::Not);
            assert_eq!(found.verdict, Verdict::Fail, "{found:?}");
            assert!(found.detail.contains(&format!("(pid {})", std::process::id())), "{found:?}");
            drop(listener);
            assert_eq!(Opened(vec![port(number)]).look(Reach::Not).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn only_others_are_in_the_way() {
        let program = |name: &str| Owner::Program { name: name.to_owned(), pid: 7 };
        let verdict = |owner| judge(vec![(port(1), owner)], Reach::Not).verdict;
        assert_eq!(verdict(Owner::Nobody), Verdict::Pass);
        assert_eq!(verdict(program("systemd")), Verdict::Pass);
        assert_eq!(verdict(program("tunneld")), Verdict::Warn);
        assert_eq!(verdict(program("python3")), Verdict::Fail);
        assert_eq!(verdict(Owner::Hidden), Verdict::Fail);
        assert_eq!(judge(Vec::new(), Reach::Not).verdict, Verdict::Skip);
        let found = judge(vec![(port(1), program("nginx")), (port(2), Owner::Nobody)], Reach::Not);
        assert_eq!(found.detail, "1 (the gateway) is taken by nginx (pid 7)");
    }

    #[test]
    fn daemon_that_holds_its_ports_is_asked_where_it_answers_or_is_restarted() {
        let tunneld = || Owner::Program { name: "tunneld".to_owned(), pid: 7 };
        let control = Port { number: 1, purpose: "the control port", key: CONTROL_KEY };
        let step = |owners, reach| judge(owners, reach).next_step;
        let both = || vec![(control, tunneld()), (port(2), tunneld())];
        assert_eq!(step(both(), Reach::Not), "ask it there: tunnelctl --url http://127.0.0.1:1 status");
        for (owners, reach) in [(both(), Reach::Silent), (vec![(port(2), tunneld())], Reach::Not)] {
            let step = step(owners, reach);
            assert!(step.contains("systemctl --user restart tunneld") && step.contains("kill 7"), "{step}");
        }
    }

    #[test]
    fn doors_that_are_shut_need_no_port() {
        let config = Config { enable_gateway: false, ..Config::default() };
        let numbers: Vec<u16> = Opened::of(&config).0.iter().map(|port| port.number).collect();
        assert_eq!(numbers, [8765]);
    }
}
