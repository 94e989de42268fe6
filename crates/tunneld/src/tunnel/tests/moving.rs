//! Moving to a second session beside the first.

use tunnel_transport::MIGRATE_PATH;

use super::*;

fn migrate() -> Request<Empty<Bytes>> {
    Request::post(format!("http://desk{MIGRATE_PATH}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn resumes_stay_counted_when_the_session_is_moved() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    relay.cut();
    desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
    assert_eq!(relay.session(0).send(migrate()).await.unwrap().status(), StatusCode::ACCEPTED);
    let report = desktop.until("the move", |report| report.tunnel.reconnects == 1).await;
    assert_eq!(report.tunnel.resumes, 1);
}

#[tokio::test]
async fn asked_to_move_dials_a_second_session_beside_the_first() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let first = relay.session(0);
    assert_eq!(first.send(migrate()).await.unwrap().status(), StatusCode::ACCEPTED);
    let report = desktop.until("the move", |report| report.tunnel.reconnects == 1).await;
    assert_eq!(report.tunnel.state, TunnelState::Connected);
    assert_eq!(relay.dials()[1].1.kind, DialKind::Migrate { session: first.id() });
    // Asked again, it says that it has moved.
    assert_eq!(first.send(migrate()).await.unwrap().status(), StatusCode::OK);
    // Both serve until the relay ends the first, which changes nothing.
    assert!(first.send(get("/api/version")).await.is_ok());
    first.close(Closed::new(CloseCode::Restarting, "0"));
    assert!(relay.session(1).send(get("/api/version")).await.is_ok());
    assert_eq!(desktop.handle.report().tunnel.state, TunnelState::Connected);
    assert_eq!(relay.dials().len(), 2);
}

#[tokio::test]
async fn sessions_before_and_after_a_move_have_the_newest_token() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let mut first = relay.session(0).tokens().unwrap();
    relay.holds.send_replace(true);
    assert_eq!(relay.session(0).send(migrate()).await.unwrap().status(), StatusCode::ACCEPTED);
    eventually("the dial", || relay.holds.receiver_count() == 1).await;
    let told = async |tokens: &mut mpsc::Receiver<_>| -> String {
        let told: secrecy::SecretString =
            tokio::time::timeout(LIMIT, tokens.recv()).await.expect("a token").unwrap();
        told.expose_secret().to_owned()
    };
    // It was dialled with the one before.
    desktop.write_token("second.token.x");
    assert_eq!(told(&mut first).await, "second.token.x");
    relay.holds.send_replace(false);
    desktop.until("the move", |report| report.tunnel.reconnects == 1).await;
    assert_eq!(relay.dials()[1].2, "Bearer first.token.x");
    let mut second = relay.session(1).tokens().unwrap();
    assert_eq!(told(&mut second).await, "second.token.x");
    // The first one's streams may outlast the token that it has.
    desktop.write_token("third.token.x");
    assert_eq!(told(&mut second).await, "third.token.x");
    assert_eq!(told(&mut first).await, "third.token.x");
}

#[tokio::test]
async fn relays_that_send_it_in_circles_are_obeyed_ever_more_slowly() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    let circles = async {
        for n in 0.. {
            eventually("the move", || relay.n_sessions() > n).await;
            // Asked before the move is through, it says that there is room for one order.
            while relay.session(n).send(migrate()).await.unwrap().status() != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let _over = tokio::time::timeout(Duration::from_secs(2), circles).await;
    let n_moves = relay.n_sessions() - 1;
    assert!((1..=20).contains(&n_moves), "{n_moves} moves in two seconds");
    assert_eq!(desktop.handle.report().tunnel.state, TunnelState::Connected);
}

#[tokio::test]
async fn stop_ends_a_session_that_was_left_behind_too() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    assert_eq!(relay.session(0).send(migrate()).await.unwrap().status(), StatusCode::ACCEPTED);
    desktop.until("the move", |report| report.tunnel.reconnects == 1).await;
    desktop.handle.give(Order::Stop).await.unwrap();
    said_goodbye(&relay.session(1)).await;
    said_goodbye(&relay.session(0)).await;
}
