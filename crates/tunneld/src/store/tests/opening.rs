//! What is found at the start, and what is made of it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use tunnel_api::tunnel::Target;
use tunnel_api::warning::{STATE_CORRUPT, STATE_DEGRADED, STATE_NEWER};

use super::*;
use crate::store::counts::{ApiCounts, Counts};

/// A database that was in use and is closed.
async fn used() -> TempDir {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    for n in 0..500 {
        running.handle.request(request(&format!("model-{n}")));
    }
    running.handle.event(happened("start"));
    running.handle.target(Target::Down, now());
    running.end().await;
    directory
}

/// Whether what is told now is there after a restart.
async fn works(directory: &Path) -> bool {
    let running = Running::start(Some(directory)).await;
    let before = running.found.totals.llm.requests;
    running.handle.request(request("m"));
    running.end().await;
    let running = Running::start(Some(directory)).await;
    let after = running.found.totals.llm.requests;
    let sound = running.warnings.is_empty();
    running.end().await;
    sound && after == before + 1
}

/// The databases that were set aside, without their logs.
fn set_aside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_database = |path: &PathBuf| {
        let name = path.to_string_lossy();
        name.contains(".corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    entries.filter(is_database).collect()
}

#[tokio::test]
async fn without_a_directory_it_counts_this_run() {
    let running = Running::start(None).await;
    assert!(!running.store.is_kept());
    assert_eq!(running.codes(), [""; 0]);
    running.handle.request(request("m"));
    running.handle.event(happened("start"));
    running.handle.event(happened("stop"));
    running.handle.target(Target::Down, now());
    running.shows(1).await;
    assert_eq!(ids(&running.store.events(None, 10).await.unwrap()), [1, 2]);
    assert_eq!(ids(&running.store.events(Some(1), 10).await.unwrap()), [2]);
    let usage = running.store.usage(UsageBy::Model, None).await.unwrap();
    assert_eq!((usage[0].model.as_deref(), usage[0].requests), (Some("m"), 1));
    running.end().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = temporary();
    let first = Running::start(Some(&directory.path().join("a/b"))).await;
    assert_eq!(first.codes(), [""; 0]);
    assert_eq!((first.found.target.clone(), first.found.totals), (None, Totals::none(now())));
    first.handle.request(request("m"));
    first.handle.request(RequestRecord { ok: false, model: None, connection: None, ..request("m") });
    first.handle.api(ApiOutcome::Ok);
    first.handle.api(ApiOutcome::Ok);
    first.handle.api(ApiOutcome::Failed);
    first.handle.event(happened("start"));
    first.handle.target(Target::Down, now());
    let down = Warning::new("connection_down", "gpu does not answer", "start it");
    first.handle.warnings([("gpu".to_owned(), down.clone())]);
    let active = until(&mut first.store.active_warnings(), |active| !active.is_empty()).await;
    first.end().await;

    let second = Running::start(Some(&directory.path().join("a/b"))).await;
    let llm = Counts {
        requests: 2,
        failed: 1,
        prompt_tokens: 20,
        completion_tokens: 40,
        bytes_in: 600,
        bytes_out: 8000,
        duration_ms: 100,
        cached_tokens: 8,
        streamed: 2,
        first_token_us: 14_800,
        load_us: 2_800,
        prompt_us: 4_800,
        generation_us: 60_800,
    };
    assert_eq!(second.found.totals, Totals { since: now(), llm, api: ApiCounts { ok: 2, failed: 1 } });
    assert_eq!(*second.store.totals().borrow(), second.found.totals);
    let target = second.found.target.as_ref();
    assert_eq!(target_at_start(target, BootId::read().as_ref(), true), Target::Down);
    let since = Timestamp::from_millisecond(active[0].since.as_millisecond()).unwrap();
    assert_eq!(second.found.warnings, [ActiveWarning { since, ..active[0].clone() }]);
    assert_eq!(second.found.warnings[0].warning, down);
    assert_eq!(second.store.events(None, 9).await.unwrap(), [happened("start").with_id(1)]);
    second.end().await;
}

#[tokio::test]
async fn damaged_database_is_set_aside_and_a_new_one_begun() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        ("not a database", |bytes| *bytes = b"{\"this\": \"is JSON\"}\n".repeat(200)),
        ("a flipped bit in the header", |bytes| bytes[2] ^= 0x10),
        ("pages overwritten", |bytes| bytes[4096 * 4..4096 * 8].fill(0xa5)),
        ("a page that is not read at the start", |bytes| {
            let last = bytes.len() - 4096;
            bytes[last..].fill(0xa5);
        }),
        ("half of it", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a few bytes of it", |bytes| bytes.truncate(100)),
        ("tables that are not ours", |bytes| {
            let position = bytes.windows(8).position(|name| name == b"batch   ");
            bytes[position.unwrap()..][..5].copy_from_slice(b"botch");
        }),
    ];
    for (name, damage) in damages {
        let directory = used().await;
        let path = file::path(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();

        let running = Running::start(Some(directory.path())).await;
        assert_eq!(running.codes(), [STATE_CORRUPT], "{name}");
        assert_eq!(running.found, Found::nothing(now()), "{name}");
        assert!(running.store.is_kept(), "{name}");
        let aside = set_aside(directory.path());
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(fs::read(&aside[0]).unwrap(), bytes, "{name}: as it was found");
        assert!(running.warnings[0].message.contains(aside[0].to_str().unwrap()), "{name}");
        running.end().await;
        assert!(works(directory.path()).await, "{name}");
    }
}

#[tokio::test]
async fn empty_file_and_damaged_log_are_no_reason_to_give_up() {
    let directory = temporary();
    fs::write(file::path(directory.path()), "").unwrap();
    assert!(works(directory.path()).await);

    // What a power cut leaves: the log of a process that did not close it, its end in shreds.
    let running = Running::start(Some(directory.path())).await;
    let before = running.found.totals.llm.requests;
    for n in 1..=20 {
        running.handle.request(request("m"));
        running.shows(before + n).await;
    }
    let copy = temporary();
    for name in ["state.db", "state.db-wal"] {
        fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    running.end().await;
    let log = copy.path().join("state.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    let half = bytes.len() / 2;
    assert!(half > 10_000, "there is a log");
    bytes[half..].fill(0xa5);
    fs::write(&log, bytes).unwrap();

    let running = Running::start(Some(copy.path())).await;
    assert_eq!(running.codes(), [""; 0]);
    let found = running.found.totals.llm.requests;
    assert!((before..before + 20).contains(&found), "{found} of {before} and 20: the sound part of the log");
    running.end().await;
    assert!(works(copy.path()).await);
}

#[tokio::test]
async fn database_of_a_later_program_is_left_untouched() {
    let directory = used().await;
    let mut other = other_program(directory.path()).await;
    execute(
        &mut other,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', TRUE, x'00', 1);
         UPDATE store SET program = '9.8.7'",
    )
    .await;
    sqlx::Connection::close(other).await.unwrap();
    let bytes = fs::read(file::path(directory.path())).unwrap();

    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.codes(), [STATE_NEWER]);
    let Warning { message, next_step, .. } = &running.warnings[0];
    assert!(message.contains("9.8.7") && message.contains("schema 99"), "{message}");
    assert!(next_step.contains("9.8.7"), "{next_step}");
    running.handle.request(request("m"));
    running.handle.event(happened("start"));
    running.shows(1).await;
    assert!(!running.store.is_kept());
    running.end().await;
    assert_eq!(fs::read(file::path(directory.path())).unwrap(), bytes);
    assert!(set_aside(directory.path()).is_empty());
}

#[tokio::test]
async fn place_that_cannot_hold_a_database_is_done_without() {
    let directory = temporary();
    fs::create_dir(file::path(directory.path())).unwrap();
    let file_as_directory = directory.path().join("file");
    fs::write(&file_as_directory, "x").unwrap();
    for place in [directory.path(), &file_as_directory, Path::new("/proc/1/state")] {
        let running = Running::start(Some(place)).await;
        assert_eq!(running.codes(), [STATE_DEGRADED], "{place:?}");
        assert!(!running.warnings[0].next_step.is_empty());
        running.handle.request(request("m"));
        running.shows(1).await;
        running.end().await;
    }
}

#[tokio::test]
async fn locked_database_is_waited_for_in_vain_and_left_alone() {
    let directory = used().await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM usage").await;

    let begun = Instant::now();
    let running = Running::start(Some(directory.path())).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(running.codes(), [STATE_DEGRADED]);
    assert!(running.warnings[0].message.contains("locked"), "{}", running.warnings[0].message);
    running.end().await;
    assert!(set_aside(directory.path()).is_empty());
    drop(other);
}

#[tokio::test]
async fn damaged_database_that_cannot_be_set_aside_is_done_without() {
    let directory = temporary();
    fs::write(file::path(directory.path()), "not a database").unwrap();
    fs::write(directory.path().join("state.db-wal"), "nor its log").unwrap();
    // A directory where the log would go.
    fs::create_dir(directory.path().join("state.db.corrupt-20250615T120000Z-wal")).unwrap();

    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.codes(), [STATE_DEGRADED]);
    assert!(running.warnings[0].next_step.contains("move"), "{}", running.warnings[0].next_step);
    running.handle.request(request("m"));
    running.shows(1).await;
    running.end().await;
    assert_eq!(fs::read(file::path(directory.path())).unwrap(), b"not a database");
}

/// A change of the first migration would change its checksum, and make every database out there look damaged.
#[tokio::test]
async fn database_of_the_first_version_can_be_opened() {
    let directory = temporary();
    let options = SqliteConnectOptions::new().filename(file::path(directory.path())).create_if_missing(true);
    let mut first = options.connect().await.unwrap();
    execute(&mut first, include_str!("fixtures/state_v1.sql")).await;
    sqlx::Connection::close(first).await.unwrap();

    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.codes(), [""; 0]);
    let Found { target, totals, warnings, keys, newest_event } = running.found.clone();
    assert_eq!(keys, [], "that version knew none");
    assert_eq!(target.map(|stored| stored.target), Some(Target::Down));
    assert_eq!((totals.llm.requests, totals.api.ok, newest_event), (3, 7, 12));
    assert_eq!(totals.since, now());
    assert_eq!(warnings[0].subject, "gpu");
    let events = running.store.events(None, 9).await.unwrap();
    assert_eq!((events[0].id, events[0].kind.as_str()), (12, "tunnel_up"));
    let usage = running.store.usage(UsageBy::Model, None).await.unwrap();
    assert_eq!((usage[0].model.as_deref(), usage[0].requests), (Some("llama3:8b"), 2));
    running.end().await;
}
