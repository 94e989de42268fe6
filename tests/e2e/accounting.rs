//! Tokens and times are counted as the model servers tell them.

use std::{collections::BTreeMap, ops::AddAssign, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Caller, MODEL, ModelServer, REAL_MODEL, Script, WorldOptions, eventually, measured, scenario, skipped,
};
use serde_json::{Value, json};

/// What a server said of its work, or the sum of that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    requests: u64,
    prompt: u64,
    completion: u64,
    cached: u64,
    load_ms: f64,
    prompt_ms: f64,
    generation_ms: f64,
}

impl AddAssign for Told {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.prompt += other.prompt;
        self.completion += other.completion;
        self.cached += other.cached;
        self.load_ms += other.load_ms;
        self.prompt_ms += other.prompt_ms;
        self.generation_ms += other.generation_ms;
    }
}

/// Reads an answer with a JSON parser: each line or event is a document, of a member that is there twice the last counts.
fn told(answer: &str) -> Result<Told> {
    let whole = serde_json::from_str(answer).map(|document| vec![document]);
    let lines = || {
        let lines = answer.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line).trim());
        lines.filter(|line| line.starts_with('{')).map(serde_json::from_str).collect()
    };
    let documents: Vec<Value> = match whole {
        Ok(documents) => documents,
        Err(_) => Result::<_, serde_json::Error>::from(lines())?,
    };
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    for document in &documents {
        // Anthropic's and OpenAI's events have it within the message that they tell of.
        let within = [document, &document["message"], &document["response"]];
        let objects = within.into_iter().flat_map(|of| [&of["usage"], &of["timings"]]).chain([document]);
        for (name, value) in objects.filter_map(Value::as_object).flatten() {
            let number = value.as_f64().or_else(|| value.get("cached_tokens").and_then(Value::as_f64));
            last.extend(number.map(|number| (name.clone(), number)));
        }
    }
    let find = |names: &[&str]| names.iter().find_map(|name| last.get(*name).copied());
    let beside = find(&["cache_read_input_tokens"]);
    let timed = find(&["prompt_n"]).map(|n| n + find(&["cache_n"]).unwrap_or(0.0));
    let prompt = find(&["prompt_tokens", "prompt_eval_count"])
        .or_else(|| find(&["input_tokens"]).map(|n| n + beside.unwrap_or(0.0)))
        .or(timed);
    let cached = find(&["prompt_tokens_details", "input_tokens_details", "cache_n"]).or(beside);
    let count = |n: Option<f64>| n.unwrap_or(0.0) as u64;
    Ok(Told {
        requests: 1,
        prompt: count(prompt),
        completion: count(find(&["completion_tokens", "output_tokens", "eval_count", "predicted_n"])),
        cached: count(cached),
        load_ms: find(&["load_duration"]).unwrap_or(0.0) / 1e6,
        prompt_ms: find(&["prompt_ms"]).or(find(&["prompt_eval_duration"]).map(|ns| ns / 1e6)).unwrap_or(0.0),
        generation_ms: find(&["predicted_ms"]).or(find(&["eval_duration"]).map(|ns| ns / 1e6)).unwrap_or(0.0),
    })
}

/// Asks, and reads what the server told in its answer.
async fn ask(caller: &Caller, path: &str, body: &Value, script: &Script) -> Result<Told> {
    let reply = caller.post(path).script(script).json(body).send().await?;
    let status = reply.status();
    let answer = reply.text().await?;
    ensure!(status == 200, "{path} {body}: {status} {answer}");
    told(&answer).with_context(|| format!("{path}: {answer}"))
}

/// Returns the row of `GET /api/usage` of this name, once it counts so many requests.
async fn row(control: &Caller, by: &str, name: &str, requests: u64) -> Result<Value> {
    let mut found = Value::Null;
    eventually("the usage is committed", Duration::from_secs(10), async || {
        let Ok(reply) = control.get(&format!("/api/usage?by={by}")).send().await else { return false };
        let usage = reply.json().await.unwrap_or_default();
        let rows = usage["usage"].as_array().cloned().unwrap_or_default();
        found = rows.into_iter().find(|row| row[by] == name).unwrap_or_default();
        found["requests"] == requests
    })
    .await
    .with_context(|| format!("{by} {name}: {requests} requests are expected"))?;
    Ok(found)
}

fn compare(row: &Value, told: &Told, timed: bool) -> Result<()> {
    let counts = [
        ("requests", told.requests),
        ("failed", 0),
        ("prompt_tokens", told.prompt),
        ("completion_tokens", told.completion),
        ("cached_tokens", told.cached),
    ];
    for (name, expected) in counts {
        ensure!(row[name] == expected, "{name}: the servers told {expected}: {row}");
    }
    let mut times = vec![("load_ms", told.load_ms), ("prompt_ms", told.prompt_ms)];
    // Where a server tells no time, it is measured.
    times.extend(timed.then_some(("generation_ms", told.generation_ms)));
    for (name, expected) in times {
        let counted = row[name].as_f64().unwrap_or(-1.0);
        ensure!((counted - expected).abs() <= 1.0, "{name}: the servers told {expected}: {row}");
    }
    Ok(())
}

#[test]
fn ollamas_figures_are_counted_as_it_tells_them() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let (mut all, mut by_door) = (Told::default(), [Told::default(), Told::default()]);
        for n in [1, 3, 8, 40] {
            let bodies = [
                ("/api/chat", json!({"messages": messages})),
                ("/api/chat", json!({"messages": messages, "stream": false})),
                ("/api/generate", json!({"prompt": "Hi"})),
                ("/api/generate", json!({"prompt": "Hi", "stream": false})),
                ("/api/embed", json!({"input": ["a", "b", "c"]})),
                ("/v1/chat/completions", json!({"messages": messages})),
                ("/v1/completions", json!({"prompt": "Hi"})),
                ("/v1/embeddings", json!({"input": ["a", "b"]})),
            ];
            for (path, mut body) in bodies {
                body["model"] = MODEL.into();
                let script = Script { tokens: Some(n), ..Script::default() };
                for (at, (_, caller)) in world.doors().into_iter().enumerate() {
                    let told = ask(&caller, path, &body, &script).await?;
                    by_door[at] += told;
                    all += told;
                }
            }
        }
        let control = world.daemon.control();
        for (by, name) in [("model", MODEL), ("connection", "ollama")] {
            compare(&row(&control, by, name, all.requests).await?, &all, false)?;
        }
        compare(&row(&control, "key", "local", by_door[1].requests).await?, &by_door[1], false)?;
        let remote = control.get("/api/usage?by=key").send().await?.json().await?;
        let keys = remote["usage"].as_array().cloned().unwrap_or_default();
        let beside: u64 = keys
            .iter()
            .filter(|row| row["key"] != "local")
            .filter_map(|row| row["prompt_tokens"].as_u64())
            .sum();
        ensure!(beside == by_door[0].prompt, "through the tunnel: {remote}, told: {:?}", by_door[0]);
        measured(
            "tokens and times, Ollama's API, both doors",
            format!(
                "{} requests: {} + {} tokens, load and prompt times: equal",
                all.requests, all.prompt, all.completion
            ),
        );
        Ok(())
    })
}

#[test]
fn a_real_servers_figures_are_counted_as_it_tells_them() -> Result<()> {
    scenario(async |lab| {
        let folder = lab.folder("model", "llama.log")?;
        let Some(model) = ModelServer::start(&folder).await? else {
            return skipped("a real server's figures", "no model server; run `cargo xtask setup`");
        };
        let connections = json!([{"id": "llama", "type": "openai", "url": model.url()}]);
        let world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
        world.daemon.wait_for_backend("llama", Duration::from_secs(20)).await?;
        let caller = world.local();
        let (mut all, mut timed) = (Told::default(), 0);
        for round in 0..3 {
            let ask_for = format!("Name {} colours.", round + 2);
            let messages = json!([{"role": "user", "content": ask_for}]);
            let usage = json!({"include_usage": true});
            let bodies = [
                ("/v1/chat/completions", json!({"messages": messages})),
                ("/v1/chat/completions", json!({"messages": messages, "stream": true})),
                (
                    "/v1/chat/completions",
                    json!({"messages": messages, "stream": true, "stream_options": usage}),
                ),
                ("/v1/completions", json!({"prompt": ask_for})),
                ("/v1/completions", json!({"prompt": ask_for, "stream": true})),
                ("/v1/responses", json!({"input": ask_for, "max_output_tokens": 6})),
                ("/v1/responses", json!({"input": ask_for, "max_output_tokens": 6, "stream": true})),
                ("/v1/messages", json!({"messages": messages})),
                ("/v1/messages", json!({"messages": messages, "stream": true})),
                ("/v1/embeddings", json!({"input": [ask_for, "and one more"]})),
                ("/completion", json!({"prompt": ask_for, "n_predict": 6, "stream": true})),
                ("/completion", json!({"prompt": ask_for, "n_predict": 6})),
            ];
            for (path, mut body) in bodies {
                body["model"] = REAL_MODEL.into();
                body["max_tokens"] = 6.into();
                let told = ask(&caller, path, &body, &Script::default()).await?;
                ensure!(told.prompt > 0, "{path}: the server told nothing of its prompt");
                timed += u32::from(told.generation_ms > 0.0);
                all += told;
            }
        }
        ensure!(timed >= 20, "llama.cpp tells its times: {timed}");
        let control = world.daemon.control();
        for (by, name) in [("model", REAL_MODEL), ("connection", "llama"), ("key", "local")] {
            compare(&row(&control, by, name, all.requests).await?, &all, false)?;
        }
        measured(
            "tokens and times, real llama.cpp",
            format!(
                "{} requests: {} (of them {} cached) + {} tokens: equal",
                all.requests, all.prompt, all.cached, all.completion
            ),
        );
        Ok(())
    })
}

#[test]
fn chunks_are_counted_where_a_server_tells_nothing() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let (mut all, mut n_tokens) = (Told::default(), 0_u64);
        for n in [1_u32, 17, 100, 333] {
            // Without `include_usage` Ollama's `/v1` says nothing of tokens.
            for (path, body) in [
                ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "Hi"}]})),
                ("/v1/completions", json!({"prompt": "Hi"})),
            ] {
                let mut body = body;
                body["model"] = MODEL.into();
                body["stream"] = true.into();
                all += ask(&world.local(), path, &body, &Script { tokens: Some(n), ..Script::default() })
                    .await?;
                n_tokens += u64::from(n);
            }
        }
        ensure!(all.completion == 0, "this server was to tell nothing");
        let row = row(&world.daemon.control(), "model", MODEL, all.requests).await?;
        let counted = row["completion_tokens"].as_u64().unwrap_or_default();
        let off = (counted as f64 - n_tokens as f64).abs() / n_tokens as f64;
        ensure!(off <= 0.01, "{counted} of {n_tokens} tokens were counted");
        ensure!(row["streamed"] == all.requests && row["generation_ms"].as_u64() > Some(0), "{row}");
        measured("tokens counted by chunks", format!("{counted} of {n_tokens}: {:.2} % off", off * 100.0));
        Ok(())
    })
}
