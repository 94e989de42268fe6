//! What is told is committed, once, and shown afterwards.

use std::collections::BTreeMap;

use jiff::ToSpan;
use proptest::prelude::*;
use tunnel_api::tunnel::Target;

use super::super::batch::{Batch, Pending};
use super::super::usage::{Full, day, oldest_day};
use super::*;

/// A database in memory, and nothing in it.
async fn fresh() -> SqliteConnection {
    let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
    migrate::run(&mut connection).await.unwrap();
    execute(&mut connection, "INSERT INTO store VALUES (1, 'test', 0, 0); INSERT INTO total (id) VALUES (1)")
        .await;
    connection
}

fn batch(id: i64, records: impl IntoIterator<Item = RequestRecord>, events: &[&'static str]) -> Batch {
    let mut pending = Pending::default();
    for record in records {
        pending.usage.add(record, usize::MAX).unwrap();
    }
    pending.events = events.iter().copied().map(happened).collect();
    pending.take(id, oldest_day(Timestamp::now()))
}

#[tokio::test(start_paused = true)]
async fn requests_are_gathered_for_a_while_and_events_are_not() {
    let running = Running::start(None).await;
    let shown = |running: &Running| running.store.totals().borrow().llm.requests;
    running.handle.request(request("m"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.handle.request(request("m"));
    tokio::time::sleep(Duration::from_millis(99)).await;
    assert_eq!(shown(&running), 0, "gathered from the first one on");
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(shown(&running), 2);

    running.handle.event(happened("start"));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(ids(&running.store.events(None, 9).await.unwrap()), [1], "nothing to wait for");
    running.end().await;
}

#[tokio::test]
async fn what_was_told_last_is_written_at_the_end() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    for _ in 0..100 {
        running.handle.request(request("m"));
        running.handle.event(happened("start"));
        running.handle.api(ApiOutcome::Ok);
    }
    running.handle.target(Target::Down, now());
    running.end().await;
    let running = Running::start(Some(directory.path())).await;
    let Found { totals, target, newest_event, .. } = &running.found;
    assert_eq!((totals.llm.requests, totals.api.ok, *newest_event), (100, 100, 100));
    assert_eq!(target.as_ref().map(|stored| stored.target), Some(Target::Down));
    running.end().await;
}

#[tokio::test]
async fn keys_are_there_after_a_restart_as_they_were_told_last() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let remote = |key| StoredKey { key, hash: None };
    let key = |id: &str| tunnel_api::Key {
        id: id.to_owned(),
        relay: "relay.example".to_owned(),
        name: Some("editor".to_owned()),
        scopes: vec!["inference".to_owned()],
        models: vec!["llama3:8b".to_owned(), "x\"y".to_owned()],
        created_at: now(),
        expires_at: Some(now() + 1.hour()),
        ..tunnel_api::Key::default()
    };
    let revoked = tunnel_api::Key { revoked_at: Some(now()), device: Some("desk".to_owned()), ..key("b") };
    let limit = std::num::NonZeroU32::new;
    let local = StoredKey {
        key: tunnel_api::Key {
            reach: tunnel_api::KeyReach::Local,
            relay: String::new(),
            paths: tunnel_api::config::RemotePaths::Rules(vec!["POST /api/chat".parse().unwrap()]),
            limits: tunnel_api::KeyLimits {
                requests_per_minute: limit(1),
                tokens_per_minute: limit(u32::MAX),
                concurrent: limit(3),
            },
            created_at: now() + 1.second(),
            last_used_at: Some(now() + 1.minute()),
            ..key("tk_1")
        },
        hash: crate::keys::SecretHash::of_bytes(&[7; 32]),
    };
    running.handle.keys([remote(key("a")), remote(key("b"))].into());
    let last = [remote(key("a")), remote(revoked), local];
    running.handle.keys(last.clone().into());
    running.end().await;
    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.found.keys, last);
    running.handle.keys([].into());
    running.end().await;
    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.found.keys, []);
    running.end().await;
}

#[tokio::test]
async fn recorder_ends_when_nobody_is_left_to_record() {
    let directory = temporary();
    let Running { handle, mut tasks, store, .. } = Running::start(Some(directory.path())).await;
    handle.request(request("m"));
    drop(handle);
    tokio::time::timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(store.totals().borrow().llm.requests, 1);
}

#[tokio::test]
async fn what_is_shown_is_in_the_database() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let mut other = other_program(directory.path()).await;
    let mut totals = running.store.totals();
    let mut events = running.store.subscribe();
    for n in 1..=10 {
        running.handle.request(request("m"));
        running.handle.event(happened("start"));
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
        assert_eq!(event.id, n);
        let newest = number(&mut other, "SELECT MAX(id) FROM event").await;
        assert!(newest >= i64::try_from(n).unwrap(), "an event was shown that is not there");
        let shown = until(&mut totals, |totals| totals.llm.requests == n).await;
        let stored = number(&mut other, "SELECT requests FROM total").await;
        assert!(u64::try_from(stored).unwrap() >= shown.llm.requests);
        let rows = running.store.usage(UsageBy::Key, None).await.unwrap();
        assert!(rows[0].requests >= shown.llm.requests, "usage is as new as the totals");
    }
    running.end().await;
}

/// A commit may get through although its answer does not.
#[tokio::test]
async fn batch_that_is_committed_again_counts_once() {
    let mut database = fresh().await;
    let first = batch(7, [request("m")], &["a", "b"]).commit(&mut database).await.unwrap();
    let batch = batch(8, [request("m"), request("n")], &["c", "d"]);
    let once = batch.commit(&mut database).await.unwrap();
    let again = batch.commit(&mut database).await.unwrap();
    assert_eq!((first.totals.llm.requests, once.totals.llm.requests), (1, 3));
    assert_eq!((again.totals, &again.events), (once.totals, &once.events));
    assert_eq!(ids(&once.events), [3, 4]);
    assert_eq!(number(&mut database, "SELECT COUNT(*) FROM event").await, 4);
}

#[tokio::test]
async fn old_days_and_old_events_go_and_ids_go_on() {
    let mut database = fresh().await;
    execute(
        &mut database,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10005)
         INSERT INTO event (at, kind, severity, message, data) SELECT 0, 'k', 'info', 'm', 'null' FROM n",
    )
    .await;
    let ago = |days: i64| RequestRecord { at: Timestamp::now() - (24 * days).hours(), ..request("m") };
    let committed =
        batch(1, [0, 399, 400, 401, 9999].map(ago), &["a", "b"]).commit(&mut database).await.unwrap();
    assert_eq!(ids(&committed.events), [10_006, 10_007]);
    assert_eq!(number(&mut database, "SELECT COUNT(*) FROM event").await, 10_000);
    assert_eq!(number(&mut database, "SELECT MIN(id) FROM event").await, 8);
    assert_eq!(committed.totals.llm.requests, 5, "the totals stay");
    assert_eq!(number(&mut database, "SELECT COUNT(*) FROM usage").await, 3);

    execute(&mut database, "DELETE FROM event").await;
    let committed = batch(2, [], &["c"]).commit(&mut database).await.unwrap();
    assert_eq!(ids(&committed.events), [10_008], "no id is given twice");
}

#[tokio::test]
async fn absurd_numbers_of_a_model_server_do_no_harm() {
    let mut database = fresh().await;
    let absurd = || RequestRecord {
        prompt_tokens: u64::MAX,
        completion_tokens: u64::MAX,
        duration: Duration::from_secs(3600),
        work: Work {
            cached_tokens: u64::MAX,
            loading: Duration::MAX,
            generating: Duration::MAX,
            ..Work::default()
        },
        ..request("m")
    };
    for id in 1..5 {
        let committed = batch(id, (0..100).map(|_| absurd()), &[]).commit(&mut database).await.unwrap();
        assert_eq!(committed.totals.llm.requests, 100 * u64::try_from(id).unwrap());
    }
    let rows = usage::query(&mut database, UsageBy::Model, None).await.unwrap();
    assert_eq!(rows[0].prompt_tokens, 400 * u64::from(u32::MAX));
    assert_eq!((rows[0].cached_tokens, rows[0].load_ms), (400 * u64::from(u32::MAX), 400 * 86_400_000));
}

#[test]
fn table_has_a_bound_that_known_rows_do_not_feel() {
    let mut table = UsageTable::default();
    for model in ["a", "b", "a"] {
        assert_eq!(table.add(request(model), 2), Ok(()));
    }
    assert_eq!(table.add(request("c"), 2), Err(Full));
    assert_eq!(table.add(request("b"), 2), Ok(()));
    assert_eq!((table.n_rows(), table.sum().requests), (2, 4));

    let mut other = UsageTable::default();
    for model in ["a", "c", "c", "d"] {
        other.add(request(model), 9).unwrap();
    }
    assert_eq!(table.merge(other, 3) + table.sum().requests, 8, "each is counted or told to be lost");
    assert_eq!(table.n_rows(), 3);
}

fn any_request() -> impl Strategy<Value = RequestRecord> {
    let name = |names: &'static [&'static str]| prop::sample::select(names);
    let who = (
        0..4_i64,
        prop::option::of(name(&["a:1", "b", "it's; --", "ü"])),
        prop::option::of(name(&["ollama", "gpu"])),
        name(&["local", "tunnel"]),
        any::<bool>(),
    );
    (who, prop::array::uniform5(0..1_000_000_u64)).prop_map(
        |(
            (days, model, connection, key, ok),
            [prompt_tokens, completion_tokens, bytes_in, bytes_out, us],
        )| {
            RequestRecord {
                at: Timestamp::now() - (24 * days).hours(),
                model: model.map(str::to_owned),
                connection: connection.map(str::to_owned),
                key: key.into(),
                ok,
                prompt_tokens,
                completion_tokens,
                bytes_in,
                bytes_out,
                duration: Duration::from_micros(us),
                work: Work {
                    cached_tokens: prompt_tokens / 2,
                    first_token: ok.then(|| Duration::from_micros(us / 2)),
                    loading: Duration::from_micros(us / 3),
                    prompting: Duration::from_micros(us / 5),
                    generating: Duration::from_micros(us / 7),
                },
            }
        },
    )
}

/// Adds up without tables: name → requests, failed, tokens and bytes, milliseconds.
fn expected(records: &[RequestRecord], by: UsageBy) -> BTreeMap<String, [u64; 10]> {
    let mut sums = BTreeMap::<String, [u64; 10]>::new();
    for record in records {
        let name = match by {
            UsageBy::Model => record.model.clone().unwrap_or_default(),
            UsageBy::Connection => record.connection.clone().unwrap_or_default(),
            UsageBy::Key => record.key.to_string(),
            UsageBy::Day => day(record.at).to_string(),
        };
        let ms = u64::try_from(record.duration.as_millis()).unwrap();
        let amount =
            record.prompt_tokens + 2 * record.completion_tokens + 3 * record.bytes_in + 4 * record.bytes_out;
        let sum = sums.entry(name).or_default();
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        let Work { cached_tokens, first_token, loading, prompting, generating } = record.work;
        let work = [
            cached_tokens,
            u64::from(first_token.is_some()),
            us(first_token.unwrap_or_default()),
            us(loading),
            us(prompting),
            us(generating),
        ];
        for (sum, n) in sum.iter_mut().zip([1, u64::from(!record.ok), amount, ms].into_iter().chain(work)) {
            *sum += n;
        }
    }
    // Times are told in milliseconds, rounded when they are summed up.
    for sum in sums.values_mut() {
        for time in &mut sum[6..] {
            *time = (*time + 500) / 1000;
        }
    }
    sums
}

fn actual(rows: &[UsageRow]) -> BTreeMap<String, [u64; 10]> {
    let row = |row: &UsageRow| {
        let day = row.day.map(|day| day.to_string());
        let names = [row.model.clone(), row.connection.clone(), row.key.clone(), day];
        let amount = row.prompt_tokens + 2 * row.completion_tokens + 3 * row.bytes_in + 4 * row.bytes_out;
        let mut names = names.into_iter().flatten();
        let name = names.next().expect("a name");
        assert_eq!(names.next(), None, "one name");
        let sums = [
            row.requests,
            row.failed,
            amount,
            row.duration_ms,
            row.cached_tokens,
            row.streamed,
            row.first_token_ms,
            row.load_ms,
            row.prompt_ms,
            row.generation_ms,
        ];
        (name, sums)
    };
    rows.iter().map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn aggregated_and_committed_in_any_portions_the_sums_are_those_of_the_requests(
        portions in prop::collection::vec(prop::collection::vec(any_request(), 0..20), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut database = fresh().await;
            let mut memory = UsageTable::default();
            for (id, portion) in portions.iter().enumerate() {
                let batch = batch(i64::try_from(id).unwrap() + 1, portion.iter().cloned(), &[]);
                assert_eq!(memory.merge(batch.pending.usage.clone(), usize::MAX), 0);
                batch.commit(&mut database).await.unwrap();
            }
            let records = portions.concat();
            for by in UsageBy::ALL {
                let rows = usage::query(&mut database, by, None).await.unwrap();
                assert_eq!(actual(&rows), expected(&records, by));
                assert_eq!(memory.answer(by, None), rows, "memory answers what the database does");
                let since = Some(day(Timestamp::now() - 24.hours()));
                let recent: Vec<_> =
                    records.iter().filter(|record| Some(day(record.at)) >= since).cloned().collect();
                let rows = usage::query(&mut database, by, since).await.unwrap();
                assert_eq!(actual(&rows), expected(&recent, by));
                assert_eq!(memory.answer(by, since), rows);
            }
        });
    }
}

#[tokio::test]
async fn local_key_that_cannot_be_read_is_void() {
    let directory = temporary();
    let local = |id: &str| StoredKey {
        key: tunnel_api::Key {
            id: id.to_owned(),
            reach: tunnel_api::KeyReach::Local,
            models: vec!["m".to_owned()],
            ..tunnel_api::Key::default()
        },
        hash: crate::keys::SecretHash::of_bytes(&[7; 32]),
    };
    let running = Running::start(Some(directory.path())).await;
    let all = ["tk_good", "tk_models", "tk_paths", "tk_reach"].map(local);
    assert!(running.handle.keys(all.clone().into()).in_time().await);
    running.end().await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "UPDATE key SET models = '[\"m\"' WHERE id = 'tk_models'").await;
    execute(&mut other, "UPDATE key SET paths = '7' WHERE id = 'tk_paths'").await;
    execute(&mut other, "UPDATE key SET reach = 'lokal' WHERE id = 'tk_reach'").await;
    let running = Running::start(Some(directory.path())).await;
    assert_eq!(running.found.keys[0], all[0]);
    for damaged in &running.found.keys[1..] {
        assert!(damaged.hash.is_none(), "{damaged:?}");
    }
    assert!(running.found.keys[1..3].iter().all(|damaged| damaged.key.revoked_at.is_some()));
    running.end().await;
}
