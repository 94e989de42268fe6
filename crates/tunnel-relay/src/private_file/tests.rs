use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_secret_is_made_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.key");
    assert!(matches!(read_secret(&path), Err(PrivateFileError::Io { .. })), "reading makes none");
    let made = secret(&path).unwrap();
    assert_eq!((secret(&path).unwrap(), read_secret(&path).unwrap()), (made.clone(), made.clone()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    assert_ne!(secret(&dir.path().join("other")).unwrap(), made);
}

#[test]
fn a_secret_that_others_can_read_or_that_is_none_is_refused_with_the_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin-token");
    secret(&path).unwrap();
    set_mode(&path, 0o640);
    for refused in [secret(&path), read_secret(&path)] {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("0640") && error.contains(&format!("chmod 600 {} (", path.display())),
            "{error}"
        );
        assert!(error.contains("remove it: a new one is made"), "{error}");
    }
    set_mode(&path, 0o600);
    for content in ["short\n".to_owned(), "g".repeat(64), "\u{fc}".repeat(32)] {
        fs::write(&path, content).unwrap();
        let error = secret(&path).unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits") && error.contains("remove it"), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_made_anew_is_not_to_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked");
    append(&path, b"one\n").unwrap();
    set_mode(&path, 0o604);
    let error = read(&path, 100).unwrap_err().to_string();
    assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
}

#[test]
fn a_credential_may_show_that_its_group_reads_it_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (dir.path().join("supabase.secret"), dir.path().join("sub").join("secret"));
    replace(&path, b"secret").unwrap();
    fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    replace(&elsewhere, b"secret").unwrap();
    let is_taken = |path: &Path, mode, credentials| {
        set_mode(path, mode);
        read_where(path, 100, credentials).is_ok()
    };
    assert!(is_taken(&path, 0o440, Some(dir.path())) && is_taken(&path, 0o400, Some(dir.path())));
    for mode in [0o404, 0o444, 0o460, 0o420, 0o450, 0o2440] {
        assert!(!is_taken(&path, mode, Some(dir.path())), "{mode:o}");
    }
    assert!(!is_taken(&path, 0o440, None) && !is_taken(&path, 0o440, Some(Path::new(""))));
    assert!(!is_taken(&elsewhere, 0o440, Some(dir.path())));
}

#[test]
fn what_is_too_long_or_no_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    replace(&path, b"12345").unwrap();
    assert_eq!(read(&path, 5).unwrap().unwrap().0, b"12345");
    assert!(matches!(read(&path, 4), Err(PrivateFileError::TooLong { max: 4, .. })));
    assert!(matches!(read(dir.path(), 5), Err(PrivateFileError::WrongKind { expected: "regular file", .. })));
    assert!(read(&dir.path().join("none"), 5).unwrap().is_none());
}

#[test]
fn a_file_that_is_there_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    replace(&path, b"first").unwrap();
    assert_eq!(read_or_make(&path, 100, || Ok("second".to_owned())).unwrap(), b"first");
    // As by another process, between the look and the making.
    create(&path, b"third").unwrap();
    assert_eq!(read(&path, 100).unwrap().unwrap().0, b"first");
}

#[test]
fn every_change_has_another_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    assert_eq!(stamp(&path).unwrap(), None);
    append(&path, b"one\n").unwrap();
    let first = stamp(&path).unwrap().unwrap();
    append(&path, b"two\n").unwrap();
    let second = stamp(&path).unwrap().unwrap();
    assert_ne!(first, second);
    assert_eq!(second.bytes(), 8);
    replace(&path, b"one\ntwo\n").unwrap();
    assert_ne!(stamp(&path).unwrap().unwrap(), second, "another file with the same content");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
