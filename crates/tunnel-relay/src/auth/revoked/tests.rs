use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::auth::{Grant, LocalIssuer, Scopes};

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
        let grant = Grant {
            subject: subject.into(),
            scopes: Scopes::parse("inference"),
            device: None,
            models: None,
            tier: None,
            ttl: Duration::from_secs(3_600),
        };
        self.issuer.issue(&grant, unix_now()).unwrap()
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
    bench.revocations.revoke("alice", &alice.token_id, Some(alice.expires_at)).await.unwrap();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("who waits is told");
    bench.revocations.check(&bob).unwrap();

    // Who knows the id of somebody else's token cannot revoke it.
    bench.revocations.revoke("alice", &bob.token_id, None).await.unwrap();
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
    bench.revocations.revoke("alice", &alice.token_id, None).await.unwrap();

    // Without a line break at its end, as some editors leave a file.
    let own = fs::read_to_string(bench.file()).unwrap();
    fs::write(bench.file(), format!("{own}{}", bob.token_id)).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&bob), Err(TokenError::Revoked));
    bench.revocations.revoke("carol", "c1", None).await.unwrap();
    assert_eq!(bench.opened_again().len(), 3, "the next entry has a line of its own");

    // Half a file takes nothing back.
    fs::write(bench.file(), "a b c d e f\n").unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&bob), Err(TokenError::Revoked));

    fs::write(bench.file(), "# nobody\n").unwrap();
    bench.revocations.look();
    bench.revocations.check(&alice).unwrap();
    bench.revocations.check(&bob).unwrap();
}

#[tokio::test]
async fn a_file_that_is_missing_for_a_moment_revokes_nothing_less() {
    let bench = Bench::new();
    let alice = bench.principal("alice");
    bench.revocations.revoke("alice", &alice.token_id, None).await.unwrap();
    let aside = bench.dir.path().join("aside");
    fs::rename(bench.file(), &aside).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    fs::rename(&aside, bench.file()).unwrap();
    bench.revocations.look();
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
    fs::remove_file(bench.file()).unwrap();
    bench.revocations.look();
    bench.revocations.look();
    bench.revocations.check(&alice).unwrap();
}

#[tokio::test]
async fn an_entry_that_cannot_be_saved_is_in_force_and_said() {
    let bench = Bench::new();
    let alice = bench.principal("alice");
    fs::create_dir(bench.file()).unwrap();
    let revoked = bench.revocations.revoke("alice", &alice.token_id, None).await;
    assert!(matches!(revoked, Err(RevokeError::Unsaved(_))), "{revoked:?}");
    assert_eq!(bench.revocations.check(&alice), Err(TokenError::Revoked));
}

#[test]
fn the_list_is_bounded_for_each_and_for_all() {
    let mut list = List::default();
    let entry = |tag: usize, until| {
        let mut bytes = Tag::default();
        bytes[..8].copy_from_slice(&tag.to_be_bytes());
        Entry { whose: Whose::Of(bytes), until }
    };
    for n in 0..List::MAX_OF_SUBJECT {
        assert!(list.insert(&format!("a{n}"), entry(0, 10)).unwrap());
    }
    assert!(matches!(list.insert("one-more", entry(0, 20)), Err(RevokeError::FullOfSubject)));
    assert!(!list.insert("a0", entry(0, 10)).unwrap(), "what is there needs no room");
    for n in list.len()..List::MAX {
        assert!(list.insert(&format!("b{n}"), entry(n, 20)).unwrap());
    }
    assert!(matches!(list.insert("x", entry(1, 20)), Err(RevokeError::Full)));
    list.sweep(10);
    assert_eq!(list.len(), List::MAX - List::MAX_OF_SUBJECT);
    assert!(list.insert("one-more", entry(0, 20)).unwrap());
}

#[test]
fn what_has_expired_leaves_the_file_at_the_start() {
    let bench = Bench::new();
    fs::write(bench.file(), "old * 5\nnew * 99999999999\n").unwrap();
    fs::set_permissions(bench.file(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bench.opened_again().len(), 1);
    let text = fs::read_to_string(bench.file()).unwrap();
    assert!(text.contains("new * 99999999999") && !text.contains("old"), "{text}");
}
