//! The keeper with real stores: the encrypted file, the keyring, and an authorization server.

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio_util::task::TaskTracker;
use tunnel_api::auth::AuthStatus;
use tunnel_api::{Severity, warning};
use tunnel_runtime::CriticalTasks;
use tunnel_transport::RelayUrl;

use super::*;
use crate::secrets::testing::desktop::Desktop;
use crate::secrets::testing::issuer::Issuer;
use crate::secrets::testing::{PATIENCE, eventually, jwt};
use crate::secrets::token::Token;
use crate::secrets::{self, Endpoint, Places, Renewal, SessionBus, TokenHandle};

/// A keeper, and all that it hears from.
struct Bench {
    directory: tempfile::TempDir,
    settings: watch::Sender<Arc<Settings>>,
    handle: TokenHandle,
    soft: CancellationToken,
    tracker: TaskTracker,
}

const RELAY: &str = "https://relay.example";

fn settings(relay: &str) -> Arc<Settings> {
    Arc::new(Settings {
        enabled: true,
        relay: RelayUrl::parse(relay).unwrap(),
        device: "desk".parse().unwrap(),
        preferred: false,
        connect_timeout: Duration::from_secs(5),
        ca_file: None,
        proxy: None,
        proxies: crate::config::Proxies::default(),
    })
}

impl Bench {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(edit: impl FnOnce(&mut Places)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), edit)
    }

    fn start_in(directory: tempfile::TempDir, edit: impl FnOnce(&mut Places)) -> Self {
        let mut places = Places {
            token_file: None,
            credentials_directory: None,
            state_dir: Some(directory.path().join("state")),
            bus: SessionBus::none(),
        };
        edit(&mut places);
        let (settings, reader) = watch::channel(settings(RELAY));
        let (soft, tracker) = (CancellationToken::new(), TaskTracker::new());
        let tasks = CriticalTasks::new(tracker.clone(), soft.clone());
        let handle = secrets::start(places, reader, soft.clone(), &tasks);
        Self { directory, settings, handle, soft, tracker }
    }

    /// Ends it and starts another one in its place.
    async fn restart(self) -> Self {
        self.soft.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.unwrap();
        Self::start_in(self.directory, |_| {})
    }

    fn current(&self) -> Result<Token, TokenError> {
        self.handle.current(&self.settings.borrow().relay)
    }

    fn token(&self) -> Option<String> {
        self.current().ok().map(|token| token.secret.expose_secret().to_owned())
    }

    async fn until_token(&self, wanted: &str) {
        eventually(&format!("token {wanted}"), async || self.token().as_deref() == Some(wanted)).await;
    }

    async fn until(&self, what: &str, condition: impl Fn(&AuthStatus) -> bool) -> AuthStatus {
        let mut statuses = self.handle.statuses();
        match tokio::time::timeout(PATIENCE, statuses.wait_for(|status| condition(status))).await {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("{what} did not come: {:?}", self.handle.status(Timestamp::now())),
        }
    }

    async fn until_warned(&self, code: &str) -> Warning {
        let mut warnings = self.handle.warnings();
        let warned = warnings.wait_for(|warnings| warnings.iter().any(|warning| warning.code == code));
        let warnings = tokio::time::timeout(PATIENCE, warned).await.unwrap().unwrap().clone();
        warnings.into_iter().find(|warning| warning.code == code).unwrap()
    }

    async fn until_looked(&self) {
        eventually("the first look", async || !matches!(self.current(), Err(TokenError::Looking))).await;
    }
}

fn bare(token: &str) -> Credentials {
    Credentials::bare(token.to_owned().into(), now())
}

fn renewable(token: &str, token_endpoint: Endpoint) -> Credentials {
    let renewal = Renewal {
        refresh_token: "canary-refresh-1".to_owned().into(),
        token_endpoint,
        client_id: None,
        resource: None,
    };
    Credentials { renewal: Some(renewal), ..bare(token) }
}

#[tokio::test]
async fn token_that_is_stored_is_in_force_and_there_after_a_restart() {
    let bench = Bench::start();
    bench.until_looked().await;
    assert!(matches!(bench.current(), Err(TokenError::None)));
    let warning = bench.until_warned(warning::KEYRING_ABSENT).await;
    assert_eq!(warning.severity, Severity::Info);
    assert_eq!(bench.handle.set(bare(&jwt("alice", 0, 600))).await.unwrap(), StoredIn::File);
    let status = bench.handle.status(Timestamp::now());
    assert_eq!(
        (status.authenticated, status.subject.as_deref(), status.stored_in),
        (true, Some("alice"), StoredIn::File)
    );
    assert!(!status.refreshable && status.expires_at.is_some());
    let version = bench.current().unwrap().version;
    bench.handle.set(bare("second")).await.unwrap();
    assert!(bench.current().unwrap().version > version);
    let bench = bench.restart().await;
    bench.until_token("second").await;
}

#[tokio::test]
async fn token_that_is_removed_is_gone_here_and_in_its_store() {
    let bench = Bench::start();
    bench.handle.set(bare("first")).await.unwrap();
    bench.handle.remove().await.unwrap();
    assert!(matches!(bench.current(), Err(TokenError::Removed)));
    assert_eq!(bench.handle.status(Timestamp::now()).stored_in, StoredIn::None);
    bench.handle.remove().await.unwrap();
    let bench = bench.restart().await;
    bench.until_looked().await;
    assert!(matches!(bench.current(), Err(TokenError::None)));
}

#[tokio::test]
async fn token_is_shown_to_no_other_relay() {
    let bench = Bench::start();
    bench.handle.set(bare("first")).await.unwrap();
    let other = settings("https://other.example");
    assert!(matches!(bench.handle.current(&other.relay), Err(TokenError::Looking)));
    bench.settings.send_replace(other);
    eventually("a look for the other relay's", async || matches!(bench.current(), Err(TokenError::None)))
        .await;
    bench.handle.set(bare("other")).await.unwrap();
    bench.settings.send_replace(settings(RELAY));
    bench.until_token("first").await;
}

#[tokio::test]
async fn token_of_a_relay_to_come_waits_for_it() {
    let bench = Bench::start();
    bench.handle.set(bare("first")).await.unwrap();
    let other = settings("https://other.example");
    assert_eq!(bench.handle.set_for(&other.relay, bare("other")).await.unwrap(), StoredIn::File);
    for _ in 0..20 {
        bench.handle.look_again();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(bench.token().as_deref(), Some("first"), "it is not shown to this one");
    }
    bench.handle.set_for(&bench.settings.borrow().relay.clone(), bare("second")).await.unwrap();
    assert_eq!(bench.token().as_deref(), Some("second"));
    bench.settings.send_replace(other.clone());
    bench.until_token("other").await;
    bench.settings.send_replace(settings(RELAY));
    bench.until_token("second").await;
    // A clock that was set back makes no token older than the one that it replaces.
    let older = Credentials { stored_at: 0, ..bare("newest") };
    bench.handle.set_for(&other.relay, older).await.unwrap();
    bench.settings.send_replace(other);
    bench.until_token("newest").await;
}

#[tokio::test]
async fn order_after_a_change_of_the_relay_is_for_the_new_one() {
    let bench = Bench::start();
    bench.until_looked().await;
    // The keeper may hear of either first.
    for number in 0..20 {
        let relay = settings(&format!("https://relay-{number}.example"));
        bench.settings.send_replace(relay);
        bench.handle.set(bare("fresh")).await.unwrap();
        assert_eq!(bench.token().as_deref(), Some("fresh"), "{number}");
    }
    bench.settings.send_replace(settings(RELAY));
    eventually("a look", async || matches!(bench.current(), Err(TokenError::None))).await;
}

#[tokio::test]
async fn named_token_file_wins_and_is_changed_by_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let bench = Bench::start_with(|places| places.token_file = Some(path.clone()));
    eventually("a look", async || matches!(bench.current(), Err(TokenError::Missing(_)))).await;
    assert!(matches!(bench.handle.set(bare("first")).await, Err(ChangeError::TokenFile(_))));
    assert!(matches!(bench.handle.remove().await, Err(ChangeError::TokenFile(_))));
    std::fs::write(&path, "from.file.x\n").unwrap();
    bench.until_token("from.file.x").await;
    let status = bench.handle.status(Timestamp::now());
    assert_eq!((status.stored_in, bench.handle.warnings().borrow().len()), (StoredIn::TokenFile, 0));
    std::fs::write(&path, "").unwrap();
    eventually("an empty file", async || matches!(bench.current(), Err(TokenError::Empty(_)))).await;
    assert!(!bench.handle.status(Timestamp::now()).authenticated);
}

#[tokio::test]
async fn credential_is_used_and_cannot_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("cloud-token"), "from.systemd.x").unwrap();
    let bench = Bench::start_with(|places| places.credentials_directory = Some(directory.path().to_owned()));
    bench.until_token("from.systemd.x").await;
    assert_eq!(bench.handle.status(Timestamp::now()).stored_in, StoredIn::Credential);
    assert!(matches!(bench.handle.set(bare("first")).await, Err(ChangeError::Credential)));
    assert!(matches!(bench.handle.remove().await, Err(ChangeError::Credential)));
}

#[tokio::test]
async fn without_any_place_it_says_why_and_keeps_what_it_has() {
    let bench = Bench::start_with(|places| places.state_dir = None);
    let refused = bench.handle.set(bare("first")).await.unwrap_err().to_string();
    assert!(refused.contains("no keyring") && refused.contains("no state directory"), "{refused}");
    assert!(matches!(bench.current(), Err(TokenError::None)));
}

#[tokio::test]
async fn token_that_has_expired_counts_no_more() {
    let bench = Bench::start();
    bench.handle.set(bare(&jwt("alice", 600, -10))).await.unwrap();
    assert!(!bench.handle.status(Timestamp::now()).authenticated);
    // The relay has the last word: its clock may be the right one.
    assert!(bench.current().is_ok());
}

#[tokio::test]
async fn due_token_is_renewed_and_the_rotated_one_is_stored_first() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    let old = jwt("alice", 3000, 100);
    issuer.will_answer(
        200,
        &json!({ "access_token": "new", "expires_in": 3600, "refresh_token": "canary-refresh-2" }),
    );
    bench.handle.set(renewable(&old, issuer.endpoint("/token"))).await.unwrap();
    let mut handle = bench.handle.clone();
    let first_sight = async {
        while bench.token().as_deref() != Some("new") {
            handle.changed().await;
        }
        stored_refresh_token(&bench).await
    };
    let stored = tokio::time::timeout(PATIENCE, first_sight).await.unwrap();
    assert_eq!(stored.as_deref(), Some("canary-refresh-2"), "it is stored before it is shown");
    let status = bench.handle.status(Timestamp::now());
    assert!(status.authenticated && status.refreshable, "{status:?}");
    assert_eq!(status.subject.as_deref(), Some("alice"), "the new token is opaque");
    assert_eq!(issuer.forms().len(), 1);
    let bench = bench.restart().await;
    bench.until_token("new").await;
    assert_eq!(issuer.forms().len(), 1, "it is fresh");
}

async fn stored_refresh_token(bench: &Bench) -> Option<String> {
    let store = secrets::file::SealedFiles::new(Some(bench.directory.path().join("state")));
    let account = Account::of(&bench.settings.borrow().relay);
    let login = secrets::store::SecretStore::load(&store, &account).await.unwrap()?;
    Some(login.renewal?.refresh_token.expose_secret().to_owned())
}

#[tokio::test]
async fn token_that_is_over_is_renewed_before_it_is_shown() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    // There is no answer yet.
    bench.handle.set(renewable(&jwt("alice", 3600, -1), issuer.endpoint("/token"))).await.unwrap();
    assert!(matches!(bench.current(), Err(TokenError::Renewing)), "{:?}", bench.current());
    eventually("a question", async || issuer.forms().len() == 1).await;
    // A login in between counts, and what was under way does not.
    bench.handle.set(bare("typed-in")).await.unwrap();
    assert_eq!(bench.token().as_deref(), Some("typed-in"));
}

#[tokio::test]
async fn login_that_is_over_is_asked_for_once() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    issuer.will_answer(400, &json!({ "error": "invalid_grant" }));
    let old = jwt("alice", 3600, 60);
    bench.handle.set(renewable(&old, issuer.endpoint("/token"))).await.unwrap();
    let warning = bench.until_warned(warning::LOGIN_EXPIRED).await;
    assert!(warning.severity == Severity::Error && warning.message.contains("127.0.0.1"), "{warning:?}");
    assert_eq!(bench.token(), Some(old), "it is good to its end");
    assert_eq!(bench.handle.status(Timestamp::now()).last_error, Some(warning.message));
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(issuer.forms().len(), 1);
    bench.handle.set(bare("fresh")).await.unwrap();
    assert!(bench.handle.warnings().borrow().iter().all(|warning| warning.code != warning::LOGIN_EXPIRED));
}

#[tokio::test]
async fn failed_renewal_is_told_and_not_repeated_at_once() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    issuer.will_answer(500, &json!({}));
    bench.handle.set(renewable(&jwt("alice", 3600, -1), issuer.endpoint("/token"))).await.unwrap();
    bench.until_warned(warning::TOKEN_REFRESH_FAILED).await;
    assert!(bench.current().is_ok(), "the relay has the last word");
    for _ in 0..50 {
        bench.handle.look_again();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(issuer.forms().len(), 1);
}

#[tokio::test]
async fn renewed_token_that_no_place_takes_is_used_and_told() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    bench.handle.set(renewable(&jwt("alice", 3600, -1), issuer.endpoint("/token"))).await.unwrap();
    eventually("a question", async || issuer.forms().len() == 1).await;
    // In the way of the next write, whoever runs the test.
    let in_the_way = bench.directory.path().join("state/token.relay.example.new");
    std::fs::create_dir(&in_the_way).unwrap();
    issuer.answer_waiting(&json!({ "access_token": "new", "expires_in": 3600 }));
    bench.until_token("new").await;
    bench.until_warned(warning::TOKEN_NOT_STORED).await;
    assert_eq!(bench.handle.status(Timestamp::now()).stored_in, StoredIn::None);

    std::fs::remove_dir(&in_the_way).unwrap();
    bench.handle.look_again();
    bench.until("a place for it", |status| status.stored_in == StoredIn::File).await;
    assert!(bench.handle.warnings().borrow().iter().all(|warning| warning.code != warning::TOKEN_NOT_STORED));
    let bench = bench.restart().await;
    bench.until_token("new").await;
}

#[tokio::test]
async fn token_in_force_outlives_a_place_that_fails_to_take_another() {
    let bench = Bench::start();
    bench.handle.set(bare("first")).await.unwrap();
    let state = bench.directory.path().join("state");
    std::fs::create_dir(state.join("token.relay.example.new")).unwrap();
    let sealed = state.join("token.relay.example.sealed");
    std::fs::set_permissions(&sealed, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    bench.handle.set(bare("second")).await.unwrap_err();
    bench.handle.look_again();
    bench.until_warned(warning::SECRET_FILE_UNUSABLE).await;
    eventually("the look", async || {
        bench.handle.warnings().borrow().iter().any(|warning| warning.message.contains("mode 644"))
    })
    .await;
    assert_eq!(bench.token().as_deref(), Some("first"));
}

#[tokio::test]
async fn logout_removes_the_login_whatever_its_server_says() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    let login = || Credentials { revocation_endpoint: Some(issuer.endpoint("/revoke")), ..bare("first") };
    bench.handle.set(login()).await.unwrap();
    issuer.will_answer(200, &json!({}));
    assert!(bench.handle.logout().await.unwrap().unwrap());
    bench.handle.set(login()).await.unwrap();
    issuer.will_answer(503, &json!({}));
    assert!(bench.handle.logout().await.unwrap().is_err());
    assert!(matches!(bench.current(), Err(TokenError::Removed)));
    assert!(!bench.handle.logout().await.unwrap().unwrap(), "there is none to make void");
    assert_eq!(issuer.forms().len(), 2);
}

#[tokio::test]
async fn login_is_made_void_though_nobody_waits_for_it() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    let revocation_endpoint = Some(issuer.endpoint("/revoke"));
    bench.handle.set(Credentials { revocation_endpoint, ..bare("first") }).await.unwrap();
    let mut handle = bench.handle.clone();
    let removed = async {
        while bench.current().is_ok() {
            handle.changed().await;
        }
    };
    tokio::select! {
        biased;
        () = removed => {}
        revoked = bench.handle.logout() => panic!("it is over already: {revoked:?}"),
    }
    eventually("the server is asked", async || issuer.forms().len() == 1).await;
}

#[tokio::test]
async fn shutdown_waits_for_a_renewal_but_not_for_ever() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    bench.handle.set(renewable(&jwt("alice", 3600, -1), issuer.endpoint("/token"))).await.unwrap();
    eventually("a question", async || issuer.forms().len() == 1).await;
    let begun = std::time::Instant::now();
    let bench = bench.restart().await;
    assert!((FINISH_LIMIT..FINISH_LIMIT * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(matches!(bench.current(), Err(TokenError::Looking | TokenError::Renewing)));
}

#[tokio::test]
async fn locked_keyring_falls_through_and_recovers_by_itself() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let bench = Bench::start_with(|places| places.bus = desktop.bus());
    assert_eq!(bench.handle.set(bare("in-keyring")).await.unwrap(), StoredIn::Keyring);
    assert_eq!(*bench.handle.warnings().borrow(), []);
    desktop.lock().await;
    // What it has it keeps.
    assert_eq!(bench.token().as_deref(), Some("in-keyring"));

    let locked = Bench::start_with(|places| places.bus = desktop.bus());
    let warning = locked.until_warned(warning::KEYRING_LOCKED).await;
    assert_eq!(warning.severity, Severity::Warning);
    assert!(matches!(locked.current(), Err(TokenError::Store(_))), "{:?}", locked.current());
    assert!(locked.handle.remove().await.is_err(), "it is still in there");
    // It listens by now or soon will; a login unlocks once, so this does too.
    eventually("it listens", async || desktop.names().await.len() > 3).await;
    desktop.unlock("right").await;
    locked.until_token("in-keyring").await;
    eventually("a clean slate", async || locked.handle.warnings().borrow().is_empty()).await;

    desktop.lock().await;
    assert_eq!(locked.handle.set(bare("in-file")).await.unwrap(), StoredIn::File);
    desktop.unlock("right").await;
    locked.handle.look_again();
    eventually("a clean slate", async || locked.handle.warnings().borrow().is_empty()).await;
    assert_eq!(locked.token().as_deref(), Some("in-file"), "the newer one counts");
    locked.handle.remove().await.unwrap();
    assert!(!locked.directory.path().join("state/token.relay.example.sealed").exists());
}

#[tokio::test]
async fn removed_login_does_not_come_back_with_its_keyring() {
    let Some(mut desktop) = Desktop::with_keyring().await else { return };
    let bench = Bench::start_with(|places| places.bus = desktop.bus());
    assert_eq!(bench.handle.set(bare("in-keyring")).await.unwrap(), StoredIn::Keyring);
    desktop.stop_keyring().await;
    bench.handle.remove().await.unwrap();
    assert!(matches!(bench.current(), Err(TokenError::Removed)));
    desktop.start_keyring("right").await;
    bench.handle.look_again();
    eventually("a clean slate", async || bench.handle.warnings().borrow().is_empty()).await;
    assert!(matches!(bench.current(), Err(TokenError::Removed)));
    let keyring = Bench::start_with(|places| places.bus = desktop.bus());
    keyring.until_looked().await;
    assert!(matches!(keyring.current(), Err(TokenError::None)), "{:?}", keyring.current());
}

#[tokio::test]
async fn bus_that_never_answers_delays_nothing_but_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let _accepts_in_the_backlog = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let begun = std::time::Instant::now();
    let bench =
        Bench::start_with(|places| places.bus = SessionBus::at(&format!("unix:path={}", path.display())));
    assert!(matches!(bench.current(), Err(TokenError::Looking)));
    assert!(begun.elapsed() < Duration::from_millis(100));
    bench.until_warned(warning::KEYRING_TIMEOUT).await;
    // Whoever ends the daemon does not wait for the bus either.
    let begun = std::time::Instant::now();
    bench.handle.look_again();
    tokio::task::yield_now().await;
    let bench = bench.restart().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    bench.until_looked().await;
}

#[tokio::test]
async fn nothing_secret_is_shown_by_anything() {
    let issuer = Issuer::start();
    let bench = Bench::start();
    bench.handle.set(renewable("canary-access", issuer.endpoint("/canary"))).await.unwrap();
    let login = renewable("canary-access", issuer.endpoint("/canary"));
    let held = Held { login: login.clone(), place: StoredIn::File };
    let removed = Removed { login: Some(login), way: Way::default() };
    let shown = format!(
        "{:?} {:?} {held:?} {removed:?} {:?} {:?}",
        bench.handle,
        bench.current(),
        bench.handle.status(Timestamp::now()),
        bench.handle.warnings(),
    );
    assert!(!shown.contains("canary"), "{shown}");
}
