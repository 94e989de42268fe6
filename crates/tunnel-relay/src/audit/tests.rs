use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn address() -> IpAddr {
    [192, 0, 2, 7].into()
}

struct Place {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), metrics: Arc::new(Metrics::new()) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(FILE_NAME)
    }

    fn start(&self, rotation: Rotation) -> AuditLog {
        AuditLog::with(pseudonyms(self.dir.path()).unwrap(), self.file(), rotation, &self.metrics)
    }

    /// Runs a relay's life: these takeovers, and an orderly end.
    async fn live(&self, n: usize, rotation: Rotation) {
        let log = self.start(rotation);
        for _ in 0..n {
            log.note(&Event::Takeover { subject: "alice", device: "desk" });
            // So that more than one batch is written.
            tokio::task::yield_now().await;
        }
        log.finish().await;
    }

    fn verify(&self) -> verify::Report {
        verify::verify(&self.file()).unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_line_tells_what_happened_and_names_nobody() {
    let place = Place::new();
    let log = place.start(Rotation::default());
    log.note(&Event::TunnelUp { subject: "alice", device: "desk", token_id: "jti-1", client: address() });
    log.note(&Event::TunnelDown { subject: "alice", device: "desk", code: 4409 });
    log.note(&Event::KeyCreated { subject: "alice", token_id: "jti-2", scopes: "inference" });
    log.note(&Event::TokenRevoked { subject: "alice", token_id: "jti-2" });
    log.note(&Event::LimitHit { subject: None, client: address(), code: "rate_limited" });
    log.note(&Event::Admin { action: "close_session", subject: Some("alice"), detail: "17" });
    log.finish().await;
    let lines = place.lines();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let expected = [
        "opened",
        "started",
        "tunnel_up",
        "tunnel_down",
        "key_created",
        "token_revoked",
        "limit_hit",
        "admin",
        "stopped",
    ];
    assert_eq!(events, expected);
    let up = &lines[2];
    let hashed = |kind, name| hash_of(place.dir.path(), kind, name).unwrap();
    assert_eq!(up["subject"], hashed(Kind::Subject, "alice"));
    assert_eq!(up["device"], hashed(Kind::Device, "desk"));
    assert_eq!(up["token"], hashed(Kind::Token, "jti-1"));
    assert_eq!(up["client"], hashed(Kind::Client, "192.0.2.7"));
    assert_eq!(lines[3]["code"], 4409);
    assert_eq!(lines[4]["scopes"], "inference");
    let text = place.text();
    for name in ["alice", "desk", "jti-", "192.0.2.7"] {
        assert!(!text.contains(name), "{name} is in clear");
    }
    let report = place.verify();
    assert!(report.is_sound() && report.notes.is_empty(), "{report:?}");
    let mode = fs::metadata(place.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(log.tail(2).await.unwrap(), lines[lines.len() - 2..]);
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts_and_rotations() {
    let place = Place::new();
    let small = Rotation { max_bytes: 4_096, keep: 3 };
    for _ in 0..3 {
        place.live(20, small).await;
    }
    let report = place.verify();
    assert!(report.is_sound(), "{report:?}");
    assert!(report.files > 2 && report.files <= 4, "{report:?}");
    for _ in 0..5 {
        place.live(20, small).await;
    }
    let report = place.verify();
    assert!(report.is_sound() && report.files == 4, "the oldest are gone: {report:?}");
    assert!(report.notes[0].contains("what was before is not here"), "{report:?}");
}

#[tokio::test]
async fn what_a_crash_left_of_a_line_is_kept_and_explained() {
    let place = Place::new();
    place.live(2, Rotation::default()).await;
    for torn in [&b"{\"seq\":9,\"at\":"[..], b"\0\0\0\0", b"half\n{\"se"] {
        fs::write(place.file(), [place.text().as_bytes(), torn].concat()).unwrap();
        place.live(1, Rotation::default()).await;
        let report = place.verify();
        assert!(report.is_sound(), "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("what a crash left")), "{report:?}");
    }
    // A newline is all that was missing.
    fs::write(place.file(), place.text().trim_end()).unwrap();
    place.live(1, Rotation::default()).await;
    assert!(place.verify().is_sound());
    let changed = place.text().replacen("half\n", "Half\n", 1);
    fs::write(place.file(), changed).unwrap();
    assert!(!place.verify().is_sound(), "the rest of a line is under the chain, too");
}

#[tokio::test]
async fn a_crash_in_the_first_line_of_a_file_is_explained() {
    let place = Place::new();
    // Of all files, and then right after a rotation.
    for torn in ["{\"seq\":1,\"at", "{\"seq\":8,\"at\":\"20\n{\"se"] {
        fs::write(place.file(), torn).unwrap();
        place.live(3, Rotation::default()).await;
        let report = place.verify();
        assert!(report.is_sound(), "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("what a crash left")), "{report:?}");
        fs::rename(place.file(), place.dir.path().join("audit.jsonl.1")).unwrap();
    }
    fs::write(place.file(), "x".repeat(5_000)).unwrap();
    place.live(1, Rotation::default()).await;
    assert!(!place.verify().is_sound(), "another's file is no line of ours");
}

#[tokio::test]
async fn a_head_that_makes_no_sense_is_told_for_good() {
    let place = Place::new();
    place.live(3, Rotation::default()).await;
    fs::write(head::path(&place.file()), "").unwrap();
    assert!(place.verify().faults[0].what.contains("head beside the log cannot be read"));
    place.live(1, Rotation::default()).await;
    let report = place.verify();
    assert!(report.faults[0].what.contains("the head could not be read"), "{report:?}");
}

#[test]
fn what_is_not_there_is_not_called_unbroken() {
    let place = Place::new();
    assert!(verify::logs(&place.file()).unwrap().is_empty());
    assert_eq!(verify::verify(&place.file()).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // Where there was something, its loss is a fault.
    fs::write(head::path(&place.file()), "{\"seq\":7,\"hash\":\"\"}").unwrap();
    assert!(place.verify().faults[0].what.contains("7 lines are missing"));
}

#[tokio::test]
async fn lines_taken_off_while_the_relay_was_away_are_told_for_good() {
    let place = Place::new();
    place.live(3, Rotation::default()).await;
    let text = place.text();
    let n = text.lines().count();
    let kept: Vec<&str> = text.lines().take(n - 2).collect();
    fs::write(place.file(), kept.join("\n") + "\n").unwrap();
    assert!(place.verify().faults[0].what.contains("2 lines are missing after this one"));
    // A restart writes a new head, but what it found stays in the log.
    place.live(3, Rotation::default()).await;
    let report = place.verify();
    assert!(report.faults[0].what.contains("2 lines were missing before this one"), "{report:?}");
    fs::remove_file(place.file()).unwrap();
    place.live(1, Rotation::default()).await;
    assert!(place.verify().faults[0].what.contains("lines were missing before this one"));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_counted_and_stops_nothing() {
    let place = Place::new();
    // A directory is where the log should be.
    fs::create_dir(place.file()).unwrap();
    let log = place.start(Rotation::default());
    for _ in 0..5 {
        log.note(&Event::Takeover { subject: "alice", device: "desk" });
    }
    log.finish().await;
    assert_eq!(place.metrics.audit_lost.get(), 7, "with the beginning and the end");
    assert_eq!(place.metrics.audit_lines.get(), 0);
}

#[tokio::test]
async fn events_that_do_not_fit_are_counted_and_the_next_line_says_so() {
    let place = Place::new();
    let log = place.start(Rotation::default());
    // The writer has no turn before the first wait.
    for n in 0..QUEUE + 99 {
        log.note(&Event::Takeover { subject: &format!("tenant {n}"), device: "desk" });
    }
    log.finish().await;
    let lines = place.lines();
    let lost: Vec<&Value> = lines.iter().filter(|line| line["event"] == "lost").collect();
    assert_eq!(lost.len(), 1);
    // The queue has the start, too.
    assert_eq!(lost[0]["count"], 100);
    assert_eq!(place.metrics.audit_lost.get(), 100);
    assert!(place.verify().is_sound());
}

#[tokio::test]
async fn a_flood_of_refused_tokens_leaves_few_lines_that_count_all() {
    let place = Place::new();
    let log = place.start(Rotation::default());
    for n in 0..100_000_u32 {
        let client = std::net::Ipv4Addr::from(n % 1_000).into();
        log.note(&Event::TokenRefused { client, code: "token_invalid" });
    }
    log.finish().await;
    let refused: Vec<Value> =
        place.lines().into_iter().filter(|line| line["event"] == "token_refused").collect();
    let more: u64 = refused.iter().filter_map(|line| line["more"].as_u64()).sum();
    let with_client = refused.iter().filter(|line| line.get("client").is_some()).count() as u64;
    assert_eq!(with_client + more, 100_000);
    // 50 a second, however slow this machine is.
    assert!(refused.len() < 1_000, "{} lines", refused.len());
}

#[tokio::test]
async fn what_one_account_does_without_end_leaves_few_lines_that_count_all() {
    let place = Place::new();
    let log = place.start(Rotation::default());
    for _ in 0..10_000 {
        log.note(&Event::TunnelUp { subject: "mallory", device: "desk", token_id: "t", client: address() });
        log.note(&Event::TunnelDown { subject: "mallory", device: "desk", code: 4409 });
        tokio::task::yield_now().await;
    }
    log.note(&Event::Takeover { subject: "alice", device: "desk" });
    log.finish().await;
    let lines = place.lines();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<_>>();
    for event in ["tunnel_up", "tunnel_down"] {
        let lines = of(event);
        let more: u64 = lines.iter().filter_map(|line| line["more"].as_u64()).sum();
        assert_eq!(lines.len() as u64 + more, 10_000);
        // 300, the last, and ten a minute, however slow this machine is.
        assert!((301..400).contains(&lines.len()), "{} lines", lines.len());
    }
    assert_eq!(of("takeover").len(), 1);
    assert_eq!(place.metrics.audit_lost.get(), 0);
    assert!(place.verify().is_sound());
}

#[tokio::test]
async fn two_relays_on_one_directory_write_two_logs() {
    let place = Place::new();
    let one = place.start(Rotation::default());
    one.note(&Event::Takeover { subject: "alice", device: "desk" });
    while !place.file().exists() {
        tokio::task::yield_now().await;
    }
    place.live(2, Rotation::default()).await;
    one.finish().await;
    let logs = verify::logs(&place.file()).unwrap();
    assert_eq!(logs.len(), 2, "{logs:?}");
    for log in logs {
        assert!(verify::verify(&log).unwrap().is_sound(), "{}", log.display());
    }
}
