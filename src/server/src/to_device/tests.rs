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
    let before = world.fixture.store.head();
    assert!(matches!(world.send("1", &to("PHONE", &json!({}))).await, Err(ToDeviceError::Full)));
    assert_eq!(world.fixture.store.head(), before);
    for txn_id in ["2", "2"] {
        world.send(txn_id, &to("*", &json!({}))).await.unwrap();
    }
    assert_eq!(world.receive(world.laptop, Position::ZERO).await.events.len(), 1);
    assert!(world.receive(world.phone, Position::ZERO).await.events.is_empty());
    let refused = world.inbox.waiting_for(world.bob, world.phone).await.unwrap();
    assert_eq!((refused.messages, refused.refused), (0, 1), "once, and shown to administrators");
    assert!(refused.refused_ms.is_some());
    // Others cannot be told, so that it is counted alone.
    world.inbox.waiting().insert(world.phone, INBOX_MESSAGES_MAX);
    for message_id in ["a", "a", "b"] {
        let far = "@far:elsewhere".try_into().unwrap();
        world.inbox.deliver(far, "m.test", message_id, &to("PHONE", &json!({}))).await.unwrap();
    }
    assert_eq!(world.inbox.waiting_for(world.bob, world.phone).await.unwrap().refused, 3);
}

#[tokio::test]
async fn a_device_that_fetches_nothing_for_ninety_days_gets_no_more() {
    let world = world().await;
    let day = std::time::Duration::from_secs(86_400);
    world.send("1", &to("*", &json!({}))).await.unwrap();
    world.fixture.clock.advance(day * 89);
    // One of them is in use.
    let received = world.receive(world.laptop, Position::ZERO).await;
    world.send("2", &to("*", &json!({}))).await.unwrap();
    world.receive(world.laptop, received.upto).await;
    world.fixture.clock.advance(day);
    assert!(matches!(world.send("3", &to("PHONE", &json!({}))).await, Err(ToDeviceError::Full)));
    world.send("4", &to("*", &json!({}))).await.unwrap();
    assert_eq!(world.receive(world.laptop, Position::ZERO).await.events.len(), 2);
    let waiting = world.inbox.waiting_for(world.bob, world.phone).await.unwrap();
    assert_eq!((waiting.messages, waiting.refused), (2, 1), "nothing that was taken is dropped");
    // It comes back, and is as any other.
    let received = world.receive(world.phone, Position::ZERO).await;
    assert_eq!(received.events.len(), 2);
    world.receive(world.phone, received.upto).await;
    world.send("5", &to("PHONE", &json!({}))).await.unwrap();
    assert_eq!(world.receive(world.phone, received.upto).await.events.len(), 1);
}

#[tokio::test]
async fn a_transaction_of_many_commits_goes_on_where_it_was_cut_off() {
    let world = world().await;
    for n in 0..28 {
        world.fixture.sign_in(world.bob, Some(&format!("D{n}")), false).await;
    }
    let messages = to("*", &json!({ "x": "x".repeat(80_000) }));
    let addressed = world.inbox.address(&id("bob"), "m.test", &messages).await.unwrap();
    let devices: Vec<DeviceNumber> = addressed.iter().map(|(_, device, _)| *device).collect();
    let hash = world.fixture.database.hash("to-device transaction", "m.test\0txn");
    let part = Part { sender: world.laptop, hash, progress: None, waking: &[] };
    assert!(matches!(world.inbox.commit(&part, &mut addressed.clone()).await, Ok(Sent::Part)));
    // A server that ends here, and is started again: meanwhile a device is gone that came first.
    let gone = crate::audit::Actor::User(world.bob);
    world.fixture.devices.delete(gone, world.bob, &devices[..1]).await.unwrap();
    for _ in 0..2 {
        world.send("txn", &messages).await.unwrap();
    }
    for device in &devices[1..] {
        assert_eq!(world.receive(*device, Position::ZERO).await.events.len(), 1, "{device:?}");
    }
}

#[tokio::test]
async fn a_device_that_goes_meanwhile_does_not_stop_the_others() {
    let world = world().await;
    let mut stale = vec![
        (world.bob, world.phone, "{}".to_owned()),
        (world.bob, DeviceNumber(9_999), "{}".to_owned()),
        (world.bob, DeviceNumber(9_999), "{}".to_owned()),
    ];
    let hash = world.fixture.database.hash("to-device transaction", "t");
    let part = Part { sender: world.laptop, hash, progress: None, waking: &[] };
    assert!(matches!(world.inbox.commit(&part, &mut stale).await, Ok(Sent::Whole)));
    assert_eq!(world.receive(world.phone, Position::ZERO).await.events.len(), 1);
    assert!(world.receive(DeviceNumber(9_999), Position::ZERO).await.events.is_empty());
}
