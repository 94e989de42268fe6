//! Whether requests go to a backend that fails them. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker: a server that is restarted, or that fails one bad request and its
/// repetitions, stays below; one that is broken gets there within a blink at any load that matters.
const FAILURES_IN_A_ROW: u32 = 5;
/// The same for a backend that is just coming back: it has been given up once already.
const FAILURES_WHILE_RETURNING: u32 = 2;
/// Requests in the window below which the failed share says nothing.
pub(crate) const SAMPLE: u32 = 20;
/// Failed share of the window, in percent, that opens the breaker: then every second request is wasted.
const FAILED_SHARE: u32 = 50;
/// Length of the two parts of the window: outcomes count for one to two of them.
const PART: Duration = Duration::from_secs(10);
/// First time that the breaker stays open; doubles with each failed trial.
const FIRST_OPEN: Duration = Duration::from_secs(1);
/// Time well spent after which a new failure is nothing to do with the last one.
const FORGET: Duration = Duration::from_secs(60);
/// How long one trial keeps others from being made: a request to a model may take minutes.
const TRIAL_GAP: Duration = Duration::from_secs(5);
/// Time in which a backend that comes back gets more and more, and what it begins with, in percent.
pub(crate) const RETURN_TIME: Duration = Duration::from_secs(10);
pub(crate) const FIRST_SHARE: u32 = 10;

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request was answered, and be it with 4xx: the backend works.
    Succeeded,
    /// A request failed after the backend had got it, or may have.
    Failed,
    /// Nothing could be sent: no connection. Or a probe has found the server silent.
    Unreachable,
    /// A request is about to be sent.
    Tried,
    /// A probe went well.
    ProbedWell,
}

/// Follows how one backend's requests end, and ejects the backend while they fail.
#[derive(Debug)]
pub(crate) struct Breaker {
    phase: Phase,
    /// Failures since the last success.
    in_a_row: u32,
    window: Window,
    /// Times it opened without a minute of rest between.
    trips: u32,
    /// Longest time that it stays open.
    longest: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Requests go through. `since`: when it came back; none when it never was away.
    Closed { since: Option<Instant> },
    /// They do not until `until`; from then on one at a time is tried.
    Open { until: Instant, cause: Cause, trial: Option<Instant> },
}

/// Who can tell that the backend is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A probe: it does what the requests failed to do, and costs nobody an answer.
    Unreachable,
    /// A request; a probe may go well although no request does.
    Failing,
}

/// Where the breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Closed,
    /// Closed again, and given more by and by.
    Returning,
    /// A request may be tried.
    HalfOpen,
    /// A trial is under way.
    Trying,
    Open,
}

impl Breaker {
    /// `longest`: the longest time that it stays open.
    pub(crate) fn new(longest: Duration) -> Self {
        let window = Window::default();
        Self { phase: Phase::Closed { since: None }, in_a_row: 0, window, trips: 0, longest }
    }

    /// Changes the longest time that it stays open: no longer than the time between two probes.
    pub(crate) fn set_longest(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// Takes in what happened. `luck`, 0 to 1, spreads the times at which several brokers try again.
    pub(crate) fn handle(&mut self, event: Event, now: Instant, luck: f64) {
        match event {
            Event::Succeeded => self.succeeded(1, now),
            Event::Failed => self.failed(now, luck),
            Event::Unreachable => self.unreachable(now, luck),
            Event::Tried => {
                if let Phase::Open { until, trial, .. } = &mut self.phase
                    && *until <= now
                {
                    *trial = Some(now);
                }
            }
            Event::ProbedWell => match self.phase {
                Phase::Open { cause: Cause::Unreachable, .. } => self.close(now),
                // Without requests nobody else would ever close it.
                // Where there are requests one of them is to be the trial, so they come first: callers can order probes,
                // and lists work where no chat does.
                Phase::Open { until, trial, .. } if trial.unwrap_or(until) + self.longest <= now => {
                    self.close(now);
                }
                Phase::Open { .. } | Phase::Closed { .. } => {}
            },
        }
    }

    /// Takes in successes at once.
    pub(crate) fn succeeded(&mut self, n: u32, now: Instant) {
        if n == 0 {
            return;
        }
        self.in_a_row = 0;
        self.window.at(now).good += n;
        if let Phase::Open { until, trial, .. } = &mut self.phase {
            if *until <= now {
                self.close(now);
            } else {
                // An answer that began before, or to a request that had nowhere else to go: worth a trial.
                (*until, *trial) = (now, None);
            }
        }
    }

    fn failed(&mut self, now: Instant, luck: f64) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.window.at(now).bad += 1;
        let limit = if self.is_returning(now) { FAILURES_WHILE_RETURNING } else { FAILURES_IN_A_ROW };
        match self.phase {
            Phase::Closed { .. } if self.in_a_row >= limit || self.window.is_bad(now) => {
                self.open(Cause::Failing, now, luck);
            }
            // The trial. What fails while it is open was sent before, or in need, and changes nothing.
            Phase::Open { until, .. } if until <= now => self.open(Cause::Failing, now, luck),
            Phase::Closed { .. } | Phase::Open { .. } => {}
        }
    }

    fn unreachable(&mut self, now: Instant, luck: f64) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.window.at(now).bad += 1;
        match &self.phase {
            Phase::Open { until, cause: Cause::Unreachable, .. } if *until > now => {}
            Phase::Closed { .. } | Phase::Open { .. } => self.open(Cause::Unreachable, now, luck),
        }
    }

    fn open(&mut self, cause: Cause, now: Instant, luck: f64) {
        if let Phase::Closed { since } = self.phase
            && since.is_none_or(|since| now.saturating_duration_since(since) >= FORGET)
        {
            self.trips = 0;
        }
        let doubled = FIRST_OPEN.saturating_mul(2u32.saturating_pow(self.trips));
        self.trips = self.trips.saturating_add(1);
        let time = match cause {
            Cause::Failing => doubled.mul_f64(0.75 + 0.5 * luck.clamp(0.0, 1.0)).min(self.longest),
            // The prober looks far more often than a request should be put at risk for it.
            Cause::Unreachable => self.longest,
        };
        self.phase = Phase::Open { until: now + time, cause, trial: None };
    }

    fn close(&mut self, now: Instant) {
        self.phase = Phase::Closed { since: Some(now) };
        self.in_a_row = 0;
        self.window = Window::default();
    }

    pub(crate) fn position(&self, now: Instant) -> Position {
        match self.phase {
            Phase::Closed { .. } if self.is_returning(now) => Position::Returning,
            Phase::Closed { .. } => Position::Closed,
            Phase::Open { until, .. } if until > now => Position::Open,
            Phase::Open { trial: Some(at), .. } if now.saturating_duration_since(at) < TRIAL_GAP => {
                Position::Trying
            }
            Phase::Open { .. } => Position::HalfOpen,
        }
    }

    /// Returns when the next request may be tried; none when one may be now.
    pub(crate) fn next_trial(&self, now: Instant) -> Option<Instant> {
        let Phase::Open { until, trial, .. } = self.phase else { return None };
        let next = trial.map_or(until, |at| until.max(at + TRIAL_GAP));
        Some(next).filter(|next| *next > now)
    }

    /// Returns how much of its part of the load it should get, in percent: 1 to 100.
    pub(crate) fn share(&self, now: Instant) -> u32 {
        match self.phase {
            Phase::Closed { since: Some(since) } => {
                let gone = now.saturating_duration_since(since).min(RETURN_TIME);
                let more = u128::from(100 - FIRST_SHARE) * gone.as_millis() / RETURN_TIME.as_millis();
                FIRST_SHARE + u32::try_from(more).unwrap_or(100 - FIRST_SHARE)
            }
            Phase::Closed { since: None } => 100,
            Phase::Open { .. } => FIRST_SHARE,
        }
    }

    /// Tells whether successes need not be told one by one: nothing is wrong and nothing is about to change.
    pub(crate) fn is_calm(&self, now: Instant) -> bool {
        self.in_a_row == 0 && self.position(now) == Position::Closed
    }

    fn is_returning(&self, now: Instant) -> bool {
        let Phase::Closed { since } = self.phase else { return false };
        since.is_some_and(|since| now.saturating_duration_since(since) < RETURN_TIME)
    }
}

/// Outcomes of the last ten to twenty seconds.
#[derive(Debug, Default)]
struct Window {
    begun: Option<Instant>,
    now: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    good: u32,
    bad: u32,
}

impl Window {
    /// Returns the counts of the running part.
    fn at(&mut self, now: Instant) -> &mut Counts {
        let begun = *self.begun.get_or_insert(now);
        let age = now.saturating_duration_since(begun);
        if age >= PART {
            let before = std::mem::take(&mut self.now);
            self.before = if age < PART * 2 { before } else { Counts::default() };
            self.begun = Some(now);
        }
        &mut self.now
    }

    fn is_bad(&mut self, now: Instant) -> bool {
        let now = *self.at(now);
        let bad = u64::from(now.bad) + u64::from(self.before.bad);
        let all = bad + u64::from(now.good) + u64::from(self.before.good);
        all >= u64::from(SAMPLE) && bad * 100 >= all * u64::from(FAILED_SHARE)
    }
}

#[cfg(test)]
mod tests;
