//! Against a real keyring on a bus of its own, and against buses that are broken.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use tunnel_transport::RelayUrl;

use super::*;
use crate::secrets::testing::desktop::Desktop;
use crate::secrets::testing::{PATIENCE, eventually};

fn account(host: &str) -> Account {
    Account::of(&RelayUrl::parse(&format!("https://{host}")).unwrap())
}

fn relay() -> Account {
    account("relay.example")
}

fn login(token: &str) -> Credentials {
    Credentials::bare(token.to_owned().into(), 100)
}

async fn token(keyring: &Keyring) -> Option<String> {
    let found = SecretStore::load(keyring, &relay()).await.unwrap();
    found.map(|login| login.access_token.expose_secret().to_owned())
}

async fn failure(keyring: &Keyring) -> StoreError {
    let begun = Instant::now();
    let error = SecretStore::load(keyring, &relay()).await.unwrap_err();
    assert!(begun.elapsed() < LIMIT + Duration::from_secs(2), "{:?}", begun.elapsed());
    error
}

#[tokio::test]
async fn login_is_stored_read_replaced_and_removed() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    assert_eq!(token(&keyring).await, None);
    SecretStore::save(&keyring, &relay(), &login("canary.one.x")).await.unwrap();
    assert_eq!(token(&keyring).await.as_deref(), Some("canary.one.x"));
    SecretStore::save(&keyring, &relay(), &login("canary.two.x")).await.unwrap();
    assert_eq!(token(&keyring).await.as_deref(), Some("canary.two.x"));
    assert!(SecretStore::load(&keyring, &account("other.example")).await.unwrap().is_none());
    for file in desktop.keyring_files() {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", file.display());
    }
    SecretStore::remove(&keyring, &relay()).await.unwrap();
    SecretStore::remove(&keyring, &relay()).await.unwrap();
    assert_eq!(token(&keyring).await, None);
}

#[tokio::test]
async fn connection_to_the_bus_is_not_kept() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    let before = desktop.names().await.len();
    SecretStore::save(&keyring, &relay(), &login("a.b.c")).await.unwrap();
    assert_eq!(token(&keyring).await.as_deref(), Some("a.b.c"));
    eventually("the end of our connections", async || desktop.names().await.len() == before).await;
}

#[tokio::test]
async fn login_survives_a_new_keyring_program() {
    let Some(mut desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    SecretStore::save(&keyring, &relay(), &login("a.b.c")).await.unwrap();
    desktop.stop_keyring().await;
    assert!(matches!(failure(&keyring).await, StoreError::Absent(_)));
    desktop.start_keyring("right").await;
    assert_eq!(token(&keyring).await.as_deref(), Some("a.b.c"));
}

#[tokio::test]
async fn locked_keyring_is_told_and_nothing_asks_for_its_password() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    desktop.lock().await;
    assert!(matches!(failure(&keyring).await, StoreError::Locked { .. }));
    desktop.unlock("right").await;
    SecretStore::save(&keyring, &relay(), &login("a.b.c")).await.unwrap();
    desktop.lock().await;
    assert!(matches!(failure(&keyring).await, StoreError::Locked { holds_login: true }));
    let saved = SecretStore::save(&keyring, &relay(), &login("d.e.f")).await;
    assert!(matches!(saved, Err(StoreError::Locked { .. })), "{saved:?}");
    let removed = SecretStore::remove(&keyring, &relay()).await;
    assert!(matches!(removed, Err(StoreError::Locked { .. })), "{removed:?}");
    desktop.unlock("right").await;
    assert_eq!(token(&keyring).await.as_deref(), Some("a.b.c"));
}

#[tokio::test]
async fn unlocking_is_heard() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    // Whichever of the turns comes first after it listens.
    let turning = async {
        loop {
            desktop.lock().await;
            desktop.unlock("right").await;
        }
    };
    tokio::select! {
        () = keyring.recovered() => {}
        () = turning => {}
        () = tokio::time::sleep(PATIENCE) => panic!("nothing was heard"),
    }
}

#[tokio::test]
async fn wrong_password_leaves_it_locked() {
    let Some(mut desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    SecretStore::save(&keyring, &relay(), &login("a.b.c")).await.unwrap();
    desktop.stop_keyring().await;
    desktop.start_keyring("wrong").await;
    assert!(matches!(failure(&keyring).await, StoreError::Locked { holds_login: true }));
}

#[tokio::test]
async fn entry_of_somebody_else_is_not_taken_for_a_login() {
    let Some(desktop) = Desktop::with_keyring().await else { return };
    let keyring = Keyring::new(desktop.bus());
    let account = relay();
    let service = keyring.connect().await.unwrap();
    let collection = service.get_default_collection().await.unwrap();
    let item = collection.create_item("x", attributes(&account), b"canary", true, "text/plain").await;
    drop(item.unwrap());
    let error = failure(&keyring).await;
    assert!(
        matches!(error, StoreError::ForeignEntry) && !format!("{error:?}").contains("canary"),
        "{error:?}"
    );
}

#[tokio::test]
async fn bus_without_a_keyring_is_an_absent_keyring() {
    let Some(desktop) = Desktop::start() else { return };
    let keyring = Keyring::new(desktop.bus());
    let error = failure(&keyring).await;
    assert_eq!(error.to_string(), NO_PROVIDER.to_string());
    assert!(matches!(SecretStore::save(&keyring, &relay(), &login("a")).await, Err(StoreError::Absent(_))));
    assert!(matches!(SecretStore::remove(&keyring, &relay()).await, Err(StoreError::Absent(_))));
}

#[tokio::test]
async fn no_bus_in_any_form_is_an_absent_keyring() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:path={}/nothing", directory.path().display());
    let refusing = directory.path().join("refusing");
    drop(UnixListener::bind(&refusing).unwrap());
    let refusing = format!("unix:path={}", refusing.display());
    for address in ["", "nonsense", "unix:", nowhere.as_str(), refusing.as_str()] {
        let error = failure(&Keyring::new(SessionBus::at(address))).await;
        assert!(matches!(error, StoreError::Absent(_)), "{address}: {error:?}");
    }
    assert!(matches!(failure(&Keyring::new(SessionBus::none())).await, StoreError::Absent(_)));
}

#[tokio::test]
async fn bus_that_never_answers_costs_the_limit_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let _accepts_in_the_backlog = UnixListener::bind(&path).unwrap();
    let keyring = Keyring::new(SessionBus::at(&format!("unix:path={}", path.display())));
    let begun = Instant::now();
    assert!(matches!(failure(&keyring).await, StoreError::Timeout));
    assert!(begun.elapsed() >= LIMIT);
    let saved = SecretStore::save(&keyring, &relay(), &login("a")).await;
    assert!(matches!(saved, Err(StoreError::Timeout)), "{saved:?}");
}

#[tokio::test]
async fn bus_that_hangs_up_is_an_absent_keyring() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let keyring = Keyring::new(SessionBus::at(&format!("unix:path={}", path.display())));
    let error = failure(&keyring).await;
    assert!(matches!(error, StoreError::Absent(_)), "{error:?}");
}
