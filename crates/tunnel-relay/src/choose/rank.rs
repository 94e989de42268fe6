//! Which of several devices gets a request. Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use tokio::time::Instant;

use crate::presence::Presence;

/// A device that is online, as far as the choice looks at it.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    /// None: it does not say what it has.
    pub(super) presence: Option<Arc<Presence>>,
    /// Requests under way.
    pub(super) in_flight: usize,
    /// Since when it is connected.
    pub(super) since: Instant,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    /// It names a model.
    Model(&'a str),
    /// It names none, and changes nothing: any device can answer.
    Any,
    /// It names none, and may change something: only the right one may answer.
    Certain,
}

/// Why none was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecided {
    /// No device has the model.
    NoModel,
    /// Nothing tells which one is meant.
    Unclear,
}

/// Chooses a device, by its index.
///
/// With a model: of those that have it the one that has it in memory, then the preferred one, then the one with the
/// fewest requests under way, then the first by name. Where nobody has it, one that does not say what it has may have
/// it all the same, and otherwise the preferred one says what it thinks of the request.
pub(super) fn choose(candidates: &[Candidate<'_>], wish: Wish<'_>) -> Result<usize, Undecided> {
    let preferred = preferred(candidates);
    let Wish::Model(model) = wish else {
        let longest = || oldest(candidates, |_| true).filter(|_| wish == Wish::Any);
        return preferred.or_else(longest).ok_or(Undecided::Unclear);
    };
    let having = candidates.iter().enumerate().filter_map(|(at, candidate)| {
        let loaded = candidate.presence.as_ref()?.find(model)?;
        Some(((Reverse(loaded), Some(at) != preferred, candidate.in_flight, candidate.name), at))
    });
    having
        .min()
        .map(|(_, at)| at)
        .or_else(|| oldest(candidates, |candidate| candidate.presence.is_none()))
        .or(preferred)
        .ok_or(Undecided::NoModel)
}

/// Of several that are preferred, the one that connected last.
fn preferred(candidates: &[Candidate<'_>]) -> Option<usize> {
    let preferred =
        |candidate: &Candidate<'_>| candidate.presence.as_ref().is_some_and(|told| told.preferred);
    let which = candidates.iter().enumerate().filter(|(_, candidate)| preferred(candidate));
    which.max_by_key(|(_, candidate)| candidate.since).map(|(at, _)| at)
}

fn oldest(candidates: &[Candidate<'_>], which: impl Fn(&Candidate<'_>) -> bool) -> Option<usize> {
    let which = candidates.iter().enumerate().filter(|(_, candidate)| which(candidate));
    which.min_by_key(|(_, candidate)| candidate.since).map(|(at, _)| at)
}

/// Orders devices for a listing: the preferred one first, then those that are connected longest.
pub(super) fn order(candidates: &[Candidate<'_>]) -> Vec<usize> {
    let preferred = preferred(candidates);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| (Some(*at) != preferred, candidates[*at].since));
    order
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// Devices that connected one after the other.
    struct Scene {
        start: Instant,
        candidates: Vec<Candidate<'static>>,
    }

    impl Scene {
        fn new() -> Self {
            Self { start: Instant::now(), candidates: Vec::new() }
        }

        fn with(mut self, name: &'static str, in_flight: usize, presence: Option<serde_json::Value>) -> Self {
            let since = self.start + Duration::from_secs(self.candidates.len() as u64);
            let presence =
                presence.map(|line| Arc::new(Presence::parse(line.to_string().as_bytes()).unwrap()));
            self.candidates.push(Candidate { name, presence, in_flight, since });
            self
        }

        fn choose(&self, wish: Wish<'_>) -> Result<&str, Undecided> {
            choose(&self.candidates, wish).map(|at| self.candidates[at].name)
        }
    }

    fn has(model: &str, loaded: bool, preferred: bool) -> Option<serde_json::Value> {
        Some(json!({ "models": [{ "name": model, "loaded": loaded }], "preferred": preferred }))
    }

    #[test]
    fn in_memory_comes_first_then_preferred_then_idle_then_by_name() {
        let m = Wish::Model("m");
        let scene =
            Scene::new().with("b", 0, has("m", false, false)).with("a", 0, has("m:latest", false, false));
        assert_eq!(scene.choose(m), Ok("a"));
        let scene = scene.with("c", 0, has("other", true, true));
        assert_eq!(scene.choose(m), Ok("a"), "preferred is no use without the model");
        let scene = Scene::new().with("a", 1, has("m", false, false)).with("b", 0, has("m", false, false));
        assert_eq!(scene.choose(m), Ok("b"));
        let scene = scene.with("p", 9, has("m", false, true));
        assert_eq!(scene.choose(m), Ok("p"));
        let scene = scene.with("z", 9, has("m", true, false));
        assert_eq!(scene.choose(m), Ok("z"));
    }

    #[test]
    fn a_device_that_says_nothing_may_have_it() {
        let scene =
            Scene::new().with("p", 0, has("x", true, true)).with("old", 0, None).with("old2", 0, None);
        assert_eq!(scene.choose(Wish::Model("m")), Ok("old"));
        assert_eq!(scene.choose(Wish::Model("x")), Ok("p"));
    }

    #[test]
    fn a_model_that_nobody_has_goes_to_the_preferred_one_or_nowhere() {
        let scene = Scene::new().with("a", 0, has("x", true, false));
        assert_eq!(scene.choose(Wish::Model("m")), Err(Undecided::NoModel));
        let scene = scene.with("p", 0, has("x", false, true));
        assert_eq!(scene.choose(Wish::Model("m")), Ok("p"));
    }

    #[test]
    fn without_a_model_the_preferred_or_the_oldest_answers_what_is_harmless() {
        let scene = Scene::new().with("b", 0, None).with("a", 0, has("x", true, false));
        assert_eq!(scene.choose(Wish::Any), Ok("b"));
        assert_eq!(scene.choose(Wish::Certain), Err(Undecided::Unclear));
        let scene = scene.with("p", 0, has("x", false, true)).with("q", 0, has("x", false, true));
        assert_eq!(scene.choose(Wish::Any), Ok("q"), "the one that connected last");
        assert_eq!(scene.choose(Wish::Certain), Ok("q"));
        assert_eq!(order(&scene.candidates), [3, 0, 1, 2]);
    }
}
