//! What the relay is told of this desktop.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tunnel_transport::{PRESENCE_PATH, ResponseBody};

use super::*;

async fn line(body: &mut ResponseBody) -> Option<Value> {
    let frame = tokio::time::timeout(LIMIT, body.frame()).await.expect("a line, or the end")?;
    let data = frame.unwrap().into_data().unwrap();
    // The end may come as a piece of its own.
    if data.is_empty() {
        return None;
    }
    assert_eq!(data.iter().filter(|byte| **byte == b'\n').count(), 1);
    Some(serde_json::from_slice(&data).unwrap())
}

#[tokio::test]
async fn relay_is_told_at_once_and_of_each_change_until_the_tunnel_stops() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let answer = relay.session(0).send(get(PRESENCE_PATH)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut body = answer.into_body();
    assert_eq!(line(&mut body).await, Some(json!({ "models": [], "in_flight": 0, "preferred": false })));
    desktop.change(|settings| settings.preferred = true);
    assert_eq!(line(&mut body).await, Some(json!({ "models": [], "in_flight": 0, "preferred": true })));

    // The open answer holds nothing up.
    let stopping = Instant::now();
    desktop.handle.give(Order::Stop).await.unwrap();
    assert_eq!(line(&mut body).await, None);
    desktop.until_state(TunnelState::Disconnected).await;
    assert!(stopping.elapsed() < LIMIT / 2, "{:?}", stopping.elapsed());
}

#[tokio::test]
async fn a_change_of_the_preference_does_not_dial_anew() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.change(|settings| settings.preferred = true);
    let answer = relay.session(0).send(get(PRESENCE_PATH)).await.unwrap();
    assert_eq!(line(&mut answer.into_body()).await.unwrap()["preferred"], true);
    assert_eq!(relay.n_sessions(), 1);
    let post = Request::post(format!("http://desk{PRESENCE_PATH}")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(relay.session(0).send(post).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}
