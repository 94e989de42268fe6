use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backend::Backend;
use crate::broker::Ingress;
use crate::config::{BackendConfig, BackendKind};
use crate::health::{Fault, Phase};
use crate::upstream::Report;

const N_KEYS: usize = 4;
const N_BACKENDS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A request of a key comes; the bits say which backends would do.
    Come { key: usize, backends: usize },
    /// One of those that wait leaves.
    Leave(prop::sample::Index),
    /// One of those that wait has other backends to wait for.
    Change(prop::sample::Index, usize),
    /// One of those that run ends.
    End(prop::sample::Index),
    /// One that waits leaves in the moment in which it gets a slot.
    EndBesideOneThatLeaves(prop::sample::Index, prop::sample::Index),
    /// A backend gets another number of slots.
    Resize { backend: usize, slots: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let backends = 1..(1_usize << N_BACKENDS);
    prop_oneof![
        6 => (0..N_KEYS, backends.clone()).prop_map(|(key, backends)| Step::Come { key, backends }),
        1 => index().prop_map(Step::Leave),
        1 => (index(), backends).prop_map(|(who, backends)| Step::Change(who, backends)),
        4 => index().prop_map(Step::End),
        1 => (index(), index()).prop_map(|(ends, leaves)| Step::EndBesideOneThatLeaves(ends, leaves)),
        1 => (0..N_BACKENDS, 1..4_usize).prop_map(|(backend, slots)| Step::Resize { backend, slots }),
    ]
}

impl Queue {
    /// Takes a place, and what is free.
    fn come(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        key: &Key,
        upstreams: Vec<Arc<Upstream>>,
        room: usize,
    ) -> Result<Queued, NoRoom> {
        let queued = self.enter(ticket, key, upstreams, room)?;
        self.serve(&queued.upstreams);
        Ok(queued)
    }
}

struct Waits {
    key: usize,
    queued: Queued,
}

/// A queue, what it should be like, and who is there.
struct Model {
    queue: Arc<Queue>,
    backends: Vec<Backend>,
    room: usize,
    waiting: Vec<Waits>,
    running: Vec<Permit>,
    /// How often a key that waits for a backend and runs nothing on it was passed over there.
    passed_over: [[usize; N_KEYS]; N_BACKENDS],
}

impl Model {
    fn new(slots: usize, room: usize) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let backend = |n: usize| {
            let url = "http://127.0.0.1:1".parse().unwrap();
            let config = BackendConfig::new(format!("b{n}"), BackendKind::Ollama, url);
            let upstream =
                Arc::new(Upstream::new(&config, None, Arc::clone(&queue), CancellationToken::new()));
            upstream.slots.set_limit(Some(slots));
            upstream.set_report(Report { phase: Phase::Up, ..Report::clone(&upstream.report()) });
            Backend::new(config, upstream)
        };
        Self {
            backends: (0..N_BACKENDS).map(backend).collect(),
            queue,
            room,
            waiting: Vec::new(),
            running: Vec::new(),
            passed_over: Default::default(),
        }
    }

    fn upstreams(&self, bits: usize) -> Vec<Arc<Upstream>> {
        let chosen = (0..N_BACKENDS).filter(|n| bits & (1 << n) != 0);
        chosen.map(|n| Arc::clone(&self.backends[n].upstream)).collect()
    }

    fn key(key: usize) -> Key {
        Key { ingress: Ingress::Tunnel, caller: Some(key.to_string().into()) }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Come { key, backends } => {
                let mut free = (0..N_BACKENDS).filter(|n| backends & (1 << n) != 0);
                if let Some(permit) = free.find_map(|n| Permit::acquire(&self.backends[n], 0)) {
                    self.running.push(permit);
                } else if let Ok(queued) =
                    self.queue.come(None, &Self::key(key), self.upstreams(backends), self.room)
                {
                    self.waiting.push(Waits { key, queued });
                }
            }
            Step::Leave(who) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(who.index(self.waiting.len())));
            }
            Step::Change(who, backends) if !self.waiting.is_empty() => {
                let (upstreams, room) = (self.upstreams(backends), self.room);
                let who = who.index(self.waiting.len());
                if self.waiting[who].queued.change(upstreams, room).is_err() {
                    drop(self.waiting.remove(who));
                }
            }
            Step::End(who) if !self.running.is_empty() => {
                drop(self.running.remove(who.index(self.running.len())));
            }
            Step::EndBesideOneThatLeaves(ends, leaves) if !self.running.is_empty() => {
                drop(self.running.remove(ends.index(self.running.len())));
                if !self.waiting.is_empty() {
                    // Possibly the one that has just been granted the slot, and has not fetched it.
                    let Waits { key, queued } = self.waiting.remove(leaves.index(self.waiting.len()));
                    if !self.queue.inner().calls.contains_key(&queued.ticket) {
                        // Then it was its key's turn, and the key has thrown it away.
                        self.passed_over.iter_mut().for_each(|keys| keys[key] = 0);
                    }
                    drop(queued);
                }
            }
            Step::Resize { backend, slots } => {
                let upstream = Arc::clone(&self.backends[backend].upstream);
                upstream.slots.set_limit(Some(slots));
                self.queue.serve(&[upstream]);
            }
            Step::Leave(_) | Step::Change(..) | Step::End(_) | Step::EndBesideOneThatLeaves(..) => {}
        }
    }

    /// Fetches what was granted, and checks that it was fair.
    fn settle(&mut self) {
        let mut granted = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            match self.waiting[at].queued.permit.try_recv() {
                Ok(permit) => {
                    let Waits { key, queued } = self.waiting.remove(at);
                    let backend = self.place_of(permit.upstream());
                    granted.push((key, queued.ticket, backend));
                    self.running.push(permit);
                }
                // It lost its place to another key.
                Err(oneshot::error::TryRecvError::Closed) => drop(self.waiting.remove(at)),
                Err(oneshot::error::TryRecvError::Empty) => at += 1,
            }
        }
        let inner = self.queue.inner();
        for n in 0..N_BACKENDS {
            let line = inner.admission.waits_and_runs(self.backends[n].upstream.line());
            let at_this: Vec<_> = granted.iter().filter(|(_, _, backend)| *backend == n).collect();
            for key in 0..N_KEYS {
                let (tickets, running) = line.get(&Self::key(key)).cloned().unwrap_or_default();
                for (_, ticket, _) in at_this.iter().filter(|(other, ..)| *other == key) {
                    assert!(tickets.iter().all(|waits| waits > ticket), "a later one of the key went first");
                }
                let passed = &mut self.passed_over[n][key];
                if tickets.is_empty() || running > 0 || at_this.iter().any(|(other, ..)| *other == key) {
                    *passed = 0;
                } else {
                    *passed += at_this.len();
                    assert!(*passed < N_KEYS, "passed over {passed} times");
                }
            }
        }
    }

    fn place_of(&self, upstream: &Arc<Upstream>) -> usize {
        self.backends.iter().position(|backend| Arc::ptr_eq(&backend.upstream, upstream)).unwrap()
    }

    fn check(&self, before: &[usize]) {
        let inner = self.queue.inner();
        for (n, backend) in self.backends.iter().enumerate() {
            let upstream = &backend.upstream;
            let running = upstream.in_flight.load(Ordering::SeqCst);
            let held = self.running.iter().filter(|permit| Arc::ptr_eq(permit.upstream(), upstream)).count();
            assert_eq!(running, held, "slots are neither lost nor made");
            let limit = upstream.slots.limit();
            assert!(running <= limit || running <= before[n], "{running} run in {limit} slots");
            let waiting = inner.admission.n_waiting(upstream.line());
            assert!(running >= limit || waiting == 0, "a slot is free, and {waiting} wait");
            assert_eq!(upstream.slots.n_waiting(), waiting);
            assert!(waiting <= self.room);
        }
        assert_eq!(inner.calls.len(), self.waiting.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn slots_are_used_and_shared_out_fairly(
        slots in 1..4_usize,
        room in prop_oneof![Just(3_usize), Just(1000)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(slots, room);
        for step in steps {
            let running = |backend: &Backend| backend.upstream.in_flight.load(Ordering::SeqCst);
            let before: Vec<usize> = model.backends.iter().map(running).collect();
            model.take(step);
            model.settle();
            model.check(&before);
        }
        // All that waits is served in the end, by what ends.
        while !model.running.is_empty() {
            model.running.remove(0);
            model.settle();
        }
        prop_assert!(model.waiting.is_empty());
        model.queue.forget(&[]);
        prop_assert!(model.queue.inner().admission.is_empty());
    }
}

#[test]
fn a_backend_without_a_limit_never_makes_anybody_wait() {
    let model = Model::new(1, 0);
    let backend = &model.backends[0];
    backend.upstream.slots.set_limit(None);
    let permits: Vec<Permit> = (0..100).map(|_| Permit::acquire(backend, 0).unwrap()).collect();
    assert_eq!(backend.upstream.in_flight.load(Ordering::SeqCst), 100);
    drop(permits);
    assert_eq!(backend.upstream.in_flight.load(Ordering::SeqCst), 0);
}

#[test]
fn nobody_slips_past_those_that_wait() {
    let model = Model::new(1, 8);
    let backend = &model.backends[0];
    let running = Permit::acquire(backend, 0).unwrap();
    let mut queued = model.queue.come(None, &Model::key(0), model.upstreams(1), 8).unwrap();
    assert_eq!(queued.position, 1);
    drop(running);
    assert!(Permit::acquire(backend, 0).is_none(), "the slot is the other one's");
    drop(queued.permit.try_recv().unwrap());
    assert!(Permit::acquire(backend, 0).is_some());
}

#[test]
fn the_crowd_is_told_as_it_is() {
    let model = Model::new(2, 8);
    let permits = [0, 1].map(|_| Permit::acquire(&model.backends[0], 0).unwrap());
    let queued = model.queue.come(None, &Model::key(0), model.upstreams(1), 8).unwrap();
    let crowd = model.queue.crowd(&model.upstreams(1));
    assert_eq!(crowd, Crowd { waiting: 1, slots: 2, wait: None });
    drop((permits, queued));
    assert_eq!(model.queue.crowd(&model.upstreams(3)).slots, 4);
}

#[test]
fn a_line_keeps_its_order_while_its_backend_takes_no_requests() {
    let mut model = Model::new(1, 8);
    let upstream = Arc::clone(&model.backends[0].upstream);
    let is = |phase| upstream.set_report(Report { phase, ..Report::clone(&upstream.report()) });
    model.running.push(Permit::acquire(&model.backends[0], 0).unwrap());
    let mut first = model.queue.enter(None, &Model::key(0), model.upstreams(1), 8).unwrap();
    upstream.note_loading();
    model.running.clear();
    assert!(first.permit.try_recv().is_err(), "it would turn it down");
    upstream.looked_at(u64::MAX);
    for phase in [Phase::Warming, Phase::Down(Fault::Unreachable), Phase::Unauthorised] {
        is(phase);
        first.change(model.upstreams(1), 8).unwrap();
        assert!(first.permit.try_recv().is_err(), "{phase:?}");
    }
    is(Phase::Up);
    first.change(model.upstreams(1), 8).unwrap();
    assert!(first.permit.try_recv().is_ok(), "it has kept its place");
}

#[test]
fn a_line_keeps_its_order_while_its_backend_is_ejected() {
    let mut model = Model::new(1, 8);
    model.running = (0..2).map(|n| Permit::acquire(&model.backends[n], 0).unwrap()).collect();
    let enter =
        |key, backends| model.queue.come(None, &Model::key(key), model.upstreams(backends), 8).unwrap();
    let (mut first, mut second, mut alone) = (enter(0, 0b11), enter(1, 0b11), enter(2, 0b01));
    model.backends[0].upstream.outcomes.unreachable();
    drop(model.running.remove(0));
    assert!(first.permit.try_recv().is_err() && second.permit.try_recv().is_err(), "there is another one");
    let in_need = alone.permit.try_recv().unwrap();
    drop(in_need);
    assert_eq!(model.backends[0].upstream.in_flight.load(Ordering::SeqCst), 0);
    assert!(Permit::acquire(&model.backends[0], 0).is_none(), "a newcomer does not slip in");
    model.backends[0].upstream.outcomes.probed_well();
    first.change(model.upstreams(0b11), 8).unwrap();
    let permit = first.permit.try_recv().unwrap();
    assert!(Arc::ptr_eq(permit.upstream(), &model.backends[0].upstream));
    drop(model.running.remove(0));
    assert!(second.permit.try_recv().is_ok());
}
