//! Every endpoint, described.

use http::{Method, StatusCode};
use serde_json::json;
use tunnel_api::config_api::{
    BackupAnswer, ConfigAnswer, ConfigBackups, ConfigCheck, ConfigOrigins, ImportAnswer, RestoreOrder,
};
use tunnel_api::credential::{CredentialRequest, StoredCredential, StoredCredentials};
use tunnel_api::explain::{ExplainRequest, Explanation};
use tunnel_api::{
    AliasOrder, AuthStatus, Config, Connections, Detected, Devices, Diagnosis, Events, Health, Key,
    KeyRequest, Keys, LogLevelAnswer, LoginBegun, LoginRequest, LoginStatus, Metrics, ModelMoves, ModelOrder,
    Models, NewKey, Requests, Status, TokenRequest, TunnelAnswer, Usage, Version, Warnings,
};
use tunnel_api::{connection::ConnectionTest, log_level::LogLevelRequest};

use super::document::Operation;

const STATUS: &str = "Status";
const TUNNEL: &str = "Tunnel";
const MODELS: &str = "Models and requests";
const METRICS: &str = "Metrics and history";
const CONFIG: &str = "Configuration";
const ACCOUNT: &str = "Account";
const MACHINES: &str = "For machines";

/// The groups, in the order of the document.
pub(super) const TAGS: &[(&str, &str)] = &[
    (STATUS, "How things stand."),
    (TUNNEL, "What is wanted of the tunnel."),
    (MODELS, "Which models there are, and what runs on them."),
    (
        METRICS,
        "What was measured, counted and noticed. LLM requests only: listings and management are not counted.",
    ),
    (CONFIG, "Reading and changing the configuration. [configuration.md](configuration.md) has the keys."),
    (ACCOUNT, "The token that the tunnel is dialled with, which is never shown, and keys for apps."),
    (MACHINES, "Probes, scraping, and this description."),
];

fn get(path: &'static str, tag: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::GET, path, tag, summary)
}

fn post(path: &'static str, tag: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::POST, path, tag, summary)
}

fn order(path: &'static str, summary: &'static str) -> Operation {
    post(path, TUNNEL, summary)
        .about("Idempotent. Answers once the order is taken; with `wait`, once its state is reached.")
        .query(
            "wait",
            "Seconds to wait until the state is reached, 0 to 3600.",
            json!({ "type": "number", "minimum": 0, "maximum": 3600 }),
        )
        .answers::<TunnelAnswer>("The order is taken, or its state reached.")
        .fails(StatusCode::BAD_REQUEST, "`wait` is no such number.")
        .fails(
            StatusCode::CONFLICT,
            "The tunnel is switched off in the configuration (`cloud_proxy_disabled`).",
        )
        .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down.")
        .fails(StatusCode::GATEWAY_TIMEOUT, "The state was not reached in time; the sentence says why.")
}

/// Returns all of them.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = status();
    all.extend(tunnel());
    all.extend(models());
    all.extend(metrics());
    all.extend(config());
    all.extend(account());
    all.extend(machines());
    all
}

fn status() -> Vec<Operation> {
    vec![
        get("/api/health", STATUS, "Health and uptime")
            .about("Always 200; `/readyz` is the one that answers 503.")
            .answers::<Health>("How the daemon is."),
        get("/api/status", STATUS, "Everything in one snapshot").answers::<Status>("The newest snapshot."),
        get("/api/connections", STATUS, "All connections").answers::<Connections>("The connections."),
        post("/api/connections/detect", STATUS, "Look for model servers on this machine, or at one address")
            .about(
                "Asks the ports that model servers usually have, on 127.0.0.1 and [::1]: 11434 (Ollama), 8080 and 8081 \
                 (llama.cpp), 8000 (vLLM), 1234 (LM Studio). A server is known by what it answers, whatever its port; \
                 what does not speak as a model server is left out. Changes nothing: an entry of `connections` made of \
                 `suggested_id`, `kind` and `url` adds a server. Takes some two seconds at most; who asks while another \
                 one waits gets the same answer. With `url` it looks at this one address instead, of any machine, which \
                 takes some five seconds at most; it finds one server, or none.",
            )
            .query(
                "url",
                "A server's base address, `http` or `https`, such as `http://gpu.lan:8080`.",
                json!({ "type": "string", "format": "uri" }),
            )
            .answers::<Detected>("The servers, in the order of the ports.")
            .fails(StatusCode::BAD_REQUEST, "`url` is no base address."),
        post("/api/connections/{id}/test", STATUS, "Probe a connection now")
            .about(
                "Waits for the outcome, 10 s at most. A connection that is down is an answer, not an error. Of `cloud` it \
                 measures a round trip over the tunnel.",
            )
            .path_parameter("id", "The connection's id.")
            .answers::<ConnectionTest>("What the probe found.")
            .fails(StatusCode::NOT_FOUND, "There is no such connection."),
        post("/api/diagnosis", STATUS, "Look at everything that could be wrong")
            .about(
                "The daemon looks at itself (`config`, `ports`, `disk`, `keyring`), at each model server \
                 (`connection:<id>`), and at the way to the relay, step by step, as the tunnel goes it (`token`, \
                 `relay_dns`, `relay_tcp`, `relay_tls`, `relay_http`, `clock`, `relay_websocket`); a step whose \
                 predecessor failed is skipped. Takes some 13 seconds at most; who asks while another one waits gets \
                 the same answer.",
            )
            .answers::<Diagnosis>("Each check, with what to do."),
        get("/api/warnings", STATUS, "What someone should look at")
            .answers::<Warnings>("The most severe first."),
        get("/api/version", STATUS, "Versions")
            .answers::<Version>("The daemon's, the API's and the protocol's."),
    ]
}

fn tunnel() -> Vec<Operation> {
    vec![
        order("/api/tunnel/start", "Dial, and stay up"),
        order("/api/tunnel/stop", "Let running requests end, then stay away"),
        order("/api/tunnel/restart", "Open a new session; running requests end on the old one"),
    ]
}

/// What changes one entry of the configuration fails as all changes of it do.
fn configured(operation: Operation) -> Operation {
    operation
        .answers::<ConfigAnswer>("What is in force now.")
        .fails(
            StatusCode::CONFLICT,
            "There is no place for a file, it cannot be written, or it has faults of its own and is left alone.",
        )
        .fails(StatusCode::PRECONDITION_FAILED, "Others change the file all the time.")
        .fails(StatusCode::UNPROCESSABLE_ENTITY, "The configuration would have faults; `faults` lists them.")
        .fails(StatusCode::INTERNAL_SERVER_ERROR, "The file could not be read or written; the sentence says why.")
        .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down, or other changes take long.")
        .fails(StatusCode::GATEWAY_TIMEOUT, "It was begun and takes long; it may still be made.")
}

fn models() -> Vec<Operation> {
    vec![
        get("/api/models", MODELS, "The models of all connections")
            .about("And the aliases of the configuration, and the models that are kept in memory.")
            .answers::<Models>("By name."),
        post("/api/models/load", MODELS, "Load a model")
            .about(
                "Waits until it is in memory, `firstByteTimeout` at most; who goes away gives it up. It is listed with \
                 the requests that run, and can be cancelled as they can; it counts as none. Ollama and llama.cpp's \
                 router can do it.",
            )
            .takes::<ModelOrder>("the model", json!({ "model": "qwen3:8b", "keep_alive": "30m" }))
            .answers::<ModelMoves>("It is in memory.")
            .fails(StatusCode::BAD_REQUEST, "The body cannot be read.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::NOT_FOUND, "There is no such model, or no such connection.")
            .fails(StatusCode::CONFLICT, "The server has no way to do it, or it was cancelled.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The connection is down.")
            .fails(StatusCode::BAD_GATEWAY, "The server did not do it; the sentence has its words.")
            .fails(StatusCode::GATEWAY_TIMEOUT, "It was not done in time; the model may still be loaded."),
        post("/api/models/unload", MODELS, "Take a model out of memory")
            .about("On one connection, or on all that have it there. It stays kept warm if it is.")
            .takes::<ModelOrder>("the model", json!({ "model": "qwen3:8b" }))
            .answers::<ModelMoves>("Where it was; nowhere is no error.")
            .fails(StatusCode::BAD_REQUEST, "The body cannot be read.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::NOT_FOUND, "There is no such model, or no such connection.")
            .fails(StatusCode::CONFLICT, "The server has no way to do it, or it was cancelled.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The connection is down.")
            .fails(StatusCode::BAD_GATEWAY, "The server did not do it; the sentence has its words.")
            .fails(StatusCode::GATEWAY_TIMEOUT, "It was not done in time."),
        configured(
            Operation::new(Method::PUT, "/api/models/aliases/{name}", MODELS, "Give a model a name of your own")
                .about(
                    "Changes the key `aliases` of the configuration file, of which a copy is kept. The model need not \
                     be there. A local model that is really called so comes first.",
                )
                .path_parameter("name", "The name. Case and `:latest` do not matter.")
                .takes::<AliasOrder>("what it stands for", json!({ "target": "qwen3:8b" }))
                .fails(StatusCode::BAD_REQUEST, "The body cannot be read.")
                .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
        ),
        configured(
            Operation::new(Method::DELETE, "/api/models/aliases/{name}", MODELS, "Forget a name of your own")
                .path_parameter("name", "The name.")
                .fails(StatusCode::NOT_FOUND, "There is no such alias."),
        ),
        configured(
            Operation::new(Method::PUT, "/api/models/warm/{model}", MODELS, "Keep a model in memory")
                .about("Adds it to the key `keepWarm` of the configuration file, of which a copy is kept.")
                .path_parameter("model", "The model, `<connection>/<model>` to say where; a slash is written `%2F`."),
        ),
        configured(
            Operation::new(Method::DELETE, "/api/models/warm/{model}", MODELS, "Do not keep a model in memory")
                .about("It leaves the memory when its server sees fit, half an hour later at most.")
                .path_parameter("model", "The model, as the configuration names it.")
                .fails(StatusCode::NOT_FOUND, "It is not kept."),
        ),
        get("/api/devices", MODELS, "The machines of this account, and their models")
            .about("Asked of the relay with the token of the tunnel; 10 seconds at most. The relay keeps nothing of it: it is what each machine says while its tunnel is up.")
            .answers::<Devices>("By name.")
            .fails(StatusCode::CONFLICT, "There is no tunnel, or no token.")
            .fails(StatusCode::BAD_GATEWAY, "The relay cannot be reached, or does not answer with a list."),
        post("/api/explain", MODELS, "Where a request would go, and why")
            .about(
                "Decides as the gateway does, at this moment, and sends nothing. Among equals a draw decides: a second \
                 answer may differ. [routing.md](routing.md) explains the reasons.",
            )
            .takes::<ExplainRequest>("what the request is like", json!({ "path": "/api/chat", "model": "llama3.2:3b" }))
            .answers::<Explanation>("The decision, and a reason for each connection. That nobody would take it is an answer, not an error.")
            .fails(StatusCode::BAD_REQUEST, "The body is not such an object, or `path` or `dialect` cannot be read.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
        get("/api/explain", MODELS, "Where a request would go, and why, by parameters")
            .about("As `POST /api/explain`.")
            .query("path", "The path of the gateway.", json!({ "type": "string", "default": "/api/chat" }))
            .query("dialect", "The API, where no path is given.", json!({ "type": "string", "enum": ["ollama", "openai"], "default": "ollama" }))
            .query("model", "The model, as an app names it.", json!({ "type": "string" }))
            .query("connection", "The connection that the request insists on.", json!({ "type": "string" }))
            .query("session", "The session, as in `X-Session-Id`.", json!({ "type": "string" }))
            .answers::<Explanation>("The decision, and a reason for each connection.")
            .fails(StatusCode::BAD_REQUEST, "The query cannot be read."),
        get("/api/requests", MODELS, "The requests that run now").answers::<Requests>("The oldest first."),
        Operation::new(Method::DELETE, "/api/requests/{id}", MODELS, "Cancel a request that runs")
            .about("Its model server stops at once, and its caller's answer ends with an error.")
            .path_parameter("id", "The request's id, as in its `X-Request-Id`.")
            .answers::<TunnelAnswer>("It was cancelled.")
            .fails(StatusCode::NOT_FOUND, "No request with this id runs."),
    ]
}

fn metrics() -> Vec<Operation> {
    let switched_off = "Metrics are switched off (`enableMetrics`).";
    vec![
        get("/api/metrics", METRICS, "What was measured")
            .answers::<Metrics>("Percentiles of real requests, rates of the last minute, totals.")
            .fails(StatusCode::NOT_FOUND, switched_off),
        get("/api/usage", METRICS, "What was used")
            .about("Committed rows only, so that what was shown never goes back, also over a crash; commits come at least each 250 ms.")
            .query(
                "by",
                "What a row stands for.",
                json!({ "type": "string", "enum": ["model", "connection", "key", "day"], "default": "model" }),
            )
            .query(
                "since",
                "The first day to count, in UTC, or a time on it. Default: all that is kept.",
                json!({ "anyOf": [{ "type": "string", "format": "date" }, { "type": "string", "format": "date-time" }] }),
            )
            .answers::<Usage>("A row each.")
            .fails(StatusCode::BAD_REQUEST, "`by` or `since` cannot be read.")
            .fails(StatusCode::NOT_FOUND, switched_off)
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The database does not answer; requests to models are not affected."),
        get("/api/events", METRICS, "What happened")
            .about("Ids grow by one: a jump means that some are no longer kept.")
            .query("since", "The last id that is known already.", json!({ "type": "integer", "minimum": 0 }))
            .query(
                "limit",
                "The most events to answer, 1 to 1000.",
                json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
            )
            .answers::<Events>("In order. Without `since` the newest.")
            .fails(StatusCode::BAD_REQUEST, "`since` or `limit` cannot be read.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The database does not answer."),
    ]
}

fn config() -> Vec<Operation> {
    let busy = "The daemon is shutting down, or other changes take long.";
    let io = "The file could not be read or written; the sentence says why.";
    let conflict =
        "There is no place for a file, it cannot be written, or it has faults of its own and is left alone.";
    let changes = |operation: Operation| {
        operation
            .header("If-Match", "The `ETag` of the version that is to be changed. Without it any.")
            .answers::<ConfigAnswer>("What is in force now.")
            .fails(StatusCode::BAD_REQUEST, "The body is not JSON.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::PRECONDITION_FAILED, "The file is another version by now.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The configuration has faults; `faults` lists all of them. Nothing was changed.",
            )
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, busy)
            .fails(
                StatusCode::GATEWAY_TIMEOUT,
                "It was begun and takes long; it may still be made, so look before repeating it.",
            )
    };
    vec![
        get("/api/config", CONFIG, "The configuration in force")
            .about("Every key with its effective value; secrets are never part of it. `ETag` names the version of the file.")
            .answers::<Config>("All keys."),
        changes(
            Operation::new(Method::PUT, "/api/config", CONFIG, "Replace the configuration file's content")
                .about("Checked first; a copy of the file before it is kept.")
                .takes::<ConfigKeys>("keys of the configuration, those that differ from the defaults", json!({ "logLevel": "DEBUG" })),
        ),
        changes(
            Operation::new(Method::PATCH, "/api/config", CONFIG, "Change keys of the configuration file")
                .about("A JSON merge patch (RFC 7396) on the *file's* keys: others stay as they are, null removes one. A key that an environment variable sets is written and listed in `overridden`.")
                .takes::<ConfigKeys>("the keys to change", json!({ "logLevel": "DEBUG" })),
        ),
        post("/api/config/validate", CONFIG, "Check a configuration")
            .about("Changes nothing. Faults are the answer, not an error.")
            .takes::<ConfigKeys>("the content of a file", json!({ "ollamaPort": 70000 }))
            .answers::<ConfigCheck>("All faults at once, each with key, value and rule.")
            .fails(StatusCode::BAD_REQUEST, "The body is not JSON.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, busy),
        post("/api/config/reload", CONFIG, "Read the file anew")
            .about("As SIGHUP does, and a change of the file by itself.")
            .answers::<ConfigAnswer>("What is in force now.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::UNPROCESSABLE_ENTITY, "The configuration has faults; what was in force stays.")
            .fails(StatusCode::GATEWAY_TIMEOUT, "It was begun and takes long; it may still be made, so look before repeating it.")
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, busy),
        post("/api/config/backup", CONFIG, "Keep a copy of the file")
            .answers::<BackupAnswer>("The copy's name.")
            .fails(StatusCode::NOT_FOUND, "There is no file; the defaults run.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, busy),
        changes(
            post("/api/config/restore", CONFIG, "Put a copy back")
                .takes::<RestoreOrder>("the name of a copy", json!({ "name": "tunnel_config_backup_20260131T120000Z.json" }))
                .fails(StatusCode::NOT_FOUND, "There is no copy of that name."),
        ),
        post("/api/config/import", CONFIG, "Import the original's connections")
            .about("The token in it goes to the secret store, and into no file of ours.")
            .takes::<OriginalConnections>(
                "the content of the original's `connection_config.json`",
                json!({ "local_ollama": { "host": "localhost", "port": 11434 } }),
            )
            .answers::<ImportAnswer>("What was taken over.")
            .fails(StatusCode::BAD_REQUEST, "The body is not JSON.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::UNPROCESSABLE_ENTITY, "It holds nothing that could be taken over, or has faults.")
            .fails(StatusCode::GATEWAY_TIMEOUT, "It was begun and takes long; it may still be made, so look before repeating it.")
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The token could be stored nowhere, so nothing was changed."),
        get("/api/config/origins", CONFIG, "Where each value came from").answers::<ConfigOrigins>("By key."),
        get("/api/config/schema", CONFIG, "The configuration's JSON Schema")
            .answers_as("application/schema+json", "The schema."),
        get("/api/config/backups", CONFIG, "The copies that are kept")
            .answers::<ConfigBackups>("The newest first.")
            .fails(StatusCode::CONFLICT, conflict)
            .fails(StatusCode::INTERNAL_SERVER_ERROR, io)
            .fails(StatusCode::SERVICE_UNAVAILABLE, busy),
    ]
}

/// Keys of the configuration, whatever they hold: faults are answered with their rules.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "for its description only")]
struct ConfigKeys(serde_json::Map<String, serde_json::Value>);

/// The original system's `connection_config.json`.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "for its description only")]
struct OriginalConnections(serde_json::Map<String, serde_json::Value>);

fn account() -> Vec<Operation> {
    let given = "It comes from systemd's credential `connection.NAME` (`credential_in_use`), which wins.";
    let no_keys = "Nobody is logged in (`no_token`, `token_invalid`), the login may not make keys (`not_allowed`), this relay \
                   makes none (`keys_unavailable`), another one made it (`other_relay`), there are too many \
                   (`too_many_keys`), or the tunnel is switched off (`cloud_proxy_disabled`).";
    let relay_away = "The relay cannot be reached, or answers what makes no sense (`relay_unavailable`).";
    let not_kept = "It could be kept nowhere; the sentence says why and what to do.";
    vec![
        get("/api/auth", ACCOUNT, "Whether there is a token, and where it is kept")
            .answers::<AuthStatus>("Read off the token, whose signature only the relay can check."),
        Operation::new(Method::PUT, "/api/auth/token", ACCOUNT, "Store a token")
            .about("Replaces the one before. An open session takes it in place; otherwise the tunnel is dialled with it.")
            .takes::<TokenRequest>("the token, and what refreshes it", json!({ "token": "eyJhbGciOi…" }))
            .answers::<AuthStatus>("Where it is kept now.")
            .fails(StatusCode::BAD_REQUEST, "The body is no such object, or the token none that a header can carry.")
            .fails(StatusCode::CONFLICT, "A token file is in use (`--token-file`), which wins.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, not_kept),
        Operation::new(Method::DELETE, "/api/auth/token", ACCOUNT, "Forget the token")
            .about("The tunnel goes down, and stays down until there is another one.")
            .answers::<AuthStatus>("There is none now.")
            .fails(StatusCode::CONFLICT, "A token file is in use (`--token-file`), which wins.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, not_kept),
        post("/api/auth/login", ACCOUNT, "Begin a login")
            .about(
                "The relay says at which provider. With `device_code` a person opens `verification_uri` on whatever machine \
                 and types `user_code`; with `browser` they open `authorization_url` on this one, within 5 minutes. The \
                 daemon waits for the outcome by itself, stores the token, and tells it by `GET /api/auth/login` and the \
                 events `login_done` and `login_failed`. There is one login at a time: a new one replaces it.",
            )
            .takes_if_wanted::<LoginRequest>("the way to log in", json!({ "flow": "device_code" }))
            .answers_with::<LoginBegun>(StatusCode::ACCEPTED, "What the person has to do.")
            .fails(StatusCode::BAD_REQUEST, "There is no such flow.")
            .fails(
                StatusCode::CONFLICT,
                "This relay, or its provider, offers no such login (`login_unavailable`; the sentence says what to do \
                 instead), the tunnel is switched off (`cloud_proxy_disabled`), or a token file is in use.",
            )
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::INTERNAL_SERVER_ERROR, "No port of this machine could be opened for the browser.")
            .fails(StatusCode::BAD_GATEWAY, "Relay or provider cannot be reached, or refuse; the sentence says which.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down.")
            .fails(StatusCode::GATEWAY_TIMEOUT, "Relay and provider did not answer in time."),
        get("/api/auth/login", ACCOUNT, "How the login stands")
            .answers::<LoginStatus>("The login that was begun last."),
        Operation::new(Method::DELETE, "/api/auth/login", ACCOUNT, "Cancel the login")
            .about("A token that is stored already stays.")
            .answers::<LoginStatus>("There is none now.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down."),
        post("/api/auth/logout", ACCOUNT, "Revoke the token, and forget it")
            .answers::<AuthStatus>("There is none now.")
            .fails(StatusCode::CONFLICT, "A token file is in use (`--token-file`), which wins.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, not_kept),
        get("/api/keys", ACCOUNT, "The keys for apps that were made from this machine")
            .about("Without the keys themselves, which nobody keeps.")
            .answers::<Keys>("The newest first."),
        post("/api/keys", ACCOUNT, "Make a key for an app")
            .about(
                "The relay makes it, for one who is logged in: it reaches the models of this account and allows no more \
                 than the login does. With `reach` `local` it is made here, without a login, and is good at this machine's \
                 gateway: for containers, other users, and the network where `lanGateway` is open. The answer is the only \
                 time that it is shown.",
            )
            .takes_if_wanted::<KeyRequest>(
                "what it allows",
                json!({ "name": "editor", "models": ["llama3:8b"], "expires_in": 7_776_000 }),
            )
            .answers_with::<NewKey>(StatusCode::CREATED, "The key, and what is kept of it.")
            .fails(StatusCode::BAD_REQUEST, "A field cannot be used; the sentence names it.")
            .fails(StatusCode::CONFLICT, no_keys)
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::UNPROCESSABLE_ENTITY, "The relay makes no such key; the sentence is the relay's.")
            .fails(StatusCode::BAD_GATEWAY, relay_away)
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down."),
        Operation::new(Method::DELETE, "/api/keys/{id}", ACCOUNT, "Revoke a key")
            .about(
                "A remote one need not have been made from this machine, only by this account. Requests that run with a local \
                 one are cut.",
            )
            .path_parameter("id", "What the list calls the key.")
            .answers::<Key>("It is void.")
            .fails(StatusCode::NOT_FOUND, "There is no key of this id.")
            .fails(StatusCode::CONFLICT, no_keys)
            .fails(StatusCode::BAD_GATEWAY, relay_away)
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down."),
        get("/api/credentials", ACCOUNT, "The secrets that connections are sent, by name")
            .about("A connection names one as its `credential`. Their values are never shown.")
            .answers::<StoredCredentials>("The names, where each is kept, and who is sent it.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "The daemon is shutting down."),
        Operation::new(Method::PUT, "/api/credentials/{name}", ACCOUNT, "Store a secret for connections")
            .about("Replaces the one of this name, and takes effect at once; requests that run keep the one before.")
            .path_parameter("name", "Its name: 1 to 63 characters of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`.")
            .takes::<CredentialRequest>("the secret", json!({ "secret": "ctk_…" }))
            .answers::<StoredCredential>("Where it is kept now.")
            .fails(StatusCode::BAD_REQUEST, "The name or the secret cannot be used.")
            .fails(StatusCode::CONFLICT, given)
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, not_kept),
        Operation::new(Method::DELETE, "/api/credentials/{name}", ACCOUNT, "Forget a secret of connections")
            .path_parameter("name", "Its name.")
            .answers::<StoredCredential>("It is kept no longer.")
            .fails(StatusCode::BAD_REQUEST, "The name cannot be used.")
            .fails(StatusCode::NOT_FOUND, "There is no secret of this name.")
            .fails(StatusCode::CONFLICT, given)
            .fails(StatusCode::SERVICE_UNAVAILABLE, not_kept),
    ]
}

fn machines() -> Vec<Operation> {
    vec![
        get("/livez", MACHINES, "The process runs and answers")
            .answers::<serde_json::Value>("`{\"status\": \"ok\"}`"),
        get("/readyz", MACHINES, "A request would be answered")
            .answers::<serde_json::Value>("`{\"status\": \"ready\"}`")
            .fails(
                StatusCode::SERVICE_UNAVAILABLE,
                "No model server is connected, or the daemon is shutting down.",
            ),
        get("/metrics", MACHINES, "For Prometheus")
            .about("Text format 0.0.4; OpenMetrics where `Accept` asks for it.")
            .answers_text("text/plain", "The page.")
            .fails(StatusCode::NOT_FOUND, "Metrics are switched off (`enableMetrics`)."),
        Operation::new(Method::PUT, "/api/log-level", MACHINES, "Change the level of the log")
            .about("At once, until the next restart or the next change of `logLevel` in the configuration.")
            .takes::<LogLevelRequest>("the level", json!({ "level": "DEBUG" }))
            .answers::<LogLevelAnswer>("The level in force.")
            .fails(StatusCode::BAD_REQUEST, "There is no such level.")
            .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
        get("/openapi.json", MACHINES, "This description").answers::<serde_json::Value>("OpenAPI 3.1."),
        get("/ws", MACHINES, "Snapshots as they change, and commands")
            .about("A WebSocket; see above.")
            .answers_nothing(StatusCode::SWITCHING_PROTOCOLS, "The connection is a WebSocket now.")
            .fails(StatusCode::UPGRADE_REQUIRED, "It was not asked for as a WebSocket, version 13.")
            .fails(StatusCode::SERVICE_UNAVAILABLE, "As many clients are connected as there is room for."),
    ]
}
