use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::auth::{Grant, LocalIssuer, Scopes};

/// Long after all tests.
const LATER: u64 = 99_999_999_999;

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

struct Bench {
    dir: tempfile::TempDir,
    issuer: LocalIssuer,
    revocations: Arc<Revocations>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let issuer = LocalIssuer::open(dir.path()).unwrap();
        let revocations = Arc::new(Revocations::open(dir.path()).unwrap());
        Self { dir, issuer, revocations }
    }

    fn token(&self, subject: &str) -> String {
        self.token_at(subject, unix_now())
    }

    fn token_at(&self, subject: &str, issued: u64) -> String {
        let grant = Grant {
            subject: subject.into(),
            scopes: Scopes::parse("inference"),
            device: None,
            models: None,
            tier: None,
            ttl: Duration::from_secs(3_600),
        };
        self.issuer.issue(&grant, issued).unwrap()
    }

    fn verified(&self, token: &str) -> Arc<Principal> {
        self.issuer.verifier().verify(token, unix_now()).unwrap()
    }

    fn principal(&self, subject: &str) -> Arc<Principal> {
        self.verified(&self.token(subject))
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(FILE_NAME)
    }

    fn opened_again(&self) -> Revocations {
        Revocations::open(self.dir.path()).unwrap()
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_also_after_a_restart() {
    let bench = Bench::new();
    let (alices, bobs) = (bench.token("alice"), bench.token("bob"));
    let (alice, bob) = (bench.verified(&alices), bench.verified(&bobs));
    bench.revocations.check(&alice).unwrap();
    let told = bench.revocations.told();
    bench.revocations.revoke("alice", &alice.token_id, alice.expires_at, By::Tenant).await.unwrap();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("who waits is told");
    bench.revocations.check(&bob).unwrap();

    // Who knows the id of somebody else's token cannot revoke it.
    bench.revocations.revoke("alice", &bob.token_id, LATER, By::Tenant).await.unwrap();
    bench.revocations.check(&bob).unwrap();

    let again = bench.opened_again();
    assert_eq!(again.check(&bench.verified(&alices)), Err(TokenError::Revoked));
    again.check(&bench.verified(&bobs)).unwrap();
    let text = fs::read_to_string(bench.file()).unwrap();
    assert!(text.starts_with('#') && !text.contains("alice"), "{text}");
    for name in [FILE_NAME, KEY_FILE_NAME] {
        let mode = fs::metadata(bench.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn what_the_operator_does_to_the_file_is_taken_over() {
    let bench = Bench::new();
    let (alice, bob) = (bench.principal("alice"), bench.principal("bob"));
    bench.revocations.revoke("alice", &alice.token_id, LATER, By::Tenant).await.unwrap();

    // Without a line break at its end, as some editors leave a file.
    let own = fs::read_to_string(bench.file()).unwrap();
    fs::write(bench.file(), format!("{own}{}", bob.token_id)).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&bob), Err(TokenError::Revoked));
    bench.revocations.revoke("carol", "c1", LATER, By::Operator).await.unwrap();
    assert_eq!(bench.opened_again().len(), 3, "the next entry has a line of its own");

    // Half a file takes nothing back.
    fs::write(bench.file(), "a b c d e f\n").unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&bob), Err(TokenError::Revoked));

    // Nor does one that nobody vouches for. It is made good once it stays as it is.
    fs::write(bench.file(), "# nobody\n").unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&bob), Err(TokenError::Revoked));
    bench.revocations.look();
    let again = bench.opened_again();
    assert_eq!((again.check(&alice), again.len()), (Err(TokenError::Revoked), 3));

    fs::write(bench.file(), "# nobody\n# complete\n").unwrap();
    bench.revocations.look();
    bench.revocations.check(&alice).unwrap();
    bench.revocations.check(&bob).unwrap();
    bench.revocations.look();
    assert_eq!(bench.opened_again().len(), 0);
}

#[tokio::test]
async fn a_file_that_is_missing_or_cut_off_revokes_nothing_less() {
    let bench = Bench::new();
    let token = bench.token("alice");
    let alice = bench.verified(&token);
    bench.revocations.revoke("alice", &alice.token_id, LATER, By::Tenant).await.unwrap();
    let aside = bench.dir.path().join("aside");
    fs::rename(bench.file(), &aside).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    fs::rename(&aside, bench.file()).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    fs::remove_file(bench.file()).unwrap();
    bench.revocations.look();
    // While it lacks what was there, others are added.
    bench.revocations.revoke("bob", "b1", LATER, By::Tenant).await.unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    assert_eq!(bench.opened_again().len(), 2, "it is there again");

    let whole = fs::read(bench.file()).unwrap();
    for len in [0, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(bench.file(), &whole[..len]).unwrap();
        bench.revocations.look();
        assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked), "{len}");
        bench.revocations.look();
        assert_eq!(bench.opened_again().check(&bench.verified(&token)), Err(TokenError::Revoked), "{len}");
    }
}

#[tokio::test]
async fn all_that_a_subject_had_is_revoked_and_what_comes_later_is_not() {
    let bench = Bench::new();
    let now = unix_now();
    let issued = |subject: &str, at: u64| bench.verified(&bench.token_at(subject, at));
    let (old, older, new) = (issued("alice", now - 10), issued("alice", now - 20), issued("alice", now));
    let bob = issued("bob", now - 20);
    bench.revocations.check(&old).unwrap();
    let told = bench.revocations.told();
    let until = bench.revocations.revoke_issued_before("alice", now - 5).await.unwrap();
    assert!(until >= now + LONGEST_LIFE.as_secs());
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("who waits is told");
    // An earlier time takes nothing back, and an entry of a token changes nothing for the others.
    bench.revocations.revoke_issued_before("alice", now - 15).await.unwrap();
    bench.revocations.revoke("alice", "*", LATER, By::Tenant).await.unwrap();
    let again = bench.opened_again();
    for revocations in [&*bench.revocations, &again] {
        for (principal, is_good) in [(&old, false), (&older, false), (&new, true), (&bob, true)] {
            principal.checked.store(0, Ordering::Relaxed);
            assert_eq!(revocations.check(principal).is_ok(), is_good, "{principal:?}");
        }
    }
    assert_eq!(again.len(), 2);
    assert!(!fs::read_to_string(bench.file()).unwrap().contains("alice"));
}

#[tokio::test]
async fn an_entry_that_cannot_be_saved_is_in_force_and_said() {
    let bench = Bench::new();
    let alice = bench.principal("alice");
    fs::create_dir(bench.file()).unwrap();
    let revoked = bench.revocations.revoke("alice", &alice.token_id, LATER, By::Tenant).await;
    assert!(matches!(revoked, Err(RevokeError::Unsaved(_))), "{revoked:?}");
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    let again = bench.revocations.revoke("alice", &alice.token_id, LATER, By::Tenant).await;
    assert!(matches!(again, Err(RevokeError::Unsaved(_))), "it is still not saved: {again:?}");
    fs::remove_dir(bench.file()).unwrap();
    bench.revocations.revoke("alice", &alice.token_id, LATER, By::Tenant).await.unwrap();
    assert_eq!(bench.opened_again().len(), 1, "saved when it is said so");
    fs::remove_file(bench.file()).unwrap();
    bench.revocations.look();
    bench.revocations.look();
    assert_eq!(bench.opened_again().len(), 1, "saved once that can be done");
}

#[tokio::test]
async fn an_operator_does_not_wait_for_tenants() {
    let bench = Bench::new();
    let mut taken = Vec::new();
    for place in &bench.revocations.places {
        taken.push(Arc::clone(place).acquire_owned().await.unwrap());
    }
    let orders = async {
        bench.revocations.revoke("alice", "a1", LATER, By::Operator).await.unwrap();
        bench.revocations.revoke_issued_before("alice", 5).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(5), orders).await.expect("there is nobody to wait for");
    assert_eq!(bench.opened_again().len(), 2);
}

#[tokio::test]
async fn a_full_list_is_searched_seldom_and_its_file_shrinks() {
    let bench = Bench::new();
    let soon = unix_now() + 2;
    let lines = |until: u64| -> String { (0..List::MAX).map(|n| format!("id{n} * {until}\n")).collect() };
    write_private(&bench.file(), &lines(soon));
    bench.revocations.look();
    assert_eq!(bench.revocations.len(), List::MAX);
    while unix_now() <= soon {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bench.revocations.revoke("alice", "a1", LATER, By::Tenant).await.unwrap();
    assert_eq!(bench.revocations.len(), 1);
    assert!(fs::metadata(bench.file()).unwrap().len() < 2_000);

    write_private(&bench.file(), &lines(LATER));
    bench.revocations.look();
    let refused = bench.revocations.revoke("alice", "a2", LATER, By::Operator).await;
    assert!(matches!(refused, Err(RevokeError::Full)), "{refused:?}");
    assert!(!bench.revocations.sweep(&mut bench.revocations.file.lock().unwrap()), "not again so soon");
}

#[test]
fn the_list_is_bounded_for_each_and_for_all() {
    let mut list = List::default();
    let entry = |tag: usize, until| {
        let mut bytes = Tag::default();
        bytes[..8].copy_from_slice(&tag.to_be_bytes());
        Entry { whose: Whose::Of(bytes), until }
    };
    let token = |id: &str, entry: Entry, by: By| Order::Token { id: id.to_owned(), entry, by };
    for n in 0..List::MAX_OF_SUBJECT {
        assert!(list.add(&token(&format!("a{n}"), entry(0, 10), By::Tenant)).unwrap());
    }
    let more = |by| token("one-more", entry(0, 20), by);
    assert!(matches!(list.add(&more(By::Tenant)), Err(RevokeError::FullOfSubject)));
    assert!(!list.add(&token("a0", entry(0, 10), By::Tenant)).unwrap(), "what is there needs no room");
    for n in list.len()..List::MAX - List::OF_OPERATORS {
        assert!(list.add(&token(&format!("b{n}"), entry(n, 20), By::Tenant)).unwrap());
    }
    assert!(matches!(list.add(&token("x", entry(1, 20), By::Tenant)), Err(RevokeError::Full)));
    assert!(list.add(&more(By::Operator)).unwrap());
    let cutoff = Order::IssuedBefore { tag: Tag::default(), cutoff: Cutoff { before: 5, until: 20 } };
    assert!(list.add(&cutoff).unwrap() && !list.add(&cutoff).unwrap());
    for n in list.len()..List::MAX {
        assert!(list.add(&token(&format!("c{n}"), entry(n, 20), By::Operator)).unwrap());
    }
    assert!(matches!(list.add(&token("y", entry(1, 20), By::Operator)), Err(RevokeError::Full)));
    let swept = list.swept(10);
    assert_eq!(swept.len(), List::MAX - List::MAX_OF_SUBJECT);
    assert!(swept.has(&cutoff) && swept.has(&more(By::Tenant)) && !list.swept(20).has(&cutoff));
    assert_eq!(list.lines_beyond(&swept, 0).lines().count(), List::MAX_OF_SUBJECT);
    assert!(list.lines_beyond(&swept, 10).is_empty());
}

#[test]
fn what_has_expired_leaves_the_file_at_the_start() {
    let bench = Bench::new();
    write_private(&bench.file(), "old * 5\nnew * 99999999999\n");
    assert_eq!(bench.opened_again().len(), 1);
    let text = fs::read_to_string(bench.file()).unwrap();
    assert!(text.contains("new * 99999999999") && !text.contains("old"), "{text}");
}
