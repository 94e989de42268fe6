//! The firewall that is shipped, in a network namespace with the real relay in it and a peer outside.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{binaries, forbidden, measured, scenario, skipped};

/// A namespace for the relay, one for everybody else, and a cable between them. The relay listens for operators on all
/// addresses, which nobody should do: so only the firewall is between them and the peer.
const SCRIPT: &str = r#"
ip link set lo up
unshare --net sleep 120 & peer=$!
outside() { nsenter --target $peer --net "$@"; }
for i in $(seq 100); do [ "$(readlink /proc/$peer/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.05; done
ip link add relay0 type veth peer name peer0
ip link set peer0 netns $peer
ip address add 203.0.113.1/24 dev relay0
ip address add 2001:db8:1::1/64 dev relay0 nodad
ip link set relay0 up
outside ip link set lo up
outside ip address add 203.0.113.2/24 dev peer0
outside ip address add 10.9.8.7/32 dev peer0
outside ip address add 169.254.169.254/32 dev peer0
outside ip address add 2001:db8:1::2/64 dev peer0 nodad
outside ip link set peer0 up
ip route add 10.9.8.7/32 dev relay0
ip route add 169.254.169.254/32 dev relay0
outside python3 -c '
import http.server, socket, threading
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
for port in (443, 8080):
    threading.Thread(target=Server(("::", port), http.server.SimpleHTTPRequestHandler).serve_forever).start()
def lease(family, port):
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind(("", port))
    if family == socket.AF_INET6:
        group = socket.inet_pton(family, "ff02::1:2") + socket.if_nametoindex("peer0").to_bytes(4, "little")
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    while True:
        udp.sendto(b"leased", udp.recvfrom(9)[1])
threading.Thread(target=lease, args=(socket.AF_INET, 67)).start()
threading.Thread(target=lease, args=(socket.AF_INET6, 547)).start()
' > peer.log 2>&1 & served=$!
$RELAY serve --listen '[::]:443' --admin-listen '[::]:9090' --data-dir data > relay.log 2>&1 & relay=$!

# Two tries, as a busy machine may be late; a dropped packet is dropped each time. All at once: each drop takes its time.
one() {
    name=$1; shift
    for n in 1 2; do "$@" > /dev/null 2>&1 && { echo "$name reached"; return; }; done
    echo "$name dropped"
}
try() { one "$@" & tries="$tries $!"; }
ask() { curl --silent --globoff --max-time 3 "$@"; }
lease() { python3 -c '
import socket, sys
host, to, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
udp.bind(("", own))
udp.settimeout(3)
udp.sendto(b"please", socket.getaddrinfo(host, to, type=socket.SOCK_DGRAM)[0][4])
udp.recvfrom(9)
' "$@"; }
everything() {
    tries=
    try $1-caller outside curl --silent --max-time 3 http://203.0.113.1:443/health
    try $1-caller-v6 outside curl --silent --globoff --max-time 3 'http://[2001:db8:1::1]:443/health'
    try $1-admin outside curl --silent --max-time 3 http://203.0.113.1:9090/livez
    try $1-admin-v6 outside curl --silent --globoff --max-time 3 'http://[2001:db8:1::1]:9090/livez'
    try $1-issuer ask http://203.0.113.2:443/
    try $1-issuer-v6 ask 'http://[2001:db8:1::2]:443/'
    try $1-other-port ask http://203.0.113.2:8080/
    try $1-inside ask http://10.9.8.7:443/
    try $1-metadata ask http://169.254.169.254:443/
    try $1-lease lease 203.0.113.2 67 68
    try $1-lease-v6 lease ff02::1:2%relay0 547 546
    try $1-datagram lease 203.0.113.2 67 6868
    try $1-loopback ask http://127.0.0.1:9090/livez
    wait $tries
}
for i in $(seq 100); do ask http://127.0.0.1:9090/livez > /dev/null && ask http://203.0.113.2:8080/ > /dev/null && break; sleep 0.1; done
everything open
nft --file $RULES && nft --file $RULES || exit 1
everything guarded
nft 'add element inet tunnel_relay operators_v4 { 203.0.113.0/30 }'
one operator-admin outside curl --silent --max-time 3 http://203.0.113.1:9090/livez
kill $relay $served $peer
"#;

#[test]
fn the_firewall_lets_callers_in_and_keeps_the_relay_from_its_neighbours() -> Result<()> {
    scenario(async |lab| {
        for program in ["nft", "ip", "nsenter", "curl", "python3"] {
            if Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                return skipped("firewall", &format!("{program} is not there: cargo xtask setup"));
            }
        }
        let mut options = vec!["--net", "--mount-proc", "--pid", "--fork", "--kill-child"];
        if !rustix::process::geteuid().is_root() {
            options.push("--map-root-user");
        }
        if let Some(why) = forbidden(&options, "ip link set lo up; nft add table inet probe") {
            return skipped("firewall", &why);
        }
        let dir = lab.folder("firewall", "relay.log")?;
        let rules = binaries::workspace_dir().join("dist/nftables/tunnel-relay.nft");
        let mut command = Command::new("unshare");
        command.args(&options).args(["sh", "-c", SCRIPT]).current_dir(&dir).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("RELAY", std::path::absolute(binaries::tunnel_relay()?)?).env("RULES", rules);
        let output =
            tokio::task::spawn_blocking(move || command.output().context("running unshare")).await??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let found: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
        let reached = |name: &str| found.get(name) == Some(&"reached");
        let all = [
            ("caller", true),
            ("caller-v6", true),
            ("admin", false),
            ("admin-v6", false),
            ("issuer", true),
            ("issuer-v6", true),
            ("other-port", false),
            ("inside", false),
            ("metadata", false),
            ("lease", true),
            ("lease-v6", true),
            ("datagram", false),
            ("loopback", true),
        ];
        for (name, passes) in all {
            // Else the firewall would not be what stops it.
            ensure!(reached(&format!("open-{name}")), "{name} without the firewall\n{said}\n{errors}");
            ensure!(
                reached(&format!("guarded-{name}")) == passes,
                "{name} with the firewall\n{said}\n{errors}"
            );
            ensure!(found.contains_key(format!("guarded-{name}").as_str()), "{name} was not tried\n{errors}");
        }
        ensure!(reached("operator-admin"), "an operator's address\n{said}\n{errors}");
        measured("firewall", format!("{} ways tried open and guarded, IPv4 and IPv6: as meant", all.len()));
        Ok(())
    })
}
