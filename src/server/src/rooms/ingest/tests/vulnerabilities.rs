//! What has brought other servers down, or let somebody have their way with a room.

use ruma::RoomVersionId;
use serde_json::json;

use crate::{
    rooms::testing::{Forged, Remote, Server},
    tables::rooms::EventStatus::{Rejected, Timeline},
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";
/// The largest number that an event may hold.
const LARGEST: u64 = (1 << 53) - 1;

/// An event that claims to be as deep as can be: the room goes on, over and over.
#[tokio::test]
async fn cve_2018_10657_the_room_goes_on_behind_the_greatest_depth() {
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, mut last) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        for depth in [LARGEST, LARGEST, 0, 1] {
            let content = json!({ "msgtype": "m.text", "body": "deep" });
            let forged = Forged { depth: Some(depth), ..Forged::default() };
            last = remote.forge(MALLORY, &[&last], "m.room.message", None, &content, forged);
            assert_eq!(server.live(&room, &remote, &last).await, Timeline);
        }
        let ours = server.say(&room, "alice", "still here").await;
        let stored = server.stored(&room, &ours).await;
        let claimed: serde_json::Value = serde_json::from_slice(&stored.json).unwrap();
        assert!(claimed["depth"].as_u64().unwrap() <= LARGEST);
        assert_eq!(server.history(&room).await[0], ours);
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [ours]);
    }
}

/// Redactions of redactions end, one of the create event leaves the room of its version, and nobody redacts what they
/// have no power over (Synapse 1.2.1, CVE-2024-6302).
#[tokio::test]
async fn synapse_1_2_1_redactions_do_no_more_than_they_may() {
    for version in [RoomVersionId::V6, RoomVersionId::V11] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version.clone());
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let target = remote.message(CAROL, &[&join], "to be redacted");
        assert_eq!(server.live(&room, &remote, &target).await, Timeline);
        let mut last = target.clone();
        for _ in 0..50 {
            last = remote.redaction(BOB, &[&last], &last);
            assert_eq!(server.live(&room, &remote, &last).await, Timeline);
        }
        assert!(server.stored(&room, &target).await.redacted_by.is_some());

        let kept = remote.message(CAROL, &[&last], "kept");
        let powerless = remote.redaction(MALLORY, &[&kept], &kept);
        for event in [&kept, &powerless] {
            assert_eq!(server.live(&room, &remote, event).await, Timeline);
        }
        assert_eq!(server.stored(&room, &kept).await.redacted_by, None);

        let create = remote.redaction(BOB, &[&powerless], &events[0]);
        assert_eq!(server.live(&room, &remote, &create).await, Timeline);
        let elsewhere = ruma::event_id!("$another-rooms-event").to_owned();
        let foreign = remote.redaction(BOB, &[&create], &elsewhere);
        assert_eq!(server.live(&room, &remote, &foreign).await, Timeline);
        let after = remote.topic(CAROL, &[&foreign], "the room goes on");
        assert_eq!(server.live(&room, &remote, &after).await, Timeline);
        assert_eq!(server.rooms.find(&room.room_id).await.unwrap().unwrap().version, version);
        server.say(&room, "alice", "still here").await;
    }
}

/// An event that names as its authorisation a message, itself built on nothing, or one of another kind than it needs: it
/// is refused, and nothing panics.
#[tokio::test]
async fn tuwunel_44c28741_auth_events_of_the_wrong_kind_are_refused() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let message = remote.message(BOB, &[&join], "hello");
        assert_eq!(server.live(&room, &remote, &message).await, Timeline);
        let right = remote.verified(&message).pdu().auth_events.clone();
        let visibility = events[4].clone();
        for odd in [vec![message.clone()], vec![message.clone(), message.clone()], vec![visibility]] {
            for auth in [odd.clone(), [right.clone(), odd].concat()] {
                for (kind, state_key) in
                    [("m.room.message", None), ("m.room.topic", Some("")), ("m.room.member", Some(BOB))]
                {
                    let content = json!({ "membership": "join", "body": "x", "topic": "x" });
                    let forged = Forged { auth: Some(auth.clone()), ..Forged::default() };
                    let event = remote.forge(BOB, &[&message], kind, state_key, &content, forged);
                    assert_eq!(server.live(&room, &remote, &event).await, Rejected, "{kind} {auth:?}");
                }
            }
        }
        assert_eq!(server.history(&room).await, [message, join]);
    }
}
