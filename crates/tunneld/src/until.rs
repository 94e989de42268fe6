//! Waiting for a time that may never come.

/// Sleeps until then; for ever without a time.
pub(crate) async fn until(then: Option<std::time::Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}
