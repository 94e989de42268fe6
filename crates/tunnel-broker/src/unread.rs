//! Ends answers that nobody reads: the slot and the backend's connection are others'.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::books::Books;

/// How often it is looked whose turn it is. Looking costs the data path nothing but a flag.
const LOOK: Duration = Duration::from_secs(30);
/// Looks in a row after which a caller is taken for one that does not come back, such as a program that was stopped:
/// five minutes.
const LOOKS: u32 = 10;

/// Looks, until `shutdown`, for callers that do not read what they are sent.
pub(crate) async fn watch(books: Arc<Books>, shutdown: CancellationToken) {
    let looking = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let n_ended = books.cancel_unread(LOOKS);
            if n_ended > 0 {
                let limit = LOOK * LOOKS;
                warn!(n_ended, ?limit, "answers were ended whose callers did not read on");
            }
        }
    };
    shutdown.run_until_cancelled(looking).await;
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::uri::PathAndQuery;

    use super::*;
    use crate::broker::Ingress;
    use crate::track::Track;

    #[test]
    fn who_stops_reading_is_ended_and_who_waits_for_the_backend_is_not() {
        let books = Books::new();
        let track = || {
            let path = PathAndQuery::from_static("/api/chat");
            let track = Arc::new(Track::new(HeaderValue::from_static("r"), Ingress::Local, None, path, None));
            books.begin(&track);
            track
        };
        let (stopped, slow, waiting) = (track(), track(), track());
        for look in 0..=LOOKS {
            stopped.handed(true);
            slow.handed(true);
            slow.bytes_out.fetch_add(u64::from(look % 5 == 0), std::sync::atomic::Ordering::Relaxed);
            waiting.handed(false);
            assert!(!stopped.is_cancelled(), "{look}");
            if books.cancel_unread(LOOKS) > 0 {
                assert_eq!(look + 1, LOOKS);
                break;
            }
        }
        assert!(stopped.is_cancelled() && !slow.is_cancelled() && !waiting.is_cancelled());
    }
}
