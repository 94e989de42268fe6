//! Lists of models as Ollama and OpenAI write them. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::choose::Listing;

/// A list of either API. Entries stay as their server wrote them.
#[derive(Deserialize)]
struct Entries<'a> {
    #[serde(borrow)]
    models: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
}

/// What is looked at of an entry.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    /// Ollama has the name under both.
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    modified_at: Option<Cow<'a, str>>,
}

impl Listing {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Tags => "/api/tags",
            Self::Running => "/api/ps",
            Self::Models => "/v1/models",
        }
    }

    fn entries<'a>(self, list: &'a [u8]) -> Option<Vec<&'a RawValue>> {
        let entries: Entries<'a> = serde_json::from_slice(list).ok()?;
        match self {
            Self::Tags | Self::Running => entries.models,
            Self::Models => entries.data,
        }
    }
}

/// Most models of one device: short entries take many times their length while they are put together.
const ENTRIES_MAX: usize = 4_096;

/// Tells whether a device's answer is such a list, and not too long.
pub(super) fn is_list(listing: Listing, bytes: &[u8]) -> bool {
    listing.entries(bytes).is_some_and(|entries| entries.len() <= ENTRIES_MAX)
}

/// Puts lists together. Of entries with the same name the newest stays, or else that of the earliest list; entries
/// whose names are not `shown`, or that have none, are left out.
pub(super) fn merge<'a>(
    listing: Listing,
    lists: impl Iterator<Item = &'a [u8]>,
    shown: impl Fn(&str) -> bool,
) -> String {
    let mut merged: Vec<(&RawValue, Option<Timestamp>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for raw in lists.filter_map(|list| listing.entries(list)).flatten() {
        let Ok(entry) = serde_json::from_str::<Entry<'_>>(raw.get()) else { continue };
        let (name, alias) = match listing {
            Listing::Models => (entry.id, None),
            Listing::Tags | Listing::Running => (entry.name.clone().or(entry.model.clone()), entry.model),
        };
        let Some(name) = name else { continue };
        if !shown(&name) || alias.is_some_and(|alias| !shown(&alias)) {
            continue;
        }
        let modified = entry.modified_at.and_then(|at| at.parse::<Timestamp>().ok());
        match places.get(name.as_ref()) {
            None => {
                places.insert(name.into_owned(), merged.len());
                merged.push((raw, modified));
            }
            Some(place) if modified > merged[*place].1 => merged[*place] = (raw, modified),
            Some(_) => {}
        }
    }
    let entries: Vec<&str> = merged.iter().map(|(raw, _)| raw.get()).collect();
    let entries = entries.join(",");
    match listing {
        Listing::Tags | Listing::Running => format!("{{\"models\":[{entries}]}}"),
        Listing::Models => format!("{{\"object\":\"list\",\"data\":[{entries}]}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(listing: Listing, lists: &[&str], shown: impl Fn(&str) -> bool) -> String {
        merge(listing, lists.iter().map(|list| list.as_bytes()), shown)
    }

    #[test]
    fn entries_stay_as_they_were_and_the_newest_of_a_name_counts() {
        let one =
            r#"{"models":[{"name":"a","size":1.50,"modified_at":"2026-01-01T00:00:00Z"},{"name":"b"}]}"#;
        let other = r#"{"models":[{"name":"c"},{"name":"a","modified_at":"2026-01-01T00:00:01+00:00"},{"name":"b","x":1}]}"#;
        assert_eq!(
            merged(Listing::Tags, &[one, other], |_| true),
            r#"{"models":[{"name":"a","modified_at":"2026-01-01T00:00:01+00:00"},{"name":"b"},{"name":"c"}]}"#
        );
        assert!(merged(Listing::Tags, &[other, one], |_| true).contains(r#"{"name":"b","x":1}"#));
    }

    #[test]
    fn openai_lists_go_by_id_and_what_is_not_shown_is_left_out() {
        let one =
            r#"{"object":"list","data":[{"id":"a","object":"model"},{"id":"secret"},{"object":"model"},5]}"#;
        assert_eq!(
            merged(Listing::Models, &[one, one], |name| name != "secret"),
            r#"{"object":"list","data":[{"id":"a","object":"model"}]}"#
        );
        let alias = r#"{"models":[{"name":"a","model":"secret"},{"model":"b"}]}"#;
        assert_eq!(
            merged(Listing::Running, &[alias], |name| name != "secret"),
            r#"{"models":[{"model":"b"}]}"#
        );
    }

    #[test]
    fn what_is_no_list_is_told_from_an_empty_one() {
        assert!(is_list(Listing::Tags, br#"{"models":[]}"#));
        assert!(is_list(Listing::Models, br#"{"data":[],"object":"list"}"#));
        for bytes in [&b"{}"[..], b"[]", b"", br#"{"models":null}"#, br#"{"data":[]}"#, b"{\"models\":[]"] {
            assert!(!is_list(Listing::Tags, bytes));
        }
        let many = |n| format!("{{\"models\":[{}]}}", vec!["{}"; n].join(","));
        assert!(is_list(Listing::Tags, many(ENTRIES_MAX).as_bytes()));
        assert!(!is_list(Listing::Tags, many(ENTRIES_MAX + 1).as_bytes()));
    }
}
