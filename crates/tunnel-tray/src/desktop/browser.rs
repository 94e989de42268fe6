//! The desktop's browser.

use std::ffi::{OsStr, OsString};

use super::programs;
use super::terminal::Surroundings;

/// Opens what the user has chosen for addresses.
const OPENER: &str = "xdg-open";

/// Opens an address. The error is for a person, and does not repeat it.
pub(crate) async fn open(surroundings: &Surroundings, url: String) -> Result<(), String> {
    let opener = programs::find(OsStr::new(OPENER), surroundings.path.as_deref());
    let Some(opener) = opener.filter(|_| surroundings.has_display) else {
        return Err(format!("there is no {OPENER} to open a browser with"));
    };
    programs::leave(vec![opener.into(), OsString::from(url)]).await
}
