//! What can be said on the command line.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel_api::explain::ExplainRequest;
use tunnel_client::Door;

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not running, 4 not ready, 5 not allowed, \
                          6 not found, 7 configuration invalid, 8 timeout, 9 conflict";

/// Look after tunneld: the tunnel from this machine's model servers to a relay
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
#[command(next_display_order = 900)]
pub(crate) struct Global {
    /// Ask the daemon at this address, http://… or unix:///…
    ///
    /// Default: its control socket, or http://127.0.0.1:8765 when there is no socket.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<Door>,

    /// Answer in JSON, which is stable; text for people is not
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing but answers and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Wait this long for each answer: 60s, 2m, 500ms, or seconds
    ///
    /// Default: as long as what is asked may take, 10 seconds for most of it.
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// When colour is used; `auto` is on a terminal, unless NO_COLOR is set
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how the tunnel and the connections are
    Status {
        /// Go on showing changes; when piped, one line of JSON each
        #[arg(long, short)]
        watch: bool,
    },
    /// Open the tunnel; starts the daemon and looks for model servers where that is needed
    Start(Order),
    /// Close the tunnel; requests that run may finish
    Stop(Order),
    /// Close the tunnel and open it anew
    Restart(Order),
    /// Wait until the tunnel is up, or until requests would be answered
    ///
    /// Waits for the daemon to be started, too. Ends at once with code 4 when waiting cannot help, such as after
    /// the relay has refused the token. --timeout says how long it waits, 60s when it is not given; with 0 it looks
    /// once and ends with code 4 if it is not so.
    Wait {
        /// What to wait for: ready, tunnel, connection=ID or model=NAME
        #[arg(long = "for", value_name = "WHAT", default_value = "ready")]
        goal: Goal,
    },
    /// Log in, or store the token that the tunnel is dialled with
    ///
    /// On a terminal it logs in with the browser of this machine, where the relay offers that; --device-code works
    /// with a browser elsewhere. Otherwise the relay's operator makes a token: tunnel-relay token create --scope tunnel.
    /// The daemon keeps it in the desktop's keyring, or in an encrypted file where there is none, and dials with it at
    /// once. Ends with code 5 when access was denied, 8 when nobody finished in time, 9 when the relay offers no login.
    Login(LoginFrom),
    /// Revoke and forget the token; the tunnel goes down
    Logout,
    /// Show whom the token is for, until when, and where it is kept
    Whoami,
    /// Look after keys for apps: tokens that reach the models of this account over the relay
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Look after the connections to model servers
    #[command(subcommand)]
    Connections(ConnectionsVerb),
    /// Look after the models that the connections have
    #[command(subcommand)]
    Models(ModelsVerb),
    /// Show which connection a request would go to, and why not to the others
    ///
    /// Decides as the gateway does, at this moment, and sends nothing; docs/routing.md has the rules. Ends with code 4
    /// if no connection would get it at once.
    Explain(Explain),
    /// Show the machines of this account, as the relay knows them
    ///
    /// An app that uses the relay's address alone reaches the machine that has its model. One of several is preferred
    /// with: tunnelctl config set preferredDevice true
    Devices,
    /// Look at the requests that run, and end them
    #[command(subcommand)]
    Requests(RequestsVerb),
    /// Show what was asked of the models, summed up
    Usage {
        /// What to sum up by
        #[arg(long, value_name = "WHAT", default_value = "model")]
        by: By,
        /// From when on: a day such as 2026-01-31, or a time back such as 7d
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Write comma-separated values
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Look after the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Show how to set up an app, ready to paste
    ///
    /// Standard output has what is pasted and nothing else; where it belongs is said beside it.
    Connect {
        /// Which app; without one, all that are known are listed
        app: Option<App>,
        /// The model to name; default: the first one that there is
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
    /// Measure the way to the relay, or to a connection
    Ping {
        /// relay, or a connection's id; default: all of them
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        target: Option<String>,
        /// How many times
        #[arg(long, short, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Look for what is wrong, and say what to do
    ///
    /// Works without a daemon, as far as that goes. Ends with code 4 if a check fails.
    Doctor,
    /// Write an archive for a bug report, without secrets
    Diag {
        /// Where to write it; default: tunneld-diag-TIME.tar.gz in this directory
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the daemon's log
    Logs {
        /// Go on showing what is logged
        #[arg(long, short)]
        follow: bool,
        /// Only what is about this request
        #[arg(long, value_name = "ID")]
        request: Option<String>,
        /// The last lines
        #[arg(long, short = 'n', value_name = "N", default_value = "100")]
        lines: u32,
    },
    /// Show what happened
    Events {
        /// Go on showing what happens; when piped, one line of JSON each
        #[arg(long, short)]
        follow: bool,
        /// The last ones
        #[arg(long, short = 'n', value_name = "N", default_value = "50")]
        lines: u32,
    },
    /// Show the daemon's metrics, as Prometheus reads them
    Metrics,
    /// Have tunneld run as a user service of systemd
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Show the dashboard's address
    Dashboard,
    /// Write completions for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// Into this directory, a file each; without it the main page goes to standard output
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// Show the versions of tunnelctl and tunneld
    Version,
    /// Show the help of a command, as `COMMAND --help` does
    #[command(hide = true)]
    Help {
        /// The command, such as `connections add`
        command: Vec<String>,
    },
}

/// Where the token comes from: never the command line, which others can see.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LoginFrom {
    /// Log in with a browser of this machine; this is the default on a terminal
    #[arg(long, group = "from")]
    pub(crate) browser: bool,
    /// Log in with a browser on whatever machine, by typing a code there
    #[arg(long, group = "from")]
    pub(crate) device_code: bool,
    /// Read a token from this file
    #[arg(long, group = "from", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read a token from standard input
    #[arg(long, group = "from")]
    pub(crate) token_stdin: bool,
    /// Begin the login and leave the rest to the daemon
    #[arg(long, conflicts_with_all = ["token_file", "token_stdin"])]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// Make a key, and print it: the only time that it can be seen
    ///
    /// The relay makes it for one who is logged in; it allows no more than the login does. Ends with code 5 when this
    /// login may not make keys. With --local it is made here, and is good at this machine's gateway: for containers, other
    /// users of the machine, and the network where lanGateway is open.
    Create {
        /// Make it here, for callers of this machine's gateway
        #[arg(long, conflicts_with_all = ["device", "scopes"])]
        local: bool,
        /// What it is for
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
        /// Reach only this desktop
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
        /// Ask only for this model, * at the end stands for any rest; may be given several times
        #[arg(long = "model", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        models: Vec<String>,
        /// What it allows; may be given several times. Default: inference
        #[arg(long = "scope", value_name = "SCOPE", value_parser = NonEmptyStringValueParser::new())]
        scopes: Vec<String>,
        /// What a local key reaches: inference, all, or a rule such as "POST /api/chat", which may be given several times.
        /// Default: inference
        #[arg(long = "paths", value_name = "RULE", requires = "local")]
        paths: Vec<String>,
        /// Most requests a minute
        #[arg(long, value_name = "N")]
        requests_per_minute: Option<NonZeroU32>,
        /// Most tokens a minute, of prompts and answers
        #[arg(long, value_name = "N")]
        tokens_per_minute: Option<NonZeroU32>,
        /// Most requests at once
        #[arg(long, value_name = "N")]
        concurrent: Option<NonZeroU32>,
        /// How long it holds: 90d, 12h. Default: as the relay decides; a local one until it is revoked
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires: Option<NonZeroU64>,
    },
    /// Show the keys that were made from this machine
    List,
    /// Make a key void
    Revoke {
        /// What the list calls it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionsVerb {
    /// Show all connections
    List,
    /// Ask a model server now, or all of them
    ///
    /// Ends with code 4 if one does not answer.
    Test {
        /// The connection; default: all of them
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: Option<String>,
    },
    /// Add a model server
    Add {
        /// Its base address, such as http://127.0.0.1:8080
        // Not `url`: that is the daemon's, and names are one for all of the command line.
        #[arg(value_name = "URL")]
        address: String,
        /// What it is; default: what it turns out to be
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<Kind>,
        /// Its name here; default: made from what it is
        #[arg(long, value_parser = connection_id)]
        id: Option<String>,
        /// Which connections are tried first: lower ones
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        priority: Option<u32>,
        /// Share of the load among those of the same priority
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
        weight: Option<u32>,
        /// Most requests at once
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
        max_concurrent: Option<u32>,
        /// The stored secret that is sent to it; see: tunnelctl connections credential
        #[arg(long, value_name = "NAME", value_parser = connection_id)]
        credential: Option<String>,
    },
    /// Take a connection out of the configuration
    Remove {
        /// The connection
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Use a connection again
    Enable {
        /// The connection
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Keep a connection in the configuration, and do not use it
    Disable {
        /// The connection
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Look for model servers on this machine
    Detect {
        /// Add what is found
        #[arg(long)]
        add: bool,
    },
    /// Look after the secrets that connections are sent
    ///
    /// A connection names one as its credential; it is sent as a bearer token, to that connection alone.
    #[command(subcommand)]
    Credential(CredentialVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialVerb {
    /// Show the names of the secrets that are kept, and where
    List,
    /// Keep a secret, read from standard input
    ///
    /// In place of the one of this name. It takes effect at once; requests that run keep the one before.
    Set {
        /// Its name
        #[arg(value_parser = connection_id)]
        name: String,
    },
    /// Forget a secret
    Remove {
        /// Its name
        #[arg(value_parser = connection_id)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsVerb {
    /// Show all models, and which connections have them
    List,
    /// Load a model into its server's memory, and wait until it is there
    Load {
        #[command(flatten)]
        which: Which,
        /// How long it stays after its last request: 30m, seconds, or -1 for ever; default: as the server does
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        keep_alive: Option<String>,
    },
    /// Take a model out of memory, wherever it is
    Unload(Which),
    /// Keep a model in memory: it is loaded at start, and again when it has left
    Warm(Which),
    /// Do not keep a model in memory any longer
    Cool(Which),
    /// Give a model a name of your own, for apps that insist on one
    ///
    /// Such as: tunnelctl models alias gpt-4o qwen3:8b
    Alias {
        /// The name that requests may use
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// The model that it stands for: MODEL or ID/MODEL
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// Forget a name of your own
    Unalias {
        /// The name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

/// A model, and where.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The model
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) model: String,
    /// On this connection only
    #[arg(long, value_name = "ID", value_parser = connection_id)]
    pub(crate) on: Option<String>,
}

/// A request that might be sent.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The model, as an app names it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    model: String,
    /// The path that it would be posted to; without it a chat, in Ollama's API or else in OpenAI's
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The connection that the request insists on, as with X-Tunnel-Connection
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    connection: Option<String>,
    /// The session, as in X-Session-Id
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    session: Option<String>,
}

impl From<&Explain> for ExplainRequest {
    fn from(explain: &Explain) -> Self {
        Self {
            path: explain.path.clone(),
            dialect: None,
            model: Some(explain.model.clone()),
            connection: explain.connection.clone(),
            session: explain.session.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum RequestsVerb {
    /// Show the requests that run
    List {
        /// Go on showing changes; when piped, one line of JSON each
        #[arg(long, short)]
        watch: bool,
    },
    /// End a request; its caller is told
    Cancel {
        /// Its id, as the list and the answer's X-Request-Id tell it
        id: String,
    },
    /// Show where a request that runs is, and since when
    ///
    /// Finished ones are not kept yet.
    Explain {
        /// Its id
        id: String,
    },
}

/// What usage is summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Model,
    Connection,
    Key,
    Day,
}

/// What a model server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Ollama
    Ollama,
    /// Any other server with OpenAI's API
    Openai,
    /// llama.cpp's llama-server
    Llamacpp,
    /// vLLM
    Vllm,
    /// LM Studio
    Lmstudio,
    /// An account elsewhere: another relay, or a service with Ollama's or OpenAI's API
    Cloud,
}

impl Kind {
    /// Returns the name that the configuration uses.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Llamacpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Lmstudio => "lmstudio",
            Self::Cloud => "cloud",
        }
    }
}

/// An app that can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum App {
    /// curl, for a first answer
    Curl,
    /// Python, with OpenAI's package
    Python,
    /// JavaScript, with OpenAI's package
    Javascript,
    /// Ollama's own command line and libraries
    Ollama,
    /// Open WebUI
    OpenWebui,
    /// Continue, for VS Code and JetBrains
    Continue,
    /// Zed
    Zed,
    /// aider
    Aider,
    /// llm, Simon Willison's command line
    Llm,
}

/// A shell that completions are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Write the units, enable them and start the daemon
    ///
    /// Units that a package has installed are enabled as they are. A unit that was changed by hand is not
    /// overwritten.
    Install(Install),
    /// Stop the daemon and take away what install wrote; configuration and state stay
    Uninstall {
        /// Also take away units that were changed by hand; they are kept as .bak
        #[arg(long)]
        force: bool,
    },
    /// Show how the service stands; ends with code 3 when it does not run
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Start this daemon
    ///
    /// Default: the tunneld beside tunnelctl.
    #[arg(long, value_name = "PATH")]
    pub(crate) tunneld: Option<PathBuf>,
    /// Let systemd hold the ports, so that a restart refuses nobody; this is the default
    #[arg(long, overrides_with = "no_socket")]
    socket: bool,
    /// Let the daemon open its ports itself
    #[arg(long, overrides_with = "socket")]
    no_socket: bool,
    /// Go without the parts of the sandbox that need user namespaces, where the system forbids them
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// Replace units that were changed by hand; they are kept as .bak
    #[arg(long)]
    pub(crate) force: bool,
}

impl Install {
    /// Whether systemd is to hold the ports.
    pub(crate) fn socket(&self) -> bool {
        self.socket || !self.no_socket
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show which file is read and written
    Path,
    /// Show every key as it is in force
    Show {
        /// Also show which file, variable or flag each value came from
        #[arg(long)]
        origin: bool,
    },
    /// Show one key as it is in force
    Get {
        /// The key, such as ollamaPort or queue.maxWait
        key: String,
    },
    /// Change one key in the file
    Set {
        /// The key, such as ollamaPort or queue.maxWait
        key: String,
        /// Its value, in JSON or as plain text; null puts the default in force
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Say what is wrong with a configuration file, without a daemon
    ///
    /// Looks at the file alone, not at environment variables. Ends with code 7 if there are faults.
    Check {
        /// The file; default: the one that tunneld would read
        file: Option<PathBuf>,
    },
    /// Edit the file in $VISUAL or $EDITOR, and take it over if it is valid
    Edit,
    /// Show how what is in force differs from the defaults
    Diff,
    /// Have the file read anew
    Reload,
    /// Keep a copy of the file
    Backup,
    /// Put a copy of the file back
    Restore {
        /// The copy; without one, all that there are are listed
        name: Option<String>,
        /// Replace a file that has faults, too; it is kept as a copy
        #[arg(long)]
        force: bool,
    },
    /// Take over the original system's connection_config.json
    ///
    /// Its addresses become keys of the configuration, its token goes to where tunneld keeps tokens. The file is not
    /// changed; delete it afterwards.
    Import {
        /// The file
        file: PathBuf,
    },
    /// Write the JSON schema of the file, for editors
    Schema,
    /// Write a configuration file with every key and its default; needs no daemon
    Init,
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Wait until it is done, at most this long: 30, 30s, 2m
    #[arg(long, value_name = "SECONDS", value_parser = order_wait)]
    pub(crate) wait: Option<Duration>,
}

/// What `tunnelctl wait` waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The tunnel is up.
    Tunnel,
    /// Requests would be answered: a model server is connected.
    Ready,
    /// The connection with this id is up.
    Connection(String),
    /// A connection that is up has this model.
    Model(String),
}

impl FromStr for Goal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named =
            |prefix: &str| text.strip_prefix(prefix).filter(|name| !name.is_empty()).map(str::to_owned);
        match text {
            "ready" => Ok(Self::Ready),
            "tunnel" => Ok(Self::Tunnel),
            _ => named("connection=")
                .map(Self::Connection)
                .or_else(|| named("model=").map(Self::Model))
                .ok_or("must be ready, tunnel, connection=ID or model=NAME"),
        }
    }
}

fn connection_id(text: &str) -> Result<String, &'static str> {
    let fits = tunnel_api::config::is_connection_id(text);
    fits.then(|| text.to_owned()).ok_or("must be 1 to 63 characters of A-Z, a-z, 0-9, ., _ and -")
}

/// Reads how long an order is waited for: the daemon waits for an hour at most.
fn order_wait(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if wait <= Duration::from_secs(3600) { Ok(wait) } else { Err("must be at most an hour".to_owned()) }
}

/// Reads `60s`, `2m`, `500ms`, `1h`, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("must look like 60s, 2m or 500ms".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "must look like 60s, 2m or 500ms".to_owned())?;
    // A week: nobody waits longer, and sums with it cannot overflow.
    Duration::try_from_secs_f64(seconds * seconds_per_unit)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(7 * 24 * 3600))
        .ok_or_else(|| "must be at most a week".to_owned())
}

/// Reads how long a key holds, in seconds: `90d`, `12h`, `30m`, `60s`.
fn lifetime(text: &str) -> Result<NonZeroU64, &'static str> {
    const SHAPE: &str = "must look like 90d, 12h, 30m or 60s";
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let seconds_per_unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(SHAPE),
    };
    let number = number.parse::<u64>().map_err(|_| SHAPE)?;
    number.checked_mul(seconds_per_unit).and_then(NonZeroU64::new).ok_or(SHAPE)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "s", "-1", "1y", "1e9", "1..2", "99999999h", "nan", "inf"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn life_of_a_key_has_a_unit() {
        assert_eq!(lifetime("90d").map(NonZeroU64::get), Ok(7_776_000));
        assert_eq!(lifetime("60s").map(NonZeroU64::get), Ok(60));
        for text in ["", "d", "90", "0d", "-1d", "1.5h", "9é", "99999999999999999999d", "999999999999999999d"]
        {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn login_comes_from_one_place() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(
            parsed("tunnelctl login").is_ok() && parsed("tunnelctl login --no-wait --device-code").is_ok()
        );
        assert!(parsed("tunnelctl login --browser --device-code").is_err());
        assert!(parsed("tunnelctl login --token-stdin --no-wait").is_err());
    }

    #[test]
    fn order_is_waited_for_as_long_as_the_daemon_does() {
        assert_eq!(order_wait("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(order_wait("3601"), Err("must be at most an hour".to_owned()));
        assert!(order_wait("x").is_err());
    }

    #[test]
    fn socket_is_the_default_and_the_last_word_wins() {
        let socket = |line: &str| match Cli::parse_from(line.split(' ')).verb {
            Verb::Service(ServiceVerb::Install(install)) => install.socket(),
            other => panic!("{other:?}"),
        };
        assert!(socket("tunnelctl service install"));
        assert!(!socket("tunnelctl service install --no-socket"));
        assert!(socket("tunnelctl service install --no-socket --socket"));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["tunnelctl --json status", "tunnelctl status --json"] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().global.json);
        }
        assert!(Cli::try_parse_from("tunnelctl --url https://x status".split(' ')).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_way_that_works() {
        let told = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        let priority = told("tunnelctl connections add http://h --priority -1");
        assert!(priority.contains("-1 is not in") && !priority.contains("tip:"), "{priority}");
        for line in ["tunnelctl connections enable ", "tunnelctl connections test ", "tunnelctl ping "] {
            assert!(told(line).contains("a value is required"), "{line}");
        }
    }
}
