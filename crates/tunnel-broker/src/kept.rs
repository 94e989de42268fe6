//! An answer that is put aside while another backend is asked.

use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use hyper::body::Incoming;

use crate::conn::Conn;
use crate::exchange::collect;
use crate::table::Route;

/// A backend's refusal as a whole: if no other does better the caller gets it as it is.
pub(crate) struct Kept {
    pub(crate) route: Route,
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
}

/// Longest body of an answer that is put aside. Errors of model servers have a few hundred bytes, pages of a
/// proxy a few thousand.
pub(crate) const LONGEST: usize = 64 << 10;
/// Longest time for reading it: its headers are here, and a refusal is written in one piece.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Reads the body of an answer that is put aside. None when it does not end in time, or is too long.
pub(crate) async fn read(conn: &mut Conn, body: Incoming) -> Option<Bytes> {
    tokio::time::timeout(READ_LIMIT, collect(conn, body, LONGEST)).await.ok()?.ok()
}
