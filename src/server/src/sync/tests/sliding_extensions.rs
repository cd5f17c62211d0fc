//! Sliding sync: what comes besides rooms.

use std::{collections::BTreeMap, time::Duration};

use ruma::{RoomId, to_device::DeviceIdOrAllDevices};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    sliding::{list, pos, room, wish},
    world::World,
};
use crate::{
    accounts::testing::id,
    receipts::Marks,
    sync::sliding::{ExtensionRooms, Extensions, SlidingRequest},
    to_device::Sender,
};

impl World {
    fn with_extensions(
        &self,
        name: &str,
        last: Option<&Value>,
        ranges: &[(usize, usize)],
        change: impl FnOnce(&mut Extensions),
    ) -> SlidingRequest {
        let mut request = self.sliding(name, last.and_then(pos), list(ranges, 1));
        change(&mut request.extensions);
        request
    }

    async fn send_to(&self, name: &str, target: &str, text: &str) {
        let sender = self.caller(name);
        let content = to_raw_value(&json!({ "text": text })).unwrap();
        let devices = BTreeMap::from([(DeviceIdOrAllDevices::AllDevices, content)]);
        let messages = BTreeMap::from([(id(target), devices)]);
        let sender = Sender { user_id: &sender.user_id, device: sender.device.unwrap() };
        self.sources.to_device.send(sender, "x.test", text, &messages).await.unwrap();
    }

    async fn number(&self, id: &RoomId) -> crate::numbers::RoomNumber {
        self.rooms.find(id).await.unwrap().unwrap().number
    }
}

fn all(extensions: &mut Extensions) {
    extensions.account_data = Some(ExtensionRooms::default());
    extensions.receipts = Some(ExtensionRooms::default());
    extensions.typing = Some(ExtensionRooms::default());
}

#[tokio::test]
async fn messages_to_the_device_wait_for_their_own_token() {
    let world = World::new(&["alice", "bob"]).await;
    let ask = async |last: Option<&Value>, since: Option<&str>| {
        let mut request = world.bare_sliding("bob", last.and_then(pos));
        request.extensions.to_device = Some(since.map(str::to_owned));
        world.slide(request).await
    };
    let texts = |answer: &Value| -> Vec<String> {
        let events = answer["extensions"]["to_device"]["events"].as_array().unwrap();
        events.iter().map(|event| event["content"]["text"].as_str().unwrap().to_owned()).collect()
    };
    let next = |answer: &Value| answer["extensions"]["to_device"]["next_batch"].as_str().unwrap().to_owned();
    world.send_to("alice", "bob", "one").await;
    let first = ask(None, None).await;
    assert_eq!(texts(&first), ["one"]);
    // The place of the connection acknowledges nothing.
    let again = ask(Some(&first), None).await;
    assert_eq!(texts(&again), ["one"]);
    world.send_to("alice", "bob", "two").await;
    let second = ask(Some(&again), Some(&next(&first))).await;
    assert_eq!(texts(&second), ["two"]);
    // A connection that begins anew goes on where the messages are.
    let third = ask(None, Some(&next(&second))).await;
    assert_eq!(texts(&third), [""; 0]);
    assert_eq!(texts(&ask(None, None).await), [""; 0]);
    world.send_to("alice", "bob", "three").await;
    // A token of another history acknowledges nothing.
    assert_eq!(texts(&ask(None, Some("t77_9999")).await), ["three"]);
    let mut request = world.bare_sliding("bob", None);
    request.extensions.to_device = Some(Some("nonsense".to_owned()));
    assert!(world.sync.sliding(request).await.is_err());
}

#[tokio::test]
async fn a_message_to_the_device_wakes() {
    let world = World::new(&["alice", "bob"]).await;
    let first = world.slide(world.bare_sliding("bob", None)).await;
    let mut request = world.bare_sliding("bob", pos(&first));
    request.extensions.to_device = Some(None);
    request.timeout = Duration::from_secs(60);
    let (answer, ()) = tokio::join!(world.slide(request), async {
        while world.sources.wakes.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        world.send_to("alice", "bob", "one").await;
    });
    assert_eq!(answer["extensions"]["to_device"]["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn devices_of_those_who_share_a_room_are_told_without_lists() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    let ask = async |last: Option<&Value>| {
        let mut request = world.bare_sliding("alice", last.and_then(pos));
        request.extensions.e2ee = true;
        world.slide(request).await
    };
    let first = ask(None).await;
    let e2ee = &first["extensions"]["e2ee"];
    assert_eq!(e2ee["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!((&e2ee["device_unused_fallback_key_types"], e2ee.get("device_lists")), (&json!([]), None));
    world.join("carol", &id).await;
    world.leave("bob", &id).await;
    let second = ask(Some(&first)).await;
    let lists = &second["extensions"]["e2ee"]["device_lists"];
    assert_eq!(lists, &json!({ "changed": ["@carol:example.org"], "left": ["@bob:example.org"] }));
    let other = world.room_with("bob", &["alice"]).await;
    let third = ask(Some(&second)).await;
    assert_eq!(third["extensions"]["e2ee"]["device_lists"]["changed"], json!(["@bob:example.org"]));
    world.leave("alice", &other).await;
    let fourth = ask(Some(&third)).await;
    assert_eq!(fourth["extensions"]["e2ee"]["device_lists"]["left"], json!(["@bob:example.org"]));
    assert_eq!(ask(Some(&fourth)).await["extensions"]["e2ee"].get("device_lists"), None);
}

#[tokio::test]
async fn account_data_comes_with_its_rooms() {
    let world = World::new(&["alice"]).await;
    let (old, new) = (world.room("alice").await, world.room("alice").await);
    let alice = world.caller("alice").user;
    let tag = async |id: &RoomId, text: &str| {
        let content = json!({ "tags": { text: {} } }).to_string();
        let number = world.number(id).await;
        world.sources.account_data.set(alice, Some(number), "m.tag", &content).await.unwrap();
    };
    tag(&old, "a").await;
    tag(&new, "b").await;
    world.set_account_data("alice", "x.test", &json!({ "a": 1 })).await;
    let data = |answer: &Value| answer["extensions"]["account_data"].clone();
    let first = world.slide(world.with_extensions("alice", None, &[(0, 0)], all)).await;
    assert_eq!(data(&first)["global"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(data(&first)["rooms"].as_object().unwrap().keys().collect::<Vec<_>>(), [new.as_str()]);
    // What changes out of view is told when it comes into view.
    tag(&old, "c").await;
    tag(&new, "d").await;
    let second = world.slide(world.with_extensions("alice", Some(&first), &[(0, 0)], all)).await;
    assert_eq!(
        data(&second)["rooms"],
        json!({ new.as_str(): [{ "type": "m.tag", "content": { "tags": { "d": {} } } }] })
    );
    assert_eq!(data(&second)["global"], json!([]));
    let none = world.slide(world.with_extensions("alice", Some(&second), &[(1, 1)], all)).await;
    assert_eq!(data(&none)["rooms"][old.as_str()][0]["content"], json!({ "tags": { "c": {} } }));
    tag(&new, "e").await;
    let away = world.slide(world.with_extensions("alice", Some(&none), &[(1, 1)], all)).await;
    assert_eq!(data(&away)["rooms"], json!({}));
    let back = world.slide(world.with_extensions("alice", Some(&away), &[(0, 1)], all)).await;
    assert_eq!(
        data(&back)["rooms"],
        json!({ new.as_str(): [{ "type": "m.tag", "content": { "tags": { "e": {} } } }] })
    );
}

#[tokio::test]
async fn receipts_and_typing_are_told_of_what_is_in_view() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let id = world.room_with("alice", &["bob", "carol"]).await;
    let old = world.say("alice", &id, "old").await;
    let newest = world.say("alice", &id, "newest").await;
    let number = world.number(&id).await;
    let mark = async |name: &str, event: &ruma::EventId| {
        let caller = world.caller(name);
        let marks = Marks { read: Some(event.to_owned()), ..Marks::default() };
        world.sources.receipts.mark(number, caller.user, &caller.user_id, &marks).await.unwrap();
    };
    let start = |name: &str| {
        let caller = world.caller(name);
        world.sources.typing.start(number, caller.user, &caller.user_id, Duration::from_secs(9));
    };
    mark("bob", &newest).await;
    mark("carol", &old).await;
    start("bob");
    let first = world.slide(world.with_extensions("alice", None, &[], all)).await;
    let receipts = |answer: &Value| answer["extensions"]["receipts"]["rooms"][id.as_str()]["content"].clone();
    let typing = |answer: &Value| answer["extensions"]["typing"]["rooms"][id.as_str()]["content"].clone();
    // Of a room that is told anew, only receipts at the events that are shown.
    assert_eq!(receipts(&first).as_object().unwrap().keys().collect::<Vec<_>>(), [newest.as_str()]);
    assert_eq!(typing(&first), json!({ "user_ids": ["@bob:example.org"] }));
    let quiet = world.slide(world.with_extensions("alice", Some(&first), &[], all)).await;
    assert_eq!((receipts(&quiet), typing(&quiet)), (Value::Null, Value::Null));
    // A longer timeline comes with its receipts.
    let mut more = world.with_extensions("alice", Some(&quiet), &[], all);
    more.subscriptions.insert(id.clone(), wish(5, &[]));
    let more = world.slide(more).await;
    assert!(receipts(&more)[old.as_str()]["m.read"]["@carol:example.org"].is_object(), "{more}");
    assert_eq!(room(&more, &id)["unstable_expanded_timeline"], true);
    mark("carol", &newest).await;
    world.sources.typing.stop(number, world.caller("bob").user);
    let next = world.slide(world.with_extensions("alice", Some(&more), &[], all)).await;
    assert_eq!(receipts(&next)[newest.as_str()]["m.read"].as_object().unwrap().len(), 1);
    assert_eq!(typing(&next), json!({ "user_ids": [] }));
    // Only for rooms of some lists.
    start("bob");
    let none = |extensions: &mut Extensions| {
        let rooms = ExtensionRooms { lists: Some(vec![]), rooms: Some(vec![]) };
        extensions.typing = Some(rooms.clone());
        extensions.receipts = Some(rooms);
    };
    let elsewhere = world.slide(world.with_extensions("alice", Some(&next), &[], none)).await;
    assert_eq!(elsewhere["extensions"]["typing"]["rooms"], json!({}));
    let here = world.slide(world.with_extensions("alice", Some(&elsewhere), &[], all)).await;
    assert_eq!(typing(&here), json!({ "user_ids": ["@bob:example.org"] }));
}
