//! One sealed login on disk. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use tunnel_api::config::is_connection_id;

use crate::secrets::account::Account;
use crate::secrets::credentials::{Credentials, MAX_STORED_BYTES};
use crate::secrets::store::StoreError;

/// A sealed login and its key, which may or may not be there.
#[derive(Debug)]
pub(super) struct Sealed {
    directory: PathBuf,
    machine_id: PathBuf,
    account: Account,
}

/// The first bytes of the file: what it is, and which version of it. Then nonce, ciphertext and tag.
const MAGIC: &[u8; 8] = b"ctlltok1";
const KEY_BYTES: usize = 32;
const KEY_FILE: &str = "token.key";
/// Held while a file is written. One of the whole process: a user has one daemon, and it one directory.
static WRITING: Mutex<()> = Mutex::new(());
/// Ties the derived key to what it is for.
const PURPOSE: &[u8] = b"cloudtolocalllm sealed token 1";
/// Bits that a file with a secret must not have: all of the group's and of others'.
const OTHERS: u32 = 0o077;

impl Sealed {
    pub(super) fn new(directory: PathBuf, machine_id: PathBuf, account: Account) -> Self {
        Self { directory, machine_id, account }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.sealed", self.account.as_file_name()))
    }

    fn key_path(&self) -> PathBuf {
        self.directory.join(KEY_FILE)
    }

    pub(super) fn load(&self) -> Result<Option<Credentials>, StoreError> {
        let path = self.path();
        let Some(mut bytes) = read(&path, MAX_STORED_BYTES * 2)? else { return Ok(None) };
        let key = self.key()?.ok_or_else(|| StoreError::KeyMissing { path: self.key_path() })?;
        let damaged = || StoreError::Damaged { path: path.clone() };
        let sealed = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(damaged)?;
        let (nonce, _) = sealed.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let in_out = &mut bytes[MAGIC.len() + NONCE_LEN..];
        let plain = key.open_in_place(nonce, self.bound(), in_out).map_err(|_| damaged())?;
        Credentials::from_json(plain).map(Some).ok_or_else(damaged)
    }

    pub(super) fn save(&self, credentials: &Credentials) -> Result<(), StoreError> {
        // The keepers of the login and of the connections' secrets share one key, which either may be the first to make.
        let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |path: &Path, source| StoreError::Io { path: path.to_owned(), done: "written", source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| failed(&self.directory, source))?;
        let key = match self.key()? {
            Some(key) => key,
            None => self.new_key()?,
        };
        // What is sealed in place was plain before, and grows by the tag: no copy of it may be left behind.
        let plain = credentials.to_json();
        let mut in_out =
            Zeroizing::new(Vec::with_capacity(plain.expose_secret().len() + AES_256_GCM.tag_len()));
        in_out.extend_from_slice(plain.expose_secret());
        // Cannot fail: the text is far shorter than the cipher's limit.
        let nonce = key.seal_in_place_append_tag(self.bound(), &mut *in_out).expect("short enough to seal");
        let bytes = [MAGIC.as_slice(), nonce.as_ref(), &in_out].concat();
        let path = self.path();
        write(&path, &bytes).map_err(|source| failed(&path, source))
    }

    /// Takes the login away. The key stays: others may be sealed with it.
    pub(super) fn remove(&self) -> Result<(), StoreError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path, done: "removed", source })
            }
            _ => Ok(()),
        }
    }

    /// A login of one account is not one of another, whatever the file is called.
    fn bound(&self) -> Aad<Vec<u8>> {
        Aad::from([MAGIC.as_slice(), self.account.as_str().as_bytes()].concat())
    }

    fn key(&self) -> Result<Option<RandomizedNonceKey>, StoreError> {
        let path = self.key_path();
        let Some(secret) = read(&path, KEY_BYTES)? else { return Ok(None) };
        if secret.len() != KEY_BYTES {
            return Err(StoreError::Damaged { path });
        }
        self.derive(&secret).map(Some)
    }

    fn new_key(&self) -> Result<RandomizedNonceKey, StoreError> {
        let path = self.key_path();
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        let failed = |source| StoreError::Io { path: path.clone(), done: "written", source };
        aws_lc_rs::rand::fill(secret.as_mut_slice())
            .map_err(|_| failed(io::Error::other("no randomness")))?;
        write(&path, secret.as_slice()).map_err(failed)?;
        self.derive(secret.as_slice())
    }

    fn derive(&self, secret: &[u8]) -> Result<RandomizedNonceKey, StoreError> {
        // Without an id (a container) the key file alone has to do.
        let machine_id = fs::read(&self.machine_id).unwrap_or_default();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let prk = Salt::new(HKDF_SHA256, machine_id.trim_ascii()).extract(secret);
        // Cannot fail: 32 bytes are one block of SHA-256, and what AES-256 takes.
        prk.expand(&[PURPOSE], KeyLength).and_then(|okm| okm.fill(key.as_mut_slice())).expect("one block");
        Ok(RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).expect("32 bytes"))
    }
}

/// Lists the secrets of connections in a directory, by name.
pub(super) fn connections(directory: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let name = name.strip_prefix("connection.")?.strip_suffix(".sealed")?;
        is_connection_id(name).then(|| name.to_owned())
    };
    fs::read_dir(directory).into_iter().flatten().filter_map(name).collect()
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// Reads a file that only its owner may read; `None` without a file.
fn read(path: &Path, max_bytes: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), done: "read", source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Of the file that was opened, not of whatever has the name now.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(StoreError::TooOpen { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max_bytes {
        return Err(StoreError::Damaged { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// Writes a file as a whole: after a crash at any moment it is the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // One that a crash has left; only one daemon of a user writes here.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    let renamed = written.and_then(|()| fs::rename(&fresh, path));
    if renamed.is_err() {
        let _left_behind = fs::remove_file(&fresh);
        return renamed;
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tunnel_transport::RelayUrl;

    use super::*;

    fn account(host: &str) -> Account {
        Account::of(&RelayUrl::parse(&format!("https://{host}")).unwrap())
    }

    fn place() -> (tempfile::TempDir, Sealed) {
        let directory = tempfile::tempdir().unwrap();
        let machine_id = directory.path().join("machine-id");
        fs::write(&machine_id, "0123456789abcdef\n").unwrap();
        let sealed = Sealed::new(directory.path().join("state"), machine_id, account("relay.example"));
        (directory, sealed)
    }

    #[test]
    fn those_who_save_first_at_the_same_time_share_one_key() {
        for _ in 0..20 {
            let (_directory, first) = place();
            let start = std::sync::Barrier::new(4);
            let all: Vec<Sealed> = (0..4)
                .map(|n| {
                    Sealed::new(first.directory.clone(), first.machine_id.clone(), account(&format!("h{n}")))
                })
                .collect();
            std::thread::scope(|scope| {
                for sealed in &all {
                    scope.spawn(|| {
                        start.wait();
                        sealed.save(&login()).unwrap();
                    });
                }
            });
            assert!(all.iter().all(|sealed| sealed.load().unwrap().is_some()));
        }
    }

    fn login() -> Credentials {
        Credentials::bare("canary.token.x".to_owned().into(), 100)
    }

    fn token(sealed: &Sealed) -> String {
        sealed.load().unwrap().unwrap().access_token.expose_secret().to_owned()
    }

    #[test]
    fn login_comes_back_and_is_nowhere_in_clear() {
        let (_directory, sealed) = place();
        assert!(sealed.load().unwrap().is_none());
        sealed.save(&login()).unwrap();
        assert_eq!(token(&sealed), "canary.token.x");
        let mut names = Vec::new();
        for entry in fs::read_dir(&sealed.directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.path());
            let bytes = fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"canary"), "{:?}", entry.path());
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, ["token.key", "token.relay.example.sealed"]);
        assert_eq!(fs::metadata(&sealed.directory).unwrap().mode() & 0o777, 0o700);
        sealed.remove().unwrap();
        sealed.remove().unwrap();
        assert!(sealed.load().unwrap().is_none());
    }

    #[test]
    fn same_login_is_sealed_differently_each_time() {
        let (_directory, sealed) = place();
        sealed.save(&login()).unwrap();
        let first = fs::read(sealed.path()).unwrap();
        sealed.save(&login()).unwrap();
        assert_ne!(first, fs::read(sealed.path()).unwrap());
    }

    #[test]
    fn each_changed_bit_and_each_missing_byte_is_noticed() {
        let (_directory, sealed) = place();
        sealed.save(&login()).unwrap();
        let whole = fs::read(sealed.path()).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(sealed.path(), bytes).unwrap();
            matches!(sealed.load(), Err(StoreError::Damaged { .. }))
        };
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            assert!(refused(&changed), "byte {index}");
            assert!(refused(&whole[..index]), "first {index} bytes");
        }
        assert!(refused(&[whole.as_slice(), b"x"].concat()));
        fs::write(sealed.path(), &whole).unwrap();
        assert_eq!(token(&sealed), "canary.token.x");
    }

    #[test]
    fn file_of_another_account_or_machine_does_not_open() {
        let (directory, sealed) = place();
        sealed.save(&login()).unwrap();
        let other = Sealed {
            account: account("other.example"),
            directory: sealed.directory.clone(),
            machine_id: sealed.machine_id.clone(),
        };
        assert!(other.load().unwrap().is_none());
        fs::copy(sealed.path(), other.path()).unwrap();
        assert!(matches!(other.load(), Err(StoreError::Damaged { .. })));
        fs::write(directory.path().join("machine-id"), "another").unwrap();
        assert!(matches!(sealed.load(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        for of_key in [false, true] {
            let (_directory, sealed) = place();
            sealed.save(&login()).unwrap();
            let path = if of_key { sealed.key_path() } else { sealed.path() };
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let error = sealed.load().unwrap_err();
            assert!(matches!(error, StoreError::TooOpen { mode: 0o640, .. }), "{error:?}");
            assert_eq!(error.next_step(), format!("chmod 600 {}", path.display()));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(token(&sealed), "canary.token.x");
        }
    }

    #[test]
    fn missing_key_is_told_and_a_new_login_makes_a_new_one() {
        let (_directory, sealed) = place();
        sealed.save(&login()).unwrap();
        fs::remove_file(sealed.key_path()).unwrap();
        assert!(matches!(sealed.load(), Err(StoreError::KeyMissing { .. })));
        sealed.save(&login()).unwrap();
        assert_eq!(token(&sealed), "canary.token.x");
        fs::write(sealed.key_path(), b"short").unwrap();
        assert!(matches!(sealed.load(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn place_that_cannot_be_written_says_so_and_is_read_all_the_same() {
        let (_directory, sealed) = place();
        sealed.save(&login()).unwrap();
        // A directory in the way: root, as which tests may run, can write whatever the mode says.
        fs::create_dir(sealed.path().with_extension("new")).unwrap();
        let error = sealed.save(&Credentials::bare("new.token.x".to_owned().into(), 200)).unwrap_err();
        assert!(matches!(error, StoreError::Io { done: "written", .. }), "{error:?}");
        assert_eq!(token(&sealed), "canary.token.x");
        let nowhere = Sealed { directory: "/proc/nowhere".into(), ..sealed };
        assert!(matches!(nowhere.save(&login()), Err(StoreError::Io { done: "written", .. })));
        assert!(nowhere.load().unwrap().is_none());
    }

    #[test]
    fn what_a_crash_left_behind_is_no_obstacle() {
        let (_directory, sealed) = place();
        sealed.save(&login()).unwrap();
        fs::write(sealed.path().with_extension("new"), b"half").unwrap();
        sealed.save(&login()).unwrap();
        assert_eq!(token(&sealed), "canary.token.x");
    }
}
