//! What tests of rooms stand on: the service over a store in memory, and other servers whose events are written by hand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use allod_matrix::{
    auth,
    event::{
        build::{Draft, Place, build, room_id_of},
        pdu::Pdu,
    },
};
use allod_storage::Store;
use bytes::Bytes;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UInt,
    UserId, room_version_rules::RoomVersionRules,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Room, RoomOptions, RoomSources, Rooms,
    access::View,
    adopt::{Adopt, PartialState},
    event::StoredEvent,
    ingest::{Incoming, IngestOutcome, Placement, Verified},
    pagination::PaginationToken,
    partial::StatedState,
    read::Direction,
    send::{Caller, TransactionName},
};
use crate::{
    accounts::testing::{Fixture, id},
    identity::Identity,
    profiles::Profiles,
    random::Random,
    tables::{SPACES, rooms::EventStatus},
    tasks::Tasks,
};

/// A server, `example.org`, whose user `alice` joins the rooms of others.
pub(crate) struct Server {
    pub(crate) rooms: Rooms,
    pub(crate) fixture: Fixture,
    pub(crate) tasks: Tasks,
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::over(Store::memory(SPACES)).await
    }

    pub(crate) async fn over(store: Store) -> Self {
        let fixture = Fixture::over(store, |_| {}).await;
        let (random, tasks) = (Random::seeded(7), Tasks::new());
        let (database, users) = (fixture.database.clone(), fixture.users.clone());
        let sources = RoomSources {
            push_rules: crate::push_rules::PushRules::new(crate::account_data::AccountData::new(
                database.clone(),
            )),
            profiles: Profiles::new(database.clone(), users.clone()),
            identity: Identity::ephemeral(users.server_name().to_owned(), &random).unwrap(),
            database,
            users,
            clock: fixture.clock.clone(),
            random,
            tasks: tasks.clone(),
        };
        let rooms = Rooms::open(sources, RoomOptions::default()).await.unwrap();
        Self { rooms, fixture, tasks }
    }

    pub(crate) async fn caller(&self, name: &str) -> Caller {
        let user = self.fixture.users.number_or_new(&id(name)).await.unwrap();
        Caller { user_id: id(name), user, device: None }
    }

    /// Joins `@alice` to the room behind these events, through the server that wrote them.
    pub(crate) async fn adopt(
        &self,
        remote: &mut Remote,
        prev: &[&OwnedEventId],
    ) -> (Arc<Room>, OwnedEventId) {
        let join = remote.event(
            "@alice:example.org",
            prev,
            "m.room.member",
            Some("@alice:example.org"),
            &json!({ "membership": "join" }),
        );
        let room = self.rooms.adopt(remote.adopt(&join)).await.unwrap();
        (room, join)
    }

    pub(crate) async fn ingest(
        &self,
        room: &Arc<Room>,
        remote: &Remote,
        placement: Placement,
        events: &[&OwnedEventId],
    ) -> Vec<IngestOutcome> {
        let incoming = events.iter().map(|id| Incoming::new(remote.verified(id), placement)).collect();
        let ingested = self.rooms.ingest(room, incoming).await.unwrap();
        assert!(ingested.iter().zip(events).all(|(ingested, id)| ingested.event_id == **id));
        ingested.into_iter().map(|ingested| ingested.outcome).collect()
    }

    /// Hands one live event in; its status.
    pub(crate) async fn live(&self, room: &Arc<Room>, remote: &Remote, event: &OwnedEventId) -> EventStatus {
        status(&self.ingest(room, remote, Placement::Live, &[event]).await.remove(0))
    }

    pub(crate) async fn stored(&self, room: &Room, event: &OwnedEventId) -> Arc<StoredEvent> {
        let number = self.rooms.events().number(room, event).await.unwrap().unwrap();
        self.rooms.events().load(room.number, number).await.unwrap()
    }

    pub(crate) async fn say(&self, room: &Room, name: &str, text: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let transaction = TransactionName { path: "/send", id: text };
        let caller = self.caller(name).await;
        self.rooms.send(&room.room_id, &caller, "m.room.message", &content, transaction).await.unwrap()
    }

    /// The room's current state, by the events' ids.
    pub(crate) async fn state(&self, room: &Room) -> BTreeMap<(String, String), OwnedEventId> {
        let root = self.rooms.current_root(room.number).await.unwrap();
        self.state_at(room, root).await
    }

    pub(crate) async fn state_at(
        &self,
        room: &Room,
        root: crate::tables::rooms::StateRoot,
    ) -> BTreeMap<(String, String), OwnedEventId> {
        let entries = self.rooms.states().all(room, root, None).await.unwrap();
        let numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        let events = self.rooms.events().load_many(room.number, &numbers).await.unwrap();
        let name = |event: &Arc<StoredEvent>| {
            let state_key = event.record.state_key.clone().unwrap();
            ((event.record.kind.clone(), state_key), event.id().unwrap())
        };
        events.iter().map(name).collect()
    }

    pub(crate) async fn view(&self, room: &Room) -> View {
        let caller = self.caller("alice").await;
        self.rooms.joined_view(&room.room_id, &caller).await.unwrap()
    }

    /// All that `@alice` is shown of the room, the newest first, in pages of ten.
    pub(crate) async fn history(&self, room: &Room) -> Vec<OwnedEventId> {
        let view = self.view(room).await;
        let (mut from, mut shown) = (PaginationToken::END, Vec::new());
        loop {
            let page =
                self.rooms.history(&view, from, None, Direction::Backward, 10, |_| true).await.unwrap();
            shown.extend(page.events.iter().map(|event| event.id().unwrap()));
            match page.end {
                Some(end) => from = end,
                None => return shown,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// The status in an outcome.
pub(crate) fn status(outcome: &IngestOutcome) -> EventStatus {
    match outcome {
        IngestOutcome::Known { status, .. } | IngestOutcome::Stored { status, .. } => *status,
        IngestOutcome::Missing(missing) => panic!("missing: {missing:?}"),
    }
}

/// A room as other servers see it. Knows nothing of rules: it writes what it is told to.
pub(crate) struct Remote {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) version: RoomVersionId,
    pub(crate) rules: RoomVersionRules,
    pub(crate) keys: HashMap<OwnedServerName, Identity>,
    pub(crate) nodes: HashMap<OwnedEventId, Node>,
    now: u32,
}

/// One event, and the state that whoever wrote it saw.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) event: Verified,
    pub(crate) before: BTreeMap<(String, String), OwnedEventId>,
    after: BTreeMap<(String, String), OwnedEventId>,
    depth: u64,
}

/// What an event says of its place that is not as it should be.
#[derive(Default)]
pub(crate) struct Forged {
    pub(crate) auth: Option<Vec<OwnedEventId>>,
    pub(crate) depth: Option<u64>,
    pub(crate) redacts: Option<OwnedEventId>,
}

impl Remote {
    /// A room of `@bob:remote.test` that all may join; its events so far, in order.
    pub(crate) fn new(version: RoomVersionId) -> (Self, Vec<OwnedEventId>) {
        Self::another(version, "!room:remote.test")
    }

    /// The same with another id.
    pub(crate) fn another(version: RoomVersionId, room_id: &str) -> (Self, Vec<OwnedEventId>) {
        let rules = version.rules().unwrap();
        let room_id = room_id.try_into().unwrap();
        let mut remote =
            Self { room_id, version, rules, keys: HashMap::new(), nodes: HashMap::new(), now: 0 };
        let bob = "@bob:remote.test";
        let mut create = json!({ "room_version": remote.version.as_str() });
        if remote.rules.authorization.use_room_create_sender {
            create["tag"] = "test".into();
        } else {
            create["creator"] = bob.into();
        }
        let create = remote.event(bob, &[], "m.room.create", Some(""), &create);
        let mut events = vec![create];
        let levels = if remote.rules.authorization.explicitly_privilege_room_creators {
            json!({ "users": { "@carol:other.test": 50 } })
        } else {
            json!({ "users": { bob: 100, "@carol:other.test": 50 } })
        };
        for (sender, kind, key, content) in [
            (bob, "m.room.member", bob, json!({ "membership": "join" })),
            (bob, "m.room.power_levels", "", levels),
            (bob, "m.room.join_rules", "", json!({ "join_rule": "public" })),
            (bob, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })),
            ("@carol:other.test", "m.room.member", "@carol:other.test", json!({ "membership": "join" })),
            ("@mallory:bad.test", "m.room.member", "@mallory:bad.test", json!({ "membership": "join" })),
        ] {
            let prev = events.last().unwrap().clone();
            events.push(remote.event(sender, &[&prev], kind, Some(key), &content));
        }
        (remote, events)
    }

    pub(crate) fn event(
        &mut self,
        sender: &str,
        prev: &[&OwnedEventId],
        kind: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> OwnedEventId {
        self.forge(sender, prev, kind, state_key, content, Forged::default())
    }

    pub(crate) fn message(&mut self, sender: &str, prev: &[&OwnedEventId], text: &str) -> OwnedEventId {
        self.event(sender, prev, "m.room.message", None, &json!({ "msgtype": "m.text", "body": text }))
    }

    pub(crate) fn topic(&mut self, sender: &str, prev: &[&OwnedEventId], text: &str) -> OwnedEventId {
        self.event(sender, prev, "m.room.topic", Some(""), &json!({ "topic": text }))
    }

    pub(crate) fn member(
        &mut self,
        sender: &str,
        prev: &[&OwnedEventId],
        of: &str,
        membership: &str,
    ) -> OwnedEventId {
        self.event(sender, prev, "m.room.member", Some(of), &json!({ "membership": membership }))
    }

    pub(crate) fn redaction(
        &mut self,
        sender: &str,
        prev: &[&OwnedEventId],
        target: &OwnedEventId,
    ) -> OwnedEventId {
        let forged = Forged { redacts: Some(target.clone()), ..Forged::default() };
        let content =
            if self.rules.redaction.content_field_redacts { json!({ "redacts": target }) } else { json!({}) };
        self.forge(sender, prev, "m.room.redaction", None, &content, forged)
    }

    pub(crate) fn forge(
        &mut self,
        sender: &str,
        prev: &[&OwnedEventId],
        kind: &str,
        state_key: Option<&str>,
        content: &Value,
        forged: Forged,
    ) -> OwnedEventId {
        self.now += 1;
        let sender: OwnedUserId = UserId::parse(sender).unwrap();
        let content = to_raw_value(content).unwrap();
        // Of several parents the state of the last one that has a piece of it is taken.
        let mut before = BTreeMap::new();
        for parent in prev {
            before.extend(self.nodes[*parent].after.clone());
        }
        let types = auth::auth_types(kind, &sender, state_key, &content, &self.rules.authorization).unwrap();
        let auth_events = types.into_iter();
        let auth_events = auth_events.filter_map(|(kind, key)| before.get(&(kind.to_string(), key)).cloned());
        let deepest = prev.iter().map(|parent| self.nodes[*parent].depth).max().unwrap_or_default();
        let depth = forged.depth.unwrap_or(deepest + 1);
        let is_hashed_create =
            kind == "m.room.create" && !self.rules.event_format.require_room_create_room_id;
        let place = Place {
            room_id: (!is_hashed_create).then(|| self.room_id.clone()),
            prev_events: prev.iter().map(|id| (*id).clone()).collect(),
            auth_events: forged.auth.unwrap_or_else(|| auth_events.collect()),
            depth,
        };
        let draft = Draft {
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content,
            sender: sender.clone(),
            redacts: forged.redacts,
            unsigned: None,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(self.now)),
        };
        let server = sender.server_name().to_owned();
        let seed = server.as_str().bytes().map(u64::from).sum();
        let key = self
            .keys
            .entry(server.clone())
            .or_insert_with(|| Identity::ephemeral(server, &Random::seeded(seed)).unwrap());
        let signed = build(draft, place, &self.rules, key.key()).unwrap();
        let event_id = signed.pdu.event_id.clone();
        if is_hashed_create {
            self.room_id = room_id_of(&event_id).unwrap();
        }
        let pdu = Pdu::parse(&signed.json, event_id.clone(), &self.room_id, &self.rules).unwrap();
        let mut after = before.clone();
        if let Some(state_key) = state_key {
            after.insert((kind.to_owned(), state_key.to_owned()), event_id.clone());
        }
        let event = Verified::vouch(Arc::new(pdu), Bytes::from(signed.json));
        self.nodes.insert(event_id.clone(), Node { event, before, after, depth });
        event_id
    }

    pub(crate) fn verified(&self, event: &OwnedEventId) -> Verified {
        self.nodes[event].event.clone()
    }

    /// What a server answers to the join that this event is, if it leaves members out.
    pub(crate) fn adopt_partially(&self, join: &OwnedEventId) -> Adopt {
        let mut adopt = self.adopt(join);
        adopt.state.retain(|event| event.pdu().kind != "m.room.member");
        let servers = ["remote.test", "other.test", "bad.test"].map(|name| name.try_into().unwrap());
        adopt.partial =
            Some(PartialState { via: "remote.test".try_into().unwrap(), servers: BTreeSet::from(servers) });
        // What allows the join and the state is shown all the same.
        let mut wanted: Vec<OwnedEventId> = vec![join.clone()];
        wanted.extend(adopt.state.iter().map(|event| event.pdu().event_id.clone()));
        adopt.auth_chain = self.auth_chain(wanted).iter().map(|event| self.verified(event)).collect();
        adopt
    }

    /// The events that allow these, and those that allow them.
    pub(crate) fn auth_chain(&self, mut wanted: Vec<OwnedEventId>) -> Vec<OwnedEventId> {
        let mut chain = Vec::new();
        while let Some(event) = wanted.pop() {
            for auth_event in &self.nodes[&event].event.pdu().auth_events {
                if !chain.contains(auth_event) {
                    chain.push(auth_event.clone());
                    wanted.push(auth_event.clone());
                }
            }
        }
        chain
    }

    /// The state after an event, as its server states it.
    pub(crate) fn stated(&self, event: &OwnedEventId) -> StatedState {
        StatedState { before: self.nodes[event].before.values().cloned().collect(), event: event.clone() }
    }

    /// What a server answers to the join that this event is.
    pub(crate) fn adopt(&self, join: &OwnedEventId) -> Adopt {
        let node = &self.nodes[join];
        let state: Vec<_> = node.before.values().cloned().collect();
        let mut chain = Vec::new();
        let mut wanted: Vec<_> = state.iter().chain([join]).cloned().collect();
        while let Some(event) = wanted.pop() {
            for auth_event in &self.nodes[&event].event.pdu().auth_events {
                if !state.contains(auth_event) && !chain.contains(auth_event) {
                    chain.push(auth_event.clone());
                    wanted.push(auth_event.clone());
                }
            }
        }
        Adopt {
            room_id: self.room_id.clone(),
            version: self.version.clone(),
            state: state.iter().map(|event| self.verified(event)).collect(),
            auth_chain: chain.iter().map(|event| self.verified(event)).collect(),
            event: node.event.clone(),
            partial: None,
        }
    }
}
