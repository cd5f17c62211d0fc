//! MSC3902: rooms that are joined before their members are known. Whatever came meanwhile, the room is in the end as if it
//! had been joined whole.

use std::{collections::BTreeMap, sync::Arc};

use allod_storage::Store;
use proptest::prelude::*;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::forks::{check_indexes, steps, write};
use crate::{
    rooms::{
        Room,
        ingest::Placement,
        membership::MembershipOptions,
        partial::{Completeness, Completion},
        testing::{Forged, Remote, Server},
    },
    tables::{
        SPACES,
        rooms::{
            EventStatus::{Rejected, Timeline},
            Membership,
        },
    },
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";
const ALICE: &str = "@alice:example.org";

/// Joins `@alice` without the members, behind these events.
async fn join(server: &Server, remote: &mut Remote, prev: &[&OwnedEventId]) -> (Arc<Room>, OwnedEventId) {
    let join = remote.member(ALICE, prev, ALICE, "join");
    let room = server.rooms.adopt(remote.adopt_partially(&join)).await.unwrap();
    (room, join)
}

/// Hands in a live event, and before it what allows it, as whoever receives it would fetch it.
async fn live(
    server: &Server,
    room: &Arc<Room>,
    remote: &Remote,
    event: &OwnedEventId,
) -> crate::tables::rooms::EventStatus {
    let chain = remote.auth_chain(vec![event.clone()]);
    server.ingest(room, remote, Placement::Outlier, &chain.iter().collect::<Vec<_>>()).await;
    server.live(room, remote, event).await
}

/// Fetches and hands in what the room lacks.
async fn complete(server: &Server, room: &Arc<Room>, remote: &Remote) {
    let mut states = BTreeMap::new();
    for event in server.rooms.missing_states(room.number).await.unwrap() {
        let stated = remote.stated(&event);
        let mut all = remote.auth_chain(stated.before.clone());
        all.extend(stated.before.iter().chain([&event]).cloned());
        server.ingest(room, remote, Placement::Outlier, &all.iter().collect::<Vec<_>>()).await;
        states.insert(event, stated);
    }
    assert_eq!(server.rooms.complete(room, states).await.unwrap(), Completion::Done);
    assert!(!server.rooms.is_partial(room.number));
    check_indexes(server, room).await;
}

/// The room is there at once, and can be used; then its members are.
#[tokio::test]
async fn a_room_is_joined_before_its_members_are_known() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = join(&server, &mut remote, &[events.last().unwrap()]).await;
        assert_eq!(server.rooms.completeness(room.number).await.unwrap(), Completeness::Partial);
        assert_eq!(server.state(&room).await.len(), 5, "create, levels, rules, visibility, and the join");
        assert_eq!(server.rooms.servers_in(&room).await.unwrap().len(), 4);
        let said = server.say(&room, "alice", "hello").await;
        let message = remote.message(CAROL, &[&join], "hello too");
        assert_eq!(live(&server, &room, &remote, &message).await, Timeline);
        let waiting = server.rooms.wait_whole(&room.room_id);
        let (waited, ()) = tokio::join!(waiting, complete(&server, &room, &remote));
        waited.unwrap();
        assert!(matches!(
            server.rooms.completeness(room.number).await.unwrap(),
            Completeness::WholeSince(at) if at == server.fixture.database.store().head()
        ));
        let mut expected: Vec<OwnedEventId> = events.clone();
        expected.push(join.clone());
        expected.sort();
        for event in [&said, &message] {
            let before = server.stored(&room, event).await.record.state_before;
            let mut state: Vec<_> = server.state_at(&room, before).await.into_values().collect();
            state.sort();
            assert_eq!(state, expected);
        }
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [said.clone(), message.clone()]);
        assert_eq!(server.history(&room).await, [message, said, join]);
    }
}

/// What was let in on the word of who sent it is refused, and so does not count any more.
#[tokio::test]
async fn what_was_let_in_wrongly_is_refused() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let joined = remote.nodes[events.last().unwrap()].before.clone();
    let carols = joined[&("m.room.member".to_owned(), CAROL.to_owned())].clone();
    let gone = remote.member(CAROL, &[events.last().unwrap()], CAROL, "leave");
    let (room, join) = join(&server, &mut remote, &[&gone]).await;
    let auth = [&events[0], &events[2], &carols].map(Clone::clone).to_vec();
    let forged = Forged { auth: Some(auth), ..Forged::default() };
    let topic = json!({ "topic": "from outside" });
    let bad = remote.forge(CAROL, &[&join], "m.room.topic", Some(""), &topic, forged);
    assert_eq!(live(&server, &room, &remote, &bad).await, Timeline);
    let said = server.say(&room, "alice", "upon it").await;
    assert_eq!(server.history(&room).await, [said.clone(), bad.clone(), join.clone()]);
    complete(&server, &room, &remote).await;
    assert_eq!(server.stored(&room, &bad).await.record.status, Rejected);
    assert!(!server.state(&room).await.contains_key(&("m.room.topic".to_owned(), String::new())));
    assert_eq!(server.history(&room).await, [said.clone(), join]);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [said]);
}

/// What was refused because of that is let in, and clients are shown it as new.
#[tokio::test]
async fn what_was_refused_wrongly_is_let_in() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let joined = remote.nodes[events.last().unwrap()].before.clone();
    let carols = joined[&("m.room.member".to_owned(), CAROL.to_owned())].clone();
    let gone = remote.member(CAROL, &[events.last().unwrap()], CAROL, "leave");
    let (room, join) = join(&server, &mut remote, &[&gone]).await;
    let auth = vec![events[0].clone(), events[2].clone(), carols, events.last().unwrap().clone()];
    let forged = Forged { auth: Some(auth), ..Forged::default() };
    let leave = json!({ "membership": "leave" });
    let kick = remote.forge(CAROL, &[&join], "m.room.member", Some(MALLORY), &leave, forged);
    let auth = vec![events[0].clone(), events[2].clone(), events.last().unwrap().clone()];
    let forged = Forged { auth: Some(auth), ..Forged::default() };
    let text = json!({ "msgtype": "m.text", "body": "still here" });
    let message = remote.forge(MALLORY, &[&kick], "m.room.message", None, &text, forged);
    assert_eq!(live(&server, &room, &remote, &kick).await, Timeline);
    assert_eq!(live(&server, &room, &remote, &message).await, Rejected);
    let before = server.fixture.database.store().head();
    complete(&server, &room, &remote).await;
    assert_eq!(server.stored(&room, &kick).await.record.status, Rejected);
    let let_in = server.stored(&room, &message).await;
    assert!(let_in.record.status == Timeline && let_in.position > before);
    assert_eq!(server.history(&room).await, [message.clone(), join]);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [message]);
    let joined = server.rooms.members(room.number, Membership::Join).await.unwrap();
    assert_eq!(joined.len(), 3, "bob, mallory and alice");
}

/// Nothing of it is in memory only.
#[tokio::test]
async fn a_partial_room_survives_a_restart() {
    let store = Store::memory(SPACES);
    let server = Server::over(store.clone()).await;
    let (mut remote, events) = Remote::new(RoomVersionId::V12);
    let (room, join) = join(&server, &mut remote, &[events.last().unwrap()]).await;
    let early = remote.message(CAROL, &[&join], "before");
    assert_eq!(live(&server, &room, &remote, &early).await, Timeline);
    drop(server);
    let server = Server::over(store).await;
    let rooms = server.rooms.partial_rooms().await.unwrap();
    assert_eq!(
        rooms.first().map(|(room, record)| (*room, record.via.as_str())),
        Some((room.number, "remote.test"))
    );
    assert!(server.rooms.is_partial(room.number));
    assert_eq!(server.rooms.told_servers(room.number).unwrap().len(), 3);
    let room = server.rooms.get(room.number).await.unwrap();
    let late = remote.message(CAROL, &[&early], "after");
    assert_eq!(live(&server, &room, &remote, &late).await, Timeline);
    complete(&server, &room, &remote).await;
    let before = server.stored(&room, &late).await.record.state_before;
    assert_eq!(server.state_at(&room, before).await.len(), events.len() + 1);
    assert!(server.rooms.partial_rooms().await.unwrap().is_empty());
}

/// Who leaves and comes back, past events that were missed, needs the state before both joins.
#[tokio::test]
async fn a_partial_room_is_left_and_joined_again() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, first) = join(&server, &mut remote, &[events.last().unwrap()]).await;
    let alice = server.caller("alice").await;
    server.rooms.leave(&room.room_id, &alice, &MembershipOptions::default()).await.unwrap();
    assert!(server.rooms.is_partial(room.number));
    let leave = remote.member(ALICE, &[&first], ALICE, "leave");
    let topic = remote.topic(BOB, &[&leave], "meanwhile");
    let (_, second) = join(&server, &mut remote, &[&topic]).await;
    assert_eq!(server.rooms.missing_states(room.number).await.unwrap().len(), 2);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), std::slice::from_ref(&second));
    let one = events.last().unwrap();
    let one = BTreeMap::from([(one.clone(), remote.stated(one))]);
    assert!(
        matches!(server.rooms.complete(&room, one).await.unwrap(), Completion::Missing(more) if more == [topic])
    );
    complete(&server, &room, &remote).await;
    assert_eq!(server.state(&room).await.len(), events.len() + 2);
}

/// What nobody is in any more, and nobody answers for, is let go.
#[tokio::test]
async fn a_partial_room_is_abandoned() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, _) = join(&server, &mut remote, &[events.last().unwrap()]).await;
    let alice = server.caller("alice").await;
    server.rooms.leave(&room.room_id, &alice, &MembershipOptions::default()).await.unwrap();
    server.rooms.abandon(room.number).await.unwrap();
    assert_eq!(server.rooms.completeness(room.number).await.unwrap(), Completeness::Whole);
    let (again, _) = join(&server, &mut remote, &[events.last().unwrap()]).await;
    complete(&server, &again, &remote).await;
    assert_eq!(server.state(&room).await.len(), events.len() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    /// In the end the same is refused, and each event has the same state before it, as on a server that knew all from the
    /// beginning; wherever in the history the state arrives.
    #[test]
    fn a_partial_room_becomes_what_a_whole_one_is(
        steps in steps(),
        at in 0..16_usize,
        newest in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let version = if newest { RoomVersionId::V12 } else { RoomVersionId::V10 };
            let (mut remote, events) = Remote::new(version);
            let (whole, partial) = (Server::new().await, Server::new().await);
            let (room, join) = whole.adopt(&mut remote, &[events.last().unwrap()]).await;
            let other_room = partial.rooms.adopt(remote.adopt_partially(&join)).await.unwrap();
            let events = write(&mut remote, &join, &steps);
            let at = at.min(events.len());
            for (number, event) in events.iter().enumerate() {
                if number == at {
                    complete(&partial, &other_room, &remote).await;
                }
                whole.live(&room, &remote, event).await;
                live(&partial, &other_room, &remote, event).await;
            }
            if at == events.len() {
                complete(&partial, &other_room, &remote).await;
            }
            for event in &events {
                let (ours, theirs) = (whole.stored(&room, event).await, partial.stored(&other_room, event).await);
                assert_eq!(ours.record.status == Rejected, theirs.record.status == Rejected, "{event}");
                let ours = whole.state_at(&room, ours.record.state_before).await;
                let theirs = partial.state_at(&other_room, theirs.record.state_before).await;
                assert_eq!(ours, theirs, "{event}");
            }
            check_indexes(&partial, &other_room).await;
        });
    }
}
