//! `tunnelctl explain`.

use serde_json::json;
use tunnel_api::explain::{Candidate, ExplainRequest, Explanation, ResolvedBy, Verdict};
use tunnel_client::{Client, exit};

use crate::output::table::{Cell, Column, Table};
use crate::output::words::milliseconds;
use crate::output::{Look, Mark, Output};

pub(super) async fn explain(
    client: &Client,
    request: &ExplainRequest,
    output: &Output,
) -> anyhow::Result<u8> {
    let explanation = client.explain(request).await?;
    if output.wants_json() {
        output.json(json!(explanation))?;
    } else {
        output.done(&decision(&explanation, request))?;
        output.table(&table(&explanation))?;
    }
    Ok(if explanation.connection.is_some() { exit::OK } else { exit::NOT_READY })
}

/// Says in one line what becomes of the request.
fn decision(explanation: &Explanation, request: &ExplainRequest) -> String {
    let what = match (&explanation.model, &request.model) {
        (Some(model), _) | (None, Some(model)) => model.as_str(),
        (None, None) => "a request without a model",
    };
    let understood = match explanation.resolved_by {
        Some(ResolvedBy::Alias) => match &request.model {
            Some(alias) => format!(" (as {alias} is an alias)"),
            None => String::new(),
        },
        Some(ResolvedBy::Pinned) => " (the request names the connection)".to_owned(),
        Some(ResolvedBy::Exact | ResolvedBy::Unknown) | None => String::new(),
    };
    match (&explanation.connection, &explanation.refusal) {
        (Some(connection), _) => format!("{what} goes to {connection}{understood}"),
        (None, Some(refusal)) => format!("{what} is refused with {}: {}", refusal.status, refusal.message),
        (None, None) => {
            let lines = explanation.waits_for.join(" or ");
            match explanation.queue_position {
                _ if lines.is_empty() => format!("{what} goes nowhere"),
                Some(0) => format!("{what} waits for a slot of {lines}, and is the next{understood}"),
                Some(1) => format!("{what} waits for a slot of {lines}, behind 1 other{understood}"),
                Some(n) => format!("{what} waits for a slot of {lines}, behind {n} others{understood}"),
                None => format!("{what} waits until {lines} is ready{understood}"),
            }
        }
    }
}

fn table(explanation: &Explanation) -> Table {
    let mut table = Table::new(vec![
        Column::text(""),
        Column::text("CONNECTION"),
        Column::text("VERDICT"),
        Column::text("HEALTH"),
        Column::number("RUNS"),
        Column::number("LATENCY").extra(),
        Column::long("WHY"),
    ]);
    for candidate in &explanation.candidates {
        let latency = candidate.latency_ewma_ms.map_or_else(String::new, milliseconds);
        let bold = candidate.verdict == Verdict::Chosen;
        table.row(vec![
            Cell::mark(mark(candidate)),
            Cell::painted(&candidate.connection, if bold { Look::bold } else { |_, text| text.to_owned() }),
            Cell::new(verdict(candidate.verdict)),
            Cell::new(&candidate.health),
            Cell::new(candidate.in_flight.to_string()),
            Cell::new(latency),
            Cell::new(&candidate.reason),
        ]);
    }
    table
}

fn mark(candidate: &Candidate) -> Mark {
    match candidate.verdict {
        Verdict::Chosen => Mark::Ok,
        Verdict::Full => Mark::Warn,
        Verdict::Excluded if candidate.health == "down" || candidate.health == "unauthorised" => Mark::Fail,
        Verdict::Next | Verdict::Later | Verdict::Excluded | Verdict::Unknown => Mark::Off,
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Chosen => "chosen",
        Verdict::Next => "next",
        Verdict::Later => "later",
        Verdict::Full => "busy",
        Verdict::Excluded => "no",
        Verdict::Unknown => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guide shows an answer of the API and what this makes of it, one after the other.
    #[test]
    fn guide_shows_what_is_printed() {
        let guide = include_str!("../../../../docs/routing.md");
        let block = |start: &str| {
            let from = guide.find(start).unwrap_or_else(|| panic!("no block: {start}")) + start.len();
            &guide[from..from + guide[from..].find("```").unwrap()]
        };
        let answer: Explanation = serde_json::from_str(block("```json answer\n")).unwrap();
        let request = ExplainRequest { model: Some("llama3.2:3b".to_owned()), ..ExplainRequest::default() };
        let text =
            format!("{}\n{}", decision(&answer, &request), table(&answer).text(&Look::symbols(), None));
        let shown = block("```console\n$ tunnelctl explain llama3.2:3b\n");
        assert_eq!(text, shown, "docs/routing.md shows something else");
    }

    #[test]
    fn refusals_and_queues_are_told() {
        let told = |waits_for: &[&str], queue_position, resolved_by, connection: Option<&str>| {
            let busy = || tunnel_api::explain::Refusal {
                status: 429,
                message: "busy".to_owned(),
                ..Default::default()
            };
            let explanation = Explanation {
                connection: connection.map(str::to_owned),
                waits_for: waits_for.iter().map(|id| (*id).to_owned()).collect(),
                refusal: waits_for.is_empty().then(busy),
                queue_position,
                resolved_by,
                ..Explanation::default()
            };
            let request = ExplainRequest { model: Some("m".to_owned()), ..ExplainRequest::default() };
            decision(&explanation, &request)
        };
        assert_eq!(told(&[], None, None, None), "m is refused with 429: busy");
        assert_eq!(told(&["a", "b"], Some(0), None, None), "m waits for a slot of a or b, and is the next");
        assert_eq!(told(&["a"], Some(3), None, None), "m waits for a slot of a, behind 3 others");
        assert_eq!(told(&["a"], None, None, None), "m waits until a is ready");
        assert_eq!(
            told(&[], None, Some(ResolvedBy::Pinned), Some("a")),
            "m goes to a (the request names the connection)"
        );
    }
}
