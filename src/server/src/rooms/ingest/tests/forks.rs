//! §Room state, §State resolution: a room that has forked comes together again, in whatever order its events arrive.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use crate::{
    rooms::{
        ingest::Placement,
        testing::{Remote, Server, status},
    },
    tables::rooms::EventStatus::{Rejected, Timeline},
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";

/// The next event of ours cites all ends, and the state is resolved over them.
#[tokio::test]
async fn local_events_join_the_ends() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let by_bob = remote.topic(BOB, &[&join], "bob's");
    let by_carol = remote.event(CAROL, &[&join], "m.room.name", Some(""), &json!({ "name": "carol's" }));
    assert_eq!(server.live(&room, &remote, &by_bob).await, Timeline);
    assert_eq!(server.live(&room, &remote, &by_carol).await, Timeline);
    let tips = server.rooms.forward_extremities(&room).await.unwrap();
    assert_eq!(tips, [by_bob.clone(), by_carol.clone()]);
    let state = server.state(&room).await;
    assert_eq!(state[&("m.room.topic".to_owned(), String::new())], by_bob);
    assert_eq!(state[&("m.room.name".to_owned(), String::new())], by_carol);

    // Two at once: the first joins the ends, the second follows the first.
    let (one, two) = tokio::join!(server.say(&room, "alice", "one"), server.say(&room, "alice", "two"));
    let (one, two) = (server.stored(&room, &one).await, server.stored(&room, &two).await);
    let (one, two) = if one.number < two.number { (one, two) } else { (two, one) };
    assert_eq!(one.pdu(&room).unwrap().prev_events, tips);
    assert_eq!(two.pdu(&room).unwrap().prev_events, [one.id().unwrap()]);
    assert_eq!(one.record.state_before, two.record.state_after);
    assert_eq!(two.record.depth, one.record.depth + 1);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [two.id().unwrap()]);
}

/// All ends have their part in the state, even if they are more than an event can cite; each event of ours joins as many as
/// it can.
#[tokio::test]
async fn more_ends_than_an_event_can_cite() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let joins: Vec<_> = (0..30)
        .map(|number| {
            let user = format!("@user{number}:remote.test");
            remote.member(&user, &[&join], &user, "join")
        })
        .collect();
    let outcomes = server.ingest(&room, &remote, Placement::Live, &joins.iter().collect::<Vec<_>>()).await;
    assert!(outcomes.iter().all(|outcome| status(outcome) == Timeline));
    let joined = async || server.rooms.head(room.number).await.unwrap().joined;
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap().len(), 30);
    assert_eq!(joined().await, 34);
    check_indexes(&server, &room).await;
    let first = server.say(&room, "alice", "some").await;
    let first = server.stored(&room, &first).await;
    assert_eq!(first.pdu(&room).unwrap().prev_events.len(), 20);
    assert_eq!(server.state_at(&room, first.record.state_before).await.len(), 28);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap().len(), 11);
    assert_eq!(joined().await, 34);
    check_indexes(&server, &room).await;
    let second = server.say(&room, "alice", "all").await;
    assert_eq!(server.stored(&room, &second).await.pdu(&room).unwrap().prev_events.len(), 11);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [second]);
    assert_eq!(joined().await, 34);
    check_indexes(&server, &room).await;
}

/// One step of a random history: who, what, and upon which of the last events.
#[derive(Clone, Debug)]
pub(super) struct Step {
    who: usize,
    what: usize,
    upon: Vec<usize>,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4_usize, 0..9_usize, prop::collection::vec(0..5_usize, 1..3));
    prop::collection::vec(step.prop_map(|(who, what, upon)| Step { who, what, upon }), 4..16)
}

/// Writes a history; its events in an order in which each follows its parents, the last joining all ends.
pub(super) fn write(remote: &mut Remote, start: &OwnedEventId, steps: &[Step]) -> Vec<OwnedEventId> {
    let who = [BOB, CAROL, MALLORY, "@dave:other.test"];
    let mut all = vec![start.clone()];
    for (number, step) in steps.iter().enumerate() {
        let mut prev: Vec<OwnedEventId> = Vec::new();
        for back in &step.upon {
            let parent = all[all.len().saturating_sub(back + 1)].clone();
            if !prev.contains(&parent) {
                prev.push(parent);
            }
        }
        let prev: Vec<&OwnedEventId> = prev.iter().collect();
        let sender = who[step.who];
        let event = match step.what {
            0 => remote.message(sender, &prev, &format!("{number}")),
            1 | 2 => remote.topic(sender, &prev, &format!("{number}")),
            3 => remote.member(sender, &prev, sender, "join"),
            4 => remote.member(sender, &prev, sender, "leave"),
            5 => remote.member(sender, &prev, MALLORY, "ban"),
            6 => remote.member(sender, &prev, MALLORY, "leave"),
            7 => {
                let levels =
                    json!({ "users": { BOB: 100, CAROL: 50, MALLORY: number }, "state_default": 40 });
                remote.event(sender, &prev, "m.room.power_levels", Some(""), &levels)
            }
            _ => {
                let rule = json!({ "join_rule": if number % 2 == 0 { "invite" } else { "public" } });
                remote.event(sender, &prev, "m.room.join_rules", Some(""), &rule)
            }
        };
        all.push(event);
    }
    let ends: Vec<OwnedEventId> = all
        .iter()
        .filter(|event| !all.iter().any(|other| remote.verified(other).pdu().prev_events.contains(event)))
        .cloned()
        .collect();
    all.push(remote.message(BOB, &ends.iter().collect::<Vec<_>>(), "together"));
    all.split_off(1)
}

/// Another order in which each event still follows its parents.
fn shuffled(remote: &Remote, events: &[OwnedEventId], choices: &[usize]) -> Vec<OwnedEventId> {
    let (mut left, mut ordered) = (events.to_vec(), Vec::new());
    let mut choices = choices.iter().cycle();
    while !left.is_empty() {
        let ready: Vec<usize> = (0..left.len())
            .filter(|place| {
                let pdu = remote.verified(&left[*place]).pdu().clone();
                !pdu.prev_events.iter().chain(&pdu.auth_events).any(|parent| left.contains(parent))
            })
            .collect();
        ordered.push(left.remove(ready[choices.next().unwrap() % ready.len()]));
    }
    ordered
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// What a server knows of a room's states does not depend on the order in which it learnt of them: the same events are
    /// refused, and each has the same state before it. (What is soft-failed does depend on it, §Soft failure.)
    #[test]
    fn servers_agree_whatever_the_order(
        steps in steps(),
        choices in prop::collection::vec(0..100_usize, 8),
        newest in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let version = if newest { RoomVersionId::V12 } else { RoomVersionId::V10 };
            let (mut remote, events) = Remote::new(version);
            let (here, there) = (Server::new().await, Server::new().await);
            let (room, join) = here.adopt(&mut remote, &[events.last().unwrap()]).await;
            let other_room = there.rooms.adopt(remote.adopt(&join)).await.unwrap();
            let events = write(&mut remote, &join, &steps);
            let others = shuffled(&remote, &events, &choices);
            for event in &events {
                here.live(&room, &remote, event).await;
            }
            there.ingest(&other_room, &remote, Placement::Live, &others.iter().collect::<Vec<_>>()).await;
            for event in &events {
                let (ours, theirs) = (here.stored(&room, event).await, there.stored(&other_room, event).await);
                assert_eq!(ours.record.status == Rejected, theirs.record.status == Rejected, "{event}");
                let ours = here.state_at(&room, ours.record.state_before).await;
                let theirs = there.state_at(&other_room, theirs.record.state_before).await;
                assert_eq!(ours, theirs, "{event}");
            }
            check_indexes(&here, &room).await;
            check_indexes(&there, &other_room).await;
        });
    }
}

/// The flat state, the members and their counts say what the tree says.
pub(super) async fn check_indexes(server: &Server, room: &crate::rooms::Room) {
    use crate::{
        database::Range,
        rooms::membership,
        tables::rooms::{FlatState, Membership, RoomMember},
    };
    let head = server.rooms.head(room.number).await.unwrap();
    let database = &server.fixture.database;
    let tree = server.rooms.states().all(room, head.root, None).await.unwrap();
    let flat = database.scan_all(Range::<FlatState>::prefix(&room.number)).await.unwrap();
    let flat: BTreeMap<[u8; 16], _> = flat.into_iter().map(|((.., key), number)| (key, number)).collect();
    assert_eq!(flat, tree.iter().map(|(key, number)| (key.0, *number)).collect());
    let (mut members, mut joined, mut invited) = (BTreeMap::new(), 0, 0);
    for (_, number) in tree {
        let event = server.rooms.events().load(room.number, number).await.unwrap();
        if event.record.kind != "m.room.member" {
            continue;
        }
        let user_id = ruma::UserId::parse(event.record.state_key.clone().unwrap()).unwrap();
        let membership = membership::of(&event.pdu(room).unwrap()).unwrap();
        joined += u32::from(membership == Membership::Join);
        invited += u32::from(membership == Membership::Invite);
        members.insert(user_id, membership);
    }
    let rows = database.scan_all(Range::<RoomMember>::prefix(&room.number)).await.unwrap();
    let mut found = BTreeMap::new();
    for ((_, user), row) in rows {
        found.insert(server.fixture.users.id(user).await.unwrap().unwrap(), row.value.membership);
    }
    let found: BTreeMap<_, _> =
        found.into_iter().map(|(id, membership)| ((*id).to_owned(), membership)).collect();
    assert_eq!(found, members);
    assert_eq!((head.joined, head.invited), (joined, invited));
}
