//! Reading token streams: are they exact, and how late is each token?

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Api, Caller, Latencies, MODEL, Reply, Script, monotonic_ns};

/// Asks for a stream from the scripted model and checks that it has begun.
pub(crate) async fn open(caller: &Caller, api: Api, script: &Script) -> Result<Reply> {
    let reply = caller.post(api.path()).json(&api.request(MODEL)).script(script).send().await?;
    if reply.status() != 200 {
        let status = reply.status();
        bail!("{} answered {status}: {}", api.path(), reply.ending().await.text());
    }
    Ok(reply)
}

/// Reads to the end and fails unless each byte is what the backend wrote and the end is regular.
pub(crate) async fn exact(reply: Reply, api: Api, script: &Script) -> Result<()> {
    let tokens = script.tokens.context("an exact stream has a known length")?;
    let ending = reply.ending().await;
    let expected = script.whole_stream(api, MODEL, tokens);
    if let Some(error) = &ending.error {
        let tail =
            ending.text().chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        bail!(
            "the stream broke off after {} of {} bytes: {error}; it ends in {tail}",
            ending.bytes.len(),
            expected.len()
        );
    }
    if let Some(at) = ending.bytes.iter().zip(expected.as_bytes()).position(|(a, b)| a != b) {
        bail!("byte {at} of {} differs", expected.len());
    }
    ensure!(
        ending.bytes.len() == expected.len(),
        "{} bytes came, {} were sent",
        ending.bytes.len(),
        expected.len()
    );
    Ok(())
}

/// Reads a stamped stream to its end; returns how late each token came and in how many pieces the body came.
pub(crate) async fn lateness(mut reply: Reply) -> Result<(Latencies, usize)> {
    let (mut latencies, mut pieces, mut text) = (Latencies::default(), 0, String::new());
    while let Some(chunk) = reply.chunk().await? {
        let now = monotonic_ns();
        pieces += 1;
        text.push_str(std::str::from_utf8(&chunk.bytes)?);
        while let Some(end) = text.find('\n') {
            if let Some(sent) = sent_ns(&text[..end]) {
                latencies.record(Duration::from_nanos(now.saturating_sub(sent)));
            }
            text.drain(..=end);
        }
    }
    Ok((latencies, pieces))
}

/// Reads until as many tokens have come.
pub(crate) async fn read_tokens(reply: &mut Reply, tokens: usize) -> Result<String> {
    let mut text = String::new();
    while text.lines().filter(|line| !line.is_empty()).count() < tokens {
        let chunk = reply.chunk().await?.context("the stream ended early")?;
        text.push_str(std::str::from_utf8(&chunk.bytes)?);
    }
    Ok(text)
}

fn sent_ns(line: &str) -> Option<u64> {
    let rest = line.split("\"sent_ns\":").nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
