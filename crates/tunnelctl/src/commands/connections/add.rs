//! `tunnelctl connections add`.

use serde_json::{Map, Value, json};
use tunnel_api::connection::ConnectionKind;
use tunnel_api::{Detected, DetectedServer};
use tunnel_client::{Client, Error, exit};

use super::change::{change, tell_limits};
use super::probe::{next_step, probe_new};
use super::{address, entries};
use crate::cli::Kind;
use crate::commands::ping::HOPS;
use crate::output::Output;
use crate::output::words::connection_mark;
use crate::refusal::Refusal;

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) url: &'a str,
    pub(super) kind: Option<Kind>,
    pub(super) id: Option<&'a str>,
    pub(super) priority: Option<u32>,
    pub(super) weight: Option<u32>,
    pub(super) max_concurrent: Option<u32>,
    pub(super) credential: Option<&'a str>,
}

/// What is known of the server before it is put in.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    kind: &'static str,
    /// The id to take when none is wished.
    id: String,
}

pub(super) async fn add(client: &Client, wish: &Wish<'_>, output: &Output) -> anyhow::Result<u8> {
    let url = address::read(wish.url)?;
    let detected = match (wish.kind, wish.id) {
        (Some(_), Some(_)) => Detected::default(),
        _ => detect(client, &url, output).await?,
    };
    let known = known(wish, &url, &detected)?;
    let (entry, answer) = change(client, |config| {
        let entry = entry(wish, &known, &url, config)?;
        Ok((entries::with(config, [entry.clone()]), entry))
    })
    .await?;
    let id = entries::text(&entry, "id");
    if tell_limits(answer.as_ref(), output) {
        if output.wants_json() {
            output.json(json!({ "added": entry, "test": null, "next_step": null }))?;
        }
        return Ok(exit::OK);
    }
    let test = probe_new(client, id).await?;
    let next_step = next_step(&test);
    if output.wants_json() {
        output.json(json!({ "added": entry, "test": test, "next_step": next_step }))?;
    } else if output.is_quiet() {
        // The name may have been made up here, so it is the answer.
        output.answer(&format!("{}\n", crate::output::clean(id)))?;
    } else {
        let mark = output.look().mark(connection_mark(&test.connection.connection));
        output.done(&format!("{id} is added: {} at {url}", entries::text(&entry, "type")))?;
        output.report(&format!("{mark} {}\n", crate::output::clean(&test.message)))?;
        output.report(&format!("{} {next_step}\n", output.look().arrow()))?;
    }
    Ok(exit::OK)
}

/// Looks what runs there. A daemon that cannot look is no reason to fail.
async fn detect(client: &Client, url: &str, output: &Output) -> Result<Detected, Error> {
    match client.detect_at(url).await {
        Err(Error::Refused(body)) => {
            output.talk(&format!("tunneld cannot look for model servers: {}", body.error));
            Ok(Detected::default())
        }
        outcome => outcome,
    }
}

fn known(wish: &Wish<'_>, url: &str, detected: &Detected) -> Result<Known, Refusal> {
    let found = detected.servers.iter().find(|server| address::same(&server.url, url));
    let kind = match (wish.kind, found.map(|server| server.kind)) {
        (Some(said), _) => said.as_str(),
        // A daemon that is newer than this program may find what only it knows.
        (None, Some(ConnectionKind::Unknown) | None) => return Err(which_type(url)),
        (None, Some(found)) => found.as_str(),
    };
    let suggested = |server: &DetectedServer| Some(server.suggested_id.clone()).filter(|id| !id.is_empty());
    let id = found.and_then(suggested).unwrap_or_else(|| kind.to_owned());
    Ok(Known { kind, id })
}

fn which_type(url: &str) -> Refusal {
    Refusal::new(
        exit::USAGE,
        format!(
            "it is not known what {url} speaks: nothing answers there as a model server does; say it with --type ollama (Ollama's own API, /api/chat), --type openai (OpenAI's API, /v1/chat/completions), \
             or one of llamacpp, vllm, lmstudio, cloud"
        ),
    )
}

fn entry(wish: &Wish<'_>, known: &Known, url: &str, config: &Map<String, Value>) -> Result<Value, Refusal> {
    let taken = entries::ids(config);
    let id = match wish.id {
        Some(id) if HOPS.contains(&id) => {
            return Err(Refusal::new(
                exit::USAGE,
                format!("{id} is what tunnelctl ping calls a hop of its own; choose another name with --id"),
            ));
        }
        Some(id) if taken.iter().any(|other| other == id) => {
            return Err(Refusal::new(
                exit::CONFLICT,
                format!("there is a connection {id} already; choose another name with --id"),
            ));
        }
        Some(id) => id.to_owned(),
        None => match entries::leading_to(config, url) {
            Some(other) => {
                return Err(Refusal::new(
                    exit::CONFLICT,
                    format!("{other} leads to {url} already; to have it twice, name the second with --id"),
                ));
            }
            None => entries::free_id(&known.id, &taken),
        },
    };
    let mut entry = entries::entry(&id, known.kind, url);
    let numbers =
        [("priority", wish.priority), ("weight", wish.weight), ("maxConcurrent", wish.max_concurrent)];
    for (key, number) in numbers {
        if let Some(number) = number {
            entry[key] = number.into();
        }
    }
    if let Some(name) = wish.credential {
        entry["credential"] = name.into();
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use tunnel_api::detect::Product;

    use super::*;

    const URL: &str = "http://127.0.0.1:8080";

    fn wish<'a>() -> Wish<'a> {
        Wish {
            url: URL,
            kind: None,
            id: None,
            priority: None,
            weight: None,
            max_concurrent: None,
            credential: None,
        }
    }

    fn detected() -> Detected {
        let server = DetectedServer {
            product: Product::LlamaCpp,
            kind: ConnectionKind::Openai,
            url: "http://localhost:8080".to_owned(),
            suggested_id: "llama-cpp".to_owned(),
            ..DetectedServer::default()
        };
        Detected { servers: vec![server], ..Detected::default() }
    }

    #[test]
    fn what_is_found_there_tells_type_and_id() {
        let known = known(&wish(), URL, &detected()).unwrap();
        assert_eq!(known, Known { kind: "openai", id: "llama-cpp".to_owned() });
        let entry = entry(&Wish { weight: Some(3), ..wish() }, &known, URL, &Map::new()).unwrap();
        assert_eq!(entry, json!({ "id": "llama-cpp", "type": "openai", "url": URL, "weight": 3 }));
    }

    #[test]
    fn unknown_server_needs_its_type_said() {
        let refusal = known(&wish(), "http://10.0.0.2:8000", &detected()).unwrap_err();
        assert_eq!(refusal.code(), exit::USAGE);
        assert!(refusal.to_string().contains("--type openai"), "{refusal}");
        let said = Wish { kind: Some(Kind::Openai), ..wish() };
        let known = known(&said, "http://10.0.0.2:8000", &detected()).unwrap();
        assert_eq!(known, Known { kind: "openai", id: "openai".to_owned() });
    }

    #[test]
    fn said_type_wins_over_what_is_found() {
        let said = Wish { kind: Some(Kind::Ollama), ..wish() };
        assert_eq!(known(&said, URL, &detected()).unwrap().kind, "ollama");
    }

    #[test]
    fn id_and_address_that_are_there_are_conflicts() {
        let config = entries::with(&Map::new(), [entries::entry("llama-cpp", "openai", URL)]);
        let known = Known { kind: "openai", id: "llama-cpp".to_owned() };
        let code = |wish: &Wish<'_>, url| entry(wish, &known, url, &config).map_err(|refusal| refusal.code());
        assert_eq!(code(&Wish { id: Some("llama-cpp"), ..wish() }, "http://h"), Err(exit::CONFLICT));
        assert_eq!(code(&Wish { id: Some("cloud"), ..wish() }, "http://h"), Err(exit::CONFLICT));
        assert_eq!(code(&wish(), URL), Err(exit::CONFLICT));
        for hop in ["relay", "daemon"] {
            assert_eq!(code(&Wish { id: Some(hop), ..wish() }, "http://h"), Err(exit::USAGE), "{hop}");
        }
        assert_eq!(code(&Wish { id: Some("twice"), ..wish() }, URL).unwrap()["id"], "twice");
        assert_eq!(code(&wish(), "http://h").unwrap()["id"], "llama-cpp-2");
    }
}
