//! Transactions.

use serde_json::{Value, json, value::to_raw_value};

use super::world::{World, raw, server};
use crate::{
    inbound::receive::{EDUS_MAX, PDUS_MAX, ReceiveError, Received},
    tables::rooms::Membership,
};

#[tokio::test]
async fn a_transaction_arrives_once() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let first = world.send("remote.test", "1", vec![world.json(&hello)], &[]).await;
    assert_eq!(first.get(&hello), Some(&Ok(())));
    assert_eq!(world.server.history(&world.room).await.first(), Some(&hello));
    // The same transaction again is answered as before, whatever it holds now.
    let again = world.send("remote.test", "1", Vec::new(), &[]).await;
    assert_eq!(again, first);
    // Transactions are a server's own.
    assert!(world.send("other.test", "1", Vec::new(), &[]).await.is_empty());
}

#[tokio::test]
async fn what_was_answered_survives_a_restart() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let received = Received { id: "1", pdus: vec![world.json(&hello)], edus: Vec::new() };
    // The queue's task has had no turn yet when the answer is there; stopping keeps it from taking one.
    world.server.tasks.stopping().cancel();
    let answer = world.inbound.receive(&server("remote.test"), received).await.unwrap();
    assert_eq!(answer.get(&hello), Some(&Ok(())));
    world.inbound.idle().await;
    assert!(!world.is_here(&hello).await);
    world.server.tasks = crate::tasks::Tasks::new();
    world.reopen().await;
    world.inbound.idle().await;
    assert!(world.is_here(&hello).await);
}

#[tokio::test]
async fn transactions_have_limits() {
    let world = World::new().await;
    let pdus = (0..=PDUS_MAX).map(|_| raw(b"{}")).collect();
    let received = Received { id: "1", pdus, edus: Vec::new() };
    let refused = world.inbound.receive(&server("remote.test"), received).await;
    assert!(matches!(refused, Err(ReceiveError::TooMany)));
    let edu = ruma::serde::Raw::from_json(raw(b"{}"));
    let received = Received { id: "1", pdus: Vec::new(), edus: vec![edu; EDUS_MAX + 1] };
    let refused = world.inbound.receive(&server("remote.test"), received).await;
    assert!(matches!(refused, Err(ReceiveError::TooMany)));
}

/// CVE-2025-30355: malformed events stopped federation with everyone.
#[tokio::test]
async fn cve_2025_30355_one_bad_event_harms_no_other() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let good: Value = serde_json::from_str(world.json(&hello).get()).unwrap();
    let mut pdus = vec![raw(b"{}"), raw(b"[]"), raw(b"7"), raw(b"{\"room_id\":7}")];
    for (field, value) in [
        ("depth", json!(-1)),
        ("depth", json!("1")),
        ("depth", json!(1.5)),
        ("depth", json!(1_u64 << 60)),
        ("sender", json!(null)),
        ("sender", json!("bob")),
        ("content", json!([])),
        ("prev_events", json!("$x")),
        ("prev_events", json!([7])),
        ("auth_events", json!([["$x", {}]])),
        ("hashes", json!(null)),
        ("hashes", json!({ "sha256": 7 })),
        ("signatures", json!([])),
        ("signatures", json!({ "remote.test": "x" })),
        ("signatures", json!({ "remote.test": { "ed25519:1": 7 } })),
        ("origin_server_ts", json!("now")),
        ("type", json!({})),
        ("state_key", json!(7)),
        ("room_id", json!("!other:remote.test")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        pdus.push(to_raw_value(&bad).unwrap());
    }
    pdus.push(world.json(&hello));
    let answer = world.send("remote.test", "1", pdus, &[]).await;
    assert_eq!(answer.get(&hello), Some(&Ok(())));
    assert!(answer.iter().all(|(event_id, result)| *event_id == hello || result.is_err()));
    assert_eq!(world.server.history(&world.room).await.first(), Some(&hello));
}

#[tokio::test]
async fn events_of_rooms_that_nobody_here_is_in_are_refused() {
    let mut world = World::new().await;
    let join = world.join.clone();
    // The only member leaves.
    let leave = world.remote.member("@alice:example.org", &[&join], "@alice:example.org", "leave");
    world.server.live(&world.room, &world.remote, &leave).await;
    let hello = world.remote.message("@bob:remote.test", &[&leave], "hello");
    let answer = world.send("remote.test", "1", vec![world.json(&hello)], &[]).await;
    assert!(answer[&hello].is_err());
    assert!(!world.is_here(&hello).await);
}

/// A server that is not in the room brings nothing of others.
#[tokio::test]
async fn who_is_outside_brings_only_its_own() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let answer = world.send("stranger.test", "1", vec![world.json(&hello)], &[]).await;
    assert!(answer[&hello].is_err());
    assert!(!world.is_here(&hello).await);
    // A join of its own user is for the room's rules to judge.
    let joins = world.remote.member("@dave:stranger.test", &[&join], "@dave:stranger.test", "join");
    world.learn_keys().await;
    let answer = world.send("stranger.test", "2", vec![world.json(&joins)], &[]).await;
    assert_eq!(answer[&joins], Ok(()));
    assert!(world.is_here(&joins).await);
}

#[tokio::test]
async fn access_control_lists_hold_for_events_and_edus() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let acl = world.remote.event(
        "@bob:remote.test",
        &[&join],
        "m.room.server_acl",
        Some(""),
        &json!({ "allow": ["*"], "deny": ["bad.*", "OTHER.test"] }),
    );
    world.server.live(&world.room, &world.remote, &acl).await;
    for (origin, user) in [("bad.test", "@mallory:bad.test"), ("other.test", "@carol:other.test")] {
        let hello = world.remote.message(user, &[&acl], "hello");
        let typing = World::edu(
            "m.typing",
            &json!({ "room_id": world.room.room_id, "user_id": user, "typing": true }),
        );
        let answer = world.send(origin, "1", vec![world.json(&hello)], &[typing]).await;
        assert!(answer[&hello].is_err(), "{origin}");
        assert!(!world.is_here(&hello).await);
        assert!(world.typing.in_room(world.room.number).is_none());
        let room = world.inbound.room_for(&server(origin), &world.room.room_id).await;
        assert!(room.is_err(), "{origin}");
        // What others bring of it is taken: the list is about who connects.
        let answer = world.send("remote.test", origin, vec![world.json(&hello)], &[]).await;
        assert_eq!(answer[&hello], Ok(()));
    }
}

/// CVE-2026-45078: many who waited for one room kept everything else from being done.
#[tokio::test]
async fn cve_2026_45078_a_room_that_waits_holds_up_nothing_else() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let missing = world.remote.message("@bob:remote.test", &[&join], "missing");
    // Another room, where nothing is amiss.
    let (mut other, _) = crate::rooms::testing::Remote::new(world.remote.version.clone());
    other.room_id = "!other:remote.test".try_into().unwrap();
    other.nodes.clear();
    let bob = "@bob:remote.test";
    let create = json!({ "room_version": other.version.as_str(), "creator": bob });
    let create = other.event(bob, &[], "m.room.create", Some(""), &create);
    let member = other.member(bob, &[&create], bob, "join");
    let open = other.event(bob, &[&member], "m.room.join_rules", Some(""), &json!({ "join_rule": "public" }));
    let (room, own_join) = world.server.adopt(&mut other, &[&open]).await;
    let hello = other.message(bob, &[&own_join], "hello");

    // The room asks for what is missing, and nobody ever answers: whatever comes for it waits.
    world.others.0.lock().unwrap().stalling.insert("missing");
    let (inbound, origin) = (&world.inbound, server("remote.test"));
    for number in 0..500 {
        let event = world.remote.message(bob, &[&missing], &number.to_string());
        let pdus = vec![world.json(&event)];
        let id = number.to_string();
        let answer = inbound.receive(&origin, Received { id: &id, pdus, edus: Vec::new() });
        assert_eq!(answer.await.unwrap()[&event], Ok(()));
    }
    // Only one of them asks.
    assert!(world.others.asked("missing") <= 1);
    let pdus = vec![raw(other.verified(&hello).json())];
    let answer = inbound.receive(&origin, Received { id: "other", pdus, edus: Vec::new() });
    assert_eq!(answer.await.unwrap()[&hello], Ok(()));
    inbound.0.staging.placed(room.number).await;
    assert!(world.server.rooms.event(&room, &hello).await.unwrap().is_some());
    assert!(inbound.0.staging.is_busy(world.room.number));
    world.server.tasks.stopping().cancel();
}

type MakeEdu = Box<dyn Fn(&str, &str) -> Value>;

/// EDUs in which a user is named, and an event or message.
struct Edus {
    receipt: MakeEdu,
    typing: Box<dyn Fn(&str) -> Value>,
    message: MakeEdu,
    presence: Box<dyn Fn(&str) -> Value>,
    devices: Box<dyn Fn(&str) -> Value>,
}

fn edus(room_id: &ruma::RoomId) -> Edus {
    let (of_receipt, of_typing) = (room_id.to_owned(), room_id.to_owned());
    Edus {
        receipt: Box::new(move |user, event| {
            let read = json!({ user: { "event_ids": [event], "data": { "ts": 5 } } });
            World::edu("m.receipt", &json!({ &of_receipt: { "m.read": read } }))
        }),
        typing: Box::new(move |user| {
            World::edu("m.typing", &json!({ "room_id": of_typing, "user_id": user, "typing": true }))
        }),
        message: Box::new(|sender, id| {
            let messages = json!({ "@alice:example.org": { "PHONE": { "n": 1 } } });
            let content =
                json!({ "sender": sender, "type": "m.test", "message_id": id, "messages": messages });
            World::edu("m.direct_to_device", &content)
        }),
        presence: Box::new(|user| {
            let told = json!({ "user_id": user, "presence": "online", "last_active_ago": 1 });
            World::edu("m.presence", &json!({ "push": [told] }))
        }),
        devices: Box::new(|user| {
            let told = json!({ "user_id": user, "device_id": "X", "stream_id": 1, "prev_id": [] });
            World::edu("m.device_list_update", &told)
        }),
    }
}

/// CVE-2023-42453 and its like: a server speaks for its own users only.
#[tokio::test]
async fn cve_2023_42453_forged_edus_are_dropped() {
    let mut world = World::new().await;
    let (room_id, join) = (world.room.room_id.clone(), world.join.clone());
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    world.server.live(&world.room, &world.remote, &hello).await;
    let device = world.server.fixture.account("alice").await;
    let issued = world.server.fixture.sign_in(device, Some("PHONE"), false).await;
    let Edus { receipt, typing, message, presence, devices } = edus(&room_id);
    let (bob, carol, alice) = ("@bob:remote.test", "@carol:other.test", "@alice:example.org");
    let mut forged = Vec::new();
    for other in [carol, alice, "@nobody:remote.test"] {
        forged.extend([receipt(other, hello.as_str()), typing(other), presence(other), devices(other)]);
    }
    forged.extend([message(carol, "a"), message(alice, "b"), receipt(bob, "$nothing")]);
    forged.push(World::edu("m.typing", &json!({})));
    forged.push(json!({}));
    world.send("remote.test", "1", Vec::new(), &forged).await;
    let number =
        async |user: &str| world.server.fixture.users.number(user.try_into().unwrap()).await.unwrap();
    assert!(world.typing.in_room(world.room.number).is_none());
    for user in [bob, carol, alice] {
        let Some(user) = number(user).await else { continue };
        assert_eq!(world.receipts.own(world.room.number, user).await.unwrap(), []);
    }
    let inbox = async || {
        let (own, end) = (&world.server.fixture, allod_storage::Position::new(u64::MAX));
        let to_device = crate::to_device::ToDevice::new(
            own.database.clone(),
            own.users.clone(),
            own.devices.clone(),
            own.clock.clone(),
        );
        let session = own.sessions.authenticate(&issued.access_token).await.unwrap();
        let zero = allod_storage::Position::ZERO;
        to_device.receive(session.user, session.device, zero, end).await.unwrap().events.len()
    };
    assert_eq!(inbox().await, 0);

    // Its own it may tell; the same message twice is one.
    let own = [receipt(bob, hello.as_str()), typing(bob), message(bob, "a"), message(bob, "a")];
    world.send("remote.test", "2", Vec::new(), &own).await;
    assert_eq!(world.typing.in_room(world.room.number).unwrap().1, [bob]);
    let bob = number(bob).await.unwrap();
    assert_eq!(world.receipts.own(world.room.number, bob).await.unwrap().len(), 1);
    assert_eq!(inbox().await, 1);
    assert!(world.server.rooms.members(world.room.number, Membership::Join).await.unwrap().contains(&bob));
}
