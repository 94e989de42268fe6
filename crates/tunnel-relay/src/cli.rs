//! The command line.

mod admin;
mod audit;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tracing::warn;
use tunnel_transport::DeviceName;

use crate::admin::addresses_path;
use crate::auth::{self, Grant, LocalIssuer, Scope};
use crate::{Relay, RelayConfig, Settings, SettingsError};

pub use admin::{Admin, AdminCommand, PageArgs, Revoke};
pub use audit::{AuditCommand, Hash, Kind, Verify};

/// Where the system unit keeps the relay's data.
const DATA_DIR: &str = "/var/lib/tunnel-relay";

/// Pass requests from web callers to desktops behind their tunnels
#[derive(Debug, Parser)]
#[command(name = "tunnel-relay", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay until SIGTERM or SIGINT
    Serve(Serve),
    /// Look at a settings file
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make tokens for callers and desktops
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Look at the audit log
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Ask the relay that runs, or give it an order
    Admin(Admin),
}

/// `tunnel-relay serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// HOST:PORT for callers and desktops; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// HOST:PORT for /livez, /readyz, /metrics and `tunnel-relay admin`; keep it private
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: String,
    /// Directory of keys, audit log and addresses.json; made at the first start
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// TOML file with the settings, read anew when it changes and on SIGHUP; without it the defaults apply
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long running streams may go on after the first signal
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub grace: u64,
    /// How long a balancer in front needs to notice that /readyz fails; 0 where there is none
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub drain_notice: u64,
    /// File that gets {"listen": "…", "admin": "…"} once both addresses are bound
    #[arg(long, value_name = "FILE")]
    pub addr_file: Option<PathBuf>,
}

/// `tunnel-relay config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a settings file, all of it; exit code 7 if anything is. Warnings alone: 0
    Check(ConfigCheck),
}

/// `tunnel-relay config check`.
#[derive(Debug, Args)]
pub struct ConfigCheck {
    /// The file, as for `serve --config`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print all settings that would be in force, as TOML; there are no secrets among them
    #[arg(long)]
    pub print: bool,
}

/// `tunnel-relay token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, nothing else
    Create(TokenCreate),
}

/// `tunnel-relay token create`.
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// Directory of the signing key; made when missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The account: callers reach the desktops of their own subject only
    #[arg(long, value_name = "NAME")]
    pub subject: String,
    /// Let NAME be that of an issuer's tenant, which has a colon: the token reaches that tenant's desktops
    #[arg(long)]
    pub issuers_tenant: bool,
    /// What the token allows; may be given twice
    #[arg(long, value_name = "SCOPE", required = true)]
    pub scope: Vec<Scope>,
    /// The only device the token holds for; without it, every device of the subject
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceName>,
    /// The only model the token holds for, `*` at the end standing for any rest; may be given several times
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Name of the limits that apply
    #[arg(long, value_name = "NAME")]
    pub tier: Option<String>,
    /// How long the token is valid: a number with s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_ttl)]
    pub ttl: Duration,
}

impl Serve {
    /// Starts the relay and tells where it listens.
    pub async fn start(self) -> anyhow::Result<Relay> {
        let settings = match &self.config {
            Some(path) => Settings::load(path)?,
            None => Settings::default(),
        };
        settings.log_warnings();
        let relay = Relay::start(RelayConfig {
            listen: self.listen,
            admin_listen: self.admin_listen,
            data_dir: self.data_dir.clone(),
            grace: Duration::from_secs(self.grace),
            drain_notice: Duration::from_secs(self.drain_notice),
            settings,
            settings_file: self.config,
        })
        .await?;
        let for_operators = addresses_path(&self.data_dir);
        if let Err(error) = write_addresses(&for_operators, &relay) {
            // `tunnel-relay admin` has --url.
            warn!(%error, file = %for_operators.display(), "the addresses cannot be written");
        }
        if let Some(path) = &self.addr_file {
            write_addresses(path, &relay).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(relay)
    }
}

/// The exit code for a settings file with faults. The system unit does not try such a start again.
const FAULTY: u8 = 7;

/// Returns the exit code for what a command failed of.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(SettingsError::Faults { .. } | SettingsError::Syntax { .. }) => ExitCode::from(FAULTY),
        // A file that cannot be read may lie on a disk that comes later.
        Some(SettingsError::Read { .. }) | None => ExitCode::FAILURE,
    }
}

impl ConfigCheck {
    /// Checks the file. What is wrong goes to `talk`, what was asked for to `answer`.
    pub fn run(&self, answer: &mut dyn Write, talk: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let settings = match Settings::load(&self.file) {
            Ok(settings) => settings,
            Err(error) => {
                for fault in error.faults() {
                    writeln!(talk, "{fault}")?;
                }
                writeln!(
                    talk,
                    "{} would not be taken; a relay that runs stays with what it has",
                    self.file.display()
                )?;
                return Ok(ExitCode::from(FAULTY));
            }
        };
        for warning in settings.warnings() {
            writeln!(talk, "warning: {warning}")?;
        }
        if self.print {
            write!(answer, "{}", settings.to_toml()).context("writing the settings")?;
        } else {
            writeln!(answer, "{} is good", self.file.display()).context("writing the answer")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl TokenCreate {
    /// Makes the token.
    pub fn run(self) -> anyhow::Result<String> {
        if self.subject.contains(':') && !self.issuers_tenant {
            bail!(
                "{:?} is called as a tenant of an issuer of the settings is, and its token would reach that tenant's desktops; \
                 if that is meant, add --issuers-tenant, otherwise choose a name without a colon",
                self.subject
            );
        }
        let issuer = LocalIssuer::open(&self.data_dir)?;
        let grant = Grant {
            subject: self.subject,
            scopes: self.scope.into_iter().collect(),
            device: self.device,
            models: (!self.model.is_empty()).then_some(self.model),
            tier: self.tier,
            ttl: self.ttl,
        };
        Ok(issuer.issue(&grant, auth::unix_now())?)
    }
}

/// Writes beside the file and renames, so that a reader sees all of it or nothing.
fn write_addresses(path: &Path, relay: &Relay) -> anyhow::Result<()> {
    let addresses =
        json!({ "listen": relay.listen_addr().to_string(), "admin": relay.admin_addr().to_string() });
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let mut file = fs::File::create(&draft)?;
    writeln!(file, "{addresses}")?;
    drop(file);
    Ok(fs::rename(&draft, path)?)
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    const MAX_DAYS: u64 = auth::LONGEST_LIFE.as_secs() / 86_400;
    let wrong = || "must be a whole number with s, m, h or d, such as 30d".to_owned();
    let (number, seconds) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        Some(0) => Err("must be at least one second".to_owned()),
        Some(total) if total <= MAX_DAYS * 86_400 => Ok(Duration::from_secs(total)),
        _ => Err(format!("must be at most {MAX_DAYS}d")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("2h", 7_200), ("30d", 2_592_000)] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in
            ["", "30", "d", "-1d", "+1d", "1.5h", "1w", "0s", "3651d", "99999999999999999999d", "30 d", "1ä"]
        {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_checked_before_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay.toml");
        let check = |text: &str, print| {
            fs::write(&file, text).unwrap();
            let (mut answer, mut talk) = (Vec::new(), Vec::new());
            let code = ConfigCheck { file: file.clone(), print }.run(&mut answer, &mut talk).unwrap();
            (code, String::from_utf8(answer).unwrap(), String::from_utf8(talk).unwrap())
        };
        let (code, answer, talk) = check("[edge]\nunread_timeout_s = 9\n", false);
        assert!(code == ExitCode::SUCCESS && answer.ends_with("is good\n") && talk.is_empty());
        let (code, answer, _) = check("[edge]\nunread_timeout_s = 9\n", true);
        assert!(code == ExitCode::SUCCESS && answer.contains("\nunread_timeout_s = 9\n"));
        let (code, answer, talk) = check("[tiers.free]\nrequests_per_minute = 9\n", false);
        assert!(code == ExitCode::SUCCESS && answer.ends_with("is good\n"));
        assert!(talk.starts_with("warning: tiers.default: ") && talk.lines().count() == 1, "{talk}");
        let (code, answer, talk) = check("[edge]\nunread = 9\n[tiers.free]\nmax_devices = 0\n", true);
        assert!(code == ExitCode::from(7) && answer.is_empty());
        assert!(
            talk.contains("edge.unread: there is no such key")
                && talk.contains("tiers.free.max_devices: must be")
        );
    }

    #[test]
    fn a_token_needs_a_scope_and_takes_two() {
        let parse = |args: &[&str]| {
            let all =
                ["tunnel-relay", "token", "create", "--data-dir", "x", "--subject", "a"].iter().chain(args);
            Cli::try_parse_from(all)
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--scope", "admin"]).is_err());
        assert!(parse(&["--scope", "tunnel", "--device", "No Good"]).is_err());
        let cli = parse(&["--scope", "tunnel", "--scope", "inference"]).unwrap();
        let Command::Token { command: TokenCommand::Create(create) } = cli.command else { panic!() };
        assert_eq!(create.scope, [Scope::Tunnel, Scope::Inference]);
        assert_eq!(create.ttl, Duration::from_secs(2_592_000));
    }

    #[test]
    fn a_token_for_an_issuers_tenant_is_made_on_purpose_only() {
        let dir = tempfile::tempdir().unwrap();
        let create = |more: &[&str]| {
            let data_dir = dir.path().join("data");
            let args = [
                "tunnel-relay",
                "token",
                "create",
                "--subject",
                "idp:ann",
                "--scope",
                "tunnel",
                "--data-dir",
            ];
            let args = args.map(str::to_owned).into_iter().chain([data_dir.display().to_string()]);
            let cli = Cli::try_parse_from(args.chain(more.iter().map(|&arg| arg.to_owned()))).unwrap();
            let Command::Token { command: TokenCommand::Create(create) } = cli.command else { panic!() };
            create.run()
        };
        let refused = create(&[]).unwrap_err().to_string();
        assert!(refused.contains("--issuers-tenant"), "{refused}");
        assert!(create(&["--issuers-tenant"]).is_ok());
    }
}
