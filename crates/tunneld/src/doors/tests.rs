use std::net::{Ipv6Addr, TcpListener as StdListener, TcpStream};
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;
use tunnel_broker::{Broker, BrokerConfig};

use super::*;
use crate::api::Entrance;
use crate::keys::KeyRing;
use crate::store::Store;

fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn config(keys: serde_json::Value) -> Config {
    let mut all = Config::default().to_map();
    all.extend(keys.as_object().unwrap().clone());
    Config::check(&all).unwrap()
}

/// Doors behind which nobody has anything to say.
fn doors(config: &Config, inherited: &mut Inherited) -> Doors {
    let (tracker, hard) = (TaskTracker::new(), CancellationToken::new());
    let soft = hard.child_token();
    let broker = Broker::start(BrokerConfig::default(), &tracker, soft.clone());
    let guards = Arc::new(Guards::new(config.api_server_port.get(), config.gateway_port.get(), &[], &[]));
    let record = Store::open(None, Timestamp::now()).now_or_never().unwrap().handle;
    let rooms = Rooms {
        control: ControlDoor::new(Router::new(), Entrance::Port),
        gateway: Gateway::new(broker, Arc::clone(&guards), KeyRing::default(), record),
        guards,
    };
    let tasks = CriticalTasks::new(tracker.clone(), soft.clone());
    let bound = Bound::open(config, inherited).unwrap();
    Doors::serve(bound, rooms, tasks, Ends { soft, hard, tracker }, watch::channel(Places::default()).0)
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test]
async fn doors_that_want_each_others_place_wait_for_a_restart() {
    let (one, two) = (free_port(), free_port());
    let doors = doors(
        &config(serde_json::json!({ "apiServerPort": one, "gatewayPort": two })),
        &mut Inherited::default(),
    );
    let swapped = config(serde_json::json!({ "apiServerPort": two, "gatewayPort": one }));
    for _ in 0..2 {
        let applied = doors.apply(&swapped).await;
        assert_eq!(applied.restart_required, ["apiServerPort", "gatewayPort"]);
        assert_eq!(applied.conditions, [], "nobody else is in the way");
        assert!(is_open(one) && is_open(two));
    }
}

#[tokio::test]
async fn inherited_listener_is_kept_for_the_next_try() {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Ok(in_the_way) = StdListener::bind((Ipv6Addr::LOCALHOST, port)) else { return };
    listener.set_nonblocking(true).unwrap();
    let mut inherited =
        Inherited { gateway: vec![TcpListener::from_std(listener).unwrap()], ..Inherited::default() };
    let keys = |open: bool| {
        config(
            serde_json::json!({ "apiServerPort": free_port(), "gatewayPort": port, "enableGateway": open, "enableApiServer": false }),
        )
    };
    let doors = doors(&keys(false), &mut inherited);
    assert_eq!(doors.apply(&keys(true)).await.conditions.len(), 1);
    assert!(is_open(port), "the service manager's queue still takes callers");
    drop(in_the_way);
    assert_eq!(doors.apply(&keys(true)).await, Applied::default());
    assert!(matches!(doors.lock().gateway, Standing::Open { inherited: true, .. }));
}

#[tokio::test]
async fn two_doors_that_are_stuck_are_two_conditions() {
    let held = [StdListener::bind("127.0.0.1:0").unwrap(), StdListener::bind("127.0.0.1:0").unwrap()];
    let [one, two] = held.each_ref().map(|held| held.local_addr().unwrap().port());
    let before = config(serde_json::json!({ "apiServerPort": free_port(), "gatewayPort": free_port() }));
    let doors = doors(&before, &mut Inherited::default());
    let wanted = config(serde_json::json!({ "apiServerPort": one, "gatewayPort": two }));
    let told = doors.apply(&wanted).await.conditions;
    let subjects: Vec<&str> = told.iter().map(|condition| condition.subject.as_str()).collect();
    assert_eq!(subjects, ["control port", "gateway port"]);
    assert_eq!(doors.apply(&wanted).await.conditions, told);
}

#[tokio::test]
async fn who_is_in_the_way_is_looked_for_once() {
    let held = StdListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let taken = || vec![(Door::Gateway, BindError::Taken { door: Door::Gateway, address, owner: None })];
    let mut stuck = Stuck::default();
    let first = stuck.update(taken()).await;
    assert!(first[0].warning.message.contains(&format!("pid {}", std::process::id())), "{first:?}");
    drop(held);
    assert_eq!(stuck.update(taken()).await, first, "it is still the first answer");
    assert_eq!(stuck.update(Vec::new()).await, []);
    let again = stuck.update(taken()).await;
    assert!(!again[0].warning.message.contains("pid"), "after an end it is another failure: {again:?}");
}

#[tokio::test]
async fn door_to_the_network_is_closed_unless_it_is_asked_for_and_moves_between_addresses_of_a_port() {
    let lan = free_port();
    let closed = with_lan(serde_json::json!({ "port": lan }));
    let doors = doors(&closed, &mut Inherited::default());
    assert_eq!(doors.apply(&closed).await, Applied::default());
    assert!(!is_open(lan));
    // Each is in the way of the next one.
    for address in ["127.0.0.1", "0.0.0.0", "127.0.0.2", "127.0.0.1"] {
        let wanted = serde_json::json!({ "enabled": true, "port": lan, "address": address });
        assert_eq!(doors.apply(&with_lan(wanted)).await, Applied::default(), "{address}");
        let at = doors.places.borrow().lan.as_ref().map(|lan| lan.address.to_string());
        assert_eq!(at, Some(format!("{address}:{lan}")));
    }
    assert!(is_open(lan));
    assert_eq!(doors.apply(&closed).await, Applied::default());
    let _held = StdListener::bind(("127.0.0.1", lan)).expect("it is closed");
}

/// A configuration with a door to the network and no other.
fn with_lan(lan: serde_json::Value) -> Config {
    config(serde_json::json!({ "enableApiServer": false, "enableGateway": false, "lanGateway": lan }))
}

#[tokio::test]
async fn door_to_the_network_stays_open_where_it_is_when_it_cannot_move() {
    let port = free_port();
    let at =
        |address: &str| with_lan(serde_json::json!({ "enabled": true, "port": port, "address": address }));
    let doors = doors(&at("127.0.0.1"), &mut Inherited::default());
    assert_eq!(doors.apply(&at("127.0.0.1")).await, Applied::default());
    let in_the_way = StdListener::bind(("127.0.0.2", port)).unwrap();
    for address in ["0.0.0.0", "192.0.2.1"] {
        let told = doors.apply(&at(address)).await.conditions;
        assert_eq!(told.len(), 1, "{address}");
        assert!(is_open(port), "{address}");
        let place = doors.places.borrow().lan.as_ref().map(|lan| lan.address.to_string());
        assert_eq!(place, Some(format!("127.0.0.1:{port}")), "{address}");
    }
    drop(in_the_way);
    assert_eq!(doors.apply(&at("0.0.0.0")).await, Applied::default());
}

#[tokio::test]
async fn who_came_in_before_tls_was_switched_on_is_dismissed() {
    let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
    let pair = rcgen::generate_simple_self_signed(["box.local".to_owned()]).unwrap();
    let [cert, key] = ["cert", "key"].map(|name| directory.path().join(name));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let plain = serde_json::json!({ "enabled": true, "port": port, "address": "127.0.0.1" });
    let mut tls = plain.clone();
    tls["certFile"] = cert.to_str().into();
    tls["keyFile"] = key.to_str().into();
    let (plain, tls) = (with_lan(plain), with_lan(tls));
    let doors = doors(&plain, &mut Inherited::default());
    doors.apply(&plain).await;
    let mut early = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while doors.crowd.count() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(doors.apply(&tls).await, Applied::default());
        // Cut off at once, not after the limit on idle connections.
        assert_eq!(early.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await
    .unwrap();
    assert!(is_open(port), "and the door is open as before");
}

#[tokio::test]
async fn who_has_no_key_cannot_hold_a_place_by_never_reading() {
    let port = free_port();
    let lan = with_lan(serde_json::json!({ "enabled": true, "port": port, "address": "127.0.0.1" }));
    let doors = doors(&lan, &mut Inherited::default());
    doors.apply(&lan).await;
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let many = "GET /v1/models HTTP/1.1\r\nHost: box.local\r\n\r\n".repeat(1000);
    let pressed = tokio::time::timeout(Duration::from_secs(5), async {
        while silent.write_all(many.as_bytes()).await.is_ok() {}
        while doors.crowd.count() > 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(pressed.await.is_ok(), "it is still served");
}

#[tokio::test]
async fn door_to_the_network_that_cannot_be_opened_is_a_condition() {
    let held = StdListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let lan = serde_json::json!({ "enabled": true, "port": port, "address": "127.0.0.1" });
    let doors = doors(&with_lan(lan.clone()), &mut Inherited::default());
    let told = doors.apply(&with_lan(lan)).await.conditions;
    assert_eq!((told[0].subject.as_str(), told[0].warning.code.as_str()), ("LAN gateway", "port_taken"));
    assert!(told[0].warning.next_step.contains("lanGateway.port"), "{told:?}");
    drop(held);
    let tls = serde_json::json!({
        "enabled": true, "port": port, "address": "127.0.0.1", "certFile": "/nowhere/cert", "keyFile": "/nowhere/key",
    });
    let told = doors.apply(&with_lan(tls)).await.conditions;
    assert_eq!(told.iter().map(|told| told.warning.code.as_str()).collect::<Vec<_>>(), ["lan_gateway_tls"]);
    assert!(!is_open(port), "never plain where TLS is wanted");
    // 192.0.2.0/24 is for documentation: no machine has it.
    let elsewhere = serde_json::json!({ "enabled": true, "port": port, "address": "192.0.2.1" });
    let told = doors.apply(&with_lan(elsewhere)).await.conditions;
    assert!(told[0].warning.next_step.contains("lanGateway.address"), "{told:?}");
}
