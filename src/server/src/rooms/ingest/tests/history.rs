//! §Backfilling, §Handling redactions (room version 3), §Forming relationships between events: the past, and what comes
//! before what it means.

use std::collections::HashSet;

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use crate::{
    rooms::{
        ingest::{Incoming, Placement},
        pagination::PaginationToken,
        read::Direction,
        testing::{Forged, Remote, Server, status},
    },
    tables::rooms::EventStatus::Timeline,
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";

/// What came before the join is missing in the history until it is backfilled; then it stands before the join, whatever it
/// claims of itself.
#[tokio::test]
async fn the_past_stands_before_the_present() {
    for forged in [None, Some(9_007_199_254_740_991)] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(RoomVersionId::V11);
        let last = events.last().unwrap();
        let content = json!({ "msgtype": "m.text", "body": "early" });
        let forged = Forged { depth: forged, ..Forged::default() };
        let early = remote.forge(BOB, &[last], "m.room.message", None, &content, forged);
        let later = remote.forge(
            BOB,
            &[&early],
            "m.room.message",
            None,
            &content,
            Forged { depth: Some(12), ..Forged::default() },
        );
        let (room, join) = server.adopt(&mut remote, &[&later]).await;
        let gaps = server.rooms.backward_extremities(&room, 10).await.unwrap();
        assert_eq!(gaps.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&later]);
        let said = server.say(&room, "alice", "hello").await;

        let state: Vec<OwnedEventId> = events.clone();
        let first =
            Incoming { state: Some(state), ..Incoming::new(remote.verified(&early), Placement::Backfilled) };
        let second = Incoming::new(remote.verified(&later), Placement::Backfilled);
        let outcomes = server.rooms.ingest(&room, vec![second, first]).await.unwrap();
        assert!(outcomes.iter().all(|ingested| status(&ingested.outcome) == Timeline));
        assert_eq!(server.history(&room).await, [said.clone(), join.clone(), later, early]);
        let gaps = server.rooms.backward_extremities(&room, 10).await.unwrap();
        assert_eq!(gaps.iter().map(|(id, _)| id).collect::<Vec<_>>(), [last]);
        // The past is no news.
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [said]);
        let view = server.view(&room).await;
        let newest = server.rooms.point_at(&view, allod_storage::Position::new(u64::MAX - 1)).await.unwrap();
        assert!(newest.depth > server.stored(&room, &join).await.record.depth);
    }
}

/// CVE-2018-10657: an event that claims the greatest depth neither wedges the room nor stays its newest for ever.
#[tokio::test]
async fn depth_is_not_what_the_sender_claims() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let content = json!({ "msgtype": "m.text", "body": "deep" });
    let mut shown = vec![join.clone()];
    for claimed in [9_007_199_254_740_991, 0] {
        let forged = Forged { depth: Some(claimed), ..Forged::default() };
        let event = remote.forge(MALLORY, &[shown.last().unwrap()], "m.room.message", None, &content, forged);
        assert_eq!(server.live(&room, &remote, &event).await, Timeline);
        shown.push(event);
    }
    shown.push(server.say(&room, "alice", "still here").await);
    let depth = server.stored(&room, &join).await.record.depth;
    assert_eq!(server.stored(&room, shown.last().unwrap()).await.record.depth, depth + 3);
    shown.reverse();
    assert_eq!(server.history(&room).await, shown);
}

/// A redaction takes effect when both it and its target are here and its sender may, whichever comes first; until then
/// nobody is shown it.
#[tokio::test]
async fn redactions_wait_for_their_targets() {
    for version in [RoomVersionId::V9, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let target = remote.message(CAROL, &[&join], "secret");
        let redaction = remote.redaction(BOB, &[&join], &target);
        let powerless = remote.redaction(MALLORY, &[&redaction], &target);
        for event in [&redaction, &powerless] {
            assert_eq!(server.live(&room, &remote, event).await, Timeline);
        }
        assert_eq!(server.history(&room).await, std::slice::from_ref(&join));
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), std::slice::from_ref(&powerless));
        assert_eq!(server.live(&room, &remote, &target).await, Timeline);
        let stored = server.stored(&room, &target).await;
        assert!(!String::from_utf8_lossy(&stored.json).contains("secret"));
        assert_eq!(stored.redacted_by, Some(server.stored(&room, &redaction).await.number));
        let mut history = server.history(&room).await;
        history.sort();
        let mut expected = vec![join.clone(), target.clone(), redaction.clone()];
        expected.sort();
        assert_eq!(history, expected);

        // The other way round, and by the same server as the target's.
        let target = remote.message(CAROL, &[&powerless, &target], "secret too");
        let redaction = remote.redaction("@dora:other.test", &[&target], &target);
        let joins = remote.member("@dora:other.test", &[&target], "@dora:other.test", "join");
        let redaction = {
            let _ = redaction;
            remote.redaction("@dora:other.test", &[&joins], &target)
        };
        let outcomes = server.ingest(&room, &remote, Placement::Live, &[&redaction, &joins, &target]).await;
        assert!(outcomes.iter().all(|outcome| status(outcome) == Timeline));
        let stored = server.stored(&room, &target).await;
        assert!(!String::from_utf8_lossy(&stored.json).contains("secret"));
        assert!(server.history(&room).await.contains(&redaction));
    }
}

/// A relation counts when its parent comes, if that comes later.
#[tokio::test]
async fn relations_wait_for_their_parents() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let last = events.last().unwrap();
    let parent = remote.message(BOB, &[last], "parent");
    let (room, join) = server.adopt(&mut remote, &[&parent]).await;
    let content = json!({
        "msgtype": "m.text", "body": "reply",
        "m.relates_to": { "rel_type": "m.thread", "event_id": parent },
    });
    let child = remote.event(CAROL, &[&join], "m.room.message", None, &content);
    assert_eq!(server.live(&room, &remote, &child).await, Timeline);
    let parent_event = Incoming {
        state: Some(events.clone()),
        ..Incoming::new(remote.verified(&parent), Placement::Backfilled)
    };
    let outcome = server.rooms.ingest(&room, vec![parent_event]).await.unwrap().remove(0).outcome;
    assert_eq!(status(&outcome), Timeline);
    let view = server.view(&room).await;
    let threads = server
        .rooms
        .threads(&view, crate::rooms::threads::ThreadWish::All, None, 10, &HashSet::default())
        .await
        .unwrap();
    assert_eq!(threads.events.iter().map(|root| root.id().unwrap()).collect::<Vec<_>>(), [parent]);
}

/// An event that arrives late stands early in the graph: whoever was shown it and goes back from there misses nothing that
/// was said meanwhile, and is not shown it again.
#[tokio::test]
async fn who_goes_back_from_a_late_event_misses_nothing() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let late = remote.message(BOB, &[&join], "late");
    let mut said = vec![join];
    for text in ["one", "two", "three"] {
        said.push(server.say(&room, "alice", text).await);
    }
    assert_eq!(server.live(&room, &remote, &late).await, Timeline);
    server.say(&room, "alice", "after").await;
    let shown = server.stored(&room, &late).await;
    let from = PaginationToken::before(shown.record.depth, shown.number).knowing_from(shown.position.get());
    let view = server.view(&room).await;
    let mut going_back = Vec::new();
    let mut next = Some(from.to_string().parse().unwrap());
    while let Some(from) = next {
        let page = server.rooms.history(&view, from, None, Direction::Backward, 2, |_| true).await.unwrap();
        going_back.extend(page.events.iter().map(|event| event.id().unwrap()));
        next = page.end;
    }
    said.reverse();
    assert_eq!(going_back, said);
}
