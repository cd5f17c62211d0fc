//! What other servers may read.

use allod_matrix::visibility::is_visible_to_server;
use ruma::{OwnedEventId, events::room::history_visibility::HistoryVisibility};
use serde_json::{Value, json};

use super::world::{World, server};
use crate::inbound::serve::ServeError;

/// SEC26 of continuwuity, and its like: events of one room were served to members of another.
#[tokio::test]
async fn sec26_events_are_bound_to_their_room() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    world.server.live(&world.room, &world.remote, &hello).await;
    // Another room here, in which only `spy.test` is.
    let (mut other, _) = crate::rooms::testing::Remote::new(world.remote.version.clone());
    other.room_id = "!spies:spy.test".try_into().unwrap();
    other.nodes.clear();
    let spy = "@spy:spy.test";
    let create = json!({ "room_version": other.version.as_str(), "creator": spy });
    let create = other.event(spy, &[], "m.room.create", Some(""), &create);
    let member = other.member(spy, &[&create], spy, "join");
    let open = other.event(spy, &[&member], "m.room.join_rules", Some(""), &json!({ "join_rule": "public" }));
    let (room, _) = world.server.adopt(&mut other, &[&open]).await;
    let (spies, bobs) = (server("spy.test"), server("remote.test"));

    let inbound = &world.inbound;
    for event in [&hello, &join] {
        // Not through a room that the asker is in, and not through the event's own.
        for room_id in [&room.room_id, &world.room.room_id] {
            let state = inbound.state_before(&spies, room_id, event).await.map(drop).unwrap_err();
            let auth = inbound.event_auth(&spies, room_id, event).await.map(drop).unwrap_err();
            for refused in [state, auth] {
                assert!(matches!(refused, ServeError::UnknownEvent | ServeError::Outside), "{refused}");
            }
        }
        assert!(inbound.event(&spies, event).await.is_err());
        assert_eq!(
            inbound.history(&spies, &room.room_id, std::slice::from_ref(event), 10).await.unwrap().len(),
            0
        );
        let between: (&[OwnedEventId], &[OwnedEventId]) = (&[], std::slice::from_ref(event));
        assert_eq!(inbound.missing(&spies, &room.room_id, between, 10, 0).await.unwrap().len(), 0);
        let refused = inbound.history(&spies, &world.room.room_id, std::slice::from_ref(event), 10).await;
        assert!(matches!(refused, Err(ServeError::Outside)));
        assert!(inbound.event(&bobs, event).await.is_ok());
    }
    let unknown = "!nowhere:remote.test".try_into().unwrap();
    let refused = inbound.history(&bobs, unknown, &[hello], 10).await;
    assert!(matches!(refused, Err(ServeError::UnknownRoom)));
}

#[tokio::test]
async fn history_goes_back_from_and_between() {
    let mut world = World::new().await;
    let mut events = vec![world.join.clone()];
    for number in 0..6 {
        let event = world.remote.message("@bob:remote.test", &[events.last().unwrap()], &number.to_string());
        world.server.live(&world.room, &world.remote, &event).await;
        events.push(event);
    }
    let ids = |served: Vec<bytes::Bytes>| {
        let id = |json: &bytes::Bytes| {
            let raw = super::world::raw(json);
            crate::federation::verify::Verifier::event_id(&raw, &world.room.rules).unwrap()
        };
        served.iter().map(id).collect::<Vec<_>>()
    };
    let (carol, room_id) = (server("other.test"), &world.room.room_id);
    let back = world.inbound.history(&carol, room_id, &events[5..6], 3).await.unwrap();
    assert_eq!(ids(back), [events[5].clone(), events[4].clone(), events[3].clone()]);
    let between = world.inbound.missing(&carol, room_id, (&events[2..3], &events[6..]), 10, 0).await.unwrap();
    assert_eq!(ids(between), events[3..6]);
    let between = world.inbound.missing(&carol, room_id, (&events[..1], &events[6..]), 2, 0).await.unwrap();
    assert_eq!(ids(between), events[4..6], "the newest, the oldest first");
    let state = world.inbound.state_before(&carol, room_id, &events[1]).await.unwrap();
    let has = |kind: &str| state.state.iter().filter(|event| event.record.kind == kind).count();
    assert_eq!((has("m.room.create"), has("m.room.member")), (1, 4));
    assert!(!state.auth_chain.is_empty());
    let chain = world.inbound.event_auth(&carol, room_id, &events[6]).await.unwrap();
    assert!(ids(chain).contains(world.remote.nodes[&events[6]].event.pdu().auth_events.first().unwrap()));
}

/// CVE-2021-39163 and its like, between servers: what nobody of a server could see is served without its content.
#[tokio::test]
async fn cve_2021_39163_what_a_server_could_not_see_is_redacted() {
    for (visibility, before_join, invited) in [
        (HistoryVisibility::WorldReadable, true, true),
        (HistoryVisibility::Shared, true, true),
        (HistoryVisibility::Invited, false, true),
        (HistoryVisibility::Joined, false, false),
    ] {
        let mut world = World::new().await;
        let join = world.join.clone();
        let dan = "@dan:late.test";
        let content = json!({ "history_visibility": visibility.as_str() });
        let bob = "@bob:remote.test";
        let set = world.remote.event(bob, &[&join], "m.room.history_visibility", Some(""), &content);
        let early = world.remote.message(bob, &[&set], "early");
        let invite = world.remote.member(bob, &[&early], dan, "invite");
        let middle = world.remote.message(bob, &[&invite], "middle");
        let joins = world.remote.member(dan, &[&middle], dan, "join");
        let late = world.remote.message(bob, &[&joins], "late");
        for event in [&set, &early, &invite, &middle, &joins, &late] {
            world.server.live(&world.room, &world.remote, event).await;
        }
        let origin = server("late.test");
        let body = async |event: &OwnedEventId| {
            let json = world.inbound.event(&origin, event).await.unwrap();
            let event: Value = serde_json::from_slice(&json).unwrap();
            event["content"]["body"].is_string()
        };
        assert_eq!(body(&early).await, before_join, "{visibility}");
        assert_eq!(body(&middle).await, invited, "{visibility}");
        assert!(body(&late).await, "{visibility}");
        let served = world
            .inbound
            .history(&origin, &world.room.room_id, std::slice::from_ref(&late), 10)
            .await
            .unwrap();
        let bodies = served.iter().filter(|json| {
            let event: Value = serde_json::from_slice(json).unwrap();
            event["content"]["body"].is_string()
        });
        assert_eq!(bodies.count(), 1 + usize::from(before_join) + usize::from(invited), "{visibility}");
        assert_eq!(is_visible_to_server(&visibility, []), before_join);
    }
}

/// Whoever has left is given nothing more.
#[tokio::test]
async fn who_has_left_reads_nothing() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let leave = world.remote.member("@carol:other.test", &[&hello], "@carol:other.test", "leave");
    for event in [&hello, &leave] {
        world.server.live(&world.room, &world.remote, event).await;
    }
    let refused = world.inbound.event(&server("other.test"), &hello).await;
    assert!(matches!(refused, Err(ServeError::Outside)));
}
