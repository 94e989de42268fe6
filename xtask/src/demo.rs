//! The main job, seen from the outside: a caller's chat through relay, tunnel and daemon to a real model.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::sweeper::{Running, Sweeper};
use crate::{http, model_server, run, talk, workspace};

const OLLAMA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 11434);
const QUESTION: &str = "Tell me a short story about a fox that digs a tunnel.";
/// What relay and daemon may need to find each other and the model; they do it in a second.
const READY: Duration = Duration::from_secs(60);

/// The model server behind the daemon.
enum Backend {
    Ollama,
    OurOwn(SocketAddr),
}

pub(crate) fn run(once: bool) -> anyhow::Result<ExitCode> {
    talk::plan(
        "demo: a chat through the whole path, all of it on this machine",
        &[
            "takes the Ollama on port 11434, if one answers and has a model",
            "else installs a small real model server: 200 MB below .cache/, and Debian's python3-venv if missing",
            "builds tunnel-relay, tunneld and tunnelctl (a few minutes the first time)",
            "starts them on loopback, with a folder of their own that goes at the end",
        ],
    );
    let ollama = has_models(OLLAMA);
    if ollama {
        talk::done("an Ollama with models answers on port 11434");
    } else {
        talk::note("no Ollama with a model answers on port 11434");
        model_server::install()
            .context("there is no model server, and a demo without one would prove nothing")?;
    }
    let binaries = build()?;

    let sweeper = Sweeper::start()?;
    let folder = sweeper.folder()?;
    let mut running = Vec::new();
    let backend = if ollama {
        Backend::Ollama
    } else {
        talk::step("starting the model server");
        let addr = http::free_addr()?;
        let mut command = Command::new(model_server::start_script());
        command.arg(addr.port().to_string());
        let server = sweeper.spawn("the model server", &mut command, &folder.join("model-server.log"))?;
        model_server::wait_until_ready(addr, || server.check())?;
        running.push(server);
        Backend::OurOwn(addr)
    };
    let demo = start(&sweeper, &binaries, &folder, &backend, &mut running)?;
    talk::step("waiting until the caller's side lists the model");
    let model = wait_for_model(&demo, &backend, &running)?;
    talk::step(&format!(
        "chat: caller → relay {} → tunnel → tunneld → {}, model {model}",
        demo.relay,
        backend.name()
    ));
    if !ollama {
        talk::note("(the model is real and tiny: expect fluent nonsense)");
    }
    chat(&demo, &model)?;
    if once {
        return Ok(ExitCode::SUCCESS);
    }
    print_addresses(&demo, &model, &binaries, &backend);
    loop {
        for process in &running {
            process.check()?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Backend {
    fn name(&self) -> String {
        match self {
            Self::Ollama => format!("Ollama on {OLLAMA}"),
            Self::OurOwn(addr) => format!("llama.cpp on {addr}"),
        }
    }
}

fn has_models(ollama: SocketAddr) -> bool {
    let tags = http::get(ollama, "/api/tags", None).and_then(|mut response| response.text());
    let tags: Option<Value> = tags.ok().and_then(|text| serde_json::from_str(&text).ok());
    tags.is_some_and(|tags| tags["models"].as_array().is_some_and(|models| !models.is_empty()))
}

fn build() -> anyhow::Result<PathBuf> {
    talk::step("building tunnel-relay, tunneld and tunnelctl");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "tunnel-relay", "--package", "tunneld", "--package", "tunnelctl"]);
    run::shown(&mut cargo)?;
    Ok(workspace::target().join("debug"))
}

/// What is up, and how to get in.
struct Demo {
    relay: SocketAddr,
    admin: SocketAddr,
    control_port: u16,
    gateway_port: u16,
    token: String,
}

fn start(
    sweeper: &Sweeper,
    binaries: &Path,
    folder: &Path,
    backend: &Backend,
    running: &mut Vec<Running>,
) -> anyhow::Result<Demo> {
    talk::step("starting relay and daemon");
    let (relay_program, data) = (binaries.join("tunnel-relay"), folder.join("relay"));
    let addr_file = folder.join("relay.json");
    let mut command = Command::new(&relay_program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data);
    command.arg("--addr-file").arg(&addr_file);
    let relay = sweeper.spawn("tunnel-relay", &mut command, &folder.join("tunnel-relay.log"))?;
    let addrs = wait_for_addrs(&addr_file, &relay)?;
    running.push(relay);
    let addr = |key: &str| -> anyhow::Result<SocketAddr> {
        Ok(addrs[key].as_str().with_context(|| format!("the relay's address file has no {key}"))?.parse()?)
    };
    let (relay, admin) = (addr("listen")?, addr("admin")?);

    let token = |scope: &str| -> anyhow::Result<String> {
        let mut command = Command::new(&relay_program);
        command.args(["token", "create", "--subject", "demo", "--scope", scope, "--data-dir"]).arg(&data);
        Ok(run::output(&mut command)?.trim().to_owned())
    };
    let token_file = folder.join("tunnel.token");
    fs::write(&token_file, token("tunnel")?)?;
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;

    let (control_port, gateway_port) = (port(8765)?, port(11435)?);
    let mut config = json!({
        "cloudProxyUrl": format!("http://{relay}"),
        "deviceName": "demo",
        "apiServerPort": control_port,
        "gatewayPort": gateway_port,
        "enableLocalOllama": matches!(backend, Backend::Ollama),
    });
    if let Backend::OurOwn(addr) = backend {
        config["connections"] =
            json!([{ "id": "llamacpp", "type": "openai", "url": format!("http://{addr}") }]);
    }
    let config_file = folder.join("tunneld.json");
    fs::write(&config_file, serde_json::to_string_pretty(&config)?)?;
    let mut command = Command::new(binaries.join("tunneld"));
    command.arg("--config").arg(&config_file).arg("--token-file").arg(&token_file);
    command.arg("--state-dir").arg(folder.join("state"));
    // The control socket of a daemon that this user already runs must stay its own, and its settings too.
    command.env("XDG_RUNTIME_DIR", folder);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("TUNNELD_")) {
        command.env_remove(key);
    }
    running.push(sweeper.spawn("tunneld", &mut command, &folder.join("tunneld.log"))?);
    Ok(Demo { relay, admin, control_port, gateway_port, token: token("inference")? })
}

fn wait_for_addrs(file: &Path, relay: &Running) -> anyhow::Result<Value> {
    let begin = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return serde_json::from_str(&text).context("reading the relay's addresses");
        }
        relay.check()?;
        ensure!(
            begin.elapsed() < READY,
            "the relay did not say where it listens within {} s",
            READY.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the usual port if it is free, else a free one.
fn port(usual: u16) -> anyhow::Result<u16> {
    if http::is_free(usual) { Ok(usual) } else { Ok(http::free_addr()?.port()) }
}

/// Waits until a caller of the relay sees a model, and picks one to talk to.
fn wait_for_model(demo: &Demo, backend: &Backend, running: &[Running]) -> anyhow::Result<String> {
    let begin = Instant::now();
    let mut shown = 0;
    loop {
        let last = match http::get(demo.relay, "/v1/models", Some(&demo.token)) {
            Ok(mut response) => {
                let text = response.text()?;
                let list: Value = serde_json::from_str(&text).unwrap_or_default();
                let ids =
                    list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str());
                match pick(ids.collect(), backend) {
                    Some(model) if response.status == 200 => return Ok(model),
                    _ => format!("{}: {text}", response.status),
                }
            }
            Err(error) => format!("{error:#}"),
        };
        for process in running {
            process.check()?;
        }
        if begin.elapsed() > READY {
            bail!("no model at the relay after {} s; its last answer: {last}", READY.as_secs());
        }
        if begin.elapsed().as_secs() > shown {
            shown = begin.elapsed().as_secs();
            talk::waiting("waiting", begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn pick(models: Vec<&str>, backend: &Backend) -> Option<String> {
    let chats = |model: &&&str| !model.contains("embed") && !model.contains("minilm");
    let wanted = match backend {
        Backend::Ollama => models.iter().find(chats),
        Backend::OurOwn(_) => models.iter().find(|model| **model == model_server::MODEL),
    };
    talk::waited();
    wanted.map(|model| (*model).to_owned())
}

/// Streams one chat to standard output, token by token.
fn chat(demo: &Demo, model: &str) -> anyhow::Result<()> {
    let body = json!({
        "model": model,
        "stream": true,
        "max_tokens": 120,
        "messages": [{ "role": "user", "content": QUESTION }],
    });
    println!("\n> {QUESTION}\n");
    let begin = Instant::now();
    let mut response = http::post(demo.relay, "/v1/chat/completions", Some(&demo.token), &body.to_string())?;
    if response.status != 200 {
        let text = response.text()?;
        bail!("the relay answered {}: {text}", response.status);
    }
    let (mut first, mut tokens, mut ended) = (None, 0u32, false);
    for line in response.lines() {
        let line = line.context("the stream broke off")?;
        let Some(data) = line.strip_prefix("data:") else { continue };
        if data.trim() == "[DONE]" {
            ended = true;
            break;
        }
        let event: Value = serde_json::from_str(data).context("reading an event of the stream")?;
        ensure!(event.get("error").is_none(), "the stream ended with an error: {}", event["error"]);
        if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            first.get_or_insert_with(Instant::now);
            tokens += 1;
            print!("{text}");
            std::io::stdout().flush()?;
        }
    }
    println!("\n");
    ensure!(ended, "the stream ended without [DONE]");
    let first = first.context("the answer had no tokens")?;
    let rate = f64::from(tokens - 1) / first.elapsed().as_secs_f64();
    talk::done(&format!(
        "{tokens} tokens, the first after {:.1} s, then {rate:.0} a second",
        (first - begin).as_secs_f64()
    ));
    Ok(())
}

fn print_addresses(demo: &Demo, model: &str, binaries: &Path, backend: &Backend) {
    let Demo { relay, admin, control_port, gateway_port, token } = demo;
    let tunnelctl = binaries.join("tunnelctl");
    println!(
        "\nFrom anywhere that reaches the relay (here: this machine), with the token:

  export TOKEN={token}
  curl -N http://{relay}/v1/chat/completions -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\
    -d '{{\"model\": \"{model}\", \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'

  # Python: pip install openai
  import os, openai
  client = openai.OpenAI(base_url=\"http://{relay}/v1\", api_key=os.environ[\"TOKEN\"])
  for part in client.chat.completions.create(model=\"{model}\", stream=True,
          messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}]):
      print(part.choices[0].delta.content or \"\", end=\"\", flush=True)

From programs of this machine, without a token, through the daemon's gateway:

  export OPENAI_BASE_URL=http://127.0.0.1:{gateway_port}/v1 OPENAI_API_KEY=none OLLAMA_HOST=http://127.0.0.1:{gateway_port}

What the daemon says about itself:

  {} --url http://127.0.0.1:{control_port} status

  relay, for callers     http://{relay}
  relay, /metrics        http://{admin}
  daemon, control API    http://127.0.0.1:{control_port}
  daemon, gateway        http://127.0.0.1:{gateway_port}
  model server           {}

Up until Ctrl-C.",
        tunnelctl.display(),
        backend.name(),
    );
}
