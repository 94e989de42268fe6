//! An authorization server that answers as it was told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use url::form_urlencoded;

use crate::secrets::Endpoint;

/// Answers on loopback until the test ends; without an answer left it keeps the caller waiting.
#[derive(Clone)]
pub(crate) struct Issuer {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    answers: VecDeque<String>,
    forms: Vec<Form>,
    kept_waiting: Vec<TcpStream>,
}

/// What was posted, with the path under `path`.
pub(crate) type Form = BTreeMap<String, String>;

impl Issuer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Self { address: listener.local_addr().unwrap(), book: Arc::default() };
        let serving = issuer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serving.answer(stream.unwrap());
            }
        });
        issuer
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        for line in reader.by_ref().lines() {
            let line = line.unwrap().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut form: Form = form_urlencoded::parse(&body).into_owned().collect();
        form.insert("path".to_owned(), first.split(' ').nth(1).unwrap().to_owned());
        let mut book = self.book.lock().unwrap();
        book.forms.push(form);
        match book.answers.pop_front() {
            Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            None => book.kept_waiting.push(stream),
        }
    }

    /// What it says to the next form that has no answer yet.
    pub(crate) fn will_answer(&self, status: u16, body: &Value) {
        self.will_say(
            &format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"),
            &body.to_string(),
        );
    }

    pub(crate) fn will_say(&self, head: &str, body: &str) {
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.book.lock().unwrap().answers.push_back(answer);
    }

    /// Answers one who was kept waiting.
    pub(crate) fn answer_waiting(&self, body: &Value) {
        let body = body.to_string();
        let mut stream = self.book.lock().unwrap().kept_waiting.pop().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    }

    pub(crate) fn forms(&self) -> Vec<Form> {
        self.book.lock().unwrap().forms.clone()
    }

    pub(crate) fn endpoint(&self, path: &str) -> Endpoint {
        Endpoint::parse(&self.url(path)).unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
