//! What the menu shows of the configuration.

use tunnel_api::config_api::{ConfigOrigins, Layer};
use tunnel_client::{Client, Error};
use zbus::Connection;

use crate::desktop::systemd;
use crate::view::Settings;

/// Asks for the settings. As long as nobody has set whether the daemon starts at login, systemd's word counts.
pub(super) async fn settings(client: &Client, connection: &Connection) -> Result<Settings, Error> {
    let mut settings = Settings::read(&client.config().await?);
    if !settings.start_at_login && client.config_origins().await.is_ok_and(|origins| is_unsaid(&origins)) {
        settings.start_at_login = systemd::starts_daemon_at_login(connection).await;
    }
    Ok(settings)
}

fn is_unsaid(origins: &ConfigOrigins) -> bool {
    origins.origins.get("autoStartOnBoot").is_none_or(|origin| origin.from == Layer::Default)
}
