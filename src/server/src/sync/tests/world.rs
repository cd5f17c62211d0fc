//! What the tests stand on: users with a device each, and what they do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use allod_storage::Store;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId,
    api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
    presence::PresenceState,
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    account_data::AccountData,
    accounts::testing::{Fixture, id},
    filters::Filters,
    identity::Identity,
    keys::Keys,
    presence::Presence,
    profiles::Profiles,
    push_rules::PushRules,
    random::Random,
    receipts::Receipts,
    rooms::{
        RoomOptions, RoomSources, Rooms, membership::MembershipOptions, send::Caller, send::TransactionName,
    },
    sync::{
        Sync, SyncSources,
        v3::{FilterChoice, StatePlace, SyncRequest},
    },
    tables::SPACES,
    tasks::Tasks,
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    wake::Wakes,
};

pub(super) struct World {
    pub(super) fixture: Fixture,
    pub(super) sources: SyncSources,
    pub(super) rooms: Rooms,
    pub(super) sync: Sync,
    pub(super) tasks: Tasks,
    pub(super) callers: HashMap<String, Caller>,
    pub(super) sent: std::sync::atomic::AtomicU32,
}

impl World {
    /// At `example.org`, with these users.
    pub(super) async fn new(names: &[&str]) -> Self {
        Self::over(Store::memory(SPACES), names).await
    }

    /// Over a store that may hold what an earlier run left.
    pub(super) async fn over(store: Store, names: &[&str]) -> Self {
        let fixture = Fixture::over(store, |_| {}).await;
        let (random, tasks) = (Random::seeded(7), Tasks::new());
        let (database, users, clock) =
            (fixture.database.clone(), fixture.users.clone(), fixture.clock.clone());
        let profiles = Profiles::new(database.clone(), users.clone());
        let identity = Identity::ephemeral(users.server_name().to_owned(), &random).unwrap();
        let account_data = AccountData::new(database.clone());
        let push_rules = PushRules::new(account_data.clone());
        let room_sources = RoomSources {
            database: database.clone(),
            users: users.clone(),
            profiles,
            push_rules: push_rules.clone(),
            identity,
            clock: clock.clone(),
            random: random.clone(),
            tasks: tasks.clone(),
        };
        let rooms = Rooms::open(room_sources, RoomOptions::default()).await.unwrap();
        let (wakes, sequence) = (Wakes::new(), Sequence::new());
        let sources = SyncSources {
            database: database.clone(),
            users: users.clone(),
            rooms: rooms.clone(),
            push_rules,
            filters: Filters::new(database.clone()),
            receipts: Receipts::new(
                database.clone(),
                account_data.clone(),
                Arc::new(rooms.clone()),
                clock.clone(),
            ),
            typing: Typing::new(clock.clone(), wakes.clone(), sequence.clone()),
            presence: Presence::new(clock.clone(), wakes.clone(), sequence.clone()),
            to_device: ToDevice::new(database.clone(), users.clone(), fixture.devices.clone(), clock.clone()),
            keys: Keys::new(database.clone(), users, fixture.devices.clone()),
            account_data,
            thread_subscriptions: ThreadSubscriptions::new(database, rooms.clone()),
            sequence,
            wakes,
            clock,
        };
        let sync = Sync::start(sources.clone(), &random, &tasks);
        let mut world =
            Self { fixture, sources, rooms, sync, tasks, callers: HashMap::new(), sent: 0.into() };
        for name in names {
            let user = match world.fixture.users.number(&id(name)).await.unwrap() {
                Some(known) => known,
                None => world.fixture.account(name).await,
            };
            let device = world.fixture.sign_in(user, None, false).await.device;
            let caller = Caller { user_id: id(name), user, device: Some(device) };
            world.callers.insert((*name).to_owned(), caller);
        }
        world
    }

    pub(super) fn caller(&self, name: &str) -> &Caller {
        &self.callers[name]
    }

    /// A room that all may join.
    pub(super) async fn room(&self, creator: &str) -> OwnedRoomId {
        // The id of a room follows from who created it and when.
        self.fixture.clock.advance(Duration::from_millis(1));
        let mut request = CreateRoom::new();
        request.preset = Some(RoomPreset::PublicChat);
        self.rooms.create(self.caller(creator), &request, false).await.unwrap()
    }

    /// A space that all may join.
    pub(super) async fn space(&self, creator: &str) -> OwnedRoomId {
        self.fixture.clock.advance(Duration::from_millis(1));
        let mut request = CreateRoom::new();
        request.preset = Some(RoomPreset::PublicChat);
        let content = serde_json::from_value(json!({ "type": "m.space" })).unwrap();
        request.creation_content = Some(content);
        self.rooms.create(self.caller(creator), &request, false).await.unwrap()
    }

    pub(super) async fn room_with(&self, creator: &str, others: &[&str]) -> OwnedRoomId {
        let room = self.room(creator).await;
        for other in others {
            self.join(other, &room).await;
        }
        room
    }

    pub(super) async fn join(&self, name: &str, room: &RoomId) {
        self.rooms.join(room, self.caller(name), serde_json::Map::new()).await.unwrap();
    }

    pub(super) async fn leave(&self, name: &str, room: &RoomId) {
        self.rooms.leave(room, self.caller(name), &MembershipOptions::default()).await.unwrap();
    }

    pub(super) async fn invite(&self, name: &str, room: &RoomId, target: &str) {
        self.rooms.invite(room, self.caller(name), &id(target), &MembershipOptions::default()).await.unwrap();
    }

    pub(super) async fn kick(&self, name: &str, room: &RoomId, target: &str) {
        self.rooms.kick(room, self.caller(name), &id(target), &MembershipOptions::default()).await.unwrap();
    }

    pub(super) async fn say(&self, name: &str, room: &RoomId, text: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let number = self.sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let transaction = TransactionName { path: "/send", id: &format!("txn{number}") };
        self.rooms.send(room, self.caller(name), "m.room.message", &content, transaction).await.unwrap()
    }

    pub(super) async fn set(
        &self,
        name: &str,
        room: &RoomId,
        kind: &str,
        key: &str,
        content: &Value,
    ) -> OwnedEventId {
        let content = to_raw_value(content).unwrap();
        self.rooms.set_state(room, self.caller(name), kind, key, &content).await.unwrap()
    }

    pub(super) async fn set_account_data(&self, name: &str, kind: &str, content: &Value) {
        let user = self.caller(name).user;
        self.sources.account_data.set(user, None, kind, &content.to_string()).await.unwrap();
    }

    pub(super) fn request(&self, name: &str, since: Option<&str>) -> SyncRequest {
        SyncRequest {
            caller: self.caller(name).clone(),
            filter: FilterChoice::None,
            since: since.map(str::to_owned),
            full_state: false,
            timeout: Duration::ZERO,
            state: StatePlace::Before,
            presence: PresenceState::Offline,
        }
    }

    pub(super) async fn answer(&self, request: SyncRequest) -> Value {
        let body = self.sync.v3(request).await.unwrap();
        serde_json::from_slice(&body.whole().await.unwrap()).unwrap()
    }

    pub(super) async fn sync(&self, name: &str, since: Option<&str>) -> Value {
        self.answer(self.request(name, since)).await
    }

    pub(super) async fn sync_with(&self, name: &str, since: Option<&str>, filter: Value) -> Value {
        let mut request = self.request(name, since);
        request.filter = inline(filter);
        self.answer(request).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

pub(super) fn inline(filter: Value) -> FilterChoice {
    FilterChoice::Inline(Box::new(serde_json::from_value(filter).unwrap()))
}

/// The token of an answer.
pub(super) fn token(answer: &Value) -> &str {
    answer["next_batch"].as_str().unwrap()
}

/// What a section says of a room.
pub(super) fn section<'a>(answer: &'a Value, section: &str, room: &RoomId) -> &'a Value {
    &answer["rooms"][section][room.as_str()]
}

/// Types of events, with the state key of members and the text of messages.
pub(super) fn named(events: &Value) -> Vec<String> {
    let name = |event: &Value| match event["type"].as_str().unwrap() {
        "m.room.message" => event["content"]["body"].as_str().unwrap_or("(redacted)").to_owned(),
        "m.room.member" => {
            let who = event["state_key"].as_str().unwrap().trim_start_matches('@').split(':').next().unwrap();
            format!("{who} {}", event["content"]["membership"].as_str().unwrap())
        }
        kind => kind.trim_start_matches("m.room.").to_owned(),
    };
    events.as_array().map(|events| events.iter().map(name).collect()).unwrap_or_default()
}

/// The timeline of a room in an answer.
pub(super) fn timeline(answer: &Value, room: &RoomId) -> Vec<String> {
    named(&section(answer, "join", room)["timeline"]["events"])
}

/// The state of a room in an answer.
pub(super) fn state(answer: &Value, room: &RoomId) -> Vec<String> {
    named(&section(answer, "join", room)["state"]["events"])
}
