//! The way from nothing to a relay with TLS and login, as docs/operations.md tells it: its commands and its settings are
//! taken out of the document and done in their order. A command that is not known here fails, so that whoever changes the
//! document looks at what becomes of it.
//!
//! What is different from a machine on the internet stands in this file: another root directory, other ports, pebble for
//! Let's Encrypt, the provider of the other logins, and no systemd around the unit's command.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{
    Daemon, DaemonOptions, FakeBackend, Lab, OidcProvider, Pebble, PebblePlace, Process, ProviderOptions,
    binaries, keep_secret, measured, poll_until, ports, skipped,
};

use crate::login::{RESOURCE, log_in, with_provider};

const LIMIT: Duration = Duration::from_secs(40);
/// Where the section begins.
const TITLE: &str = "### From nothing to a relay with TLS and login in ten minutes";
/// The relay's name in the document.
const NAME: &str = "relay.example.org";
const CONFIG: &str = "/etc/tunnel-relay/relay.toml";

#[test]
fn the_ten_minutes_of_the_operations_page_work_as_written() -> Result<()> {
    if !Pebble::is_installed() {
        return skipped("the walk-through", "pebble is not installed; cargo xtask setup does that");
    }
    with_provider(ProviderOptions::default(), async |lab, provider| {
        let begun = Instant::now();
        let document = fs::read_to_string(binaries::workspace_dir().join("docs/operations.md"))?;
        let blocks = blocks(&document)?;
        let mut machine = Machine::new(lab, &provider).await?;
        let mut commands = 0;
        for block in &blocks {
            if block.language == "toml" {
                machine.write_settings(&block.text)?;
                continue;
            }
            for line in block.text.lines() {
                // What follows is for the reader.
                let command = line.split("  #").next().unwrap_or_default().trim();
                machine.run(command).await.with_context(|| format!("the document says: {command}"))?;
                commands += 1;
            }
        }
        ensure!(machine.asked, "the walk-through ends without an answer of a model server");
        measured(
            "operations.md from nothing to a first answer",
            format!("{commands} commands, {:.1} s without the build", begun.elapsed().as_secs_f64()),
        );
        Ok(())
    })
}

struct Block {
    language: String,
    text: String,
}

/// Takes the blocks of code out of the section.
fn blocks(document: &str) -> Result<Vec<Block>> {
    let section = document.split_once(TITLE).context("the document has no such section")?.1;
    let section = section.split("\n#").next().unwrap_or_default();
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in section.lines().map(str::trim) {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside;
            if inside {
                blocks.push(Block { language: language.to_owned(), text: String::new() });
            }
        } else if inside && let Some(block) = blocks.last_mut() {
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    ensure!(!inside && blocks.len() >= 5, "the section has {} whole blocks", blocks.len());
    Ok(blocks)
}

/// The server, the desktop and the caller in one, with what stands for the world around them.
struct Machine<'a> {
    lab: &'a mut Lab,
    provider: &'a OidcProvider,
    _pebble: Pebble,
    /// The settings that only a private authority needs.
    authority: String,
    /// The root of its certificates.
    trusted: PathBuf,
    /// What stands for `/`.
    root: PathBuf,
    port: u16,
    relay: Option<Process>,
    desktop: Option<(Daemon, FakeBackend)>,
    key: String,
    asked: bool,
}

impl<'a> Machine<'a> {
    async fn new(lab: &'a mut Lab, provider: &'a OidcProvider) -> Result<Self> {
        let dir = lab.folder("pebble", "pebble.log")?;
        let place = PebblePlace::new(&dir)?;
        let authority =
            format!("directory = \"{}\"\nca_file = \"{}\"\n", place.url(), place.ca_file().display());
        let port = ports::free()?;
        let pebble = place.start(([127, 0, 0, 1], port).into()).await?;
        let trusted = pebble.root().await?;
        let root = lab.folder("server", "relay.log")?;
        for there_already in ["usr/bin", "etc/systemd/system", "etc/tunnel-relay", "var/lib"] {
            fs::create_dir_all(root.join(there_already))?;
        }
        Ok(Self {
            lab,
            provider,
            _pebble: pebble,
            authority,
            trusted,
            root,
            port,
            relay: None,
            desktop: None,
            key: String::new(),
            asked: false,
        })
    }

    /// Where a path of the document is here.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A command's text with the relay's address as it is here.
    fn here(&self, text: &str) -> String {
        text.replace(&format!("https://{NAME}"), &format!("https://localhost:{}", self.port))
    }

    /// Writes the document's settings, with what its reader is to replace.
    fn write_settings(&self, text: &str) -> Result<()> {
        let replaced = [
            ("[acme]\n".to_owned(), format!("[acme]\n{}", self.authority)),
            (format!("domains = [\"{NAME}\"]"), "domains = [\"localhost\"]".to_owned()),
            ("https://login.example.org/".to_owned(), self.provider.issuer().to_owned()),
            (format!("audiences = [\"https://{NAME}\"]"), format!("audiences = [\"{RESOURCE}\"]")),
            ("the client id".to_owned(), "tunneld".to_owned()),
            // This provider wants the other of the two names for the same.
            (format!("audience = \"https://{NAME}\""), format!("resource = \"{RESOURCE}\"")),
        ];
        let mut settings = text.to_owned();
        for (from, to) in &replaced {
            ensure!(settings.matches(from).count() == 1, "the settings have no {from:?}, or several");
            settings = settings.replace(from, to);
        }
        Ok(fs::write(self.at(CONFIG), settings)?)
    }

    async fn run(&mut self, command: &str) -> Result<()> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            // The program under test is built.
            ["cargo", "build", "--release", "-p", "tunnel-relay"]
            // There is no systemd that would have to be told, nor a journal.
            | ["systemctl", "daemon-reload"]
            | ["journalctl", "-u", "tunnel-relay", "-n", _] => Ok(()),
            ["install", ref arguments @ ..] => self.install(arguments),
            ["tunnel-relay", "config", "check", CONFIG] => {
                let checked = output(self.program().args(["config", "check"]).arg(self.at(CONFIG)))?;
                ensure!(checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
                Ok(())
            }
            ["systemctl", "enable", "--now", "tunnel-relay"] => self.start(),
            ["curl", ref arguments @ ..] => self.call(command, arguments).await,
            ["tunnelctl", ref arguments @ ..] => self.desk(arguments).await,
            _ => bail!("this test does not know the command; teach it what becomes of it here"),
        }
    }

    /// Does what `install` is told, below another root.
    fn install(&self, arguments: &[&str]) -> Result<()> {
        let built = binaries::tunnel_relay()?;
        let built = built.parent().context("a program lies in a folder")?;
        let mut command = Command::new("install");
        command.current_dir(binaries::workspace_dir());
        for argument in arguments {
            match argument.strip_prefix("target/release/") {
                Some(program) => command.arg(built.join(program)),
                None if argument.starts_with('/') => {
                    // A slash at the end says that it is a folder.
                    command.arg(format!("{}/{}", self.root.display(), argument.trim_start_matches('/')))
                }
                None => command.arg(argument),
            };
        }
        output(&mut command).map(drop)
    }

    fn program(&self) -> Command {
        Command::new(self.at("/usr/bin/tunnel-relay"))
    }

    /// Starts what the installed unit starts.
    fn start(&mut self) -> Result<()> {
        let units = self.at("/etc/systemd/system");
        let mut text = fs::read_to_string(units.join("tunnel-relay.service"))?;
        for further in fs::read_dir(units.join("tunnel-relay.service.d"))?.flatten() {
            text.push_str(&fs::read_to_string(further.path())?);
        }
        let line =
            text.lines().filter_map(|line| line.strip_prefix("ExecStart=")).rfind(|line| !line.is_empty());
        let (listen, admin) = (format!("127.0.0.1:{}", self.port), format!("127.0.0.1:{}", ports::free()?));
        let data = self.at("/var/lib/tunnel-relay").display().to_string();
        let config = self.at(CONFIG).display().to_string();
        let mut words = line.context("the unit starts nothing")?.split_whitespace();
        ensure!(words.next() == Some("/usr/bin/tunnel-relay"), "the unit starts another program");
        let mut command = self.program();
        command.env_clear();
        for word in words {
            command.arg(match word {
                "[::]:443" => &listen,
                "127.0.0.1:9090" => &admin,
                "${STATE_DIRECTORY}" => &data,
                CONFIG => &config,
                other => other,
            });
        }
        self.relay = Some(Process::spawn("tunnel-relay", &mut command, &self.root.join("relay.log"))?);
        Ok(())
    }

    /// Asks the relay from anywhere. The first time the certificate may still be on its way.
    async fn call(&mut self, command: &str, arguments: &[&str]) -> Result<()> {
        let is_health = arguments.iter().any(|argument| argument.ends_with("/health"));
        let wanted = if is_health { "\"status\":\"ok\"" } else { e2e::MODEL };
        let script = self.here(command);
        let answer = poll_until("the relay answers as it should", LIMIT, async || {
            let mut shell = Command::new("bash");
            shell.args(["-c", &script]).env("CURL_CA_BUNDLE", &self.trusted).env("KEY", &self.key);
            let answer = tokio::task::spawn_blocking(move || shell.output()).await.ok()?.ok()?;
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            text.contains(wanted).then_some(text)
        });
        answer.await?;
        self.asked |= !is_health;
        Ok(())
    }

    /// Does something on the desktop.
    async fn desk(&mut self, arguments: &[&str]) -> Result<()> {
        if self.desktop.is_none() {
            self.desktop = Some(set_up(self.lab, &self.trusted).await?);
        }
        let (daemon, _) = self.desktop.as_ref().context("the desktop is there")?;
        if arguments == ["login"] {
            // The other of the two ways that the line names: no browser has to find its way here.
            return log_in(daemon, self.provider).await;
        }
        let arguments: Vec<String> = arguments.iter().map(|argument| self.here(argument)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = daemon.tunnelctl(&arguments).await?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        if arguments.starts_with(&["keys", "create"]) {
            self.key = String::from_utf8(done.stdout)?.trim().to_owned();
            ensure!(self.key.split_whitespace().count() == 1, "it printed more than the key");
            keep_secret(&self.key);
        }
        Ok(())
    }
}

/// A daemon that runs with its model server and knows of no relay yet.
async fn set_up(lab: &mut Lab, trusted: &Path) -> Result<(Daemon, FakeBackend)> {
    let backend = FakeBackend::ollama().await?;
    let options = DaemonOptions { ollama: Some(backend.addr()), ..DaemonOptions::default() };
    let options = options.with("enableCloudProxy", true).with("caFile", trusted.display().to_string());
    let daemon = lab.daemon(options).await?;
    daemon.wait_for_backend("ollama", LIMIT).await?;
    Ok((daemon, backend))
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
