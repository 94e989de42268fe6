//! The model servers, asked from here because there is no daemon to ask them.

use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;
use tunnel_api::config::ConnectionType;
use tunnel_api::connection::OLLAMA_ID;
use tunnel_api::{Check, Config};
use url::Url;

use super::finding::Finding;

/// Longest wait for one of them; all are asked at once.
const LIMIT: Duration = Duration::from_secs(4);
/// Oldest Ollama whose API has all that is passed on: major and minor version.
const OLDEST_OLLAMA: (u64, u64) = (0, 9);

/// A model server of the configuration.
#[derive(Clone, Debug)]
struct Server {
    id: String,
    kind: ConnectionType,
    url: Url,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It has a version to tell.
    Version(String),
    /// It answered.
    Status(u16),
    /// It did not.
    None(String),
}

#[derive(Debug, Deserialize)]
struct OllamaVersion {
    version: String,
}

/// Asks each model server that the configuration uses.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let servers = servers(config);
    if servers.is_empty() {
        let step = "look for some: tunnelctl connections detect";
        let none = Finding::warn("the configuration has no model server", step);
        return vec![none.check("connections", "model servers")];
    }
    let mut asked = JoinSet::new();
    for (place, server) in servers.into_iter().enumerate() {
        asked.spawn(async move {
            let found = look(&server).await;
            (place, found.check(format!("connection:{}", server.id), format!("connection {}", server.id)))
        });
    }
    let mut checks = asked.join_all().await;
    checks.sort_by_key(|(place, _)| *place);
    checks.into_iter().map(|(_, check)| check).collect()
}

fn servers(config: &Config) -> Vec<Server> {
    let local = config.enable_local_ollama.then(|| Server {
        id: OLLAMA_ID.to_owned(),
        kind: ConnectionType::Ollama,
        url: config.ollama_url(),
    });
    let used = config.connections.iter().filter(|connection| connection.enabled);
    // A program that the daemon starts does not run without the daemon.
    let others = used.filter_map(|connection| {
        let (id, kind) = (connection.id.clone(), connection.kind);
        Some(Server { id, kind, url: connection.url.clone()? })
    });
    local.into_iter().chain(others).collect()
}

async fn look(server: &Server) -> Finding {
    if server.url.scheme() != "http" {
        return Finding::skip(format!("{} is asked by the daemon only", server.url));
    }
    if server.kind == ConnectionType::Cloud {
        return Finding::skip("the daemon has the secret that it wants, and looks at it");
    }
    judge(server, ask(server).await)
}

async fn ask(server: &Server) -> Answer {
    let path = match server.kind {
        ConnectionType::Ollama => "api/version",
        ConnectionType::Openai
        | ConnectionType::Llamacpp
        | ConnectionType::Vllm
        | ConnectionType::Lmstudio
        | ConnectionType::Cloud
        | ConnectionType::Plugin => "v1/models",
    };
    let url = format!("{}/{path}", server.url.as_str().trim_end_matches('/'));
    match exchange(&url).await {
        Ok(answer) => answer,
        Err(error) => Answer::None(innermost(&error.without_url())),
    }
}

async fn exchange(url: &str) -> Result<Answer, reqwest::Error> {
    // A model server is near: no proxy has a place in between, and no redirect is worth following.
    let builder = reqwest::Client::builder().timeout(LIMIT).no_proxy();
    let client = builder.redirect(reqwest::redirect::Policy::none()).build()?;
    let response = client.get(url).send().await?;
    let status = response.status();
    // A page of another program is no version, and neither is one that is endless.
    let short = response.content_length().is_some_and(|bytes| bytes < 4096);
    if status.is_success()
        && short
        && let Ok(OllamaVersion { version }) = response.json().await
    {
        return Ok(Answer::Version(version));
    }
    Ok(Answer::Status(status.as_u16()))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn judge(server: &Server, answer: Answer) -> Finding {
    let url = server.url.as_str().trim_end_matches('/');
    let ollama = server.kind == ConnectionType::Ollama;
    match answer {
        Answer::Version(version) if ollama && is_old(&version) => Finding::warn(
            format!("answers at {url}, but its version {version} is older than 0.9"),
            "update Ollama",
        ),
        Answer::Version(version) => Finding::pass(format!("answers at {url}, version {version}")),
        Answer::Status(status) if ollama => Finding::fail(
            format!("what answers at {url} is not Ollama: it answered {status}"),
            "set ollamaHost and ollamaPort to where it is, in the file of: tunnelctl config path",
        ),
        Answer::Status(status @ (401 | 403)) => {
            Finding::pass(format!("answers at {url} ({status}: the daemon has the key that it wants)"))
        }
        Answer::Status(status) if status < 400 => Finding::pass(format!("answers at {url}")),
        Answer::Status(status) => Finding::warn(
            format!("answers at {url}, but with {status} when asked for its models"),
            "see that the address is that of a model server: tunnelctl config show",
        ),
        Answer::None(why) if server.id == OLLAMA_ID => Finding::fail(
            format!("no answer at {url}: {why}"),
            "start it: ollama serve; or look for others: tunnelctl connections detect",
        ),
        Answer::None(why) => {
            Finding::fail(format!("no answer at {url}: {why}"), "start that server, or correct its address")
        }
    }
}

/// Tells whether an Ollama is too old. What is no version, such as that of a development build, is not.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(0))) => false,
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST_OLLAMA,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    fn server(kind: ConnectionType) -> Server {
        Server { id: "x".to_owned(), kind, url: Url::parse("http://127.0.0.1:1/").unwrap() }
    }

    #[test]
    fn old_ollama_is_told_from_one_that_is_new_enough() {
        assert!(is_old("0.8.9") && is_old("0.1"));
        // 0.0.0 is what one calls itself that was built without a version.
        for version in ["0.9.0", "0.9.0-rc1", "0.12.3", "1.0", "0.0.0", "dev", ""] {
            assert!(!is_old(version), "{version}");
        }
    }

    #[test]
    fn answers_are_judged_by_what_the_server_should_be() {
        let verdict = |kind, answer| judge(&server(kind), answer).verdict;
        let version = |text: &str| Answer::Version(text.to_owned());
        assert_eq!(verdict(ConnectionType::Ollama, version("0.12.0")), Verdict::Pass);
        assert_eq!(verdict(ConnectionType::Ollama, version("0.5.0")), Verdict::Warn);
        assert_eq!(verdict(ConnectionType::Ollama, Answer::Status(200)), Verdict::Fail);
        assert_eq!(verdict(ConnectionType::Openai, Answer::Status(200)), Verdict::Pass);
        assert_eq!(verdict(ConnectionType::Openai, Answer::Status(401)), Verdict::Pass);
        assert_eq!(verdict(ConnectionType::Openai, Answer::Status(404)), Verdict::Warn);
        assert_eq!(verdict(ConnectionType::Openai, Answer::None("refused".to_owned())), Verdict::Fail);
    }

    #[test]
    fn what_is_switched_off_is_not_asked() {
        let file = r#"{"enableLocalOllama": false, "connections": [
            {"id": "a", "type": "openai", "url": "http://127.0.0.1:1"},
            {"id": "b", "type": "openai", "url": "http://127.0.0.1:2", "enabled": false}]}"#;
        let config = Config::check(&tunnel_api::config::parse(file).unwrap()).unwrap();
        let ids: Vec<String> = servers(&config).into_iter().map(|server| server.id).collect();
        assert_eq!(ids, ["a"]);
    }
}
