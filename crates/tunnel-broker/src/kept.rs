//! An answer that is put aside while another backend is asked.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::conn::Conn;
use crate::table::Route;

/// A backend's refusal: if no other does better the caller gets it as it is.
pub(crate) struct Kept {
    pub(crate) route: Route,
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
    /// Whether that is all of the body. If not it is never passed on as if it were.
    pub(crate) whole: bool,
}

/// Longest body of an answer that is put aside. Errors of model servers have a few hundred bytes, pages of a
/// proxy a few thousand.
pub(crate) const LONGEST: usize = 64 << 10;
/// Longest time for reading it: its headers are here, and a refusal is written in one piece.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Reads the body of an answer that is put aside, and tells whether that is all of it: of one that has no end, or none
/// in time, what has come says more than we could. None when it breaks off.
pub(crate) async fn read(conn: &mut Conn, mut body: Incoming) -> Option<(Bytes, bool)> {
    let mut all = BytesMut::new();
    let until = Instant::now() + READ_LIMIT;
    loop {
        let next = poll_fn(|cx| conn.poll_while(cx, |cx| pin!(&mut body).poll_frame(cx)));
        match tokio::time::timeout_at(until, next).await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                let room = LONGEST - all.len();
                all.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    return Some((all.freeze(), false));
                }
            }
            Ok(Some(Err(_))) => return None,
            Ok(None) => return Some((all.freeze(), true)),
            Err(_elapsed) => return (!all.is_empty()).then(|| (all.freeze(), false)),
        }
    }
}
