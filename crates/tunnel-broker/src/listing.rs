//! Lists that are put together from what all backends have.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::alias::{Alias, Meaning};
use crate::backend::Backend;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::ModelName;
use crate::decide::{explain, shorten};
use crate::dialect::{Listed, ollama, openai};
use crate::error::{Failure, json as answer};
use crate::pass::{refuse, sign};
use crate::path::Endpoint;
use crate::profile::Api;
use crate::route::{NoRoute, Spread};
use crate::shared::{Shared, is_stale};
use crate::table::{Table, Tried, Wanted};

/// Answers one of the endpoints that are not forwarded.
pub(crate) async fn list(shared: &Shared, mut call: Box<Call>, endpoint: Endpoint<'_>) -> Response<Body> {
    let mut response = match content(shared, &call, &endpoint).await {
        Ok((content_type, body)) => answer(StatusCode::OK, content_type, body),
        Err(failure) => return refuse(&mut call, failure),
    };
    if call.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    sign(response.headers_mut(), &call, None);
    response
}

type Content = (HeaderValue, Vec<u8>);

async fn content(shared: &Shared, call: &Call, endpoint: &Endpoint<'_>) -> Result<Content, Failure> {
    if *endpoint == Endpoint::Root {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        return Ok((text, b"Ollama is running".to_vec()));
    }
    let pin = call.pin.as_deref();
    if let Some(pin) = pin
        && shared.table.load().backend(pin).is_none_or(|backend| !backend.takes_from(call.ingress))
    {
        return Err(Failure::UnknownConnection(shorten(pin)));
    }
    let concerns = |backend: &Backend| {
        backend.speaks(call.dialect)
            && backend.takes_from(call.ingress)
            && pin.is_none_or(|id| backend.config.id == id)
    };
    settle(shared, concerns).await;
    if *endpoint != Endpoint::Version {
        shared.refresh(|backend| concerns(backend) && is_stale(backend)).await;
    }
    let table = shared.table.load();
    let mut known = table.backends.iter().filter(|backend| concerns(backend)).peekable();
    // Better no list than one that says there are no models when their server is down.
    if known.peek().is_some() && !known.any(|backend| backend.is_up()) {
        let wanted = Wanted {
            ingress: call.ingress,
            dialect: call.dialect,
            pin,
            model: None,
            spread: Spread::First,
            takes_slot: false,
            recall: None,
            tried: Tried::NONE,
        };
        let no_route = table.route(&wanted).err().unwrap_or(NoRoute::Nobody);
        return Err(explain(&table, call, no_route));
    }
    let mut up: Vec<&Backend> =
        table.backends.iter().map(AsRef::as_ref).filter(|b| concerns(b) && b.is_up()).collect();
    up.sort_by_key(|backend| backend.config.priority);
    let id_of: fn(&Value) -> Option<&str> = |object| object.get("id")?.as_str();
    let open = |mut entries: Vec<Value>, name_of| {
        if let Some(scope) = &call.scope {
            scope.keep(&mut entries, name_of);
        }
        entries
    };
    match endpoint {
        Endpoint::Tags => Ok(models(open(tags(&table, &up, pin), ollama::name_of))),
        Endpoint::Running => Ok(models(open(running(&table, &up, pin), ollama::name_of))),
        Endpoint::Version => {
            let version = up.iter().find_map(|backend| backend.report.version.as_deref());
            let version = version.unwrap_or(&table.settings.version);
            Ok((ollama::JSON, json!({ "version": version }).to_string().into_bytes()))
        }
        Endpoint::Model(id) => {
            let object = described(&table, &up, pin, id);
            // A model of another key is none: whether it is there is not told.
            let object = open(object.into_iter().collect(), id_of).pop();
            let object = object.ok_or_else(|| Failure::UnknownModel(id.to_string()))?;
            Ok((openai::JSON, line(&object)))
        }
        Endpoint::Root | Endpoint::Models | Endpoint::Management | Endpoint::Named | Endpoint::Unnamed => {
            let data = open(objects(&table, &up, pin), id_of);
            // Ollama's order of members; serde_json sorts them.
            let list = format!("{{\"object\":\"list\",\"data\":{}}}\n", Value::from(data));
            Ok((openai::JSON, list.into_bytes()))
        }
    }
}

/// Waits for first probes: long for the first answer of all, not so long for the others.
async fn settle(shared: &Shared, concerns: impl Fn(&Backend) -> bool + Copy) {
    const LATECOMERS: Duration = Duration::from_secs(1);
    let pending = |table: &Table| table.backends.iter().any(|b| concerns(b) && b.is_new());
    let up = |table: &Table| table.backends.iter().any(|b| concerns(b) && b.is_up());
    let limit = {
        let table = shared.table.load();
        if !pending(&table) {
            return;
        }
        table.settings.connect_timeout
    };
    shared.wait_until(limit, |table| up(table) || !pending(table)).await;
    shared.wait_until(limit.min(LATECOMERS), |table| !pending(table)).await;
}

fn models(entries: Vec<Value>) -> Content {
    (ollama::JSON, json!({ "models": entries }).to_string().into_bytes())
}

/// Returns Ollama's entries for the models of all backends, then for aliases of them; of the same name that of the
/// first backend.
fn tags(table: &Table, up: &[&Backend], pin: Option<&str>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let offered = up.iter().flat_map(|backend| {
        let listed = backend.report.listing.iter().flat_map(|listing| &listing.models);
        listed
            .filter(|model| model.api == Api::Ollama && backend.offers(&model.name))
            .map(|model| (model.name.clone(), model.entry.clone()))
    });
    let named = offered.filter(|(name, _)| !table.is_alias(name, pin) && seen.insert(name.clone()));
    let named = named.map(|(_, entry)| entry);
    let aliased = table.settings.aliases.iter().filter_map(|alias| {
        let (at, name) = meant(table, up, pin, alias)?;
        let listed = listed(up[at], &name.text).filter(|model| model.api == Api::Ollama)?;
        Some(renamed(listed.entry.clone(), &["name", "model"], &alias.name))
    });
    named.chain(aliased).collect()
}

/// The same of those that are in memory.
fn running(table: &Table, up: &[&Backend], pin: Option<&str>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let entries = up.iter().flat_map(|backend| {
        let running = backend.report.listing.iter().flat_map(|listing| &listing.running);
        let is_open = |name| backend.offers(name) && !table.is_alias(name, pin);
        running.filter(move |entry| ollama::name_of(entry).is_some_and(is_open))
    });
    let named: Vec<Value> = entries.filter(|entry| seen.insert(ollama::name_of(entry))).cloned().collect();
    let aliased = table.settings.aliases.iter().filter_map(|alias| {
        let (at, name) = meant(table, up, pin, alias)?;
        let listing = up[at].report.listing.as_ref()?;
        let entry = listing.running.iter().find(|entry| ollama::name_of(entry) == Some(&*name.text))?;
        Some(renamed(entry.clone(), &["name", "model"], &alias.name))
    });
    let aliased: Vec<Value> = aliased.collect();
    named.into_iter().chain(aliased).collect()
}

/// Returns OpenAI's objects for the models of all backends, then for aliases of them.
fn objects(table: &Table, up: &[&Backend], pin: Option<&str>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let mut objects = Vec::new();
    for backend in up {
        for (info, listed) in backend.described_models() {
            if !table.is_alias(&info.name, pin) && !seen.contains(&info.name) {
                objects.push(object(backend, &info.name, listed));
                seen.insert(info.name);
            }
        }
    }
    let aliased = table.settings.aliases.iter().filter_map(|alias| {
        let (at, name) = meant(table, up, pin, alias)?;
        let object = object(up[at], &name.text, listed(up[at], &name.text));
        Some(renamed(object, &["id"], &alias.name))
    });
    objects.extend(aliased);
    objects
}

/// Describes the model that a name means.
fn described(table: &Table, up: &[&Backend], pin: Option<&str>, id: &str) -> Option<Value> {
    let meaning = Meaning::of(table, id, pin);
    let (at, name) = first(table, up, &meaning)?;
    let object = object(up[at], &name.text, listed(up[at], &name.text));
    // Under an alias it is described as it is listed.
    Some(if meaning.alias.is_some() { renamed(object, &["id"], id) } else { object })
}

/// Finds what an alias means among the backends that are up: the index of one, and the model's name. None where a model
/// is really called so.
fn meant<'a>(
    table: &'a Table,
    up: &[&Backend],
    pin: Option<&'a str>,
    alias: &'a Alias,
) -> Option<(usize, &'a Arc<ModelName>)> {
    if table.knows(&alias.name, pin) {
        return None;
    }
    first(table, up, &Meaning::of_alias(table, alias, pin)?)
}

/// Finds the first of the backends that are up that has what is meant: its index, and the model's name.
fn first<'a>(
    table: &'a Table,
    up: &[&Backend],
    meaning: &Meaning<'_>,
) -> Option<(usize, &'a Arc<ModelName>)> {
    table.catalog.find(meaning.model).iter().find_map(|served| {
        let id = &table.backends[served.backend].config.id;
        let at = up.iter().position(|up| up.config.id == *id)?;
        meaning.pin.is_none_or(|pin| pin == id).then_some((at, &served.name))
    })
}

/// Gives an entry of a list another name.
fn renamed(mut entry: Value, members: &[&str], name: &str) -> Value {
    if let Some(entry) = entry.as_object_mut() {
        entry.extend(members.iter().map(|member| ((*member).to_owned(), Value::from(name))));
    }
    entry
}

/// Finds what a backend lists for a model of the catalogue.
fn listed<'a>(backend: &'a Backend, name: &str) -> Option<&'a Listed> {
    let mut listed = backend.report.listing.iter().flat_map(|listing| &listing.models);
    let names = backend.names();
    listed.find(|model| model.is_called(names, name))
}

/// Describes one model of a backend as OpenAI does.
fn object(backend: &Backend, name: &str, listed: Option<&Listed>) -> Value {
    match listed {
        Some(model) => model.as_openai(&backend.config.id),
        None => openai::declared(name, &backend.config.id),
    }
}

fn line(object: &Value) -> Vec<u8> {
    format!("{object}\n").into_bytes()
}
