//! Requests as people and programs see them.

use std::collections::HashMap;

use serde_json::{Value, json};
use tunnel_api::Requests;
use tunnel_api::request::{Ingress, Request, RequestState};

use crate::output::table::{Cell, Column, Table};
use crate::output::words::{bytes, seconds};
use crate::output::{Look, clean};

/// Least characters of an id that are shown.
const SHORTEST_ID: usize = 8;

/// How far requests had come at the look before this one.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<String, Request>);

impl Rates {
    /// Remembers a look.
    pub(super) fn remember(&mut self, requests: &Requests) {
        self.0 = requests.requests.iter().map(|request| (request.id.clone(), request.clone())).collect();
    }

    /// Returns tokens a second since the look before, or since the request came where there was none.
    ///
    /// None as long as no token has come.
    pub(super) fn of(&self, request: &Request) -> Option<f64> {
        let (tokens, ms) = match self.0.get(&request.id).filter(|before| before.tokens > 0) {
            Some(before) => (before.tokens, before.duration_ms),
            None => (0, 0),
        };
        let tokens = request.tokens.checked_sub(tokens)?;
        let ms = request.duration_ms.checked_sub(ms).filter(|ms| *ms > 0)?;
        (request.tokens > 0).then(|| tokens as f64 * 1000.0 / ms as f64)
    }
}

/// Returns the requests as the API has them, with `tokens_per_s`.
pub(super) fn json(requests: &Requests, rates: &Rates) -> Value {
    let with_rate = |request: &Request| {
        let mut value = json!(request);
        value["tokens_per_s"] = json!(rates.of(request));
        value
    };
    let list: Vec<Value> = requests.requests.iter().map(with_rate).collect();
    json!({ "requests": list, "timestamp": requests.timestamp })
}

/// With `short`, ids are cut to what tells them apart; `cancel` and `explain` take them so.
pub(super) fn table(requests: &Requests, rates: &Rates, short: bool) -> Table {
    let mut table = Table::new(vec![
        Column::text("ID"),
        Column::long("MODEL"),
        Column::long("CONNECTION").extra(),
        Column::text("DOOR").extra(),
        Column::text("STATE"),
        Column::number("FOR"),
        Column::number("TOKENS"),
        Column::number("TOKENS/S"),
    ]);
    let shown = if short { id_length(requests) } else { usize::MAX };
    for request in &requests.requests {
        let id: String = request.id.chars().take(shown).collect();
        table.row(vec![
            Cell::new(id),
            Cell::new(request.model.as_deref().unwrap_or("-")),
            Cell::new(request.connection.as_deref().unwrap_or("-")),
            Cell::new(door(request.ingress)),
            Cell::new(match request.queue_position {
                Some(position) => format!("{}, {position}.", state(request.state)),
                None => state(request.state).to_owned(),
            }),
            Cell::new(seconds(request.duration_ms / 1000)),
            Cell::new(request.tokens.to_string()),
            Cell::new(rates.of(request).map_or_else(String::new, |rate| format!("{rate:.1}"))),
        ]);
    }
    table
}

/// Returns how many characters tell all ids apart.
fn id_length(requests: &Requests) -> usize {
    let ids: Vec<Vec<char>> = requests.requests.iter().map(|request| request.id.chars().collect()).collect();
    let longest = ids.iter().map(Vec::len).max().unwrap_or_default();
    let apart = |length: &usize| {
        let mut begins: Vec<&[char]> = ids.iter().map(|id| &id[..id.len().min(*length)]).collect();
        begins.sort_unstable();
        begins.windows(2).all(|pair| pair[0] != pair[1])
    };
    (SHORTEST_ID..longest).find(apart).unwrap_or(longest)
}

/// Returns all that is known of a request.
pub(super) fn explanation(request: &Request, look: &Look) -> String {
    let connection = match (&request.connection, request.state) {
        (Some(connection), _) => connection.as_str(),
        (None, RequestState::Waiting) => "none yet: one is looked for that can take it",
        (None, _) => "none yet",
    };
    let facts = [
        ("request", request.id.clone()),
        ("model", request.model.clone().unwrap_or_else(|| "none".to_owned())),
        ("connection", connection.to_owned()),
        ("state", state_in_words(request.state).to_owned()),
        ("waits", waits(request)),
        ("came", format!("{:.0} through {}", request.started, door_in_words(request.ingress))),
        ("runs for", seconds(request.duration_ms / 1000)),
        ("path", request.path.clone()),
        ("answer", format!("{} tokens, {} so far", request.tokens, bytes(request.bytes_out))),
    ];
    let line =
        |(name, value): (&str, String)| format!("{} {}\n", look.dim(&format!("{name:<10}")), clean(&value));
    facts.into_iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
}

/// Says what a request waits for, and how many go first; empty if it does not wait.
fn waits(request: &Request) -> String {
    let connections = request.waiting_for.join(" or ");
    match request.queue_position {
        _ if connections.is_empty() => String::new(),
        Some(1) => format!("for a free slot of {connections}; it is the next one"),
        Some(position) => format!("for a free slot of {connections}; it is number {position} in the queue"),
        None => format!("for {connections} to load its model"),
    }
}

fn door(ingress: Ingress) -> &'static str {
    match ingress {
        Ingress::Local => "gateway",
        Ingress::Tunnel => "tunnel",
        Ingress::Lan => "lan",
        Ingress::Unknown => "unknown",
    }
}

fn door_in_words(ingress: Ingress) -> &'static str {
    match ingress {
        Ingress::Local => "the gateway, from this machine",
        Ingress::Tunnel => "the tunnel",
        Ingress::Lan => "the network, with a key",
        Ingress::Unknown => "a door that this version does not know",
    }
}

fn state(state: RequestState) -> &'static str {
    match state {
        RequestState::Waiting => "waiting",
        RequestState::Queued => "queued",
        RequestState::Connecting => "connecting",
        RequestState::FirstByte => "thinking",
        RequestState::Streaming => "answering",
        RequestState::Unknown => "unknown",
    }
}

fn state_in_words(state: RequestState) -> &'static str {
    match state {
        RequestState::Waiting => "its prompt is being read, or a connection is looked for that can take it",
        RequestState::Queued => "it waits for its turn, or until the model is loaded",
        RequestState::Connecting => "the connection to the model server is being made",
        RequestState::FirstByte => {
            "the model server has it and has not answered yet: it loads the model, or reads the prompt"
        }
        RequestState::Streaming => "the answer flows",
        RequestState::Unknown => "one that this version does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, tokens: u64, duration_ms: u64) -> Request {
        Request {
            id: id.to_owned(),
            ingress: Ingress::Tunnel,
            connection: Some("ollama".to_owned()),
            model: Some("llama3.2:3b".to_owned()),
            path: "/api/chat".to_owned(),
            state: RequestState::Streaming,
            duration_ms,
            tokens,
            ..Request::default()
        }
    }

    fn requests(list: &[Request]) -> Requests {
        Requests { requests: list.into(), ..Requests::default() }
    }

    #[test]
    fn ids_are_as_long_as_it_takes_to_tell_them_apart() {
        let ids =
            |ids: &[&str]| id_length(&requests(&ids.iter().map(|id| request(id, 0, 0)).collect::<Vec<_>>()));
        assert_eq!(ids(&["0123456789abcdef", "f123456789abcdef"]), 8);
        assert_eq!(ids(&["0123456789abcdef", "0123456789fbcdef"]), 11);
        assert_eq!(ids(&["a", "b"]), 1);
        assert_eq!(ids(&[]), 0);
        assert_eq!(ids(&["0123456789", "012345678"]), 10);
    }

    #[test]
    fn rate_is_that_since_the_look_before() {
        let mut rates = Rates::default();
        assert_eq!(rates.of(&request("a", 0, 1000)), None);
        assert_eq!(rates.of(&request("a", 30, 10_000)), Some(3.0));
        rates.remember(&requests(&[request("a", 30, 10_000)]));
        assert_eq!(rates.of(&request("a", 70, 11_000)), Some(40.0));
        assert_eq!(rates.of(&request("a", 30, 10_000)), None);
        assert_eq!(rates.of(&request("b", 5, 1000)), Some(5.0));
    }

    #[test]
    fn table_is_short_for_people_and_whole_for_pipes() {
        let list = requests(&[request("0123456789abcdef", 30, 10_000)]);
        let text = |short| table(&list, &Rates::default(), short).text(&Look::plain(), None);
        assert_eq!(
            text(true),
            "\
ID        MODEL        CONNECTION  DOOR    STATE       FOR  TOKENS  TOKENS/S
01234567  llama3.2:3b  ollama      tunnel  answering  10 s      30       3.0
"
        );
        assert!(text(false).contains("\n0123456789abcdef  "));
        assert_eq!(json(&list, &Rates::default())["requests"][0]["tokens_per_s"], 3.0);
    }

    #[test]
    fn explanation_tells_the_connection_and_the_state() {
        let text = explanation(&request("a1", 3, 2000), &Look::plain());
        assert!(text.contains("connection ollama\n") && text.contains("the answer flows\n"), "{text}");
        let waiting = Request { connection: None, state: RequestState::Waiting, ..request("a", 0, 0) };
        assert!(explanation(&waiting, &Look::plain()).contains("none yet: one is looked for"), "{text}");
        assert!(!explanation(&waiting, &Look::plain()).contains("waits"), "{text}");
    }

    #[test]
    fn one_that_is_queued_tells_its_position_and_for_what() {
        let queued = |position, waiting_for: &[&str]| Request {
            connection: None,
            state: RequestState::Queued,
            queue_position: position,
            waiting_for: waiting_for.iter().map(|id| (*id).to_owned()).collect(),
            ..request("a", 0, 0)
        };
        let text = |request| explanation(&request, &Look::plain());
        let told = text(queued(Some(3), &["gpu", "laptop"]));
        assert!(told.contains("for a free slot of gpu or laptop; it is number 3 in the queue"), "{told}");
        let told = text(queued(Some(1), &["gpu"]));
        assert!(told.contains("it is the next one"), "{told}");
        let told = text(queued(None, &["gpu"]));
        assert!(told.contains("for gpu to load its model"), "{told}");
        let list = requests(&[queued(Some(3), &["gpu"])]);
        let table = table(&list, &Rates::default(), true).text(&Look::plain(), None);
        assert!(table.contains("queued, 3."), "{table}");
    }
}
