//! `GET /api/devices`: asked of the relay, with the token of the tunnel.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tunnel_api::{Device, Devices, Warning};

use super::Api;
use super::error::ApiError;
use crate::secrets::{Call, CallError, Endpoint, Way};
use crate::tunnel::advice;

/// Where a relay lists the devices of a token's subject.
const RELAYS_LIST: &str = "/_tunnel/v1/devices";
/// Longest time for the answer: somebody waits for it.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes: 256 devices with a list of models each.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// What the relay answers.
#[derive(Deserialize)]
struct Told {
    devices: Vec<Device>,
}

pub(super) async fn devices(State(api): State<Api>) -> Result<Json<Devices>, ApiError> {
    let settings = Arc::clone(&api.relay.borrow());
    if !settings.enabled {
        let sentence = "the tunnel is switched off in the config; set enableCloudProxy to true";
        return Err(ApiError::new(StatusCode::CONFLICT, "tunnel_disabled", sentence));
    }
    let token = api
        .token
        .current(&settings.relay)
        .map_err(|error| warned(StatusCode::CONFLICT, "no_token", &advice::no_token(&error)))?;
    let endpoint = Endpoint::of_relay(&settings.relay, RELAYS_LIST);
    let call = Call::get(&endpoint).with_bearer(&token.secret).within(LIMIT).up_to(MAX_ANSWER_BYTES);
    let answer = call.make(&Way::of(&settings)).await.map_err(unreachable)?;
    let relay = settings.relay.host();
    let sentence = match answer.status {
        StatusCode::OK => {
            let told: Option<Told> = serde_json::from_slice(&answer.body).ok();
            let Some(Told { devices }) = told else {
                let sentence =
                    format!("{relay} did not answer as a relay does; check cloudProxyUrl in the config");
                return Err(ApiError::new(StatusCode::BAD_GATEWAY, "not_a_relay", sentence));
            };
            return Ok(Json(Devices {
                devices,
                this_device: settings.device.to_string(),
                timestamp: Timestamp::now(),
            }));
        }
        StatusCode::UNAUTHORIZED => {
            format!("{relay} does not take the token any more; store a new one: tunnelctl login")
        }
        StatusCode::TOO_MANY_REQUESTS => format!("{relay} was asked too often; ask again in a minute"),
        StatusCode::NOT_FOUND => format!("{relay} has no list of devices; it takes a newer relay"),
        status => format!("{relay} answered {status}; ask its operator, or again in a while"),
    };
    Err(ApiError::new(StatusCode::BAD_GATEWAY, "relay_refused", sentence))
}

fn unreachable(error: CallError) -> ApiError {
    warned(StatusCode::BAD_GATEWAY, "relay_unreachable", &advice::call(error))
}

fn warned(status: StatusCode, code: &'static str, warning: &Warning) -> ApiError {
    ApiError::new(status, code, format!("{}; {}", warning.message, warning.next_step))
}
