use super::*;

struct Books {
    directory: Directory<&'static str>,
    /// Those that had to make room for others.
    displaced: Vec<&'static str>,
    now: Instant,
}

impl Books {
    fn new() -> Self {
        Self { directory: Directory::default(), displaced: Vec::new(), now: Instant::now() }
    }

    fn announce(&mut self, subject: &str, device: &str, session: &'static str) -> SessionId {
        let id = SessionId::random();
        let joining = Joining { subject: &subject.into(), device: name(device), id };
        let announced = self.directory.announce(joining, 3, |_| session).unwrap();
        self.displaced.extend(announced.displaced);
        id
    }

    fn dial(&mut self, subject: &str, device: &str, session: &'static str) -> SessionId {
        let id = self.announce(subject, device, session);
        self.directory.promote(id, Fate::Replaced, self.now);
        id
    }

    fn find(&self, subject: &str, wanted: Option<&str>) -> Lookup<'_, &'static str> {
        self.directory.find(subject, wanted)
    }
}

fn name(device: &str) -> DeviceName {
    device.parse().unwrap()
}

#[test]
fn the_only_device_need_not_be_named() {
    let mut books = Books::new();
    assert_eq!(books.find("alice", None), Lookup::Unknown(vec![]));
    let desk = books.dial("alice", "desk", "A");
    assert_eq!(books.find("alice", None), Lookup::Online(&"A"));
    assert_eq!(books.find("alice", Some("desk")), Lookup::Online(&"A"));
    assert_eq!(books.find("alice", Some("lap")), Lookup::Unknown(vec!["desk".into()]));
    assert_eq!(books.find("bob", None), Lookup::Unknown(vec![]), "another subject sees nothing of it");
    assert_eq!(books.find("bob", Some("desk")), Lookup::Unknown(vec![]));

    books.dial("alice", "lap", "B");
    assert_eq!(books.find("alice", None), Lookup::Several(vec![&"A", &"B"]));
    assert_eq!(books.find("alice", Some("lap")), Lookup::Online(&"B"));

    books.directory.remove(desk, books.now);
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));
    assert_eq!(books.find("alice", Some("desk")), Lookup::Offline(&name("desk")));
    assert_eq!(books.directory.n_online(), 1);
}

#[test]
fn a_newer_dial_wins_and_the_loser_is_told_when_it_resumes() {
    let mut books = Books::new();
    let old = books.dial("alice", "desk", "A");
    let new = books.announce("alice", "desk", "B");
    assert_eq!(books.find("alice", None), Lookup::Online(&"A"), "a dial that is not up displaces nothing");
    assert_eq!(books.directory.promote(new, Fate::Replaced, books.now), Promoted::Displaced("A"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));
    assert_eq!(books.directory.resume(old, "alice", &name("desk")), Resume::Replaced);
    assert_eq!(books.directory.resume(new, "alice", &name("desk")), Resume::Known("B"));

    books.directory.remove(old, books.now);
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"), "the loser's end leaves the winner alone");
    books.directory.remove(new, books.now);
    assert_eq!(books.find("alice", None), Lookup::Offline(&name("desk")));
    assert_eq!(books.directory.resume(new, "alice", &name("desk")), Resume::Gone);
}

#[test]
fn a_dial_that_comes_up_late_does_not_displace_a_newer_one() {
    let mut books = Books::new();
    let first = books.announce("alice", "desk", "A");
    let second = books.announce("alice", "desk", "B");
    assert_eq!(books.directory.promote(second, Fate::Replaced, books.now), Promoted::Displaced("A"));
    assert_eq!(books.directory.promote(first, Fate::Replaced, books.now), Promoted::Gone);
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));

    let mut books = Books::new();
    books.dial("alice", "desk", "A");
    let late = books.announce("alice", "desk", "B");
    let newer = books.announce("alice", "desk", "C");
    assert_eq!(books.directory.promote(newer, Fate::Replaced, books.now), Promoted::Displaced("A"));
    assert_eq!(books.directory.promote(late, Fate::Replaced, books.now), Promoted::Late("B"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"C"));
    assert_eq!(books.directory.resume(late, "alice", &name("desk")), Resume::Replaced);
    assert_eq!(books.directory.sessions().collect::<Vec<_>>(), [&"C"], "the late one is not kept unused");
}

#[test]
fn a_newer_dial_that_is_not_up_does_not_make_another_late() {
    let mut books = Books::new();
    let old = books.dial("alice", "desk", "A");
    let up = books.announce("alice", "desk", "B");
    books.directory.remove(old, books.now);
    let newer = books.announce("alice", "desk", "C");
    assert_eq!(books.find("alice", None), Lookup::Online(&"C"));
    assert_eq!(books.directory.promote(up, Fate::Replaced, books.now), Promoted::Serves);
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));
    assert_eq!(books.directory.promote(newer, Fate::Replaced, books.now), Promoted::Displaced("B"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"C"));
}

#[test]
fn a_migrated_session_stands_beside_and_can_be_resumed() {
    let mut books = Books::new();
    let old = books.dial("alice", "desk", "A");
    let new = books.announce("alice", "desk", "B");
    assert_eq!(books.directory.promote(new, Fate::Retiring, books.now), Promoted::Displaced("A"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));
    assert_eq!(books.directory.resume(old, "alice", &name("desk")), Resume::Known("A"));
    assert_eq!(books.directory.sessions().count(), 2);
    books.directory.remove(old, books.now);
    assert_eq!(books.find("alice", None), Lookup::Online(&"B"));
}

#[test]
fn a_session_is_resumed_by_its_own_subject_and_device_only() {
    let mut books = Books::new();
    let id = books.dial("alice", "desk", "A");
    assert_eq!(books.directory.resume(id, "bob", &name("desk")), Resume::Gone);
    assert_eq!(books.directory.resume(id, "alice", &name("lap")), Resume::Gone);
    assert_eq!(books.directory.resume(SessionId::random(), "alice", &name("desk")), Resume::Gone);
    books.dial("alice", "desk", "B");
    assert_eq!(
        books.directory.resume(id, "bob", &name("desk")),
        Resume::Gone,
        "not told of others' takeovers"
    );
}

#[test]
fn devices_are_bounded_and_those_that_are_away_make_room() {
    let mut books = Books::new();
    let away = books.dial("alice", "a", "A");
    books.dial("alice", "b", "B");
    books.dial("alice", "c", "C");
    let refused = Joining { subject: &"alice".into(), device: name("d"), id: SessionId::random() };
    assert_eq!(books.directory.announce(refused, 3, |_| "D"), Err(Full));
    books.directory.remove(away, books.now);
    books.dial("alice", "d", "D");
    assert_eq!(books.find("alice", Some("a")), Lookup::Unknown(vec!["b".into(), "c".into(), "d".into()]));
}

#[test]
fn a_device_has_few_sessions_however_often_it_dials() {
    let mut books = Books::new();
    books.dial("alice", "desk", "serves");
    let mut last = None;
    for _ in 0..1_000 {
        last = Some(books.announce("alice", "desk", "hung up"));
    }
    assert_eq!(books.directory.sessions().count(), SESSIONS_MAX);
    assert_eq!(books.displaced.len(), 1_000 + 1 - SESSIONS_MAX);
    assert!(!books.displaced.contains(&"serves"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"serves"));
    let up = books.directory.promote(last.unwrap(), Fate::Replaced, books.now);
    assert_eq!(up, Promoted::Displaced("serves"), "the newest of them may still come up");

    // Before the first is up, too.
    for _ in 0..10 {
        books.announce("bob", "desk", "hung up");
    }
    assert_eq!(books.directory.sessions().count(), 2 * SESSIONS_MAX - 1);
}

#[test]
fn what_never_came_up_makes_room_before_what_finishes_its_streams() {
    let mut books = Books::new();
    books.dial("alice", "desk", "finishes");
    let second = books.announce("alice", "desk", "serves");
    books.directory.promote(second, Fate::Retiring, books.now);
    books.announce("alice", "desk", "hung up");
    let new = books.announce("alice", "desk", "new");
    assert_eq!(books.displaced, ["hung up"]);
    books.directory.promote(new, Fate::Retiring, books.now);
    let newer = books.announce("alice", "desk", "newer");
    assert_eq!(books.displaced, ["hung up", "finishes"]);
    assert_eq!(books.directory.promote(newer, Fate::Replaced, books.now), Promoted::Displaced("new"));
    assert_eq!(books.find("alice", None), Lookup::Online(&"newer"));
}

#[test]
fn a_device_that_makes_room_leaves_no_session_behind() {
    let mut books = Books::new();
    let serving = books.dial("alice", "a", "A");
    let left = books.announce("alice", "a", "left");
    books.directory.remove(serving, books.now);
    books.dial("alice", "b", "B");
    books.dial("alice", "c", "C");
    books.directory.sweep(books.now + KNOWN_FOR + SWEEP_EVERY);
    assert_eq!(books.find("alice", Some("a")), Lookup::Offline(&name("a")), "it still has a session");
    books.dial("alice", "d", "D");
    assert_eq!(books.displaced, ["left"]);
    assert_eq!(books.directory.sessions().count(), 3);
    assert_eq!(books.directory.promote(left, Fate::Replaced, books.now), Promoted::Gone);
}

#[test]
fn what_is_away_for_a_day_is_forgotten() {
    let mut books = Books::new();
    let first = books.dial("alice", "desk", "A");
    let second = books.dial("alice", "desk", "B");
    books.directory.remove(second, books.now);
    books.directory.sweep(books.now + KNOWN_FOR - Duration::from_secs(1));
    assert_eq!(books.find("alice", None), Lookup::Offline(&name("desk")));
    assert_eq!(books.directory.resume(first, "alice", &name("desk")), Resume::Replaced);
    books.directory.sweep(books.now + KNOWN_FOR + SWEEP_EVERY);
    assert_eq!(books.find("alice", None), Lookup::Unknown(vec![]));
    assert_eq!(books.directory.resume(first, "alice", &name("desk")), Resume::Gone);
}

#[test]
fn requests_of_all_devices_of_a_subject_are_counted_together() {
    let mut books = Directory::default();
    let mut join = |subject: &str, device: &str| {
        let joining = Joining { subject: &subject.into(), device: name(device), id: SessionId::random() };
        books.announce(joining, 9, |streams| streams).unwrap().session
    };
    let (desk, lap, other) = (join("alice", "desk"), join("alice", "lap"), join("bob", "desk"));
    assert!(Arc::ptr_eq(&desk, &lap));
    assert!(!Arc::ptr_eq(&desk, &other));
}
