//! When two names mean the same model.

use std::cmp::Ordering;

const LATEST: &str = ":latest";

/// Adds `:latest` to a name without a tag. A colon before the last slash is a registry's port.
pub fn with_tag(name: &str) -> String {
    if has_tag(name) { name.to_owned() } else { format!("{name}{LATEST}") }
}

fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().unwrap_or(name).contains(':')
}

/// Tells whether two names mean the same model for Ollama: letters in any case, and `:latest` where no tag is.
pub fn same_model(a: &str, b: &str) -> bool {
    compare_models(a, b) == Ordering::Equal
}

/// Orders names so that those which mean the same model are equal. Copies nothing.
pub fn compare_models(a: &str, b: &str) -> Ordering {
    folded(a).cmp(folded(b))
}

fn folded(name: &str) -> impl Iterator<Item = u8> {
    let tag = if has_tag(name) { "" } else { LATEST };
    name.bytes().chain(tag.bytes()).map(|byte| byte.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_a_registry_name_is_no_tag() {
        assert_eq!(with_tag("host:5000/me/x"), "host:5000/me/x:latest");
        assert_eq!(with_tag("host:5000/me/x:1"), "host:5000/me/x:1");
    }

    #[test]
    fn without_a_tag_latest_is_meant_and_case_does_not_matter() {
        assert!(same_model("Llama3", "llama3:latest"));
        assert!(!same_model("llama3", "llama3:8b"));
        assert!(!same_model("llama3", "llama3:latest2"));
        assert_eq!(compare_models("a", "b:1"), Ordering::Less);
    }
}
