//! A server, and others that tests speak for.
#![expect(clippy::iter_over_hash_type, reason = "what is made known to a test has no order")]

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use allod_storage::Store;
use futures_util::FutureExt;
use ruma::{OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, serde::Raw};
use serde_json::{Value, json, value::RawValue};

use crate::{
    account_data::AccountData,
    config::{Config, FederationMode, Live},
    egress::Names,
    federation::{Federation, FederationSources, client::ClientError, own_keys::OwnKeys, verify::Verifier},
    identity::Identity,
    inbound::{
        Inbound, InboundSources,
        peers::{Asked, Peers, StateAt},
        receive::{Answer, Received},
    },
    presence::Presence,
    random::Random,
    receipts::Receipts,
    rooms::{
        Room,
        read::Direction,
        testing::{Remote, Server},
    },
    tables::SPACES,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    wake::Wakes,
};

/// An event, its parents, and the state before it.
type Written = (Box<RawValue>, Vec<OwnedEventId>, Vec<OwnedEventId>);

/// What the other servers have, and what they were asked.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) events: HashMap<OwnedEventId, Written>,
    pub(super) asked: Vec<&'static str>,
    /// What the others do not answer.
    pub(super) silent: BTreeSet<&'static str>,
    /// What they take for ever to answer.
    pub(super) stalling: BTreeSet<&'static str>,
}

/// All other servers: they know the same.
#[derive(Debug, Default)]
pub(super) struct Others(pub(super) Mutex<Script>);

impl Others {
    fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        answer: impl FnOnce(&Script) -> Option<T>,
    ) -> Asked<'_, T> {
        let mut script = self.0.lock().unwrap();
        script.asked.push(what);
        if script.stalling.contains(what) {
            return std::future::pending().boxed();
        }
        let answer = if script.silent.contains(what) { None } else { answer(&script) };
        let none = || ClientError::Malformed("not here".to_owned());
        std::future::ready(answer.ok_or_else(none)).boxed()
    }

    pub(super) fn asked(&self, what: &str) -> usize {
        self.0.lock().unwrap().asked.iter().filter(|asked| **asked == what).count()
    }

    pub(super) fn be_silent_about(&self, what: &'static str) {
        self.0.lock().unwrap().silent.insert(what);
    }
}

impl Script {
    fn back(&self, from: Vec<OwnedEventId>, stop: &[OwnedEventId], limit: usize) -> Vec<Box<RawValue>> {
        let (mut queue, mut seen) = (std::collections::VecDeque::from(from), BTreeSet::new());
        let mut found = Vec::new();
        while let Some(event_id) = queue.pop_front().filter(|_| found.len() < limit) {
            if stop.contains(&event_id) || !seen.insert(event_id.clone()) {
                continue;
            }
            if let Some((json, prev, _)) = self.events.get(&event_id) {
                found.push(json.clone());
                queue.extend(prev.iter().cloned());
            }
        }
        found
    }
}

impl Peers for Others {
    fn missing_events<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        self.ask("missing", move |script| {
            let from =
                latest.iter().filter_map(|id| script.events.get(id)).flat_map(|(_, prev, _)| prev.clone());
            Some(script.back(from.collect(), &earliest, usize::try_from(limit).unwrap()))
        })
    }

    fn event<'a>(&'a self, _: &'a ServerName, event_id: OwnedEventId) -> Asked<'a, Box<RawValue>> {
        self.ask("event", move |script| Some(script.events.get(&event_id)?.0.clone()))
    }

    fn event_auth<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        self.ask("event_auth", move |script| {
            let state = &script.events.get(&event_id)?.2;
            Some(state.iter().map(|id| script.events[id].0.clone()).collect())
        })
    }

    fn state_ids<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<OwnedEventId>> {
        self.ask("state_ids", move |script| {
            let state = script.events.get(&event_id)?.2.clone();
            Some(StateAt { state, auth_chain: Vec::new() })
        })
    }

    fn state<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<Box<RawValue>>> {
        self.ask("state", move |script| {
            let state =
                script.events.get(&event_id)?.2.iter().map(|id| script.events[id].0.clone()).collect();
            Some(StateAt { state, auth_chain: Vec::new() })
        })
    }

    fn event_at_time<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        at_ms: u64,
        direction: Direction,
    ) -> Asked<'a, (OwnedEventId, u64)> {
        self.ask("event_at_time", move |script| {
            let time = |(json, ..): &Written| -> u64 {
                let event: Value = serde_json::from_str(json.get()).unwrap();
                event["origin_server_ts"].as_u64().unwrap()
            };
            let times = script.events.iter().map(|(event_id, event)| (time(event), event_id.clone()));
            let found = match direction {
                Direction::Forward => times.filter(|(time, _)| *time >= at_ms).min(),
                Direction::Backward => times.filter(|(time, _)| *time <= at_ms).max(),
            };
            found.map(|(time, event_id)| (event_id, time))
        })
    }

    fn backfill<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        self.ask("backfill", move |script| Some(script.back(from, &[], usize::try_from(limit).unwrap())))
    }
}

/// The server under test, `@alice:example.org` in a room of `@bob:remote.test`.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) remote: Remote,
    pub(super) room: Arc<Room>,
    pub(super) join: OwnedEventId,
    pub(super) others: Arc<Others>,
    pub(super) federation: Federation,
    pub(super) inbound: Inbound,
    pub(super) typing: Typing,
    pub(super) receipts: Receipts,
}

pub(super) fn server(name: &str) -> OwnedServerName {
    name.try_into().unwrap()
}

impl World {
    pub(super) async fn new() -> Self {
        Self::of(RoomVersionId::V11).await
    }

    pub(super) async fn of(version: RoomVersionId) -> Self {
        let own = Server::over(Store::memory(SPACES)).await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = own.adopt(&mut remote, &[events.last().unwrap()]).await;
        let others = Arc::new(Others::default());
        let mut config = Config::default();
        config.server.name = own.fixture.users.server_name().to_owned();
        config.federation.mode = FederationMode::Open;
        let federation = Federation::open(FederationSources {
            database: own.fixture.database.clone(),
            config: Live::new(config),
            clock: own.fixture.clock.clone(),
            identity: Identity::ephemeral(server("example.org"), &Random::seeded(7)).unwrap(),
            tasks: own.tasks.clone(),
            names: Names::system(),
        });
        let federation = federation.unwrap().unwrap();
        let (clock, wakes, sequence) = (own.fixture.clock.clone(), Wakes::new(), Sequence::new());
        let typing = Typing::new(clock.clone(), wakes, sequence);
        let account_data = AccountData::new(own.fixture.database.clone());
        let rooms = Arc::new(own.rooms.clone());
        let receipts = Receipts::new(own.fixture.database.clone(), account_data, rooms, clock);
        let inbound = open(&own, &federation, &others, &typing, &receipts).await;
        let world = Self { server: own, remote, room, join, others, federation, inbound, typing, receipts };
        world.learn_keys().await;
        world
    }

    /// Opens the service again over what is stored.
    pub(super) async fn reopen(&mut self) {
        self.inbound = open(&self.server, &self.federation, &self.others, &self.typing, &self.receipts).await;
    }

    /// Makes the keys of the other servers known.
    pub(super) async fn learn_keys(&self) {
        for (name, identity) in &self.remote.keys {
            if name == "example.org" {
                continue;
            }
            let keys = OwnKeys::new(identity.clone(), self.server.fixture.clock.clone());
            let document = keys.document().unwrap();
            self.federation.keys.learn(name, document.get()).await.unwrap();
        }
    }

    /// Lets the other servers have all events written so far.
    pub(super) fn publish(&self) {
        let mut script = self.others.0.lock().unwrap();
        for (event_id, node) in &self.remote.nodes {
            let state = node.before.values().cloned().collect();
            let prev = node.event.pdu().prev_events.clone();
            script.events.insert(event_id.clone(), (raw(node.event.json()), prev, state));
        }
    }

    pub(super) fn json(&self, event: &OwnedEventId) -> Box<RawValue> {
        raw(self.remote.verified(event).json())
    }

    /// Sends a transaction and waits until all of it is in its rooms.
    pub(super) async fn send(
        &self,
        origin: &str,
        id: &str,
        pdus: Vec<Box<RawValue>>,
        edus: &[Value],
    ) -> Answer {
        let edus = edus.iter().map(|edu| Raw::from_json(raw(edu.to_string().as_bytes()))).collect();
        let received = Received { id, pdus, edus };
        let answer = self.inbound.receive(&server(origin), received).await.unwrap();
        self.inbound.idle().await;
        answer
    }

    pub(super) async fn is_here(&self, event: &OwnedEventId) -> bool {
        self.server.rooms.event(&self.room, event).await.unwrap().is_some()
    }

    pub(super) fn edu(kind: &str, content: &Value) -> Value {
        json!({ "edu_type": kind, "content": content })
    }
}

async fn open(
    own: &Server,
    federation: &Federation,
    others: &Arc<Others>,
    typing: &Typing,
    receipts: &Receipts,
) -> Inbound {
    let identity = Identity::ephemeral(server("example.org"), &Random::seeded(7)).unwrap();
    let (clock, users) = (own.fixture.clock.clone(), own.fixture.users.clone());
    let (wakes, sequence) = (Wakes::new(), Sequence::new());
    let peers: Arc<dyn Peers> = others.clone();
    let sources = InboundSources {
        database: own.fixture.database.clone(),
        clock: clock.clone(),
        verifier: Verifier::new(federation.keys.clone(), identity.clone()),
        identity,
        tasks: own.tasks.clone(),
        rooms: own.rooms.clone(),
        typing: typing.clone(),
        receipts: receipts.clone(),
        presence: Presence::new(clock.clone(), wakes.clone(), sequence),
        to_device: ToDevice::new(
            own.fixture.database.clone(),
            users.clone(),
            own.fixture.devices.clone(),
            clock,
        ),
        users,
        wakes,
        peers,
    };
    Inbound::open(sources).await.unwrap()
}

pub(super) fn raw(json: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(json).unwrap()
}
