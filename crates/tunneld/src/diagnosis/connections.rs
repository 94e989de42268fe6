//! The model servers, as they answered just now: pure.

use tunnel_api::{Check, Status};
use tunnel_broker::{BackendState, BackendStatus, Health};

use super::check::{Subject, took};
use crate::view;

/// Judges each of them.
pub(super) fn checks(backends: &[BackendStatus]) -> Vec<Check> {
    if backends.is_empty() {
        let subject = Subject::new("connections", "connections");
        let next_step = "tunnelctl connections detect, then: tunnelctl connections add URL";
        return vec![subject.fail("no model server is configured", next_step)];
    }
    let serves =
        |backend: &BackendStatus| backend.state == BackendState::Connected && !backend.models.is_empty();
    let check = |backend: &BackendStatus| {
        let another_serves = backends.iter().any(|other| other.id != backend.id && serves(other));
        let judged = judge(backend, another_serves);
        match backend.latency.filter(|_| backend.state == BackendState::Connected) {
            Some(latency) => took(judged, latency),
            None => judged,
        }
    };
    backends.iter().map(check).collect()
}

/// Puts in what the status knows better: why the program behind a connection does not run.
pub(super) fn explain(backends: &mut [BackendStatus], status: &Status) {
    for backend in backends.iter_mut().filter(|backend| backend.state != BackendState::Connected) {
        let known = status.connections.get(&backend.id).and_then(|connection| connection.error.clone());
        backend.error = known.or(backend.error.take());
    }
}

fn judge(backend: &BackendStatus, another_serves: bool) -> Check {
    let BackendStatus { id, endpoint, .. } = backend;
    let subject = Subject::new(format!("connection:{id}"), format!("connection {id}"));
    match backend.state {
        BackendState::Disconnected | BackendState::Error => {
            let why = backend.error.as_deref().unwrap_or("no answer");
            let detail = format!("{endpoint} is not available: {why}");
            let next_step = view::start_step(backend);
            if another_serves { subject.warn(detail, next_step) } else { subject.fail(detail, next_step) }
        }
        BackendState::Connecting if backend.health == Health::Warming => {
            let next_step = format!("nothing, or look again in a minute: tunnelctl connections test {id}");
            subject.warn(format!("{endpoint} is loading its model; requests wait for it"), next_step)
        }
        BackendState::Connecting => {
            let next_step = format!("look again in a moment: tunnelctl connections test {id}");
            subject.warn(format!("{endpoint} has not answered yet"), next_step)
        }
        BackendState::Connected => connected(&subject, backend),
    }
}

fn connected(subject: &Subject, backend: &BackendStatus) -> Check {
    let profile = &backend.profile;
    let name = &profile.product;
    let version = backend.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
    let server = format!("{name}{version} at {}", backend.endpoint);
    if let Some(recommended) = &profile.recommended
        && let Some(numbers) = backend.version.as_deref().and_then(numbers)
        && numbers < recommended.oldest
    {
        let [major, minor, patch] = recommended.oldest;
        let detail = format!("{server} is old, {major}.{minor}.{patch} or newer is recommended");
        return subject.warn(detail, recommended.update_step.clone());
    }
    match backend.models.len() {
        0 => subject.warn(format!("{server} has no models"), profile.no_models_step.clone()),
        1 => subject.pass(format!("{server} has 1 model")),
        n => subject.pass(format!("{server} has {n} models")),
    }
}

/// Reads `0.12.0` and `0.9.1-rc2`. None of what is no version, such as that of a build of one's own.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let plain = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(str::parse::<u64>);
    let read = [numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?];
    // What Ollama calls a build without a version.
    Some(read).filter(|read| *read != [0, 0, 0])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tunnel_api::Verdict;
    use tunnel_broker::{BackendKind, BreakerState, ModelInfo};

    use super::*;

    fn backend(id: &str, state: BackendState, n_models: usize) -> BackendStatus {
        let model = ModelInfo { name: "m".to_owned(), loaded: false, size_bytes: None };
        BackendStatus {
            id: id.to_owned(),
            kind: BackendKind::Ollama,
            profile: Arc::new(BackendKind::Ollama.profile().clone()),
            speaks: BackendKind::Ollama.profile().speaks,
            endpoint: format!("http://{id}:1"),
            state,
            health: Health::Up,
            breaker: BreakerState::Closed,
            version: Some("0.12.0".to_owned()),
            models: vec![model; n_models],
            latency: Some(Duration::from_millis(3)),
            last_check: None,
            error: (state != BackendState::Connected).then(|| "connection refused".to_owned()),
            in_flight: 0,
            queued: 0,
            error_rate: 0.0,
        }
    }

    fn verdicts(backends: &[BackendStatus]) -> Vec<Verdict> {
        checks(backends).iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn server_that_is_down_fails_unless_another_one_has_models() {
        use BackendState::{Connected, Disconnected, Error};
        assert_eq!(verdicts(&[backend("a", Disconnected, 2)]), [Verdict::Fail]);
        let beside_a_full_one = [backend("a", Error, 2), backend("b", Connected, 1)];
        assert_eq!(verdicts(&beside_a_full_one), [Verdict::Warn, Verdict::Pass]);
        let beside_an_empty_one = [backend("a", Disconnected, 2), backend("b", Connected, 0)];
        assert_eq!(verdicts(&beside_an_empty_one), [Verdict::Fail, Verdict::Warn]);
        let check = checks(&beside_a_full_one).remove(0);
        assert_eq!((check.id.as_str(), check.duration_ms), ("connection:a", None));
        assert_eq!(check.detail, "http://a:1 is not available: connection refused");
        assert!(check.next_step.contains("ollama serve"));
        assert_eq!(verdicts(&[]), [Verdict::Fail]);
    }

    #[test]
    fn old_ollama_and_one_without_models_are_told_with_a_command() {
        let with = |version: Option<&str>, n_models| {
            let version = version.map(str::to_owned);
            let backend = BackendStatus { version, ..backend("a", BackendState::Connected, n_models) };
            checks(&[backend]).remove(0)
        };
        for old in ["0.8.9", "0.1.38", "v0.8.9-rc1"] {
            let check = with(Some(old), 1);
            assert_eq!(check.verdict, Verdict::Warn, "{old}");
            assert!(check.detail.contains(old) && check.detail.contains("0.9.0"), "{}", check.detail);
        }
        for good in [Some("0.9.0"), Some("0.12.0"), Some("1.0.0-rc1"), Some("0.0.0"), Some("mine"), None] {
            assert_eq!(with(good, 1).verdict, Verdict::Pass, "{good:?}");
        }
        let empty = with(Some("0.12.0"), 0);
        assert_eq!((empty.verdict, empty.next_step.as_str()), (Verdict::Warn, "ollama pull llama3.2:1b"));
        assert_eq!(with(Some("0.12.0"), 3).detail, "Ollama 0.12.0 at http://a:1 has 3 models");
        assert_eq!(with(Some("0.12.0"), 3).duration_ms, Some(3.0));
    }
}
