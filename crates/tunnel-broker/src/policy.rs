//! What a request from the tunnel may reach. Pure: no I/O, no configuration files.
//!
//! A path is never rewritten: either its bytes are in the one normal form that is matched, and then the same
//! bytes are forwarded, or the request is denied. So there is no second reading of a path that could differ.

use std::borrow::Cow;

use http::Method;
use tunnel_sniff::asks_a_model;

use crate::rule::PathRule;

/// The paths that are open to callers from the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RemotePaths {
    /// Inference and listing: what [`asks_a_model`] knows, and models, version.
    #[default]
    Inference,
    /// Every path, as long as its spelling has one meaning only.
    All,
    /// What one of the rules matches. Empty: nothing.
    Rules(Vec<PathRule>),
}

/// Why a request from the tunnel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The path is spelled in a way that servers read differently.
    #[error("the path is not in its normal spelling")]
    Ambiguous,
    /// Method and path are well formed but not open.
    #[error("the path is not open to remote callers")]
    NotOpen,
}

impl RemotePaths {
    /// Decides on a request by its method and its target in origin form (`/path?query`).
    ///
    /// The query is not looked at, except that it must be printable ASCII without a fragment.
    ///
    /// # Errors
    ///
    /// [`Denied`] says whether the spelling or the path is the reason.
    pub fn allows(&self, method: &Method, path_and_query: &str) -> Result<(), Denied> {
        let path = path_of(path_and_query)?;
        match self {
            Self::Inference => inference(method, path),
            Self::All => unambiguous(path),
            Self::Rules(rules) => {
                strict(path)?;
                if rules.iter().any(|rule| rule.matches(method, path)) {
                    Ok(())
                } else {
                    Err(Denied::NotOpen)
                }
            }
        }
    }
}

const READS: &[&str] = &["/", "/api/tags", "/api/ps", "/api/version"];
const MODELS: &str = "/v1/models";

fn inference(method: &Method, path: &str) -> Result<(), Denied> {
    let open = match *method {
        Method::GET => READS.contains(&path) || path == MODELS || is_model_path(path),
        Method::HEAD => READS.contains(&path),
        Method::POST => asks_a_model(path),
        _ => false,
    };
    if open {
        return Ok(());
    }
    // A model's id may be percent-encoded; everything else must be spelled out.
    strict(path)?;
    Err(Denied::NotOpen)
}

fn is_model_path(path: &str) -> bool {
    let id = path.strip_prefix(MODELS).and_then(|rest| rest.strip_prefix('/'));
    id.is_some_and(|id| model_id(id).is_some())
}

/// Returns the model that the rest of a `/v1/models/{id}` path names.
///
/// Takes `/`, `:` and `@` as they are or percent-encoded (`%2F`, `%3A`, `%40`, upper case as clients write
/// them), once; nothing else may be encoded. None when the id is not one.
pub(crate) fn model_id(spelled: &str) -> Option<Cow<'_, str>> {
    let id = if spelled.contains('%') {
        let decoded = spelled.replace("%2F", "/").replace("%3A", ":").replace("%40", "@");
        Cow::Owned(decoded)
    } else {
        Cow::Borrowed(spelled)
    };
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
    let well_formed =
        id.bytes().all(plain) && id.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    well_formed.then_some(id)
}

/// Splits off the query and refuses what no HTTP request target has.
fn path_of(target: &str) -> Result<&str, Denied> {
    let printable = target.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#');
    let path = target.split('?').next().unwrap_or_default();
    let rooted = path.starts_with('/');
    if printable && rooted { Ok(path) } else { Err(Denied::Ambiguous) }
}

/// Accepts the normal form: segments of unreserved characters and `:@+`, nothing encoded, no trailing slash.
fn strict(path: &str) -> Result<(), Denied> {
    if path == "/" {
        return Ok(());
    }
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(is_plain);
    // Cannot panic: `path_of` has seen the slash.
    if path[1..].split('/').all(segment) { Ok(()) } else { Err(Denied::Ambiguous) }
}

/// The characters that a segment may have in the normal form.
pub(crate) fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'+')
}

/// Accepts any path that every server reads in the same way.
fn unambiguous(path: &str) -> Result<(), Denied> {
    let bytes = path.as_bytes();
    if path.contains("//") || path.contains('\\') {
        return Err(Denied::Ambiguous);
    }
    if path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | ".."))) {
        return Err(Denied::Ambiguous);
    }
    for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'%') {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded =
            hex.filter(|hex| !hex.starts_with('+')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        // An encoded `%` would be decoded twice by some; bytes beyond ASCII have more than one form.
        match decoded {
            Some(b'/' | b'\\' | b'.' | b'%' | b'?' | b'#' | b';') | None => return Err(Denied::Ambiguous),
            Some(b) if b.is_ascii_control() || !b.is_ascii() => return Err(Denied::Ambiguous),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
