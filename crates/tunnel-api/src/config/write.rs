//! How values are written that serde would write otherwise.

use std::time::Duration;

use serde::Serializer;
use url::Url;

pub(super) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

pub(super) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Writes a whole number without `.0`, as people write it.
pub(super) fn percent<S: Serializer>(percent: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if percent.fract() == 0.0 {
        serializer.serialize_u8(*percent as u8)
    } else {
        serializer.serialize_f64(*percent)
    }
}

/// Writes an address as people write it: without the slash that the parser adds to an empty path.
pub(super) fn url_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let text = url.as_str();
    serializer.serialize_str(if bare { text.strip_suffix('/').unwrap_or(text) } else { text })
}

pub(super) fn optional_url_text<S: Serializer>(url: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => url_text(url, serializer),
        None => serializer.serialize_none(),
    }
}
