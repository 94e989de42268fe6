//! A TCP path on loopback that can be cut, refused and stalled.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to bytes on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Connections stay open and nothing moves.
    Stall,
    /// Connections are reset at once.
    Refuse,
}

pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    /// Grows at each cut: connections of an older number are reset.
    cuts: Arc<watch::Sender<u64>>,
    _tasks: JoinSet<()>,
}

impl Path {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let cuts = Arc::new(watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        let (modes, cut) = (mode.clone(), cuts.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Refuse {
                    reset(near);
                    continue;
                }
                connections.spawn(carry(near, target, modes.subscribe(), cut.subscribe()));
            }
        });
        Self { address, mode, cuts, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Resets what is connected.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    let Ok(far) = TcpStream::connect(target).await else { return reset(near) };
    let (mut near, mut far) = (near, far);
    {
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let both = async {
            tokio::join!(
                pump(&mut near_read, &mut far_write, modes.clone()),
                pump(&mut far_read, &mut near_write, modes)
            )
        };
        tokio::select! {
            // An end that closes is passed on as it is, with all that came before it.
            _ = both => return,
            _ = cut.changed() => {}
        }
    }
    reset(near);
    reset(far);
}

async fn pump(
    from: &mut tokio::net::tcp::ReadHalf<'_>,
    to: &mut tokio::net::tcp::WriteHalf<'_>,
    mut modes: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        let n = from.read(&mut buf).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        drop(modes.wait_for(|mode| *mode != Mode::Stall).await);
        to.write_all(&buf[..n]).await?;
    }
}

fn reset(stream: TcpStream) {
    let _gone = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
}
