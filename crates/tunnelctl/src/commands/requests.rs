//! `tunnelctl requests`.

mod show;
mod watch;

use serde_json::json;
use tunnel_api::Requests;
use tunnel_api::request::Request;
use tunnel_client::{Client, Error, exit};

use crate::cli::RequestsVerb;
use crate::output::Output;
use crate::refusal::Refusal;

pub(super) async fn run(client: &Client, verb: &RequestsVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        RequestsVerb::List { watch: false } => list(client, output).await,
        RequestsVerb::List { watch: true } => watch::watch(client, output).await,
        RequestsVerb::Cancel { id } => cancel(client, id, output).await,
        RequestsVerb::Explain { id } => explain(client, id, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let requests = client.requests().await?;
    let rates = show::Rates::default();
    if output.wants_json() {
        output.json(show::json(&requests, &rates))?;
    } else if requests.requests.is_empty() {
        output.talk("no request runs at the moment; to go on looking: tunnelctl requests list -w");
    } else {
        output.table(&show::table(&requests, &rates, output.is_terminal()))?;
    }
    Ok(exit::OK)
}

async fn cancel(client: &Client, id: &str, output: &Output) -> anyhow::Result<u8> {
    let requests = client.requests().await?;
    let id = &find(id, &requests)?.id;
    match client.cancel_request(id).await {
        Ok(_) => {}
        // It ended between the two questions.
        Err(Error::Refused(body)) if body.status_code == 404 => return Err(ended(id).into()),
        Err(error) => return Err(error.into()),
    }
    if output.wants_json() {
        output.json(json!({ "id": id, "cancelled": true }))?;
    } else {
        output.done(&format!("request {id} is cancelled"))?;
    }
    Ok(exit::OK)
}

/// What cannot be told about a request.
const WHY: &str = "why this connection was chosen is not recorded in this version of tunneld";

async fn explain(client: &Client, id: &str, output: &Output) -> anyhow::Result<u8> {
    let requests = client.requests().await?;
    let request = find(id, &requests)?;
    if output.wants_json() {
        output.json(json!({ "request": request, "reason": null, "note": WHY }))?;
    } else {
        output.answer(&show::explanation(request, output.look()))?;
        output.talk(WHY);
    }
    Ok(exit::OK)
}

/// Finds a request by its id, or by the beginning of it.
fn find<'a>(id: &str, requests: &'a Requests) -> Result<&'a Request, Refusal> {
    let all = &requests.requests;
    if let Some(request) = all.iter().find(|request| request.id == id) {
        return Ok(request);
    }
    let begins = |request: &&Request| !id.is_empty() && request.id.starts_with(id);
    match all.iter().filter(begins).collect::<Vec<_>>()[..] {
        [request] => Ok(request),
        [] => Err(ended(id)),
        [one, other, ..] => Err(Refusal::new(
            exit::CONFLICT,
            format!(
                "several requests begin with {id}, such as {} and {}; give more of the id",
                one.id, other.id
            ),
        )),
    }
}

fn ended(id: &str) -> Refusal {
    Refusal::new(
        exit::NOT_FOUND,
        format!(
            "no request {id} runs; it may have ended meanwhile, and finished ones are not kept yet; those that run: \
             tunnelctl requests list"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_of_an_id_is_enough_where_it_is_the_only_one() {
        let request = |id: &str| Request { id: id.to_owned(), ..Request::default() };
        let requests =
            Requests { requests: ["abcd1", "abce2", "abc"].map(request).into(), ..Requests::default() };
        let found =
            |id| find(id, &requests).map(|request| request.id.as_str()).map_err(|refusal| refusal.code());
        assert_eq!(found("abcd"), Ok("abcd1"));
        assert_eq!(found("abc"), Ok("abc"));
        assert_eq!(found("ab"), Err(exit::CONFLICT));
        assert_eq!(found("x"), Err(exit::NOT_FOUND));
        assert_eq!(found(""), Err(exit::NOT_FOUND));
    }
}
