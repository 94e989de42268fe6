use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 4 * 1024 * 1024;

/// Two ends and what is on its way between them; cuts lose it, or lose a part.
struct Path {
    ends: [Core; 2],
    flying: [Vec<u8>; 2],
    written: [Vec<u8>; 2],
    read: [Vec<u8>; 2],
    up: bool,
    now: Instant,
}

impl Path {
    fn new() -> Self {
        let now = Instant::now();
        let mut ends = [Core::new(Role::Client, WINDOW, now), Core::new(Role::Server, WINDOW, now)];
        for end in &mut ends {
            end.attach(0, 0, now).unwrap();
        }
        Self {
            ends,
            flying: Default::default(),
            written: Default::default(),
            read: Default::default(),
            up: true,
            now,
        }
    }

    fn step(&mut self, op: &Op) {
        self.now += Duration::from_millis(7);
        match *op {
            Op::Write { end, len } if self.ends[end].has_room() => {
                let from = self.written[end].len();
                let bytes: Vec<u8> =
                    (from..from + len).map(|i| (i as u8) ^ (i >> 8) as u8 ^ (end as u8)).collect();
                self.ends[end].write(&bytes);
                self.written[end].extend(bytes);
            }
            Op::Send { end, most } if self.up => self.send(end, most),
            Op::Deliver { end, most } if self.up => self.deliver(end, most),
            Op::Cut { keep } if self.up => {
                for flying in &mut self.flying {
                    flying.truncate(keep);
                }
                // What had already left the network may still be read by the end it was for.
                self.deliver(0, keep);
                self.deliver(1, keep);
                self.up = false;
                self.ends.iter_mut().for_each(Core::detach);
            }
            Op::Resume if !self.up => {
                let told = [self.ends[0].received(), self.ends[1].received()];
                self.flying = Default::default();
                let (a, b) = (told[0], told[1]);
                self.ends[0].attach(a, b, self.now).unwrap();
                self.ends[1].attach(b, a, self.now).unwrap();
                self.up = true;
            }
            Op::Takeover if self.up => {
                // A resume that displaces a socket that still delivers: the offsets are named first.
                let told = [self.ends[0].received(), self.ends[1].received()];
                self.deliver(0, usize::MAX);
                self.deliver(1, usize::MAX);
                self.flying = Default::default();
                self.ends[0].attach(told[0], told[1], self.now).unwrap();
                self.ends[1].attach(told[1], told[0], self.now).unwrap();
            }
            Op::Read { end, most } => {
                let out = &mut self.read[end];
                self.ends[end].read(most, self.now, |bytes| out.extend_from_slice(bytes));
            }
            Op::Time => {
                self.now += Duration::from_millis(120);
                for end in &mut self.ends {
                    end.on_time(self.now);
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, end: usize, most: usize) {
        let mut out = Vec::new();
        let mut slices = [IoSlice::new(&[]); 8];
        let n = self.ends[end].output(&mut slices);
        for slice in &slices[..n] {
            out.extend_from_slice(slice);
        }
        out.truncate(most);
        self.ends[end].sent(out.len(), self.now);
        self.flying[end].extend(out);
    }

    fn deliver(&mut self, end: usize, most: usize) {
        let from = 1 - end;
        let n = most.min(self.flying[from].len());
        let bytes: Vec<u8> = self.flying[from].drain(..n).collect();
        self.ends[end].input().extend_from_slice(&bytes);
        assert_eq!(self.ends[end].arrived(n, self.now), Ok(None));
    }

    fn finish(&mut self) {
        self.step(&Op::Resume);
        for _ in 0..20_000 {
            for end in 0..2 {
                self.step(&Op::Send { end, most: usize::MAX });
                self.step(&Op::Deliver { end, most: usize::MAX });
                self.step(&Op::Read { end, most: usize::MAX });
            }
            self.step(&Op::Time);
            if (0..2).all(|end| self.read[end].len() == self.written[1 - end].len()) {
                break;
            }
        }
        for end in 0..2 {
            assert!(
                self.read[end] == self.written[1 - end],
                "end {end} read something else than was written"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { end: usize, len: usize },
    Send { end: usize, most: usize },
    Deliver { end: usize, most: usize },
    Read { end: usize, most: usize },
    Cut { keep: usize },
    Resume,
    Takeover,
    Time,
}

fn ops() -> impl Strategy<Value = Op> {
    let end = 0..2usize;
    prop_oneof![
        6 => (end.clone(), prop_oneof![1..300usize, 1..90_000usize]).prop_map(|(end, len)| Op::Write { end, len }),
        6 => (end.clone(), 1..200_000usize).prop_map(|(end, most)| Op::Send { end, most }),
        6 => (end.clone(), 1..200_000usize).prop_map(|(end, most)| Op::Deliver { end, most }),
        4 => (end, 1..100_000usize).prop_map(|(end, most)| Op::Read { end, most }),
        1 => (0..100_000usize).prop_map(|keep| Op::Cut { keep }),
        1 => Just(Op::Resume),
        1 => Just(Op::Takeover),
        1 => Just(Op::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_happens(ops in proptest::collection::vec(ops(), 1..250)) {
        let mut path = Path::new();
        for op in &ops {
            path.step(op);
        }
        path.finish();
    }
}

#[test]
fn a_silent_peer_is_dead_after_25_seconds_and_sooner_if_it_owes_an_acknowledgement() {
    let start = Instant::now();
    let mut core = Core::new(Role::Client, WINDOW, start);
    core.attach(0, 0, start).unwrap();
    assert_eq!(core.on_time(start + Duration::from_secs(24)), Alarm::Quiet);
    assert_eq!(core.on_time(start + Duration::from_secs(25)), Alarm::Dead);

    core.attach(0, 0, start).unwrap();
    core.write(b"tokens");
    let mut slices = [IoSlice::new(&[]); 4];
    let n = core.output(&mut slices);
    let len = slices[..n].iter().map(|s| s.len()).sum();
    core.sent(len, start + Duration::from_secs(1));
    assert_eq!(core.on_time(start + Duration::from_secs(12)), Alarm::Quiet);
    assert_eq!(core.on_time(start + Duration::from_secs(13)), Alarm::Dead);
}

/// Takes what `from` has to say to `to`.
fn carry(from: &mut Core, to: &mut Core, now: Instant) {
    let mut wire = Vec::new();
    while from.has_output() {
        let mut slices = [IoSlice::new(&[]); 8];
        let n = from.output(&mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|slice| slice.iter().copied()).collect();
        from.sent(bytes.len(), now);
        wire.extend(bytes);
    }
    to.input().extend_from_slice(&wire);
    assert_eq!(to.arrived(wire.len(), now), Ok(None));
}

#[test]
fn a_probe_that_is_answered_ends_the_doubt() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut near, mut far) =
        (Core::new(Role::Client, WINDOW, start), Core::new(Role::Server, WINDOW, start));
    near.attach(0, 0, start).unwrap();
    far.attach(0, 0, start).unwrap();
    carry(&mut near, &mut far, at(1));
    carry(&mut far, &mut near, at(2));

    near.probe(at(5000));
    assert_eq!(near.deadline(), Some(at(5000)), "the ping is due at once, not with the next round");
    assert_eq!(near.on_time(at(5000)), Alarm::Quiet);
    carry(&mut near, &mut far, at(5010));
    carry(&mut far, &mut near, at(5020));
    assert_eq!(near.on_time(at(15_000)), Alarm::Quiet);
    assert_eq!(near.deadline(), Some(at(25_000)), "the next ping, in the usual rhythm");
}

#[test]
fn a_probe_without_an_answer_is_death_after_three_seconds_however_often_it_is_repeated() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut core = Core::new(Role::Client, WINDOW, start);
    core.attach(0, 0, start).unwrap();
    for ms in [1000, 1500, 2900, 3900] {
        core.probe(at(ms));
        assert_eq!(core.on_time(at(ms)), Alarm::Quiet);
    }
    assert_eq!(core.deadline(), Some(at(4000)));
    assert_eq!(core.on_time(at(4000)), Alarm::Dead);
}

#[test]
fn bytes_that_are_no_pong_put_the_end_of_a_probe_off_and_do_not_cancel_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut near, mut far) =
        (Core::new(Role::Client, WINDOW, start), Core::new(Role::Server, WINDOW, start));
    near.attach(0, 0, start).unwrap();
    far.attach(0, 0, start).unwrap();
    near.probe(at(1000));
    assert_eq!(near.on_time(at(1000)), Alarm::Quiet);
    far.write(b"was on its way already");
    carry(&mut far, &mut near, at(1100));
    assert_eq!(near.on_time(at(4099)), Alarm::Quiet);
    assert_eq!(near.on_time(at(4100)), Alarm::Dead);
}

#[test]
fn a_link_without_a_socket_has_nothing_to_probe() {
    let now = Instant::now();
    let mut core = Core::new(Role::Client, WINDOW, now);
    core.probe(now);
    core.attach(0, 0, now).unwrap();
    assert_eq!(core.on_time(now + Duration::from_secs(24)), Alarm::Quiet);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_a_fault() {
    let now = Instant::now();
    let mut core = Core::new(Role::Client, WINDOW, now);
    core.attach(0, 0, now).unwrap();
    core.write(b"not sent yet");
    let mut wire = Vec::new();
    let mut message = Vec::new();
    Frame::Ack(5).encode(&mut message);
    crate::ws::encode(Role::Server, Opcode::Binary, &message, &mut wire);
    core.input().extend_from_slice(&wire);
    assert_eq!(core.arrived(wire.len(), now), Err(Fault::Ack));
}

#[test]
fn a_resume_from_an_offset_that_is_gone_or_was_never_sent_is_refused() {
    let now = Instant::now();
    let mut core = Core::new(Role::Client, WINDOW, now);
    core.attach(0, 0, now).unwrap();
    assert_eq!(core.attach(0, 1, now), Err(OutOfRange));
    assert_eq!(core.attach(1, 0, now), Err(OutOfRange));
}

#[test]
fn messages_that_carry_nothing_are_taken_so_often_and_no_more() {
    let binary = |payload: &[u8]| {
        let mut message = Vec::new();
        crate::ws::encode(Role::Client, Opcode::Binary, payload, &mut message);
        message
    };
    let encoded = |frame: &Frame| {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        binary(&payload)
    };
    let mut pong = Vec::new();
    crate::ws::encode(Role::Client, Opcode::Pong, b"unasked", &mut pong);
    let cases = [
        ("ACK", encoded(&Frame::Ack(0)), 10_000),
        ("TOKEN", encoded(&Frame::Token(Token("t".to_owned()))), 20),
        ("pong", pong, 1_000),
        ("tiny DATA", encoded(&Frame::Data(Bytes::from_static(b"x"))), 10_000),
        ("fragment", vec![0x00, 0x80, 0, 0, 0, 0], 10_000),
    ];
    for (name, message, most) in cases {
        let now = Instant::now();
        let mut end = Core::new(Role::Server, WINDOW, now);
        end.attach(0, 0, now).unwrap();
        if name == "fragment" {
            // The first of a message, and large enough to be free.
            let begun = [&[0x02, 0x80 | 100, 0, 0, 0, 0][..], &[0; 100]].concat();
            end.input().extend_from_slice(&begun);
            assert_eq!(end.arrived(begun.len(), now), Ok(None));
        }
        for number in 0..=most {
            end.input().extend_from_slice(&message);
            let arrived = end.arrived(message.len(), now);
            assert_eq!(arrived == Err(Fault::Flood), number == most, "{name} {number}: {arrived:?}");
            end.read(usize::MAX, now, |_| {});
        }
    }
    // What carries something costs nothing.
    let now = Instant::now();
    let mut end = Core::new(Role::Server, WINDOW, now);
    end.attach(0, 0, now).unwrap();
    let message = encoded(&Frame::Data(vec![7; 64].into()));
    for _ in 0..200_000 {
        end.input().extend_from_slice(&message);
        assert_eq!(end.arrived(message.len(), now), Ok(None));
        end.read(usize::MAX, now, |_| {});
    }
}

#[test]
fn a_window_that_is_full_takes_no_more() {
    let now = Instant::now();
    let mut core = Core::new(Role::Server, WINDOW, now);
    core.attach(0, 0, now).unwrap();
    let mut taken = 0;
    while core.has_room() {
        core.write(&[0; 10_000]);
        taken += 10_000;
    }
    assert!((UNSENT..UNSENT + 10_000).contains(&taken));
}
