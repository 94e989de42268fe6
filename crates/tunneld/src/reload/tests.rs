//! The owner of the configuration, with real files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio_util::task::TaskTracker;
use tunnel_broker::{Broker, BrokerConfig};

use super::*;
use crate::config::{ConfigHandle, Edit, TokenSink};
use crate::plugins::Backends;
use crate::secrets::Vault;
use crate::warnings::Reports;

/// Far above what a change takes, so that a slow machine is no failure.
const WITHIN: Duration = Duration::from_secs(20);

/// A running owner of the file `c.json` in a directory.
struct Running {
    directory: tempfile::TempDir,
    handle: ConfigHandle,
    state: watch::Receiver<Arc<ConfigState>>,
    hangup: watch::Sender<u64>,
    stop: CancellationToken,
    _settings: watch::Receiver<Arc<crate::tunnel::Settings>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    /// Prepares the directory, then starts. `path` is the file's, below the directory.
    fn start(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let options = Options { config: Some(directory.path().join(path)), ..Options::default() };
        Self::with(directory, options)
    }

    fn with(directory: tempfile::TempDir, options: Options) -> Self {
        let options = Arc::new(options);
        let loaded = Loaded::load(&options).unwrap();
        let stop = CancellationToken::new();
        let broker = Broker::start(BrokerConfig::default(), &TaskTracker::new(), stop.clone());
        let (settings, settings_reader) = watch::channel(Arc::new(loaded.tunnel.clone()));
        let (sender, state) = watch::channel(Arc::new(loaded.state(Vec::new())));
        let backends = Backends::new(broker, BrokerConfig::default());
        let consumers = Consumers {
            doors: None,
            reports: Reports::new(),
            backends,
            vault: Vault::of_nothing(),
            settings,
            log_level: None,
        };
        let (handle, orders) = ConfigHandle::new(Arc::clone(&options), state.clone(), TokenSink::none());
        let reloader = Reloader { options, consumers, state: sender, orders };
        let (hangup, hangups) = watch::channel(0);
        TaskTracker::new().spawn(reloader.run(hangups, stop.clone()));
        Self { directory, handle, state, hangup, stop, _settings: settings_reader }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file the way careful editors do: beside it, then over it.
    fn save(&self, name: &str, text: &str) {
        let temporary = self.path(".swap");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    async fn until(
        &mut self,
        what: &str,
        reached: impl FnMut(&Arc<ConfigState>) -> bool,
    ) -> Arc<ConfigState> {
        let found = tokio::time::timeout(WITHIN, self.state.wait_for(reached)).await;
        Arc::clone(&found.unwrap_or_else(|_| panic!("{what} is not in force in time")).unwrap())
    }

    async fn until_retries(&mut self, retries: u32) -> Arc<ConfigState> {
        let reached = |state: &Arc<ConfigState>| state.config.max_retries.get() == retries;
        self.until(&format!("maxRetries {retries}"), reached).await
    }

    /// Waits until the owner has looked once, so that its watches are there.
    async fn settle(&self) {
        self.handle.reload().await.unwrap();
    }
}

fn retries(number: u32) -> String {
    format!("{{ \"maxRetries\": {number} }}")
}

#[tokio::test]
async fn saves_in_place_and_by_renaming_are_noticed() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    fs::write(running.path("c.json"), retries(2)).unwrap();
    running.until_retries(2).await;
    for number in 3..6 {
        running.save("c.json", &retries(number));
        running.until_retries(number).await;
    }
}

#[tokio::test]
async fn link_that_is_put_elsewhere_is_noticed_and_its_target_too() {
    let mut running = Running::start("c.json", |home| {
        fs::create_dir(home.join("dots")).unwrap();
        fs::write(home.join("dots/one"), retries(1)).unwrap();
        fs::write(home.join("dots/two"), retries(2)).unwrap();
        symlink("dots/one", home.join("c.json")).unwrap();
    });
    running.settle().await;
    symlink("dots/two", running.path("swap")).unwrap();
    fs::rename(running.path("swap"), running.path("c.json")).unwrap();
    running.until_retries(2).await;
    running.save("dots/two", &retries(3));
    running.until_retries(3).await;
}

#[tokio::test]
async fn config_map_that_swaps_its_data_is_noticed_each_time() {
    let mut running = Running::start("c.json", |home| {
        fs::create_dir(home.join("..v1")).unwrap();
        fs::write(home.join("..v1/c.json"), retries(1)).unwrap();
        symlink("..v1", home.join("..data")).unwrap();
        symlink("..data/c.json", home.join("c.json")).unwrap();
    });
    running.settle().await;
    for version in 2..5_u32 {
        let directory = format!("..v{version}");
        fs::create_dir(running.path(&directory)).unwrap();
        fs::write(running.path(&directory).join("c.json"), retries(version)).unwrap();
        symlink(&directory, running.path("..data_tmp")).unwrap();
        fs::rename(running.path("..data_tmp"), running.path("..data")).unwrap();
        running.until_retries(version).await;
        fs::remove_dir_all(running.path(&format!("..v{}", version - 1))).unwrap();
    }
}

#[tokio::test]
async fn unnamed_file_that_goes_means_the_defaults_and_one_that_comes_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().to_owned();
    let options = Options { env: vec![("HOME".into(), home.clone().into())], ..Options::default() };
    let mut running = Running::with(directory, options);
    running.settle().await;
    // Neither the directory nor the one above it is there.
    let below = home.join(".config/cloudtolocalllm");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("tunnel_config.json"), retries(2)).unwrap();
    let state = running.until_retries(2).await;
    assert_eq!(state.status.files.len(), 1);
    fs::remove_dir_all(home.join(".config")).unwrap();
    let state = running.until_retries(5).await;
    assert!(state.status.files.is_empty() && state.status.last_error.is_none());
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("tunnel_config.json"), retries(3)).unwrap();
    running.until_retries(3).await;
    // The original's place comes first.
    fs::create_dir(home.join(".cloudtolocalllm")).unwrap();
    fs::write(home.join(".cloudtolocalllm/tunnel_config.json"), retries(4)).unwrap();
    running.until_retries(4).await;
}

#[tokio::test]
async fn named_file_that_goes_is_an_error_and_the_last_good_one_stays() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(7)).unwrap());
    running.settle().await;
    fs::remove_file(running.path("c.json")).unwrap();
    let state = running.until("the error", |state| state.status.last_error.is_some()).await;
    assert_eq!(state.config.max_retries.get(), 7);
    fs::write(running.path("c.json"), retries(8)).unwrap();
    let state = running.until_retries(8).await;
    assert_eq!(state.status.last_error, None);
}

#[tokio::test]
async fn broken_file_changes_nothing_until_it_is_mended() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    let loaded_at = running.handle.state().status.loaded_at;
    running.save("c.json", r#"{ "maxRetries": 0, "logLevel": "LOUD" }"#);
    let state = running.until("the error", |state| state.status.last_error.is_some()).await;
    let told = state.status.last_error.clone().unwrap();
    assert!(told.contains("maxRetries") && told.contains("logLevel"), "{told}");
    assert_eq!((state.config.max_retries.get(), state.status.loaded_at), (1, loaded_at));
    assert_eq!(
        fs::read_to_string(running.path("c.json")).unwrap(),
        r#"{ "maxRetries": 0, "logLevel": "LOUD" }"#
    );
    // The same text as in the beginning: in force already, and the error is over.
    running.save("c.json", &retries(1));
    let state = running.until("the mended file", |state| state.status.last_error.is_none()).await;
    assert_eq!(state.status.loaded_at, loaded_at);
}

#[tokio::test]
async fn file_that_lost_its_content_is_a_fault_and_an_empty_one_at_start_is_not() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    for blank in ["", "\u{feff} \n"] {
        running.save("c.json", blank);
        let state = running.until("the error", |state| state.status.last_error.is_some()).await;
        assert!(state.status.last_error.as_ref().unwrap().contains("write {}"), "{:?}", state.status);
        assert_eq!(state.config.max_retries.get(), 1);
        let patch = Edit::Patch(serde_json::from_str(r#"{"maxRetries": 2}"#).unwrap());
        let refused = running.handle.change(patch, None).await;
        assert!(
            matches!(refused, Err(ChangeError::FileInvalid { .. })),
            "the rest would be lost: {refused:?}"
        );
        assert_eq!(fs::read_to_string(running.path("c.json")).unwrap(), blank);
        running.save("c.json", &retries(1));
        running.until("the mended file", |state| state.status.last_error.is_none()).await;
    }
    running.save("c.json", "{}");
    running.until_retries(5).await;

    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), "").unwrap());
    running.settle().await;
    running.save("c.json", " ");
    running.settle().await;
    assert_eq!(running.handle.state().status.last_error, None);
    running.save("c.json", &retries(3));
    running.until_retries(3).await;
}

#[tokio::test]
async fn order_that_nobody_waits_for_any_more_is_not_carried_out() {
    let running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    let patch = Edit::Patch(serde_json::from_str(r#"{"maxRetries": 9}"#).unwrap());
    {
        let order = running.handle.change(patch, None);
        tokio::pin!(order);
        // It is on its way: the owner has had no turn yet.
        assert!(futures_util::poll!(order.as_mut()).is_pending());
    }
    // Orders are taken in turn.
    running.handle.reload().await.unwrap();
    assert_eq!(fs::read_to_string(running.path("c.json")).unwrap(), retries(1));
}

#[tokio::test]
async fn last_of_many_quick_saves_is_in_force() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    for number in 2..=100 {
        running.save("c.json", &if number % 5 == 0 { "{ broken".to_owned() } else { retries(number) });
        tokio::task::yield_now().await;
    }
    running.save("c.json", &retries(101));
    let state = running.until_retries(101).await;
    assert_eq!(state.status.last_error, None);
    // Nothing comes after it.
    running.settle().await;
    assert_eq!(running.handle.state().config.max_retries.get(), 101);
}

#[tokio::test]
async fn what_has_not_changed_is_not_published() {
    let running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    let before = running.handle.state();
    running.hangup.send_modify(|count| *count += 1);
    let applied = running.handle.reload().await.unwrap();
    assert!(!applied.changed);
    assert!(Arc::ptr_eq(&before, &running.handle.state()), "another state was published");
}

#[tokio::test]
async fn change_is_in_force_when_it_is_answered() {
    let mut running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    let patch = |text: &str| Edit::Patch(serde_json::from_str(text).unwrap());
    let applied = running.handle.change(patch(r#"{"maxRetries": 9}"#), None).await.unwrap();
    assert!(applied.changed && applied.backup.is_some());
    assert_eq!(running.state.borrow_and_update().config.max_retries.get(), 9);
    assert!(running.handle.change(patch(r#"{"maxRetries": 0}"#), None).await.is_err());
    // A refused order is no fault of what is in force.
    assert_eq!(running.handle.state().status.last_error, None);
}

#[tokio::test]
async fn order_to_reload_tells_the_faults_of_the_file() {
    let running = Running::start("c.json", |home| fs::write(home.join("c.json"), retries(1)).unwrap());
    running.settle().await;
    fs::write(running.path("c.json"), retries(0)).unwrap();
    assert!(matches!(running.handle.reload().await, Err(ChangeError::Invalid(faults)) if faults.len() == 1));
}
