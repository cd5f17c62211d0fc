//! Rooms of versions that are not offered to clients any more, and that other servers still have.

use std::collections::BTreeSet;

use ruma::RoomVersionId;

use crate::{
    config::ROOM_VERSIONS,
    rooms::testing::{Remote, Server},
    tables::rooms::EventStatus::{Rejected, Timeline},
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";

/// They are joined, written to, forked and resolved as the newer ones.
#[tokio::test]
async fn rooms_of_versions_3_to_5_are_served_to_who_is_invited() {
    for version in [RoomVersionId::V3, RoomVersionId::V4, RoomVersionId::V5] {
        assert!(!ROOM_VERSIONS.contains(&version), "new rooms are not of it");
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version.clone());
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        assert_eq!(room.version, version);
        let refused = remote.topic(MALLORY, &[&join], "mine");
        assert_eq!(server.live(&room, &remote, &refused).await, Rejected);
        // Two set the topic without knowing of each other.
        let (one, other) = (remote.topic(BOB, &[&join], "one"), remote.topic(CAROL, &[&join], "other"));
        for topic in [&one, &other] {
            assert_eq!(server.live(&room, &remote, topic).await, Timeline, "{version}");
        }
        let state = server.state(&room).await;
        let topic = &state[&("m.room.topic".to_owned(), String::new())];
        assert!([&one, &other].contains(&topic), "{version}");
        let said = server.say(&room, "alice", "hello").await;
        let tips = server.rooms.forward_extremities(&room).await.unwrap();
        assert_eq!(tips, std::slice::from_ref(&said));
        let prev: BTreeSet<_> = {
            let said = server.stored(&room, &said).await;
            said.pdu(&room).unwrap().prev_events.iter().cloned().collect()
        };
        assert_eq!(prev, BTreeSet::from([one, other]), "{version}");
        let target = remote.message(BOB, &[&join], "regretted");
        let redaction = remote.redaction(BOB, &[&target], &target);
        for event in [&target, &redaction] {
            assert_eq!(server.live(&room, &remote, event).await, Timeline, "{version}");
        }
        assert!(server.stored(&room, &target).await.redacted_by.is_some(), "{version}");
    }
}
