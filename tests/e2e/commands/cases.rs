//! Which command lines are tried: at least one for each verb that `tunnelctl --help` leads to.
//!
//! Placeholders: `{files}` is a folder with the files of [`super::world::write_files`], `{server}` a model server that is not
//! configured yet, `{request}` a request that runs, `{form}` is `text` or `json` and keeps the two from each other's files.

use e2e::Numbers;

/// A verb and the lines that are tried with it, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) verb: &'static str,
    /// What follows the verb, line by line.
    pub(super) lines: &'static [&'static str],
    /// Given on standard input.
    pub(super) input: &'static str,
    /// Changes something: it gets a daemon of its own.
    pub(super) changes: bool,
    pub(super) numbers: Numbers,
    pub(super) shape: Shape,
    pub(super) json: Json,
    pub(super) talk: Talk,
    /// It looks at these ports of the machine: nothing can be said of it where a program has one.
    pub(super) ports: &'static [u16],
}

/// How much of an answer is the same each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    /// Only the first line, or the first object and the first element of each of its lists; what follows depends on what
    /// happened when.
    Beginning,
}

/// Whether what is said on standard error comes in the same order each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Talk {
    InOrder,
    /// Several things are done at once, and each is told when it is done.
    InAnyOrder,
}

/// What `--json` makes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// `{"schema": "tunnelctl/v1", …}`, once or line by line.
    Ours,
    /// The answer is in a form of its own: a script, a page, a schema.
    Other,
}

const fn asks(verb: &'static str, lines: &'static [&'static str]) -> Case {
    Case {
        verb,
        lines,
        input: "",
        changes: false,
        numbers: Numbers::Masked,
        shape: Shape::Whole,
        json: Json::Ours,
        talk: Talk::InOrder,
        ports: &[],
    }
}

const fn changes(verb: &'static str, lines: &'static [&'static str]) -> Case {
    Case { changes: true, ..asks(verb, lines) }
}

/// Its numbers are settings, not counts.
const fn settings(case: Case) -> Case {
    Case { numbers: Numbers::Kept, ..case }
}

const fn beginning(case: Case) -> Case {
    Case { shape: Shape::Beginning, ..case }
}

const fn other(case: Case) -> Case {
    Case { shape: Shape::Beginning, json: Json::Other, ..case }
}

const fn looks_at(ports: &'static [u16], case: Case) -> Case {
    Case { ports, ..case }
}

/// Where model servers usually are.
const MODEL_PORTS: &[u16] = &[11434, 8080, 8081, 8000, 1234, 4891, 5000];
/// Ours by default, and Ollama's.
const DEFAULT_PORTS: &[u16] = &[8765, 11435, 11434];

pub(super) const CASES: &[Case] = &[
    asks("status", &["", "-w"]),
    changes("start", &["", "--wait 10"]),
    changes("stop", &["", "--wait 10"]),
    changes("restart", &["", "--wait 10"]),
    asks(
        "wait",
        &[
            "--timeout 200ms",
            "--for tunnel --timeout 200ms",
            "--for connection=ollama --timeout 200ms",
            "--for connection=nobody --timeout 200ms",
            "--for model=scripted:1b --timeout 200ms",
            "--for model=nobody --timeout 200ms",
        ],
    ),
    Case {
        input: "not a token\n",
        ..changes("login", &["--token-file {files}/token", "--token-stdin", "--device-code", ""])
    },
    changes("logout", &[""]),
    asks("whoami", &[""]),
    changes("keys create", &["--name editor --expires 90d", "--device Not-A-Name", "--expires soon"]),
    asks("keys list", &[""]),
    changes("keys revoke", &["nobody", "not/an-id"]),
    asks("connections list", &[""]),
    asks("connections test", &["", "ollama", "nobody"]),
    changes(
        "connections add",
        &[
            "{server} --type openai --id box-{form}",
            "{server} --type openai --id box-{form}",
            "not-a-url --type openai",
        ],
    ),
    changes("connections remove", &["spare-{form}", "nobody", "ollama"]),
    changes("connections enable", &["spare-{form}", "ollama", "nobody"]),
    changes("connections disable", &["spare-{form}", "ollama", "nobody"]),
    looks_at(MODEL_PORTS, asks("connections detect", &[""])),
    asks("connections credential list", &[""]),
    Case {
        input: "a-secret-of-an-account\n",
        ..changes("connections credential set", &["account", "not/a-name"])
    },
    changes("connections credential remove", &["nobody", "not/a-name"]),
    asks("models list", &[""]),
    changes("models load", &["scripted:1b", "scripted:1b --keep-alive soon", "nobody"]),
    changes("models unload", &["scripted:1b", "scripted:1b --on nobody", "nobody"]),
    changes("models warm", &["scripted:1b", "scripted:1b --on nobody"]),
    changes("models cool", &["scripted:1b"]),
    changes("models alias", &["gpt-{form} scripted:1b", "gpt-{form} scripted:1b", "gpt-{form} gpt-{form}"]),
    changes("models unalias", &["nobody"]),
    asks(
        "explain",
        &["scripted:1b", "scripted:1b --path /v1/chat/completions --connection nobody", "nobody"],
    ),
    asks("devices", &[""]),
    beginning(asks("requests list", &["", "-w"])),
    changes("requests cancel", &["{request}", "nobody"]),
    asks("requests explain", &["{request}", "nobody"]),
    asks("usage", &["", "--by day --since 7d", "--since nonsense"]),
    settings(asks("config path", &[""])),
    settings(asks("config show", &["", "--origin"])),
    settings(asks("config get", &["ollamaPort", "queue", "nobody"])),
    settings(changes(
        "config set",
        &["healthCheckInterval 7", "logLevel LOUD", "nobody 1", "healthCheckInterval null"],
    )),
    settings(asks("config check", &["{files}/valid.json", "{files}/faulty.json", "{files}/absent.json"])),
    settings(changes("config edit", &[""])),
    settings(asks("config diff", &[""])),
    settings(changes("config reload", &[""])),
    settings(changes("config backup", &[""])),
    settings(changes("config restore", &["", "nobody"])),
    settings(changes(
        "config import",
        &["{files}/connection_config.json", "{files}/faulty.json", "{files}/absent.json"],
    )),
    other(asks("config schema", &[""])),
    settings(asks("config init", &[""])),
    asks("connect", &["", "curl", "python", "ollama --model nobody"]),
    asks("ping", &["-c 1", "ollama -c 1", "nobody -c 1"]),
    looks_at(DEFAULT_PORTS, asks("doctor", &[""])),
    Case { talk: Talk::InAnyOrder, ..asks("diag", &["-o {files}/diag-{form}.tar.gz"]) },
    beginning(asks("logs", &["-n 3", "--request --all"])),
    beginning(asks("events", &["-n 1", "-f"])),
    beginning(asks("metrics", &[""])),
    changes("service install", &[""]),
    changes("service uninstall", &[""]),
    asks("service status", &[""]),
    asks("dashboard", &[""]),
    other(asks("completion", &["bash", "zsh", "fish"])),
    other(asks("man", &["", "--directory {files}/man-{form}"])),
    asks("version", &[""]),
];
