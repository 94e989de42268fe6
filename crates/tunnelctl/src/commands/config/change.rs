//! `tunnelctl config set` and `reload`.

use serde_json::Value;
use tunnel_client::{Client, exit};

use super::{answer, keys};
use crate::output::Output;

/// Changes one key in the file, and tells what came of it.
pub(super) async fn set(client: &Client, key: &str, value: &str, output: &Output) -> anyhow::Result<u8> {
    if key.split('.').any(str::is_empty) {
        output.error(&format!("\"{key}\" is no key; name one such as ollamaPort or queue.maxWait"));
        return Ok(exit::USAGE);
    }
    let before = client.config().await?;
    match client.patch_config(&keys::patch(key, meant(value))).await {
        Ok(done) => answer::changed_at(Some(key), &before, &done, output),
        Err(error) => answer::refused(error, output),
    }
}

/// Reads a value as people type it: JSON where it is JSON, else a text.
fn meant(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))
}

pub(super) async fn reload(client: &Client, output: &Output) -> anyhow::Result<u8> {
    match client.reload_config().await {
        Ok(done) => answer::done(&done, output),
        Err(error) => answer::refused(error, output),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_json_or_text() {
        assert_eq!(meant("30"), json!(30));
        assert_eq!(meant("null"), Value::Null);
        assert_eq!(meant("[\"POST /api/chat\"]"), json!(["POST /api/chat"]));
        assert_eq!(meant("DEBUG"), json!("DEBUG"));
        assert_eq!(meant("\"11434\""), json!("11434"));
        assert_eq!(meant("192.168.1.1"), json!("192.168.1.1"));
        assert_eq!(meant(""), json!(""));
    }
}
