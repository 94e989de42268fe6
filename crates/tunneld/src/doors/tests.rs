use std::net::{Ipv6Addr, TcpListener as StdListener, TcpStream};

use axum::Router;
use tokio_util::task::TaskTracker;
use tunnel_broker::{Broker, BrokerConfig};

use super::*;
use crate::api::Entrance;

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
    let guards = Arc::new(Guards::new(config.api_server_port.get(), config.gateway_port.get(), &[]));
    let rooms = Rooms {
        control: ControlDoor::new(Router::new(), Entrance::Port),
        gateway: Gateway::new(broker, Arc::clone(&guards)),
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
