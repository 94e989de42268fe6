use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::audit::Event;
use crate::audit::line::Record;
use crate::audit::pseudonym::Pseudonyms;

/// Lines of a log with so many events in each file, and its head.
fn written(files: &[usize]) -> (Vec<Vec<Vec<u8>>>, Chain) {
    let names = Pseudonyms::new("key");
    let mut chain = Chain::default();
    let mut line = |record: &Record| {
        let mut bytes = Vec::new();
        chain.push(record, &names, &mut bytes);
        bytes
    };
    let now = Timestamp::UNIX_EPOCH;
    let lines = files
        .iter()
        .map(|n| {
            let event = Event::Takeover { subject: "alice", device: "desk" };
            let events = std::iter::repeat_n(Record::of(&event, now), *n);
            std::iter::once(Record::opened(now)).chain(events).map(|record| line(&record)).collect()
        })
        .collect();
    (lines, chain)
}

fn walk(files: &[Vec<Vec<u8>>], head: Option<&Chain>) -> Report {
    let mut walk = Walk::new(head.cloned());
    for (n, lines) in files.iter().enumerate() {
        walk.begin_file(Path::new(&format!("file-{n}")));
        // As a reader sees them, whatever a change did to the newlines.
        let text = lines.concat();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            walk.line(line);
        }
    }
    walk.end()
}

#[derive(Clone, Debug)]
enum Change {
    Edit {
        byte: usize,
        bit: u8,
    },
    Remove,
    Swap,
    Repeat,
    Insert(Vec<u8>),
    Shorten {
        to: usize,
    },
    /// Its time is another, and its hash fits.
    Forge,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 0..8_u8).prop_map(|(byte, bit)| Change::Edit { byte, bit }),
        Just(Change::Remove),
        Just(Change::Swap),
        Just(Change::Repeat),
        prop::collection::vec(any::<u8>(), 1..200).prop_map(Change::Insert),
        any::<usize>().prop_map(|to| Change::Shorten { to }),
        Just(Change::Forge),
    ]
}

impl Change {
    /// Changes line `at`, which another follows.
    fn apply(self, lines: &mut Vec<Vec<u8>>, at: usize) {
        match self {
            Self::Edit { byte, bit } => {
                let byte = byte % lines[at].len();
                lines[at][byte] ^= 1 << bit;
            }
            Self::Remove => drop(lines.remove(at)),
            Self::Swap => lines.swap(at, at + 1),
            Self::Repeat => lines.insert(at, lines[at].clone()),
            Self::Insert(bytes) => lines.insert(at, bytes),
            Self::Shorten { to } => {
                let to = to % lines[at].len();
                lines[at].truncate(to);
            }
            Self::Forge => {
                let line = String::from_utf8(lines[at].clone()).unwrap().replacen("1970", "1971", 1);
                let body = line[..line.rfind(",\"hash\"").unwrap()].to_owned() + "}";
                let hash = line::sha256(body.as_bytes());
                lines[at] = format!("{},\"hash\":\"{hash}\"}}\n", &body[..body.len() - 1]).into_bytes();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_change_before_the_last_line_is_found(
        files in prop::collection::vec(1..6_usize, 1..4), place in any::<usize>(), change in change()
    ) {
        let (mut lines, _) = written(&files);
        prop_assert!(walk(&lines, None).is_sound());
        let file = place % lines.len();
        let at = place / 7 % (lines[file].len() - 1);
        change.apply(&mut lines[file], at);
        let report = walk(&lines, None);
        prop_assert!(!report.is_sound(), "{report:?}");
        let named = &report.faults[0];
        // Where the line was, or the one after it that misses it.
        prop_assert!(named.file == Path::new(&format!("file-{file}")), "{named:?}");
        prop_assert!((at as u64..=at as u64 + 3).contains(&named.line), "{at} {named:?}");
    }

    #[test]
    fn lines_taken_off_the_end_are_found_against_the_head_alone(
        files in prop::collection::vec(1..6_usize, 1..4), off in 1..6_usize
    ) {
        let (mut lines, head) = written(&files);
        let left = lines.concat().len().saturating_sub(off).max(1);
        let mut n = 0;
        for file in &mut lines {
            file.retain(|_| { n += 1; n <= left });
        }
        lines.retain(|file| !file.is_empty());
        prop_assert!(walk(&lines, None).is_sound(), "nothing in the lines tells");
        let report = walk(&lines, Some(&head));
        prop_assert!(report.faults[0].what.contains("missing after this one"), "{report:?}");
    }
}

#[test]
fn a_whole_log_is_sound_and_counted() {
    let (lines, head) = written(&[3, 2]);
    let report = walk(&lines, Some(&head));
    assert!(report.is_sound() && report.notes.is_empty(), "{report:?}");
    assert_eq!((report.lines, report.last_seq, &report.last_hash), (7, 7, &head.hash));
    assert_eq!(report.first_at.as_deref(), Some("1970-01-01T00:00:00.000Z"));
}

#[test]
fn a_file_that_is_gone_from_the_middle_is_a_fault_and_from_the_beginning_a_note() {
    let (mut lines, head) = written(&[2, 2, 2]);
    let oldest_gone = &lines[1..];
    let report = walk(oldest_gone, Some(&head));
    assert!(report.is_sound() && report.notes[0].contains("begins with number 4"), "{report:?}");
    lines.remove(1);
    let report = walk(&lines, Some(&head));
    assert!(report.faults[0].what.starts_with("3 lines are missing before this one"), "{report:?}");
}

#[test]
fn the_last_line_changed_is_found_against_the_head() {
    let (mut lines, head) = written(&[2]);
    let (other, _) = written(&[2]);
    // Another log's line is sound by itself: its hash is right, what it follows is not.
    *lines[0].last_mut().unwrap() = other[0].last().unwrap().clone();
    assert!(!walk(&lines, Some(&head)).is_sound());
}

#[test]
fn a_last_line_that_is_cut_off_is_a_note() {
    let (mut lines, _) = written(&[2]);
    lines[0].push(b"{\"seq\":4,\"at\":\"1970".to_vec());
    let report = walk(&lines, None);
    assert!(report.is_sound() && report.notes[0].contains("not complete"), "{report:?}");
    lines[0].push(b"\n".to_vec());
    assert!(!walk(&lines, None).is_sound(), "a line, but none of the log");
}
