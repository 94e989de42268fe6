//! `GET /api/connections`, `POST /api/connections/detect`, `POST /api/connections/{id}/test`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tunnel_api::connection::{CLOUD_ID, ConnectionTest};
use tunnel_api::{Connection, Connections, Detected};
use url::Url;

use super::Api;
use super::error::ApiError;
use super::path::Path;
use super::query::Query;
use crate::tunnel::ROUND_TRIP_LIMIT;
use crate::view;

pub(super) async fn connections(State(api): State<Api>) -> Json<Connections> {
    let status = view::current(&api.status.borrow(), &api.broker);
    Json(Connections::new(status.connections.into_values(), status.timestamp))
}

/// What is looked at: the usual ports of this machine, or this address.
#[derive(Deserialize)]
pub(super) struct Where {
    url: Option<String>,
}

/// Looks for model servers.
pub(super) async fn detect(
    State(api): State<Api>,
    Query(Where { url }): Query<Where>,
) -> Result<Json<Detected>, ApiError> {
    let config = Arc::clone(&api.config.follow().borrow().config);
    let Some(url) = url else { return Ok(Json(api.detector.detect(&config).await)) };
    Ok(Json(api.detector.detect_at(base_address(&url)?, &config).await))
}

/// Reads an address that somebody names. It is not repeated: it may have a password in it.
fn base_address(text: &str) -> Result<Url, ApiError> {
    let plain = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    Url::parse(text).ok().filter(plain).ok_or_else(|| {
        let sentence = "url must be a server's base address such as http://gpu.lan:8080, without a user, a query or a \
                        fragment";
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
    })
}

/// Probes a model server; of the cloud it tells how the tunnel stands, with a round trip that was just measured.
pub(super) async fn test(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ConnectionTest>, ApiError> {
    let unknown = || {
        let sentence = "there is no connection with this id; GET /api/connections lists them";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_connection", sentence)
    };
    if id == CLOUD_ID {
        let round_trip = api.tunnel.round_trip().await;
        // Afterwards: a link that turned out to be dead is not connected any more.
        let connection = api.status.borrow().connections.get(CLOUD_ID).cloned().ok_or_else(unknown)?;
        return Ok(Json(cloud(connection, round_trip, Timestamp::now())));
    }
    let connection = view::connection(&api.broker.probe(&id).await.ok_or_else(unknown)?);
    Ok(Json(tested(connection, Timestamp::now())))
}

/// Judges the tunnel by the round trip that was just measured: what it was the last time says nothing of a link that
/// is dead and not known to be.
fn cloud(mut connection: Connection, round_trip: Option<Duration>, now: Timestamp) -> ConnectionTest {
    connection.latency = round_trip.map(|took| view::milliseconds(took.as_secs_f64()));
    connection.last_check = Some(now);
    let silent = connection.connected && round_trip.is_none();
    let mut test = tested(connection, now);
    if silent {
        test.ok = false;
        let limit = ROUND_TRIP_LIMIT.as_secs();
        test.message = format!("the relay did not answer a ping within {limit} s");
    }
    test
}

fn tested(connection: Connection, now: Timestamp) -> ConnectionTest {
    let report = connection.into_report(now);
    ConnectionTest {
        ok: report.connection.connected,
        message: report.status_description.clone(),
        connection: report,
        timestamp: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_whose_relay_is_silent_fails_the_test() {
        let connected = Connection { connected: true, latency: Some(1.0), ..Connection::default() };
        let now = Timestamp::UNIX_EPOCH;
        let silent = cloud(connected.clone(), None, now);
        assert_eq!(
            (silent.ok, silent.message.as_str()),
            (false, "the relay did not answer a ping within 5 s")
        );
        assert_eq!(silent.connection.connection.latency, None, "an old one is no answer");
        let alive = cloud(connected, Some(Duration::from_millis(3)), now);
        assert_eq!((alive.ok, alive.connection.connection.latency), (true, Some(3.0)));
        let down = cloud(Connection::default(), None, now);
        assert_eq!((down.ok, &down.message), (false, &down.connection.status_description));
    }
}
