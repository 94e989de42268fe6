use super::*;

const LINE: LineId = 1;
const OTHER: LineId = 2;
const ROOM: usize = 64;

fn key(name: &str) -> Key {
    Key { ingress: Ingress::Tunnel, caller: Some(name.into()) }
}

fn enter(admission: &mut Admission, name: &str) -> Ticket {
    admission.enter(None, &key(name), &[LINE], ROOM).unwrap().ticket
}

/// Grants until nobody waits; returns whose turn it was.
fn order(admission: &mut Admission) -> Vec<Ticket> {
    std::iter::from_fn(|| admission.grant(LINE, |_| true).map(|(ticket, _)| ticket)).collect()
}

#[test]
fn keys_take_turns_and_each_keeps_its_order() {
    let mut admission = Admission::default();
    let flood: Vec<Ticket> = (0..4).map(|_| enter(&mut admission, "flood")).collect();
    let (b, c) = (enter(&mut admission, "b"), enter(&mut admission, "c"));
    let b2 = enter(&mut admission, "b");
    assert_eq!(order(&mut admission), [flood[0], b, c, flood[1], b2, flood[2], flood[3]]);
    assert!(admission.waiting.is_empty());
}

#[test]
fn the_key_that_runs_least_is_next() {
    let mut admission = Admission::default();
    let a: Vec<Ticket> = (0..4).map(|_| enter(&mut admission, "a")).collect();
    assert_eq!(admission.grant(LINE, |_| true), Some((a[0], key("a"))));
    assert_eq!(admission.grant(LINE, |_| true), Some((a[1], key("a"))));
    let b = [enter(&mut admission, "b"), enter(&mut admission, "b")];
    // It has two: the newcomer is to have as many before it gets a third.
    assert_eq!(order(&mut admission), [b[0], b[1], a[2], a[3]]);
    for _ in 0..3 {
        admission.finish(LINE, &key("a"), Some(Duration::from_secs(1)));
    }
    let (a, b) = (enter(&mut admission, "a"), enter(&mut admission, "b"));
    assert_eq!(order(&mut admission), [a, b]);
}

#[test]
fn idling_earns_nothing() {
    let mut admission = Admission::default();
    // It comes each time that its last one is over, and is never there in between.
    let mut patient = vec![enter(&mut admission, "patient"), enter(&mut admission, "patient")];
    let mut served = Vec::new();
    for _ in 0..4 {
        enter(&mut admission, "restless");
        let (ticket, key) = admission.grant(LINE, |_| true).unwrap();
        admission.finish(LINE, &key, Some(Duration::from_secs(1)));
        served.push(ticket);
    }
    patient.retain(|ticket| !served.contains(ticket));
    assert!(patient.is_empty(), "it was passed over by one that comes and goes");
}

#[test]
fn positions_tell_the_order_to_come() {
    let mut admission = Admission::default();
    let running = enter(&mut admission, "a");
    assert_eq!(admission.grant(LINE, |_| true).unwrap().0, running);
    for name in ["a", "a", "b", "c", "b", "a", "d"] {
        enter(&mut admission, name);
    }
    let positions = admission.positions();
    for (ticket, position) in &positions {
        assert_eq!(admission.position(*ticket), Some(*position), "{ticket}");
    }
    for name in ["a", "b", "d", "new"] {
        let ahead = admission.ahead(&key(name), &[LINE]);
        let ticket = enter(&mut admission, name);
        assert_eq!(admission.position(ticket), Some(ahead + 1), "{name}");
        admission.leave(ticket);
    }
    assert_eq!(admission.ahead(&key("a"), &[LINE, OTHER]), 0, "nobody waits there");
    let mut told: Vec<Ticket> = positions.keys().copied().collect();
    told.sort_by_key(|ticket| positions[ticket]);
    assert_eq!(told, order(&mut admission));
    assert_eq!(admission.position(running), None);
}

#[test]
fn a_position_is_the_best_of_all_lines() {
    let mut admission = Admission::default();
    for _ in 0..3 {
        enter(&mut admission, "a");
    }
    let both = admission.enter(None, &key("a"), &[LINE, OTHER], ROOM).unwrap().ticket;
    assert_eq!((admission.position(both), admission.positions()[&both]), (Some(1), 1));
    assert_eq!(admission.grant(OTHER, |_| true).unwrap().0, both);
    assert_eq!((admission.n_waiting(LINE), admission.n_waiting(OTHER)), (3, 0), "it waits nowhere any more");
}

#[test]
fn nobody_fills_a_line_alone() {
    let mut admission = Admission::default();
    let enter = |admission: &mut Admission, name: &str| admission.enter(None, &key(name), &[LINE], 4);
    let flood: Vec<Ticket> = (0..4).map(|_| enter(&mut admission, "flood").unwrap().ticket).collect();
    assert_eq!(enter(&mut admission, "flood"), Err(NoRoom));
    assert_eq!(enter(&mut admission, "b").unwrap().displaced, Some(flood[3]), "the newest makes room");
    assert_eq!(enter(&mut admission, "c").unwrap().displaced, Some(flood[2]));
    // Two of the flood, one of each other: for one more or less nobody has to go.
    assert_eq!(enter(&mut admission, "b"), Err(NoRoom));
    assert_eq!(enter(&mut admission, "d").unwrap().displaced, Some(flood[1]));
    assert_eq!(enter(&mut admission, "e"), Err(NoRoom));
    assert_eq!(admission.n_waiting(LINE), 4);
}

#[test]
fn one_that_is_displaced_keeps_its_other_places() {
    let mut admission = Admission::default();
    let both = admission.enter(None, &key("flood"), &[LINE, OTHER], 2).unwrap().ticket;
    let newest = admission.enter(None, &key("flood"), &[LINE, OTHER], 2).unwrap().ticket;
    let entered = admission.enter(None, &key("b"), &[LINE], 2).unwrap();
    assert_eq!(entered.displaced, None);
    assert_eq!(admission.leave(newest), [OTHER]);
    assert_eq!(admission.leave(both), [LINE, OTHER]);
}

#[test]
fn a_change_of_lines_keeps_the_age() {
    let mut admission = Admission::default();
    let first = admission.enter(None, &key("a"), &[OTHER], ROOM).unwrap().ticket;
    let second = enter(&mut admission, "a");
    assert_eq!(admission.change(first, &[LINE], ROOM), Ok(None));
    assert_eq!(admission.n_waiting(OTHER), 0);
    assert_eq!(order(&mut admission), [first, second]);
    // One that has got its slot waits for nothing.
    assert_eq!(admission.change(first, &[OTHER], ROOM), Ok(None));
    assert_eq!(admission.n_waiting(OTHER), 0);
}

#[test]
fn one_that_comes_back_keeps_its_age() {
    let mut admission = Admission::default();
    let early = admission.ticket();
    let first = enter(&mut admission, "a");
    assert_eq!(admission.leave(first), [LINE]);
    let later = enter(&mut admission, "a");
    for ticket in [first, early] {
        let entered = admission.enter(Some(ticket), &key("a"), &[LINE], ROOM);
        assert_eq!(entered, Ok(Entered { ticket, displaced: None }));
    }
    assert_eq!(order(&mut admission), [early, first, later]);
}

#[test]
fn a_slot_goes_to_the_next_that_takes_it() {
    let mut admission = Admission::default();
    let tickets = ["a", "b", "a", "b"].map(|name| enter(&mut admission, name));
    assert_eq!(admission.grant(LINE, |_| false), None);
    assert_eq!(admission.grant(LINE, |ticket| ticket == tickets[3]), Some((tickets[3], key("b"))));
    assert_eq!(order(&mut admission), [tickets[0], tickets[1], tickets[2]], "nobody else has lost a turn");
}

#[test]
fn without_room_elsewhere_a_change_is_none() {
    let mut admission = Admission::default();
    admission.enter(None, &key("a"), &[OTHER], 1).unwrap();
    let stays = admission.enter(None, &key("a"), &[LINE], 1).unwrap().ticket;
    assert_eq!(admission.change(stays, &[LINE, OTHER], 1), Ok(None));
    assert_eq!(admission.change(stays, &[OTHER], 1), Err(NoRoom));
    assert_eq!(admission.leave(stays), [LINE]);
}

#[test]
fn the_estimate_is_turns_times_what_a_request_takes() {
    let mut admission = Admission::default();
    enter(&mut admission, "a");
    assert_eq!(admission.estimate(LINE, 2), None);
    admission.grant(LINE, |_| true);
    admission.finish(LINE, &key("a"), Some(Duration::from_secs(4)));
    enter(&mut admission, "a");
    admission.grant(LINE, |_| true);
    // Turned down: that says nothing of how long one takes.
    admission.finish(LINE, &key("a"), None);
    for _ in 0..4 {
        enter(&mut admission, "a");
    }
    assert_eq!(admission.estimate(LINE, 2), Some(Duration::from_secs(12)), "the third turn of two");
}

#[test]
fn nothing_is_kept_of_what_is_over() {
    let mut admission = Admission::default();
    enter(&mut admission, "a");
    let left = enter(&mut admission, "b");
    admission.leave(left);
    admission.forget(|_| false);
    assert_eq!(admission.lines.len(), 1, "somebody waits there");
    let (_, key) = admission.grant(LINE, |_| true).unwrap();
    admission.finish(LINE, &key, None);
    assert!(admission.lines[&LINE].shares.is_empty());
    admission.forget(|_| false);
    assert!(admission.lines.is_empty() && admission.waiting.is_empty());
}
