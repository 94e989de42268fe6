//! The database cannot be written for a while: nothing stops, nothing is lost, and it is said.

use tunnel_api::tunnel::Target;
use tunnel_api::warning::STATE_DEGRADED;

use super::*;

async fn degraded(running: &Running, why: &str) {
    let warning = until(&mut running.store.health(), Option::is_some).await.unwrap();
    assert_eq!(warning.code, STATE_DEGRADED);
    assert!(warning.message.contains(why), "{}", warning.message);
    assert!(!warning.next_step.is_empty());
}

async fn recovered(running: &Running) {
    until(&mut running.store.health(), Option::is_none).await;
}

#[tokio::test]
async fn full_disk_delays_and_loses_nothing() {
    let directory = temporary();
    Running::start(Some(directory.path())).await.end().await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "CREATE TABLE ballast AS SELECT randomblob(400000) AS content").await;

    let running = Running::start_with(Some(directory.path()), |writer| {
        // As many pages as there are: no room for another one.
        writer.options = writer.options.clone().pragma("max_page_count", "1");
        writer.disconnect();
    })
    .await;
    for n in 0..2000 {
        running.handle.request(request(&format!("model-{n}")));
    }
    running.handle.event(happened("start"));
    degraded(&running, "full").await;
    assert_eq!(*running.store.totals().borrow(), running.found.totals, "nothing is shown that is not kept");
    running.handle.request(request("model-0"));
    assert_eq!(running.store.events(None, 9).await.unwrap(), []);

    // Room within the file is room, too.
    execute(&mut other, "DROP TABLE ballast").await;
    running.shows(2001).await;
    recovered(&running).await;
    assert_eq!(ids(&running.store.events(None, 9).await.unwrap()), [1]);
    let rows = running.store.usage(UsageBy::Model, None).await.unwrap();
    assert_eq!((rows[0].model.as_deref(), rows[0].requests), (Some("model-0"), 2));
    assert_eq!(running.store.dropped(), DropCounts::default());
    running.end().await;
}

#[tokio::test]
async fn lock_of_another_program_delays_writing_and_not_reading() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    running.handle.request(request("m"));
    running.shows(1).await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "BEGIN EXCLUSIVE").await;

    let mut events = running.store.subscribe();
    running.handle.request(request("m"));
    running.handle.event(happened("start"));
    running.handle.target(Target::Down, now());
    degraded(&running, "locked").await;
    let rows = tokio::time::timeout(Duration::from_secs(1), running.store.usage(UsageBy::Model, None));
    assert_eq!(rows.await.expect("does not wait for the lock").unwrap()[0].requests, 1);
    assert!(events.try_recv().is_err(), "an event without a commit has no id");
    running.handle.event(happened("stop"));

    execute(&mut other, "ROLLBACK").await;
    running.shows(2).await;
    recovered(&running).await;
    for id in 1..=2 {
        assert_eq!(tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap().id, id);
    }
    assert_eq!(number(&mut other, "SELECT COUNT(*) FROM target WHERE target = 'down'").await, 1);
    running.end().await;
}

#[tokio::test]
async fn keys_are_said_to_be_written_when_they_are_and_not_before() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let key = |id: &str| StoredKey {
        key: tunnel_api::Key { id: id.to_owned(), ..tunnel_api::Key::default() },
        hash: None,
    };
    let mut other = other_program(directory.path()).await;
    assert!(running.handle.keys([key("a")].into()).in_time().await);
    assert_eq!(number(&mut other, "SELECT COUNT(*) FROM key").await, 1);
    execute(&mut other, "BEGIN EXCLUSIVE").await;
    let blocked = running.handle.keys([key("a"), key("b")].into());
    assert!(!blocked.in_time().await);
    execute(&mut other, "ROLLBACK").await;
    assert!(running.handle.keys([].into()).in_time().await);
    assert_eq!(number(&mut other, "SELECT COUNT(*) FROM key").await, 0);
    running.end().await;

    let running = Running::start(None).await;
    assert!(running.handle.keys([key("a")].into()).in_time().await, "there is nothing to wait for");
    running.end().await;
}

#[tokio::test]
async fn what_does_not_fit_the_bounds_is_counted_and_leaves_a_gap() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "BEGIN EXCLUSIVE").await;
    running.handle.event(happened("first"));
    degraded(&running, "locked").await;

    for n in 0..10_300 {
        running.handle.request(request(&format!("model-{n}")));
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for n in 0..1200 {
        running.handle.event(happened(if n < 1199 { "noise" } else { "last" }));
        if n % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // A row that is there already can be added to.
    running.handle.request(request("model-0"));
    let all = DropCounts { requests: 300, events: 201 };
    tokio::time::timeout(SOON, async {
        while running.store.dropped() != all {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{:?}", running.store.dropped()));

    execute(&mut other, "ROLLBACK").await;
    running.shows(10_001).await;
    recovered(&running).await;
    let mut newest = running.store.subscribe();
    running.handle.event(happened("end"));
    assert_eq!(tokio::time::timeout(SOON, newest.recv()).await.unwrap().unwrap().id, 1202);
    let found = ids(&running.store.events(Some(0), 1000).await.unwrap());
    assert_eq!(found[..2], [1, 203], "201 are missing, and the jump says so");
    running.end().await;
}

#[tokio::test]
async fn outage_does_not_keep_the_daemon_from_ending() {
    let directory = temporary();
    let running = Running::start(Some(directory.path())).await;
    let mut other = other_program(directory.path()).await;
    execute(&mut other, "BEGIN EXCLUSIVE").await;
    running.handle.request(request("m"));
    let begun = std::time::Instant::now();
    running.end().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
