//! Tests of messages to devices.

use serde_json::json;

use super::*;
use crate::accounts::testing::{Fixture, id};

struct World {
    fixture: Fixture,
    inbox: ToDevice,
    bob: UserNumber,
    phone: DeviceNumber,
    laptop: DeviceNumber,
}

async fn world() -> World {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let phone = fixture.sign_in(bob, Some("PHONE"), false).await.device;
    let laptop = fixture.sign_in(bob, Some("LAPTOP"), false).await.device;
    let inbox = ToDevice::new(
        fixture.database.clone(),
        fixture.users.clone(),
        fixture.devices.clone(),
        fixture.clock.clone(),
    );
    World { fixture, inbox, bob, phone, laptop }
}

fn to(target: &str, content: &serde_json::Value) -> Messages {
    let target = match target {
        "*" => DeviceIdOrAllDevices::AllDevices,
        device => DeviceIdOrAllDevices::DeviceId(device.into()),
    };
    let content = serde_json::value::to_raw_value(content).unwrap();
    Messages::from([(id("bob"), BTreeMap::from([(target, content)]))])
}

impl World {
    async fn send(&self, txn_id: &str, messages: &Messages) -> Result<(), ToDeviceError> {
        let sender = Sender { user_id: &id("bob"), device: self.laptop };
        self.inbox.send(sender, "m.test", txn_id, messages).await
    }

    async fn receive(&self, device: DeviceNumber, acknowledged: Position) -> Received {
        let upto = self.fixture.store.head();
        self.inbox.receive(self.bob, device, acknowledged, upto).await.unwrap()
    }
}

#[tokio::test]
async fn a_message_stays_until_it_is_acknowledged() {
    let world = world().await;
    world.send("1", &to("PHONE", &json!({ "n": 1 }))).await.unwrap();
    let first = world.receive(world.phone, Position::ZERO).await;
    let expected = r#"{"content":{"n":1},"sender":"@bob:example.org","type":"m.test"}"#;
    assert_eq!(first.events.iter().map(|event| event.get()).collect::<Vec<_>>(), [expected]);
    assert_eq!(world.receive(world.phone, Position::ZERO).await.events.len(), 1);
    assert!(world.receive(world.laptop, Position::ZERO).await.events.is_empty());
    assert!(world.receive(world.phone, first.upto).await.events.is_empty());
    world.send("2", &to("PHONE", &json!({ "n": 2 }))).await.unwrap();
    assert_eq!(world.receive(world.phone, Position::ZERO).await.events.len(), 1);
}

#[tokio::test]
async fn a_transaction_is_sent_once_on_the_same_day_and_the_next() {
    let world = world().await;
    let day = std::time::Duration::from_secs(86_400);
    for txn_id in ["1", "1", "2"] {
        world.send(txn_id, &to("*", &json!({}))).await.unwrap();
    }
    world.fixture.clock.advance(day);
    world.send("1", &to("*", &json!({}))).await.unwrap();
    for device in [world.phone, world.laptop] {
        assert_eq!(world.receive(device, Position::ZERO).await.events.len(), 2);
    }
    world.fixture.clock.advance(day);
    world.send("3", &to("PHONE", &json!({}))).await.unwrap();
}

#[tokio::test]
async fn strangers_and_unknown_devices_are_passed_over() {
    let world = world().await;
    let mut messages = to("TABLET", &json!({}));
    messages.extend([(id("nobody"), BTreeMap::new())]);
    messages.insert("@far:elsewhere".try_into().unwrap(), BTreeMap::new());
    world.send("1", &messages).await.unwrap();
    let long = to("PHONE", &json!({ "x": "x".repeat(MESSAGE_BYTES_MAX) }));
    assert!(matches!(world.send("2", &long).await, Err(ToDeviceError::TooLarge)));
}

#[tokio::test]
async fn many_messages_come_in_several_answers_without_loss() {
    let world = world().await;
    for n in 0..250 {
        world.send(&n.to_string(), &to("PHONE", &json!({ "n": n }))).await.unwrap();
    }
    let sent = world.fixture.store.head();
    let mut acknowledged = Position::ZERO;
    let mut sizes = Vec::new();
    let mut events = Vec::new();
    while events.len() < 250 {
        let received = world.receive(world.phone, acknowledged).await;
        sizes.push(received.events.len());
        events.extend(received.events);
        acknowledged = received.upto;
    }
    assert_eq!(sizes, [100, 100, 50]);
    for (n, event) in events.iter().enumerate() {
        assert!(event.get().contains(&format!(r#"{{"n":{n}}}"#)));
    }
    assert!(acknowledged >= sent);
}

#[tokio::test]
async fn large_messages_are_cut_into_commits_and_none_is_lost() {
    let world = world().await;
    let content = json!({ "x": "x".repeat(80_000) });
    let mut all = Messages::new();
    all.extend(to("*", &content));
    for n in 0..60 {
        world.send(&format!("t{n}"), &all).await.unwrap();
    }
    let mut acknowledged = Position::ZERO;
    let mut count = 0;
    loop {
        let received = world.receive(world.phone, acknowledged).await;
        if received.events.is_empty() {
            break;
        }
        count += received.events.len();
        acknowledged = received.upto;
    }
    assert_eq!(count, 60);
}

#[tokio::test]
async fn a_full_inbox_takes_no_more_and_does_not_stop_others() {
    let world = world().await;
    world.inbox.waiting().insert(world.phone, INBOX_MESSAGES_MAX);
    assert!(matches!(world.send("1", &to("PHONE", &json!({}))).await, Err(ToDeviceError::Full)));
    world.send("2", &to("*", &json!({}))).await.unwrap();
    assert_eq!(world.receive(world.laptop, Position::ZERO).await.events.len(), 1);
    assert!(world.receive(world.phone, Position::ZERO).await.events.is_empty());
}

#[tokio::test]
async fn a_device_that_goes_meanwhile_does_not_stop_the_others() {
    let world = world().await;
    let stale = vec![
        (world.bob, DeviceNumber(9_999), "{}".to_owned()),
        (world.bob, world.phone, "{}".to_owned()),
        (world.bob, DeviceNumber(9_999), "{}".to_owned()),
    ];
    world.inbox.commit(world.laptop, "t", stale).await.unwrap();
    assert_eq!(world.receive(world.phone, Position::ZERO).await.events.len(), 1);
    assert!(world.receive(DeviceNumber(9_999), Position::ZERO).await.events.is_empty());
}
