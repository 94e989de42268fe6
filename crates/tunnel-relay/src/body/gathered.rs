//! Answers that were put together from what devices said: long enough that somebody has to see whether they are read.

use std::sync::Arc;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::unread::Reader;

/// Longest piece that is handed out at once: hyper holds one until there is room for it.
const PIECE_MAX_BYTES: usize = 16 * 1024;

/// What is left of such an answer.
#[derive(Debug)]
pub(crate) struct Gathered {
    rest: Bytes,
    reader: Arc<Reader>,
}

impl Gathered {
    /// `cost` is given up when the bytes are gone.
    pub(super) fn new<T: Send + 'static>(bytes: Bytes, cost: T, reader: Arc<Reader>) -> Self {
        let owed = Owed(Arc::clone(&reader));
        Self { rest: kept(bytes, (cost, owed)), reader }
    }

    /// Takes the next piece. Who asks for one has room again.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.rest.is_empty() {
            // The last piece may still wait.
            return None;
        }
        self.reader.asked();
        let piece = self.rest.split_to(self.rest.len().min(PIECE_MAX_BYTES));
        self.reader.handed_out();
        Some(Frame::data(piece))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Nothing is owed any more when the last piece is gone. hyper drops the body when it has taken that piece, which then
/// may wait for the caller for as long as the connection lives.
struct Owed(Arc<Reader>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.asked();
    }
}

/// Ties bytes to what they cost, which is given up with the last piece of them, wherever that waits to be sent.
pub(crate) fn kept<T: Send + 'static>(bytes: Bytes, cost: T) -> Bytes {
    struct Kept<T> {
        bytes: Bytes,
        _cost: T,
    }
    impl<T> AsRef<[u8]> for Kept<T> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Kept { bytes, _cost: cost })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_to_its_end_is_given_up_with_what_it_costs() {
        let limit = Duration::from_secs(10);
        let reader = Arc::new(Reader::new());
        let cost = Arc::new(());
        let text = Bytes::from(vec![b'x'; 2 * PIECE_MAX_BYTES + 1]);
        let mut answer = Gathered::new(text, Arc::clone(&cost), Arc::clone(&reader));
        let mut stalled = std::pin::pin!(reader.stalled(|| limit));
        assert!(tokio::time::timeout(2 * limit, stalled.as_mut()).await.is_err(), "nothing was handed out");
        let first = answer.next().unwrap().into_data().unwrap();
        assert!(tokio::time::timeout(limit / 2, stalled.as_mut()).await.is_err());
        assert_eq!(answer.next().unwrap().into_data().unwrap().len(), first.len());
        assert_eq!(answer.size_hint().exact(), Some(1));
        assert!(tokio::time::timeout(2 * limit, stalled.as_mut()).await.is_ok(), "nobody reads");
        drop(answer);
        assert_eq!(Arc::strong_count(&cost), 2, "a piece is still on its way");
        drop(first);
        assert_eq!(Arc::strong_count(&cost), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_piece_is_watched_after_the_body_is_gone() {
        let limit = Duration::from_secs(10);
        for dropped in [true, false] {
            let reader = Arc::new(Reader::new());
            let mut answer = Gathered::new(Bytes::from_static(b"[]"), (), Arc::clone(&reader));
            let mut stalled = std::pin::pin!(reader.stalled(|| limit));
            let last = answer.next().unwrap();
            assert!(answer.is_end_stream() && answer.next().is_none());
            drop(answer);
            if dropped {
                drop(last);
                assert!(tokio::time::timeout(2 * limit, stalled.as_mut()).await.is_err(), "it was sent");
            } else {
                assert!(tokio::time::timeout(2 * limit, stalled.as_mut()).await.is_ok(), "it waits");
            }
        }
    }
}
