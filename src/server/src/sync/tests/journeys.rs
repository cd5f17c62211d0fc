//! Joined rooms: timelines, state, summaries, filters, data of users.

use serde_json::{Value, json};

use super::world::{World, inline, section, state, timeline, token};
use crate::sync::v3::StatePlace;

#[tokio::test]
async fn a_first_sync_shows_the_room_and_the_next_what_is_new() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    world.say("alice", &room, "one").await;
    let first = world.sync("bob", None).await;
    let shown = section(&first, "join", &room);
    assert_eq!(
        timeline(&first, &room),
        ["create", "alice join", "power_levels", "join_rules", "history_visibility", "bob join", "one"]
    );
    assert_eq!(state(&first, &room), [""; 0]);
    assert_eq!(shown["timeline"]["limited"], false);
    assert_eq!(shown["unread_notifications"], json!({ "highlight_count": 0, "notification_count": 1 }));
    assert_eq!(shown["summary"]["m.joined_member_count"], 2);
    assert_eq!(shown["summary"]["m.heroes"], json!(["@alice:example.org"]));
    assert!(shown["timeline"]["events"][7].get("room_id").is_none());
    assert_eq!(first["device_unused_fallback_key_types"], json!([]));

    let nothing = world.sync("bob", Some(token(&first))).await;
    assert!(nothing.get("rooms").is_none(), "{nothing}");
    world.say("alice", &room, "two").await;
    let second = world.sync("bob", Some(token(&nothing))).await;
    assert_eq!(timeline(&second, &room), ["two"]);
    assert!(section(&second, "join", &room).get("summary").is_none());
    assert!(world.sync("bob", Some(token(&second))).await.get("rooms").is_none());
}

#[tokio::test]
async fn limited_timelines_come_with_the_state_before_them() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let filter = json!({ "room": { "timeline": { "limit": 2 } } });
    let first = world.sync_with("bob", None, filter.clone()).await;
    assert_eq!(timeline(&first, &room), ["history_visibility", "bob join"]);
    assert_eq!(state(&first, &room), ["create", "alice join", "power_levels", "join_rules"]);
    assert_eq!(section(&first, "join", &room)["timeline"]["limited"], true);

    world.set("alice", &room, "m.room.name", "", &json!({ "name": "A" })).await;
    world.set("alice", &room, "m.room.topic", "", &json!({ "topic": "T" })).await;
    world.say("alice", &room, "one").await;
    world.set("alice", &room, "m.room.topic", "", &json!({ "topic": "U" })).await;
    let next = world.sync_with("bob", Some(token(&first)), filter.clone()).await;
    assert_eq!(timeline(&next, &room), ["one", "topic"]);
    assert_eq!(state(&next, &room), ["name", "topic"]);
    assert_eq!(section(&next, "join", &room)["state"]["events"][1]["content"]["topic"], "T");
    let prev_batch = section(&next, "join", &room)["timeline"]["prev_batch"].as_str().unwrap();
    let view = world.rooms.view(&room, world.caller("bob")).await.unwrap();
    let page = world.rooms.history(
        &view,
        prev_batch.parse().unwrap(),
        None,
        crate::rooms::read::Direction::Backward,
        1,
        |_| true,
    );
    let before = page.await.unwrap().events.remove(0);
    assert_eq!(before.record.kind, "m.room.topic");

    let mut request = world.request("bob", Some(token(&first)));
    (request.filter, request.state) = (inline(filter), StatePlace::After);
    let after = world.answer(request).await;
    let shown = section(&after, "join", &room);
    assert!(shown.get("state").is_none());
    assert_eq!(super::world::named(&shown["state_after"]["events"]), ["name", "topic"]);
    assert_eq!(shown["state_after"]["events"][1]["content"]["topic"], "U");
}

#[tokio::test]
async fn state_after_is_there_even_if_empty() {
    let world = World::new(&["alice"]).await;
    let room = world.room("alice").await;
    let first = world.sync("alice", None).await;
    world.say("alice", &room, "one").await;
    for (place, name) in
        [(StatePlace::After, "state_after"), (StatePlace::AfterUnstable, "org.matrix.msc4222.state_after")]
    {
        let mut request = world.request("alice", Some(token(&first)));
        request.state = place;
        let answer = world.answer(request).await;
        assert_eq!(section(&answer, "join", &room)[name]["events"], json!([]));
    }
}

#[tokio::test]
async fn full_state_repeats_the_state_of_all_rooms() {
    let world = World::new(&["alice"]).await;
    let (quiet, busy) = (world.room("alice").await, world.room("alice").await);
    let first = world.sync("alice", None).await;
    world.say("alice", &busy, "one").await;
    let mut request = world.request("alice", Some(token(&first)));
    request.full_state = true;
    let full = world.answer(request).await;
    assert_eq!(timeline(&full, &quiet), [""; 0]);
    assert_eq!(timeline(&full, &busy), ["one"]);
    for room in [&quiet, &busy] {
        assert_eq!(state(&full, room).len(), 5, "{full}");
    }
}

#[tokio::test]
async fn who_joins_sees_what_the_history_visibility_allows() {
    let world = World::new(&["alice", "bob"]).await;
    for (visibility, expected) in
        [("shared", vec!["before", "bob join"]), ("joined", vec!["bob join"]), ("invited", vec!["bob join"])]
    {
        let room = world.room("alice").await;
        let content = json!({ "history_visibility": visibility });
        world.set("alice", &room, "m.room.history_visibility", "", &content).await;
        let first = world.sync("bob", None).await;
        world.say("alice", &room, "before").await;
        world.join("bob", &room).await;
        let joined = world.sync("bob", Some(token(&first))).await;
        let shown = timeline(&joined, &room);
        assert!(
            shown.ends_with(&expected.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()),
            "{shown:?}"
        );
        assert_eq!(shown.contains(&"before".to_owned()), visibility == "shared");
        let all: Vec<_> = state(&joined, &room).into_iter().chain(shown).collect();
        for kind in ["create", "alice join", "power_levels", "bob join"] {
            assert!(all.contains(&kind.to_owned()), "{visibility}: {all:?}");
        }
    }
}

#[tokio::test]
async fn who_leaves_and_comes_back_is_shown_the_room_anew() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let first = world.sync("bob", None).await;
    world.leave("bob", &room).await;
    world.join("bob", &room).await;
    let filter = json!({ "room": { "timeline": { "limit": 1 } } });
    let back = world.sync_with("bob", Some(token(&first)), filter).await;
    assert_eq!(timeline(&back, &room), ["bob join"]);
    assert!(state(&back, &room).contains(&"create".to_owned()));
}

#[tokio::test]
async fn unsigned_is_for_the_reader() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    world.set("alice", &room, "m.room.topic", "", &json!({ "topic": "T" })).await;
    let first_topic = world.sync("alice", None).await;
    world.set("alice", &room, "m.room.topic", "", &json!({ "topic": "U" })).await;
    let said = world.say("alice", &room, "one").await;
    world.fixture.clock.advance(std::time::Duration::from_millis(5));
    for (name, transaction) in [("alice", Some("txn0")), ("bob", None)] {
        let answer = world.sync(name, Some(token(&first_topic))).await;
        let events = &section(&answer, "join", &room)["timeline"]["events"];
        let unsigned = &events[1]["unsigned"];
        assert_eq!(unsigned["transaction_id"].as_str(), transaction, "{name}");
        assert_eq!((&unsigned["age"], &unsigned["membership"]), (&json!(5), &json!("join")));
        assert_eq!(events[0]["unsigned"]["prev_content"], json!({ "topic": "T" }));
        assert_eq!(events[0]["unsigned"]["prev_sender"], "@alice:example.org");
        assert!(events[0]["unsigned"]["replaces_state"].is_string());
    }
    let transaction = crate::rooms::send::TransactionName { path: "/redact", id: "r" };
    world.rooms.redact(&room, world.caller("alice"), &said, None, transaction).await.unwrap();
    let answer = world.sync("bob", Some(token(&first_topic))).await;
    let redacted = &section(&answer, "join", &room)["timeline"]["events"][1];
    assert_eq!(redacted["content"], json!({}));
    assert_eq!(redacted["unsigned"]["redacted_because"]["type"], "m.room.redaction");
}

#[tokio::test]
async fn members_are_loaded_lazily_and_once() {
    let world = World::new(&["alice", "bob", "carol", "dave"]).await;
    let room = world.room_with("alice", &["bob", "carol", "dave"]).await;
    world.set("alice", &room, "m.room.name", "", &json!({ "name": "A" })).await;
    for text in ["1", "2"] {
        world.say("bob", &room, text).await;
    }
    let filter = json!({ "room": {
        "timeline": { "limit": 1 }, "state": { "lazy_load_members": true },
    } });
    let members = |answer: &Value| -> Vec<String> {
        let all = state(answer, &room);
        all.into_iter().filter(|name| name.ends_with(" join")).collect()
    };
    let first = world.sync_with("dave", None, filter.clone()).await;
    assert_eq!(members(&first), ["bob join", "dave join"]);
    world.say("carol", &room, "3").await;
    let second = world.sync_with("dave", Some(token(&first)), filter.clone()).await;
    assert_eq!(members(&second), ["carol join"]);
    // The answer got lost: told again.
    let again = world.sync_with("dave", Some(token(&first)), filter.clone()).await;
    assert_eq!(members(&again), ["carol join"]);
    world.say("carol", &room, "4").await;
    world.say("bob", &room, "5").await;
    let third = world.sync_with("dave", Some(token(&again)), filter.clone()).await;
    assert_eq!(members(&third), [""; 0]);
    let redundant = json!({ "room": {
        "timeline": { "limit": 1 }, "state": { "lazy_load_members": true, "include_redundant_members": true },
    } });
    let fourth = world.sync_with("dave", Some(token(&again)), redundant).await;
    assert_eq!(members(&fourth), ["bob join"]);
    // A change of membership in a gap is told whoever speaks.
    world.leave("alice", &room).await;
    world.say("bob", &room, "6").await;
    world.say("bob", &room, "7").await;
    let fifth = world.sync_with("dave", Some(token(&third)), filter).await;
    assert_eq!(state(&fifth, &room), ["alice leave"]);
    assert_eq!(section(&fifth, "join", &room)["summary"]["m.joined_member_count"], 3);
}

#[tokio::test]
async fn filters_select_rooms_events_and_fields() {
    let world = World::new(&["alice"]).await;
    let (one, two) = (world.room("alice").await, world.room("alice").await);
    world.say("alice", &one, "text").await;
    let answer = world.sync_with("alice", None, json!({ "room": { "not_rooms": [two] } })).await;
    assert!(section(&answer, "join", &one).is_object() && section(&answer, "join", &two).is_null());
    let answer = world.sync_with("alice", None, json!({ "room": { "rooms": [] } })).await;
    assert!(answer.get("rooms").is_none());

    let messages = json!({ "room": { "timeline": { "types": ["m.room.message"] }, "state": { "types": ["m.room.c*"] } } });
    let answer = world.sync_with("alice", None, messages).await;
    assert_eq!(timeline(&answer, &one), ["text"]);
    // What the timeline's filter hides of the state is told before it.
    assert_eq!(state(&answer, &one), ["create"]);

    let fields = json!({ "event_fields": ["content.body", "type"], "room": { "rooms": [one] } });
    let answer = world.sync_with("alice", None, fields).await;
    let events = section(&answer, "join", &one)["timeline"]["events"].as_array().unwrap().clone();
    assert_eq!(events.last().unwrap(), &json!({ "type": "m.room.message", "content": { "body": "text" } }));

    let federation = json!({ "event_format": "federation", "room": { "rooms": [one] } });
    let answer = world.sync_with("alice", None, federation).await;
    assert!(section(&answer, "join", &one)["timeline"]["events"][1]["auth_events"].is_array());

    let none = json!({ "account_data": { "types": [] }, "room": { "state": { "types": [] }, "timeline": { "limit": 0 } } });
    let answer = world.sync_with("alice", None, none).await;
    assert!(answer.get("account_data").is_none());
    let shown = section(&answer, "join", &one);
    assert_eq!((&shown["timeline"]["events"], &shown["state"]["events"]), (&json!([]), &json!([])));
    assert_eq!(shown["timeline"]["limited"], true);
}

#[tokio::test]
async fn data_of_users_comes_when_it_changes() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let first = world.sync("alice", None).await;
    assert_eq!(first["account_data"]["events"][0]["type"], "m.push_rules");
    world.set_account_data("alice", "x.test", &json!({ "a": 1 })).await;
    let number = world.rooms.find(&room).await.unwrap().unwrap().number;
    let alice = world.caller("alice").user;
    world.sources.account_data.set(alice, Some(number), "m.tag", r#"{"tags":{}}"#).await.unwrap();
    let event = world.say("bob", &room, "one").await;
    let marks = crate::receipts::Marks { read: Some(event.clone()), ..Default::default() };
    let bob = world.caller("bob");
    world.sources.receipts.mark(number, bob.user, &bob.user_id, &marks).await.unwrap();
    world.sources.typing.start(number, bob.user, &bob.user_id, std::time::Duration::from_secs(9));
    let next = world.sync("alice", Some(token(&first))).await;
    assert_eq!(next["account_data"]["events"], json!([{ "type": "x.test", "content": { "a": 1 } }]));
    let shown = section(&next, "join", &room);
    assert_eq!(shown["account_data"]["events"], json!([{ "type": "m.tag", "content": { "tags": {} } }]));
    let ephemeral = shown["ephemeral"]["events"].as_array().unwrap();
    assert_eq!(ephemeral.len(), 2);
    assert!(ephemeral[0]["content"][event.as_str()]["m.read"]["@bob:example.org"].is_object());
    assert_eq!(ephemeral[1], json!({ "type": "m.typing", "content": { "user_ids": ["@bob:example.org"] } }));
    assert!(world.sync("alice", Some(token(&next))).await.get("rooms").is_none());
    world.sources.typing.stop(number, bob.user);
    let stopped = world.sync("alice", Some(token(&next))).await;
    assert_eq!(section(&stopped, "join", &room)["ephemeral"]["events"][0]["content"]["user_ids"], json!([]));
}

#[tokio::test]
async fn messages_of_the_ignored_are_left_out() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    world
        .set_account_data(
            "alice",
            "m.ignored_user_list",
            &json!({ "ignored_users": { "@bob:example.org": {} } }),
        )
        .await;
    let first = world.sync("alice", None).await;
    world.say("bob", &room, "nonsense").await;
    assert!(world.sync("alice", Some(token(&first))).await.get("rooms").is_none());
    world.say("alice", &room, "sense").await;
    assert_eq!(timeline(&world.sync("alice", Some(token(&first))).await, &room), ["sense"]);
    let hidden = world.room("bob").await;
    world.invite("bob", &hidden, "alice").await;
    assert!(world.sync("alice", Some(token(&first))).await["rooms"].get("invite").is_none());
    assert!(world.sync("alice", None).await["rooms"].get("invite").is_none());
}

#[tokio::test]
async fn a_token_of_another_history_gets_a_full_answer() {
    let world = World::new(&["alice"]).await;
    let room = world.room("alice").await;
    let first = world.sync("alice", None).await;
    for other in ["s9_1_0.0", "s1_999999_0.0"] {
        let answer = world.sync("alice", Some(other)).await;
        assert_eq!(timeline(&answer, &room), timeline(&first, &room));
    }
    for bad in ["", "x", "t1"] {
        assert!(world.sync.v3(world.request("alice", Some(bad))).await.is_err());
    }
}
