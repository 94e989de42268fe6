//! What has to be asked anew, and when: at most one question of a kind at a time, and one a second. Pure.

use std::time::{Duration, Instant};

/// What the daemon does not tell by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Auth,
    Settings,
    Requests,
}

/// Least time between two questions of a kind.
const GAP: Duration = Duration::from_secs(1);

/// What that is longer after a question that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(9);

#[derive(Debug, Default)]
pub(crate) struct Refresh([State; 3]);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    wanted: bool,
    running: bool,
    asked: Option<Instant>,
}

impl Refresh {
    const ALL: [Question; 3] = [Question::Auth, Question::Settings, Question::Requests];

    /// Has it asked as soon as it may be.
    pub(crate) fn want(&mut self, question: Question) {
        self.of(question).wanted = true;
    }

    /// Forgets what was wanted.
    pub(crate) fn forget(&mut self) {
        for state in &mut self.0 {
            state.wanted = false;
        }
    }

    /// Notes that an answer came.
    pub(crate) fn answered(&mut self, question: Question) {
        self.of(question).running = false;
    }

    /// Notes that no answer came, and has it asked again in a while.
    pub(crate) fn failed(&mut self, question: Question, now: Instant) {
        *self.of(question) = State { wanted: true, running: false, asked: Some(now + AFTER_FAILURE) };
    }

    /// Returns when something is to be asked.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.iter().filter(|state| state.wanted && !state.running);
        waiting.map(|state| state.asked.map_or(now, |asked| asked + GAP)).min()
    }

    /// Returns what is to be asked now, and notes that it is.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<Question> {
        let mut questions = Vec::new();
        for question in Self::ALL {
            let state = self.of(question);
            let rested = state.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= GAP);
            if state.wanted && !state.running && rested {
                *state = State { wanted: false, running: true, asked: Some(now) };
                questions.push(question);
            }
        }
        questions
    }

    fn of(&mut self, question: Question) -> &mut State {
        &mut self.0[match question {
            Question::Auth => 0,
            Question::Settings => 1,
            Question::Requests => 2,
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_once_a_second_and_one_at_a_time() {
        let (mut refresh, start) = (Refresh::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(refresh.due(start), None);
        refresh.want(Question::Requests);
        assert_eq!(refresh.due(start), Some(start));
        assert_eq!(refresh.take(start), [Question::Requests]);
        refresh.want(Question::Requests);
        refresh.want(Question::Auth);
        assert_eq!(refresh.take(at(10)), [Question::Auth]);
        assert_eq!(refresh.due(at(2000)), None, "it runs");
        refresh.answered(Question::Requests);
        assert_eq!(refresh.due(at(20)), Some(at(1000)));
        assert!(refresh.take(at(999)).is_empty());
        assert_eq!(refresh.take(at(1000)), [Question::Requests]);
        refresh.failed(Question::Requests, at(1000));
        assert!(refresh.take(at(10_999)).is_empty());
        assert_eq!(refresh.due(at(5000)), Some(at(11_000)));
        assert_eq!(refresh.take(at(11_000)), [Question::Requests]);
    }
}
