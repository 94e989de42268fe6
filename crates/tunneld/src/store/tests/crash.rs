//! kill -9 at any moment: the database opens, nothing that was shown goes back, no id is given twice.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use rand::RngExt;

use super::*;

/// Tells the program of the tests that it is the one to be killed, and where to write.
const DIRECTORY: &str = "TUNNELD_TEST_STORE";
/// Times the writer is killed.
const KILLS: u32 = 20;

/// What a writer had shown when it was killed.
#[derive(Debug, Default, Clone, Copy)]
struct Shown {
    requests: u64,
    api: u64,
    event: u64,
}

/// Not a test of its own: it is started by the one below, in a process that can be killed.
#[tokio::test]
#[ignore = "writes until it is killed"]
async fn writer_to_be_killed() {
    let directory = std::env::var_os(DIRECTORY).expect("is started by killed_at_any_moment_…");
    let running = Running::start(Some(Path::new(&directory))).await;
    assert_eq!(running.codes(), [""; 0]);
    let mut totals = running.store.totals();
    let mut events = running.store.subscribe();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut event = running.found.newest_event;
    let mut out = std::io::stdout();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                running.handle.request(request("m"));
                running.handle.api(ApiOutcome::Ok);
                running.handle.event(happened("tick"));
                continue;
            }
            Ok(new) = events.recv() => event = new.id,
            Ok(()) = totals.changed() => {}
        }
        let Totals { llm, api, .. } = *totals.borrow_and_update();
        writeln!(out, "shown {} {} {event}", llm.requests, api.ok).unwrap();
        out.flush().unwrap();
    }
}

struct Writing {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Writing {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash::writer_to_be_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Kills it `after` it has shown something for the first time; returns all that it showed.
    fn kill(mut self, after: Duration) -> Vec<Shown> {
        let mut shown = Vec::new();
        let mut line = String::new();
        while shown.is_empty() && self.lines.read_line(&mut line).unwrap() > 0 {
            shown.extend(parse(&line));
            line.clear();
        }
        std::thread::sleep(after);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            // The last line may be cut off.
            shown.extend(line.ends_with('\n').then(|| parse(&line)).flatten());
            line.clear();
        }
        shown
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn parse(line: &str) -> Option<Shown> {
    let mut numbers = line.strip_prefix("shown ")?.split_whitespace().map(|number| number.parse().unwrap());
    Some(Shown { requests: numbers.next()?, api: numbers.next()?, event: numbers.next()? })
}

#[tokio::test]
async fn killed_at_any_moment_it_opens_again_and_nothing_goes_back() {
    let directory = temporary();
    let mut last = Shown::default();
    for kill in 0..KILLS {
        let writing = Writing::start(directory.path());
        let after = Duration::from_micros(rand::rng().random_range(0..400_000));
        let shown = tokio::task::spawn_blocking(move || writing.kill(after)).await.unwrap();
        assert!(!shown.is_empty(), "kill {kill}: the writer did not open the database");
        for now in shown {
            assert!(now.requests >= last.requests && now.api >= last.api, "kill {kill}: {last:?} → {now:?}");
            assert!(now.event >= last.event, "kill {kill}: {last:?} → {now:?}");
            last = now;
        }

        let running = Running::start(Some(directory.path())).await;
        assert_eq!(running.codes(), [""; 0], "kill {kill}");
        let Found { totals, newest_event, .. } = running.found.clone();
        assert!(totals.llm.requests >= last.requests, "kill {kill}: {} after {last:?}", totals.llm.requests);
        assert!(totals.api.ok >= last.api, "kill {kill}: {} after {last:?}", totals.api.ok);
        assert!(newest_event >= last.event, "kill {kill}: {newest_event} after {last:?}");
        let rows = running.store.usage(UsageBy::Key, None).await.unwrap();
        assert_eq!(rows[0].requests, totals.llm.requests, "kill {kill}: usage and totals agree");
        last = Shown { requests: totals.llm.requests, api: totals.api.ok, event: newest_event };
        running.end().await;
    }
    let mut other = other_program(directory.path()).await;
    let gaps = "SELECT MAX(id) - MIN(id) + 1 - COUNT(*) FROM event";
    assert_eq!(number(&mut other, gaps).await, 0, "ids grow by one over all {KILLS} lives");
    assert!(last.event > u64::from(KILLS), "{last:?}");
}
