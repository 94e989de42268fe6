//! What the history answers, also while it is written.

use super::*;

#[tokio::test]
async fn usage_is_ordered_by_requests_and_days_by_time() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let on = |at: &str, model: &str| RequestRecord { at: at.parse().unwrap(), ..request(model) };
    let year = Timestamp::now().strftime("%Y").to_string();
    let at = |rest: &str| format!("{year}-{rest}");
    for (rest, model) in [
        ("01-02T23:59:59Z", "b"),
        ("01-01T00:00:00Z", "a"),
        ("01-03T00:00:00Z", "b"),
        ("01-03T00:00:00Z", "c"),
    ] {
        running.handle.request(on(&at(rest), model));
    }
    running.handle.request(RequestRecord { key: "tunnel".into(), ..on(&at("01-03T00:00:00Z"), "b") });
    running.shows(5).await;

    let answer = async |by, since: Option<&str>| {
        let since = since.map(|rest| at(rest).parse().unwrap());
        let rows = running.store.usage(by, since).await.unwrap();
        let name = |row: &UsageRow| {
            let day = row.day.map(|day| day.strftime("%m-%d").to_string());
            row.model.clone().or(row.connection.clone()).or(row.key.clone()).or(day).unwrap()
        };
        rows.iter().map(|row| format!("{} {}", name(row), row.requests)).collect::<Vec<_>>()
    };
    assert_eq!(answer(UsageBy::Model, None).await, ["b 3", "a 1", "c 1"]);
    assert_eq!(answer(UsageBy::Connection, None).await, ["ollama 5"]);
    assert_eq!(answer(UsageBy::Key, None).await, ["local 4", "tunnel 1"]);
    assert_eq!(answer(UsageBy::Day, None).await, ["01-01 1", "01-02 1", "01-03 3"]);
    assert_eq!(answer(UsageBy::Model, Some("01-02")).await, ["b 3", "c 1"]);
    assert_eq!(answer(UsageBy::Day, Some("01-04")).await, [""; 0]);
    running.end().await;
}

#[tokio::test]
async fn events_can_be_read_on_from_any_point_over_a_restart() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    for _ in 0..5 {
        running.handle.event(happened("start"));
    }
    running.end().await;
    let running = Running::start(Some(directory.path())).await;
    let mut events = running.store.subscribe();
    running.handle.event(happened("stop"));
    assert_eq!(tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap().id, 6);

    let answer = async |since, limit| ids(&running.store.events(since, limit).await.unwrap());
    assert_eq!(answer(None, 3).await, [4, 5, 6]);
    assert_eq!(answer(None, 9).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(answer(Some(0), 2).await, [1, 2]);
    assert_eq!(answer(Some(2), 2).await, [3, 4]);
    assert_eq!(answer(Some(5), 9).await, [6]);
    assert_eq!(answer(Some(6), 9).await, [0; 0]);
    assert_eq!(answer(Some(7_000_000), 9).await, [1, 2, 3, 4, 5, 6], "an id of another history");
    assert_eq!(answer(Some(u64::MAX), 0).await, [0; 0]);
    running.end().await;
}

#[tokio::test]
async fn newest_events_can_be_read_when_the_database_cannot() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    running.handle.event(happened("start"));
    running.end().await;
    let running = Running::start(Some(directory.path())).await;
    let mut events = running.store.subscribe();
    running.handle.event(happened("stop"));
    tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
    running.store.shared.pool.as_ref().unwrap().close().await;

    assert_eq!(ids(&running.store.events(Some(0), 9).await.unwrap()), [2]);
    let error = running.store.usage(UsageBy::Model, None).await.unwrap_err();
    assert!(error.to_string().contains("the state database"), "{error}");
    running.end().await;
}

#[tokio::test]
async fn readers_are_limited_and_do_not_wait_for_ever() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let pool = running.store.shared.pool.as_ref().unwrap();
    let mut held = Vec::new();
    for _ in 0..READERS {
        held.push(pool.acquire().await.unwrap());
    }
    let begun = std::time::Instant::now();
    let error = running.store.usage(UsageBy::Model, None).await.unwrap_err();
    assert_eq!(error.fault, Fault::Silent);
    assert!(begun.elapsed() < READ_LIMIT + Duration::from_secs(1));
    held.clear();
    assert_eq!(running.store.usage(UsageBy::Model, None).await.unwrap(), []);
    running.end().await;
}

#[tokio::test]
async fn many_readers_see_only_whole_commits_while_it_is_written() {
    const WRITTEN: u64 = 2000;
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let mut readers = JoinSet::new();
    for n in 0..4 {
        let store = running.store.clone();
        readers.spawn(async move {
            let mut seen = 0;
            let mut reads = 0;
            while seen < WRITTEN {
                let rows = store.usage(UsageBy::ALL[n], None).await.unwrap();
                let sum: u64 = rows.iter().map(|row| row.requests).sum();
                let tokens: u64 = rows.iter().map(|row| row.prompt_tokens).sum();
                assert_eq!(tokens, 10 * sum, "half a commit");
                assert!(sum >= seen, "went back from {seen} to {sum}");
                seen = sum;
                reads += 1;
                store.events(Some(0), 10).await.unwrap();
            }
            reads
        });
    }
    for n in 0..WRITTEN {
        running.handle.request(request(&format!("model-{}", n % 20)));
        running.handle.event(happened("noise"));
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let reads: Vec<i32> = tokio::time::timeout(SOON, readers.join_all()).await.expect("all are seen");
    assert!(reads.iter().all(|n| *n > 3), "{reads:?} reads went on beside the writes");
    assert_eq!(running.store.dropped(), DropCounts::default());
    running.end().await;
}
