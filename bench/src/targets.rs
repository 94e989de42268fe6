//! What is measured: ours and its peers, each brought up the way its manual says, on loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::engine::{self, Door};
use crate::process::Role;

/// The ways from a caller to the backend that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scene {
    /// caller → public end → tunnel → desktop end → backend
    Tunnel,
    /// The same with 50 ms and 12.5 MB/s between the two ends.
    Long,
    /// caller → local proxy → backend
    Gateway,
    /// The same at a fixed rate, for what it adds to each request's time.
    GatewayLatency,
    /// One daemon by both of its doors: its own gateway, and caller → relay → tunnel → the same daemon.
    Relay,
}

impl Scene {
    /// Returns what the others are held against.
    pub(crate) fn reference(self) -> Peer {
        match self {
            Self::Tunnel | Self::Long | Self::Gateway | Self::GatewayLatency => Peer::Direct,
            Self::Relay => Peer::OwnGateway,
        }
    }

    /// How often its targets are measured in one round of the whole: at a fixed rate the differences are small beside
    /// what the machine does from one second to the next, so the turns are short and many.
    pub(crate) fn rounds_in_one(self) -> u32 {
        match self {
            Self::GatewayLatency => 3,
            Self::Tunnel | Self::Long | Self::Gateway | Self::Relay => 1,
        }
    }

    /// Whether it is about one local proxy.
    fn is_gateway(self) -> bool {
        matches!(self, Self::Gateway | Self::GatewayLatency)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// The backend itself.
    Direct,
    /// The gateway of the daemon that the relay leads to.
    OwnGateway,
    /// Plain hyper proxies: two in a row for a tunnel, one for a gateway.
    Hyper,
    /// tunnel-relay and tunneld, or tunneld's gateway.
    Ours,
    Rathole,
    Bore,
    Ssh,
    Nginx,
    Haproxy,
}

impl Peer {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Hyper,
        Self::Ours,
        // Needs ours to be up.
        Self::OwnGateway,
        Self::Rathole,
        Self::Bore,
        Self::Ssh,
        Self::Nginx,
        Self::Haproxy,
    ];

    pub(crate) fn takes_part(self, scene: Scene) -> bool {
        match self {
            Self::Direct | Self::Hyper => scene != Scene::Relay,
            Self::Ours => true,
            Self::OwnGateway => scene == Scene::Relay,
            Self::Rathole | Self::Bore | Self::Ssh => matches!(scene, Scene::Tunnel | Scene::Long),
            Self::Nginx | Self::Haproxy => scene.is_gateway(),
        }
    }

    pub(crate) fn title(self, scene: Scene) -> &'static str {
        match (self, scene) {
            (Self::Direct, Scene::Long) => "backend over the path",
            (Self::Direct, _) => "backend directly",
            (Self::OwnGateway, _) => "the desktop's own gateway",
            (Self::Hyper, scene) if scene.is_gateway() => "one plain hyper proxy",
            (Self::Hyper, _) => "two plain hyper proxies",
            (Self::Ours, scene) if scene.is_gateway() => "**tunneld's gateway**",
            (Self::Ours, _) => "**tunnel-relay and tunneld**",
            (Self::Rathole, _) => "rathole tcp",
            (Self::Bore, _) => "bore",
            (Self::Ssh, _) => "ssh -R",
            (Self::Nginx, _) => "nginx",
            (Self::Haproxy, _) => "haproxy",
        }
    }

    /// Whether it is someone else's program, which ours is to be ahead of.
    pub(crate) fn is_rival(self) -> bool {
        match self {
            Self::Direct | Self::OwnGateway | Self::Hyper | Self::Ours => false,
            Self::Rathole | Self::Bore | Self::Ssh | Self::Nginx | Self::Haproxy => true,
        }
    }
}

/// A way that is up.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) peer: Peer,
    pub(crate) door: Door,
    roles: Vec<Role>,
    /// Where the daemon's own gateway is, if it has a daemon.
    gateway: Option<SocketAddr>,
}

impl Target {
    /// Fails if one of its processes has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.roles.iter_mut().try_for_each(Role::check)
    }

    /// Returns the processor time of all its processes so far; the backend is not one of them.
    pub(crate) fn cpu(&self) -> Duration {
        self.roles.iter().map(Role::cpu).sum()
    }
}

/// Where things are, and what they lead to.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) backend: SocketAddr,
    /// Our release binaries.
    pub(crate) binaries: PathBuf,
    /// What `cargo xtask bench` installed: `bin/` and `root/`.
    pub(crate) peers: PathBuf,
    /// For configurations, keys and logs of this run.
    pub(crate) scratch: PathBuf,
}

impl Workshop {
    /// Brings `peer` up and waits until it answers. What is there already is in `others`.
    pub(crate) fn start(&self, peer: Peer, scene: Scene, others: &[Target]) -> anyhow::Result<Target> {
        let scratch = self.scratch.join(format!("{peer:?}-{scene:?}").to_lowercase());
        fs::create_dir_all(&scratch)?;
        // Programs of another user read their configuration here.
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
        let mut start = Start {
            workshop: self,
            scene,
            scratch,
            roles: Vec::new(),
            token: "none".to_owned(),
            gateway: None,
        };
        let addr = match (peer, scene) {
            (Peer::Direct, Scene::Long) => start.long_path_to(self.backend, None)?,
            (Peer::Direct, _) => self.backend,
            (Peer::Hyper, scene) if scene.is_gateway() => start.hyper(self.backend)?,
            (Peer::Hyper, _) => {
                let inner = start.hyper(self.backend)?;
                let link = start.link_to(inner)?;
                start.hyper(link)?
            }
            (Peer::Ours, _) => start.ours()?,
            (Peer::OwnGateway, _) => {
                let ours = others.iter().find(|target| target.peer == Peer::Ours);
                let ours = ours.context("the daemon that it belongs to is not up")?;
                // Requests that are the same to the byte, a token's length included.
                start.token.clone_from(&ours.door.token);
                ours.gateway.context("the daemon has no gateway")?
            }
            (Peer::Rathole, _) => start.rathole()?,
            (Peer::Bore, _) => start.bore()?,
            (Peer::Ssh, _) => start.ssh()?,
            (Peer::Nginx, _) => start.nginx()?,
            (Peer::Haproxy, _) => start.haproxy()?,
        };
        let door = Door { addr, token: start.token };
        let mut target = Target { peer, door, roles: start.roles, gateway: start.gateway };
        wait_until_ready(&mut target).with_context(|| format!("logs are in {}", start.scratch.display()))?;
        Ok(target)
    }
}

fn wait_until_ready(target: &mut Target) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        target.check()?;
        match engine::at_once(&target.door, 1) {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > Duration::from_secs(20) => {
                return Err(error.context("not ready after 20 s"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

struct Start<'a> {
    workshop: &'a Workshop,
    scene: Scene,
    scratch: PathBuf,
    roles: Vec<Role>,
    token: String,
    gateway: Option<SocketAddr>,
}

impl Start<'_> {
    fn hyper(&mut self, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        let (role, addr) = Role::serve(&["proxy".to_owned(), to.to_string()])?;
        self.roles.push(role);
        Ok(addr)
    }

    fn long_path_to(&mut self, to: SocketAddr, listen: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
        let mut arguments = vec!["path".to_owned(), to.to_string()];
        if let Some(listen) = listen {
            arguments.extend(["--listen".to_owned(), listen.to_string()]);
        }
        let (role, addr) = Role::serve(&arguments)?;
        self.roles.push(role);
        Ok(addr)
    }

    /// Returns what the desktop's end dials to reach `to`.
    fn link_to(&mut self, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        match self.scene {
            Scene::Long => self.long_path_to(to, None),
            Scene::Tunnel | Scene::Gateway | Scene::GatewayLatency | Scene::Relay => Ok(to),
        }
    }

    fn exec(&mut self, program: &Path, arguments: &[&str], uid: Option<u32>) -> anyhow::Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = self.scratch.join(format!("{name}-{}.log", self.roles.len()));
        let role = Role::exec(program, arguments, uid, &log)?;
        self.roles.push(role);
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.scratch.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn ours(&mut self) -> anyhow::Result<SocketAddr> {
        let daemon = self.workshop.ours("tunneld")?;
        let data = self.scratch.join("relay").display().to_string();
        let token = |relay: &Path, scope: &str, device: &[&str]| -> anyhow::Result<String> {
            let output = Command::new(relay)
                .args(["token", "create", "--data-dir", &data, "--subject", "bench", "--scope", scope])
                .args(device)
                .output()?;
            ensure!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let mut config = json!({
            "enableLocalOllama": false,
            "enableCloudProxy": false,
            "apiServerPort": free_port()?,
            "gatewayPort": free_port()?,
            "deviceName": "bench",
            "connections": [{
                "id": "bench",
                "type": "openai",
                "url": format!("http://{}", self.workshop.backend),
            }],
        });
        let mut public = None;
        let mut token_file = Vec::new();
        if !self.scene.is_gateway() {
            let relay = self.workshop.ours("tunnel-relay")?;
            let addr_file = self.scratch.join("relay.addr");
            // A file of an earlier run would name a port of the past.
            drop(fs::remove_file(&addr_file));
            let addr_text = addr_file.display().to_string();
            self.exec(
                &relay,
                &[
                    "serve",
                    "--listen",
                    "127.0.0.1:0",
                    "--admin-listen",
                    "127.0.0.1:0",
                    "--data-dir",
                    &data,
                    "--addr-file",
                    &addr_text,
                ],
                None,
            )?;
            let addr = wait_for_addr(&addr_file)?;
            let link = self.link_to(addr)?;
            config["enableCloudProxy"] = json!(true);
            config["cloudProxyUrl"] = json!(format!("http://{link}"));
            let tunnel = token(&relay, "tunnel", &["--device", "bench"])?;
            self.token = token(&relay, "inference", &[])?;
            token_file = vec!["--token-file".to_owned(), self.write("tunnel.token", &tunnel)?];
            fs::set_permissions(&token_file[1], fs::Permissions::from_mode(0o600))?;
            public = Some(addr);
        }
        let gateway = SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            u16::try_from(config["gatewayPort"].as_u64().unwrap_or(0))?,
        ));
        let config = self.write("tunneld.json", &config.to_string())?;
        let state = self.scratch.join("state").display().to_string();
        // The socket of a daemon that this user runs must stay its own.
        let runtime = format!("XDG_RUNTIME_DIR={}", self.scratch.display());
        let daemon = daemon.display().to_string();
        let mut arguments = vec![&*runtime, &*daemon, "--config", &*config, "--state-dir", &*state];
        arguments.extend(token_file.iter().map(String::as_str));
        self.exec(Path::new("env"), &arguments, None)?;
        self.gateway = Some(gateway);
        Ok(public.unwrap_or(gateway))
    }

    fn rathole(&mut self) -> anyhow::Result<SocketAddr> {
        let program = self.workshop.peer("rathole")?;
        let (control, public) = (loopback(free_port()?), loopback(free_port()?));
        let server = self.write(
            "server.toml",
            &format!(
                "[server]\nbind_addr = \"{control}\"\n[server.services.bench]\ntoken = \"bench\"\nbind_addr = \"{public}\"\n"
            ),
        )?;
        self.exec(&program, &["--server", &server], None)?;
        wait_for_port(control)?;
        let link = self.link_to(control)?;
        let client = self.write(
            "client.toml",
            &format!(
                "[client]\nremote_addr = \"{link}\"\n[client.services.bench]\ntoken = \"bench\"\nlocal_addr = \"{}\"\n",
                self.workshop.backend
            ),
        )?;
        self.exec(&program, &["--client", &client], None)?;
        Ok(public)
    }

    fn bore(&mut self) -> anyhow::Result<SocketAddr> {
        /// bore's control port; no option moves it.
        const CONTROL: u16 = 7835;
        let program = self.workshop.peer("bore")?;
        // Another loopback address for each scene, since the port is always the same.
        let server = match self.scene {
            Scene::Long => Ipv4Addr::new(127, 0, 0, 12),
            Scene::Tunnel | Scene::Gateway | Scene::GatewayLatency | Scene::Relay => {
                Ipv4Addr::new(127, 0, 0, 11)
            }
        };
        let control = SocketAddr::from((server, CONTROL));
        ensure!(TcpListener::bind(control).is_ok(), "port {CONTROL}, which bore cannot change, is taken");
        let host = server.to_string();
        self.exec(&program, &["server", "--bind-addr", &host, "--bind-tunnels", &host], None)?;
        wait_for_port(control)?;
        let link = match self.scene {
            Scene::Long => {
                let listen = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 13), CONTROL));
                self.long_path_to(control, Some(listen))?
            }
            Scene::Tunnel | Scene::Gateway | Scene::GatewayLatency | Scene::Relay => control,
        };
        let (public, to) = (free_port()?, link.ip().to_string());
        let (backend, port) = (self.workshop.backend.port().to_string(), public.to_string());
        self.exec(&program, &["local", &backend, "--to", &to, "--port", &port], None)?;
        Ok(SocketAddr::from((server, public)))
    }

    fn ssh(&mut self) -> anyhow::Result<SocketAddr> {
        let (server, client) = (self.workshop.system("sshd")?, self.workshop.system("ssh")?);
        let keygen = self.workshop.system("ssh-keygen")?;
        // An sshd of root's wants an account of its own for privilege separation; one of a plain user does not.
        let (uid, user) =
            match fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))? {
                0 => (Some(65534), "nobody".to_owned()),
                _ => (
                    None,
                    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).context("USER is not set")?,
                ),
            };
        let mut keys = Vec::new();
        for name in ["host", "login"] {
            let key = self.scratch.join(name);
            let output = Command::new(&keygen)
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key)
                .output()
                .context("starting ssh-keygen")?;
            ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
            keys.push(key);
        }
        chown(&keys[0], uid, uid)?;
        let authorized = self.write("authorized", &fs::read_to_string(keys[1].with_extension("pub"))?)?;
        let port = free_port()?;
        let config = self.write(
            "sshd_config",
            &format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {authorized}\nStrictModes no\n\
                 UsePAM yes\nPidFile none\nPasswordAuthentication no\nAllowTcpForwarding yes\n",
                keys[0].display()
            ),
        )?;
        self.exec(&server, &["-D", "-e", "-f", &config], uid)?;
        let server = loopback(port);
        wait_for_port(server)?;
        let link = self.link_to(server)?;
        let public = free_port()?;
        let forward = format!("127.0.0.1:{public}:{}", self.workshop.backend);
        let (login, link_port, key) =
            (format!("{user}@127.0.0.1"), link.port().to_string(), keys[1].display().to_string());
        self.exec(
            &client,
            &[
                "-F",
                "none",
                "-N",
                "-T",
                "-i",
                &key,
                "-p",
                &link_port,
                "-R",
                &forward,
                "-o",
                "BatchMode=yes",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "ExitOnForwardFailure=yes",
                &login,
            ],
            None,
        )?;
        Ok(loopback(public))
    }

    fn nginx(&mut self) -> anyhow::Result<SocketAddr> {
        let program = self.workshop.system("nginx")?;
        let (port, here) = (free_port()?, self.scratch.display().to_string());
        // Buffering is off, as everyone who streams tokens has it; else it is as Debian ships it.
        let config = self.write(
            "nginx.conf",
            &format!(
                "worker_processes auto;\nworker_rlimit_nofile 65536;\ndaemon off;\npid {here}/nginx.pid;\nerror_log stderr warn;\n\
                 events {{ worker_connections 8192; }}\n\
                 http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n keepalive_requests 100000000;\n client_max_body_size 0;\n\
                 client_body_temp_path {here}/body;\n proxy_temp_path {here}/proxy;\n fastcgi_temp_path {here}/fastcgi;\n\
                 uwsgi_temp_path {here}/uwsgi;\n scgi_temp_path {here}/scgi;\n\
                 upstream backend {{ server {backend}; keepalive 512; keepalive_requests 100000000; }}\n\
                 server {{ listen 127.0.0.1:{port} backlog=4096;\n location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off; }} }}\n}}\n",
                backend = self.workshop.backend
            ),
        )?;
        self.exec(&program, &["-c", &config, "-p", &here, "-e", "stderr"], None)?;
        Ok(loopback(port))
    }

    fn haproxy(&mut self) -> anyhow::Result<SocketAddr> {
        let program = self.workshop.system("haproxy")?;
        let port = free_port()?;
        let config = self.write(
            "haproxy.cfg",
            &format!(
                "global\n maxconn 8192\ndefaults\n mode http\n option http-no-delay\n http-reuse always\n\
                 timeout connect 5s\n timeout client 600s\n timeout server 600s\n\
                 frontend front\n bind 127.0.0.1:{port} backlog 4096\n default_backend back\n\
                 backend back\n server one {}\n",
                self.workshop.backend
            ),
        )?;
        self.exec(&program, &["-db", "-f", &config], None)?;
        Ok(loopback(port))
    }
}

impl Workshop {
    pub(crate) fn ours(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.binaries.join(name);
        ensure!(path.is_file(), "{} is not built", path.display());
        Ok(path)
    }

    fn peer(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.peers.join("bin").join(name);
        ensure!(path.is_file(), "{name} is not installed; `cargo xtask bench` installs it");
        Ok(path)
    }

    /// Finds a program of Debian's: the system's own, else the one that was unpacked for the bench.
    fn system(&self, name: &str) -> anyhow::Result<PathBuf> {
        let root = self.peers.join("root");
        for folder in ["/usr/sbin", "/usr/bin"].map(PathBuf::from).into_iter().chain([root.join("run")]) {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
        }
        bail!("{name} is not installed; `cargo xtask bench` brings it")
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Finds a port that nobody listens on now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

fn wait_for_port(addr: SocketAddr) -> anyhow::Result<()> {
    let begin = Instant::now();
    while std::net::TcpStream::connect(addr).is_err() {
        ensure!(begin.elapsed() < Duration::from_secs(10), "nobody listens on {addr} after 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn wait_for_addr(file: &Path) -> anyhow::Result<SocketAddr> {
    let begin = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            let addrs: serde_json::Value = serde_json::from_str(&text)?;
            let listen = addrs["listen"].as_str().context("the relay's address file has no `listen`")?;
            return Ok(listen.parse()?);
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(10),
            "the relay has not said where it listens after 10 s"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scene_has_a_reference_and_ours_and_those_beside_others_have_a_rival() {
        for scene in [Scene::Tunnel, Scene::Long, Scene::Gateway, Scene::GatewayLatency, Scene::Relay] {
            let peers: Vec<_> = Peer::ALL.into_iter().filter(|peer| peer.takes_part(scene)).collect();
            assert!(peers.contains(&scene.reference()) && peers.contains(&Peer::Ours));
            assert_eq!(peers.iter().any(|peer| peer.is_rival()), scene != Scene::Relay);
        }
    }
}
