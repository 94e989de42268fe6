//! The control socket: a Unix socket that only this user reaches.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The bound socket; its file goes away with it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    pub(crate) listener: UnixListener,
    pub(crate) file: SocketFile,
}

/// The socket's place in the file system.
///
/// Removed on drop if it was made here, unless somebody else has put another there. One that the service manager
/// made stays: it goes on listening.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    made: Option<Inode>,
}

type Inode = u64;

/// Why the control socket could not be opened at one path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "another tunneld{} listens on {}; stop it first: \
         systemctl --user stop tunneld.socket tunneld.service",
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})")), .path.display()
    )]
    AlreadyRunning { path: PathBuf, pid: Option<i32> },
    #[error("{} is in the way and is no socket; move it", .0.display())]
    NotASocket(PathBuf),
    #[error("{} belongs to another user", .0.display())]
    ForeignDirectory(PathBuf),
    #[error("cannot listen on {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ControlSocket {
    /// Listens on `path`: the file 0600, its directory 0700 if it has to be made.
    ///
    /// A socket that is there already is replaced only if nobody answers on it.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        let directory = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        own_directory(directory, path)?;
        refuse_if_in_use(path)?;
        // Bound beside and renamed: there is no moment with wider rights or without a socket.
        let fresh = path.with_extension("new");
        let _absent_is_fine = fs::remove_file(&fresh);
        let listener = StdUnixListener::bind(&fresh).map_err(failed)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(&fresh).map_err(failed)?.ino();
        fs::rename(&fresh, path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), made: Some(inode) } })
    }

    /// Takes over a socket that the service manager listens on.
    pub(crate) fn inherited(listener: StdUnixListener, path: PathBuf) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, file: SocketFile { path, made: None } })
    }
}

impl SocketFile {
    /// Where clients find it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(made) = self.made else { return };
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == made);
        if ours {
            // A file that stays is replaced by the next start.
            let _left_behind = fs::remove_file(&self.path);
        }
    }
}

fn own_directory(directory: &Path, path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let meta = fs::metadata(directory).map_err(failed)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::ForeignDirectory(directory.to_owned()));
    }
    // Only a directory of our name is ours to tighten: a state directory may be the user's own choice.
    let named_for_us = directory.file_name().is_some_and(|name| name == "tunneld");
    if named_for_us && meta.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

fn refuse_if_in_use(path: &Path) -> Result<(), SocketError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let pid = rustix::net::sockopt::socket_peercred(&stream)
                .ok()
                .map(|peer| peer.pid.as_raw_nonzero().get());
            Err(SocketError::AlreadyRunning { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(SocketError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_and_directory_are_for_this_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tunneld/api.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn socket_that_somebody_listens_on_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let _first = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = ControlSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn socket_of_the_service_manager_stays_when_we_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let manager = StdUnixListener::bind(&path).unwrap();
        let passed = manager.try_clone().unwrap();
        drop(ControlSocket::inherited(passed, path.clone()).unwrap());
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn file_in_the_way_is_not_touched() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn socket_of_a_successor_survives_our_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let first = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ControlSocket::bind(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
    }
}
