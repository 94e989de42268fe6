//! Dials through scripted proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_transport::{AcceptorConfig, DialError, Proxy};

use crate::connector_through;
use crate::relay::Relay;

/// A proxy that notes what it is asked for and connects to the relay whatever that is.
struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy)]
enum Script {
    Http(&'static str),
    /// The reply byte of SOCKS.
    Socks(u8),
}

impl Scripted {
    async fn start(script: Script, relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<u8>>> = Arc::default();
        let notes = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let heard = match script {
                    Script::Http(answer) => http(&mut near, answer).await,
                    Script::Socks(reply) => socks(&mut near, reply).await,
                };
                notes.lock().unwrap().extend(heard);
                let mut far = TcpStream::connect(relay).await.unwrap();
                let _ended = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    fn asked(&self) -> String {
        String::from_utf8_lossy(&self.asked.lock().unwrap()).into_owned()
    }
}

async fn http(near: &mut TcpStream, answer: &str) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.unwrap());
    }
    near.write_all(answer.as_bytes()).await.unwrap();
    head
}

async fn socks(near: &mut TcpStream, reply: u8) -> Vec<u8> {
    let mut greeting = [0; 3];
    near.read_exact(&mut greeting).await.unwrap();
    near.write_all(&[5, greeting[2]]).await.unwrap();
    let mut heard = Vec::new();
    if greeting[2] == 2 {
        let mut login = vec![0; 2 + 2 + 1 + 8];
        near.read_exact(&mut login).await.unwrap();
        heard.extend(login);
        near.write_all(&[1, 0]).await.unwrap();
    }
    let mut request = vec![0; 4 + 4 + 2];
    near.read_exact(&mut request).await.unwrap();
    heard.extend(&request);
    near.write_all(&[5, reply, 0, 3, 4]).await.unwrap();
    near.write_all(b"here\0\x01").await.unwrap();
    heard
}

async fn dial(relay: &Relay, proxy: &str) -> Result<(), DialError> {
    let proxy = Proxy::parse(proxy).unwrap();
    connector_through(&format!("http://{}", relay.address), Some(proxy)).dial().await.map(drop)
}

#[tokio::test]
async fn relay_is_reached_by_connect() {
    let relay = Relay::start(AcceptorConfig::default()).await;
    let answer = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
    let proxy = Scripted::start(Script::Http(answer), relay.address).await;
    dial(&relay, &format!("http://me:hunter2@{}", proxy.address)).await.unwrap();
    let asked = proxy.asked();
    assert!(asked.starts_with(&format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n", relay.address)), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n"), "{asked}");
    // The relay's token is for the relay.
    assert!(!asked.contains("Bearer"), "{asked}");
}

#[tokio::test]
async fn relay_is_reached_by_socks_with_a_login_and_without() {
    let relay = Relay::start(AcceptorConfig::default()).await;
    for login in ["", "me:hunter22@"] {
        let proxy = Scripted::start(Script::Socks(0), relay.address).await;
        dial(&relay, &format!("socks5://{login}{}", proxy.address)).await.unwrap();
        let port = relay.address.port().to_be_bytes();
        let asked = proxy.asked.lock().unwrap().clone();
        assert!(asked.ends_with(&[5, 1, 0, 1, 127, 0, 0, 1, port[0], port[1]]), "{asked:?}");
    }
}

#[tokio::test]
async fn refusal_of_a_proxy_names_it_and_not_the_login() {
    let relay = Relay::start(AcceptorConfig::default()).await;
    for (script, scheme, told) in [
        (Script::Http("HTTP/1.1 407 Login\r\n\r\n"), "http", "407"),
        (Script::Http("HTTP/1.1 502 Bad\r\n\r\n"), "http", "502"),
        (Script::Http("SSH-2.0-x\r\n\r\n"), "http", "does not speak HTTP"),
        (Script::Socks(5), "socks5", "refused"),
        (Script::Socks(2), "socks5", "rules"),
    ] {
        let proxy = Scripted::start(script, relay.address).await;
        let error = dial(&relay, &format!("{scheme}://me:hunter22@{}", proxy.address)).await.unwrap_err();
        let DialError::Unreachable { source, .. } = error else { panic!("{error}") };
        let source = source.to_string();
        assert!(source.contains(told) && source.contains(&proxy.address.to_string()), "{source}");
        assert!(!source.contains("hunter"), "{source}");
    }
}
