//! A desktop that dials as it should and then says whatever it likes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Opcodes of WebSocket.
const BINARY: u8 = 0x2;
const PING: u8 = 0x9;

/// The link's frames: DATA, ACK, TOKEN.
const LINK_DATA: u8 = 0x0;
const LINK_ACK: u8 = 0x1;
const LINK_TOKEN: u8 = 0x2;

/// Dials with this token; the socket is an open tunnel afterwards.
pub async fn dial(relay: SocketAddr, token: &str, device: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(relay).await?;
    let head = format!(
        "GET /_tunnel/v1/connect HTTP/1.1\r\nhost: relay\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         sec-websocket-protocol: tunnel.v1\r\nauthorization: Bearer {token}\r\ntunnel-device: {device}\r\n\
         tunnel-agent: hostile/1\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.context("the relay closed during the dial")?);
    }
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 101"), "the dial was refused: {answer}");
    Ok(stream)
}

/// A message, masked with a key of zeros.
fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0x80 | opcode];
    match u16::try_from(payload.len()).expect("tests send short messages") {
        len @ 0..=125 => message.push(0x80 | len as u8),
        len => {
            message.push(0x80 | 126);
            message.extend(len.to_be_bytes());
        }
    }
    message.extend([0; 4]);
    message.extend(payload);
    message
}

/// Bytes of the tunnel's HTTP/2.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    message(BINARY, &[&[LINK_DATA], bytes].concat())
}

/// An acknowledgement of nothing.
pub fn ack() -> Vec<u8> {
    message(BINARY, &[LINK_ACK, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A refreshed token.
pub fn token(token: &str) -> Vec<u8> {
    message(BINARY, &[&[LINK_TOKEN], token.as_bytes()].concat())
}

/// A frame of a type that there is not.
pub fn garbage() -> Vec<u8> {
    message(BINARY, b"\xffgarbage")
}

/// A ping of WebSocket.
pub fn ping() -> Vec<u8> {
    message(PING, b"12345678")
}
