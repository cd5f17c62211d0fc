//! §Joining rooms of the server-server API: rooms that come from another server, small and large, first and again.

use std::sync::Arc;

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::forks::check_indexes;
use crate::{
    database::Range,
    rooms::{
        adopt::AdoptError,
        ingest::{Incoming, IngestOutcome, Placement},
        testing::{Forged, Remote, Server, status},
    },
    tables::rooms::{
        EventStatus::{Outlier, Timeline},
        FlatState, Membership, StateRoot,
    },
};

const BOB: &str = "@bob:remote.test";
const ALICE: &str = "@alice:example.org";

/// The state is there with the join, and not before; the joined may speak.
#[tokio::test]
async fn a_room_of_another_server_is_joined() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let mut expected: Vec<OwnedEventId> = events.clone();
        expected.push(join.clone());
        expected.sort();
        let mut found: Vec<_> = server.state(&room).await.into_values().collect();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(server.stored(&room, &events[0]).await.record.status, Outlier);
        assert_eq!(server.stored(&room, &join).await.record.status, Timeline);
        check_indexes(&server, &room).await;
        let alice = server.caller("alice").await;
        assert_eq!(server.rooms.rooms_of(alice.user, Membership::Join).await.unwrap(), [room.number]);
        let said = server.say(&room, "alice", "hello").await;
        let said = server.stored(&room, &said).await;
        assert_eq!(said.pdu(&room).unwrap().prev_events, [join]);
        assert_eq!(said.record.state_before, server.rooms.current_root(room.number).await.unwrap());
    }
}

/// What the join needs must be there; what the state has too much of is left out.
#[tokio::test]
async fn a_room_that_makes_no_sense_is_not_joined() {
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let mut upon = remote.verified(events.last().unwrap()).pdu().auth_events.clone();
    upon.retain(|id| *id != events[0]);
    let forged = Forged { auth: Some(upon), ..Forged::default() };
    let last = events.last().unwrap();
    let bad = remote.forge(BOB, &[last], "m.room.name", Some(""), &json!({ "name": "x" }), forged);
    let join = remote.member(ALICE, &[&bad], ALICE, "join");

    let server = Server::new().await;
    let mut adopt = remote.adopt(&join);
    adopt.state.retain(|event| !event.pdu().is("m.room.create", ""));
    assert!(matches!(server.rooms.adopt(adopt).await, Err(AdoptError::Invalid(_))));
    let mut adopt = remote.adopt(&join);
    adopt.version = RoomVersionId::V10;
    assert!(matches!(server.rooms.adopt(adopt).await, Err(AdoptError::Invalid(_))));
    let mut adopt = remote.adopt(&join);
    adopt.state.retain(|event| !event.pdu().is("m.room.join_rules", ""));
    adopt.auth_chain.clear();
    assert!(matches!(server.rooms.adopt(adopt).await, Err(AdoptError::Missing(_))));
    // Nothing of that lets anybody in.
    let room = server.rooms.find(&remote.room_id).await.unwrap().unwrap();
    assert!(!server.rooms.has_local_member(&room).await.unwrap());
    let create = serde_json::value::to_raw_value(&json!({ "creator": ALICE })).unwrap();
    let caller = server.caller("alice").await;
    assert!(server.rooms.set_state(&room.room_id, &caller, "m.room.create", "", &create).await.is_err());

    let room = server.rooms.adopt(remote.adopt(&join)).await.unwrap();
    let state = server.state(&room).await;
    assert!(!state.contains_key(&("m.room.name".to_owned(), String::new())));
    check_indexes(&server, &room).await;
}

/// A state too large for one batch; what is read under one epoch is gone under the next.
#[tokio::test]
async fn large_rooms_are_joined() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let last = events.last().unwrap();
    let members: Vec<_> = (0..2_500)
        .map(|number| {
            let member = format!("@user{number}:remote.test");
            remote.member(&member, &[last], &member, "join")
        })
        .collect();
    let join = remote.member(ALICE, &[last], ALICE, "join");
    let mut adopt = remote.adopt(&join);
    adopt.state.extend(members.iter().map(|member| remote.verified(member)));
    let room = server.rooms.adopt(adopt).await.unwrap();
    check_indexes(&server, &room).await;
    let head = server.rooms.head(room.number).await.unwrap();
    assert_eq!((head.joined, head.epoch), (2_504, 1));
    let rows = server.fixture.database.scan_all(Range::<FlatState>::prefix(&room.number)).await.unwrap();
    assert_eq!(rows.len(), 2_508);
    let said = server.say(&room, "alice", "hello").await;
    let topic = remote.topic(BOB, &[&join], "large");
    assert_eq!(server.live(&room, &remote, &topic).await, Timeline);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [said, topic]);
    check_indexes(&server, &room).await;
}

/// Who comes back finds the room as it is now, not as it was left, even if the server saw nothing in between.
#[tokio::test]
async fn coming_back_begins_anew() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let kick = remote.member(BOB, &[&join], ALICE, "ban");
    assert_eq!(server.live(&room, &remote, &kick).await, Timeline);
    let unban = remote.member(BOB, &[&kick], ALICE, "leave");
    let topic = remote.topic(BOB, &[&unban], "news");
    let (again, rejoin) = server.adopt(&mut remote, &[&topic]).await;
    assert_eq!(again.number, room.number);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), std::slice::from_ref(&rejoin));
    assert_eq!(server.state(&room).await[&("m.room.topic".to_owned(), String::new())], topic);
    check_indexes(&server, &room).await;
    let gaps = server.rooms.backward_extremities(&room, 10).await.unwrap();
    assert!(gaps.iter().any(|(id, _)| *id == topic));
    // The gap is filled; nothing that is known comes twice.
    let outcomes = server.ingest(&room, &remote, Placement::Backfilled, &[&topic, &unban, &kick]).await;
    assert_eq!(outcomes.iter().map(status).collect::<Vec<_>>(), [Timeline; 3]);
    assert!(matches!(outcomes[2], IngestOutcome::Known { .. }));
    assert_eq!(server.history(&room).await[..4], [rejoin, topic, unban, kick]);
}

/// Two who join at once are both in.
#[tokio::test]
async fn two_join_at_once() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V12);
    let last = events.last().unwrap();
    let anna = "@anna:example.org";
    let joins = [remote.member(ALICE, &[last], ALICE, "join"), remote.member(anna, &[last], anna, "join")];
    let (one, two) = tokio::join!(
        server.rooms.adopt(remote.adopt(&joins[0])),
        server.rooms.adopt(remote.adopt(&joins[1]))
    );
    let (room, other) = (one.unwrap(), two.unwrap());
    assert_eq!(room.number, other.number);
    let state = server.state(&room).await;
    for (user, join) in [ALICE, anna].into_iter().zip(&joins) {
        assert_eq!(state[&("m.room.member".to_owned(), user.to_owned())], *join);
    }
    check_indexes(&server, &room).await;
}

/// CVE-2026-45078: however many wait for one room, others go on, and whoever waits is answered.
#[tokio::test]
async fn a_busy_room_holds_up_no_other() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let topics: Vec<_> = (0..300).map(|n| remote.topic(BOB, &[&join], &format!("{n}"))).collect();
    let calls = topics.iter().map(|topic| {
        let incoming = Incoming::new(remote.verified(topic), Placement::Live);
        server.rooms.ingest(&room, vec![incoming])
    });
    let calls = futures_util::future::join_all(calls);
    let local = server.say(&room, "alice", "in between");
    let (answers, _) = tokio::join!(calls, local);
    let taken = answers.into_iter().filter(|answer| match answer {
        Ok(ingested) => status(&ingested[0].outcome) == Timeline,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(taken.count(), topics.len());
    check_indexes(&server, &room).await;
}

/// A commit that fails takes all with it that was built on it; they are built anew, once each.
#[tokio::test]
async fn what_was_built_on_a_failed_commit_is_built_anew() {
    use crate::{
        database::Write,
        rooms::{Append, AppendError},
        tables::rooms::RoomHead,
    };
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let caller = server.caller("alice").await;
    let content = json!({ "msgtype": "m.text", "body": "fails" });
    let draft = server.rooms.draft(&caller, "m.room.message", None, &content).unwrap();
    let mut extra = Write::new();
    extra.absent::<RoomHead>(&room.number);
    let append = Append { extra, ..Append::new(draft, caller.user) };
    let first = remote.topic(BOB, &[&join], "one");
    let second = remote.message(BOB, &[&first], "two");
    let both = [&first, &second];
    let (failed, outcomes) = tokio::join!(
        server.rooms.append(&room, append),
        server.ingest(&room, &remote, Placement::Live, &both)
    );
    assert!(matches!(failed, Err(AppendError::Conflict(0))), "{failed:?}");
    assert!(outcomes.iter().all(|outcome| status(outcome) == Timeline));
    assert_eq!(server.history(&room).await, [second.clone(), first, join]);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [second]);
    check_indexes(&server, &room).await;
}

/// An outlier has no state, and nobody is told that it is empty.
#[tokio::test]
async fn outliers_have_no_state() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, _) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let outlier: Arc<_> = server.stored(&room, &events[1]).await;
    assert!(!outlier.has_state() && !outlier.is_shown());
    assert_eq!(outlier.record.state_after, StateRoot::default());
}
