//! Rooms that the user is not in, and who shares encrypted rooms.

use ruma::RoomId;
use serde_json::{Value, json};

use super::world::{World, named, section, token};

fn left<'a>(answer: &'a Value, room: &RoomId) -> &'a Value {
    section(answer, "leave", room)
}

#[tokio::test]
async fn invitations_show_the_stripped_state_once() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room("alice").await;
    world.set("alice", &room, "m.room.name", "", &json!({ "name": "A" })).await;
    let first = world.sync("bob", None).await;
    world.invite("alice", &room, "bob").await;
    let invited = world.sync("bob", Some(token(&first))).await;
    let events = &section(&invited, "invite", &room)["invite_state"]["events"];
    let names = named(events);
    for name in ["create", "join_rules", "name", "alice join", "bob invite"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let keys: Vec<_> = events[0].as_object().unwrap().keys().map(String::as_str).collect();
    // The create event has its time too (MSC4311).
    assert_eq!(keys, ["content", "origin_server_ts", "sender", "state_key", "type"]);
    assert!(world.sync("bob", Some(token(&invited))).await.get("rooms").is_none());
    assert!(section(&world.sync("bob", None).await, "invite", &room).is_object());

    world.leave("bob", &room).await;
    let rejected = world.sync("bob", Some(token(&invited))).await;
    assert_eq!(named(&left(&rejected, &room)["timeline"]["events"]), ["bob leave"]);
    assert_eq!(left(&rejected, &room)["state"]["events"], json!([]));
    assert!(world.sync("bob", None).await.get("rooms").is_none());
}

#[tokio::test]
async fn a_left_room_is_shown_up_to_the_leave() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let first = world.sync("bob", None).await;
    world.say("alice", &room, "one").await;
    world.kick("alice", &room, "bob").await;
    world.say("alice", &room, "secret").await;
    let kicked = world.sync("bob", Some(token(&first))).await;
    assert!(kicked["rooms"].get("join").is_none());
    assert_eq!(named(&left(&kicked, &room)["timeline"]["events"]), ["one", "bob leave"]);
    world.say("alice", &room, "more").await;
    assert!(world.sync("bob", Some(token(&kicked))).await.get("rooms").is_none());
    assert!(world.sync("bob", None).await.get("rooms").is_none());

    let filter = json!({ "room": { "include_leave": true, "timeline": { "limit": 2 } } });
    let with_left = world.sync_with("bob", None, filter.clone()).await;
    assert_eq!(named(&left(&with_left, &room)["timeline"]["events"]), ["one", "bob leave"]);
    assert!(named(&left(&with_left, &room)["state"]["events"]).contains(&"bob join".to_owned()));

    world.rooms.forget(&room, world.caller("bob")).await.unwrap();
    assert!(world.sync_with("bob", None, filter).await.get("rooms").is_none());
    // Other devices learn that it was left.
    assert!(left(&world.sync("bob", Some(token(&first))).await, &room).is_object());
    assert!(world.sync("bob", Some(token(&kicked))).await.get("rooms").is_none());
}

#[tokio::test]
async fn joining_and_leaving_between_two_syncs_is_told() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room("alice").await;
    let first = world.sync("bob", None).await;
    world.join("bob", &room).await;
    world.say("alice", &room, "one").await;
    world.leave("bob", &room).await;
    let answer = world.sync("bob", Some(token(&first))).await;
    let names = named(&left(&answer, &room)["timeline"]["events"]);
    assert!(names.ends_with(&["bob join".to_owned(), "one".to_owned(), "bob leave".to_owned()]), "{names:?}");
}

#[tokio::test]
async fn device_lists_follow_who_shares_rooms() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let room = world.room("alice").await;
    let other = world.room("alice").await;
    let first = world.sync("alice", None).await;
    assert!(first.get("device_lists").is_none());

    world.join("bob", &room).await;
    let joined = world.sync("alice", Some(token(&first))).await;
    assert_eq!(joined["device_lists"], json!({ "changed": ["@bob:example.org"], "left": [] }));
    // Who asks for what happened between two answers is told the same.
    let told_again = async |name: &str, from: &Value, to: &Value| {
        let user = world.caller(name).user;
        let changes = world.sync.key_changes(user, token(from), token(to)).await.unwrap();
        let nothing = json!({ "changed": [], "left": [] });
        let told = to.get("device_lists").unwrap_or(&nothing);
        assert_eq!(json!({ "changed": changes.changed, "left": changes.left }), *told);
    };
    told_again("alice", &first, &joined).await;
    world.join("bob", &other).await;
    let bob = world.sync("bob", None).await;
    let joined = world.sync("alice", Some(token(&joined))).await;
    let mut write = crate::database::Write::new();
    crate::devices::list_changed(&mut write, world.caller("bob").user);
    world.fixture.database.commit(write).await.unwrap();
    let changed = world.sync("alice", Some(token(&joined))).await;
    assert_eq!(changed["device_lists"]["changed"], json!(["@bob:example.org"]));
    told_again("alice", &joined, &changed).await;
    assert_eq!(
        world.sync("bob", Some(token(&bob))).await["device_lists"]["changed"],
        json!(["@bob:example.org"])
    );

    world.leave("bob", &room).await;
    let still = world.sync("alice", Some(token(&changed))).await;
    assert!(still.get("device_lists").is_none(), "{still}");
    told_again("alice", &changed, &still).await;
    world.leave("bob", &other).await;
    let gone = world.sync("alice", Some(token(&still))).await;
    assert_eq!(gone["device_lists"], json!({ "changed": [], "left": ["@bob:example.org"] }));
    told_again("alice", &still, &gone).await;

    let carol = world.sync("carol", None).await;
    world.join("carol", &room).await;
    let joined = world.sync("carol", Some(token(&carol))).await;
    assert_eq!(joined["device_lists"]["changed"], json!(["@alice:example.org"]));
    told_again("carol", &carol, &joined).await;
    world.leave("carol", &room).await;
    let left = world.sync("carol", Some(token(&joined))).await;
    assert_eq!(left["device_lists"]["left"], json!(["@alice:example.org"]));
    told_again("carol", &joined, &left).await;
}

#[tokio::test]
async fn presence_comes_with_who_comes() {
    let world = World::new(&["alice", "bob"]).await;
    let (alice, bob) = (world.caller("alice"), world.caller("bob"));
    let online = ruma::presence::PresenceState::Online;
    for caller in [alice, bob] {
        let set = world.sources.presence.set(
            caller.user,
            &caller.user_id,
            std::sync::Arc::default(),
            online.clone(),
            None,
        );
        set.unwrap();
    }
    let room = world.room("alice").await;
    let (first_alice, first_bob) = (world.sync("alice", None).await, world.sync("bob", None).await);
    world.join("bob", &room).await;
    let senders = |answer: &Value| -> Vec<String> {
        let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["sender"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(senders(&world.sync("alice", Some(token(&first_alice))).await), ["@bob:example.org"]);
    let joined = world.sync("bob", Some(token(&first_bob))).await;
    assert_eq!(senders(&joined), ["@alice:example.org"]);
    assert!(senders(&world.sync("bob", Some(token(&joined))).await).is_empty());
}

#[tokio::test]
async fn messages_to_the_device_stay_until_they_are_acknowledged() {
    let world = World::new(&["alice", "bob"]).await;
    let first = world.sync("alice", None).await;
    let content = serde_json::value::to_raw_value(&json!({ "n": 1 })).unwrap();
    let all = ruma::to_device::DeviceIdOrAllDevices::AllDevices;
    let messages = [(world.caller("alice").user_id.clone(), [(all, content)].into())].into();
    let bob = world.caller("bob");
    let sender = crate::to_device::Sender { user_id: &bob.user_id, device: bob.device.unwrap() };
    for number in 0..120 {
        world.sources.to_device.send(sender, "x.test", &number.to_string(), &messages).await.unwrap();
    }
    let one = world.sync("alice", Some(token(&first))).await;
    let again = world.sync("alice", Some(token(&first))).await;
    assert_eq!(one["to_device"]["events"].as_array().unwrap().len(), 100);
    assert_eq!(one["to_device"], again["to_device"]);
    let two = world.sync("alice", Some(token(&one))).await;
    assert_eq!(two["to_device"]["events"].as_array().unwrap().len(), 20);
    let three = world.sync("alice", Some(token(&two))).await;
    assert!(three.get("to_device").is_none());
    assert!(world.sync("alice", None).await.get("to_device").is_none());
}
