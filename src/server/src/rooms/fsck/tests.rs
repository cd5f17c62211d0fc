//! Damage of each kind to a room, whether it is found, and whether it is put right.

use allod_storage::Position;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    database::Range,
    numbers::UserNumber,
    rooms::{
        event::StoredEvent,
        send::TransactionName,
        testing::{Remote, Server},
    },
    tables::{
        Stamped,
        rooms::{
            Aggregate, AggregateRecord, AuthReferrer, CurrentState, Depth, EventByName, EventJson, EventMeta,
            EventTime, FlatState, Membership, RoomByName, RoomMember, StateNode, Timeline, UserRoom,
        },
    },
};

/// A room with a fork, a redaction, a thread and an invitation.
struct World {
    server: Server,
    room: Arc<Room>,
    said: OwnedEventId,
    redacted: OwnedEventId,
    /// That one's JSON from before.
    secret: bytes::Bytes,
    topic: OwnedEventId,
}

impl World {
    async fn new() -> Self {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(RoomVersionId::V11);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let said = server.say(&room, "alice", "the first").await;
        let left = remote.topic("@bob:remote.test", &[&join], "one");
        let right = remote.topic("@carol:other.test", &[&join], "another");
        for topic in [&left, &right] {
            server.live(&room, &remote, topic).await;
        }
        let caller = server.caller("alice").await;
        let reply = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": { "rel_type": "m.thread", "event_id": said } });
        let reply = to_raw_value(&reply).unwrap();
        let named = TransactionName { path: "/thread", id: "reply" };
        server.rooms.send(&room.room_id, &caller, "m.room.message", &reply, named).await.unwrap();
        let redacted = server.say(&room, "alice", "a secret").await;
        let secret = server.stored(&room, &redacted).await.json.clone();
        let named = TransactionName { path: "/redact", id: "redaction" };
        server.rooms.redact(&room.room_id, &caller, &redacted, None, named).await.unwrap();
        server.say(&room, "alice", "the last").await;
        Self { server, room, said, redacted, secret, topic: right }
    }

    async fn check(&self, repair: bool) -> RoomReport {
        self.server.rooms.check(&self.room, repair).await.unwrap()
    }

    async fn event(&self, id: &OwnedEventId) -> Arc<StoredEvent> {
        self.server.stored(&self.room, id).await
    }

    async fn write(&self, write: Write) {
        self.server.fixture.database.commit(write).await.unwrap();
    }

    async fn head(&self) -> HeadRecord {
        self.server.fixture.database.get::<RoomHead>(&self.room.number).await.unwrap().unwrap().value
    }

    async fn alice(&self) -> UserNumber {
        self.server.caller("alice").await.user
    }
}

#[tokio::test]
async fn a_room_as_it_should_be_gives_no_finding() {
    let world = World::new().await;
    let report = world.check(false).await;
    assert_eq!(report.findings, []);
    assert!(report.events > 12 && !report.moving, "{report:?}");
    assert_eq!(world.check(true).await.findings, []);
    world.server.say(&world.room, "alice", "goes on").await;
    assert_eq!(world.check(false).await.findings, []);
}

/// Damages one thing.
async fn damage(world: &World, damage: Damage) {
    let database = world.server.fixture.database.clone();
    let room = world.room.number;
    let said = world.event(&world.said).await;
    let topic = world.event(&world.topic).await;
    let mut write = Write::new();
    match damage {
        Damage::EventLost => write.delete::<EventJson>(&(room, said.number)),
        Damage::EventAltered => {
            let altered = String::from_utf8(said.json.to_vec()).unwrap().replace("the first", "the worst");
            write.put::<EventJson>(&(room, said.number), &altered.into());
        }
        Damage::Metadata => {
            let record =
                crate::tables::rooms::EventRecord { kind: "m.room.other".to_owned(), ..said.record.clone() };
            write.put_unstamped::<EventMeta>(
                &(room, said.number),
                &Stamped { position: said.position, value: record },
            );
        }
        Damage::EventIndex => {
            let name = database.hash("event", world.said.as_str());
            write.delete::<EventByName>(&(room, name));
        }
        Damage::Redaction => {
            // As if the redaction had not overwritten what it names.
            let redacted = world.event(&world.redacted).await;
            write.put::<EventJson>(&(room, redacted.number), &world.secret);
        }
        Damage::AuthIndex => {
            let auth_event = *topic.record.auth_events.first().unwrap();
            write.delete::<AuthReferrer>(&(room, auth_event, topic.number));
        }
        Damage::History => {
            write.delete::<Depth>(&(room, said.record.depth, said.number));
            write.put::<Depth>(&(room, 77, said.number), &());
        }
        Damage::TimeIndex => {
            write.delete::<EventTime>(&(room, said.record.origin_server_ts, said.record.depth, said.number));
        }
        Damage::Timeline => write.delete::<Timeline>(&(room, said.position)),
        Damage::StateNode => {
            let id = crate::numbers::Hash128(topic.record.state_after.0);
            write.delete::<StateNode>(&(room, id));
        }
        Damage::State => {
            let mut record = topic.record.clone();
            record.state_after = record.state_before;
            write.put_unstamped::<EventMeta>(
                &(room, topic.number),
                &Stamped { position: topic.position, value: record },
            );
        }
        _ => damage_to_the_end(world, damage, &mut write).await,
    }
    world.write(write).await;
    let redacted = world.event(&world.redacted).await.number;
    for number in [said.number, topic.number, redacted] {
        world.server.rooms.core.events.invalidate(room, number);
    }
}

/// Damages one thing about the room's newest end.
async fn damage_to_the_end(world: &World, damage: Damage, write: &mut Write) {
    let database = world.server.fixture.database.clone();
    let room = world.room.number;
    let said = world.event(&world.said).await;
    let mut head = world.head().await;
    match damage {
        Damage::Extremities => {
            head.extremities = vec![said.number];
            write.put::<RoomHead>(&room, &Stamped::pending(head));
        }
        Damage::CurrentState => {
            write.put::<CurrentState>(&(room, Position::PENDING), &said.record.state_before);
            head.root = said.record.state_before;
            write.put::<RoomHead>(&room, &Stamped::pending(head));
        }
        Damage::FlatState => {
            let rows = database.scan_all(Range::<FlatState>::prefix(&room)).await.unwrap();
            write.delete::<FlatState>(&rows.first().unwrap().0);
            write.put::<FlatState>(&rows.last().unwrap().0, &said.number);
        }
        Damage::Members => {
            let mut row = database.get::<UserRoom>(&(world.alice().await, room)).await.unwrap().unwrap();
            row.value.membership = Membership::Leave;
            write.put::<UserRoom>(&(world.alice().await, room), &row);
            write.delete::<RoomMember>(&(room, world.alice().await));
        }
        Damage::Counts => {
            head.joined += 3;
            head.depth += 1;
            write.put::<RoomHead>(&room, &Stamped::pending(head));
        }
        Damage::Relations => {
            let wrong = AggregateRecord { children: 5, replies: 5, ..AggregateRecord::default() };
            write.put::<Aggregate>(&(room, said.number), &wrong);
        }
        Damage::RoomIndex => {
            write.delete::<RoomByName>(&database.hash("room", world.room.room_id.as_str()));
        }
        other => panic!("{other:?} is no damage to the end"),
    }
}

/// Each kind of damage is found; what can be computed is put right, and the room goes on.
#[tokio::test]
async fn each_damage_is_found_and_put_right() {
    let all = [
        Damage::EventLost,
        Damage::EventAltered,
        Damage::Metadata,
        Damage::EventIndex,
        Damage::Redaction,
        Damage::AuthIndex,
        Damage::History,
        Damage::TimeIndex,
        Damage::Timeline,
        Damage::StateNode,
        Damage::State,
        Damage::Extremities,
        Damage::CurrentState,
        Damage::FlatState,
        Damage::Members,
        Damage::Counts,
        Damage::Relations,
        Damage::RoomIndex,
    ];
    for kind in all {
        let world = World::new().await;
        damage(&world, kind).await;
        let found = world.check(false).await;
        assert!(found.counts.contains_key(&kind), "{kind:?} is not found: {found:?}");
        assert!(found.findings.iter().all(|finding| !finding.repaired));
        let repaired = world.check(true).await;
        assert!(repaired.counts.contains_key(&kind), "{kind:?}: {repaired:?}");
        assert_eq!(repaired.left == 0, kind.is_derived(), "{kind:?}: {repaired:?}");
        if !kind.is_derived() {
            assert!(world.check(false).await.counts.contains_key(&kind));
            continue;
        }
        assert_eq!(world.check(false).await.findings, [], "after the repair of {kind:?}");
        // The room's task has noticed, and builds on what is right.
        world.server.say(&world.room, "alice", "after the repair").await;
        assert_eq!(world.check(false).await.findings, [], "{kind:?}: after going on");
    }
}
