//! Telling other servers of local users' devices and keys: what changed since they were last told, once to every server
//! that shares a room.
//!
//! Each update has a number, and names the one before, so that a server that missed one asks for the whole list.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allod_storage::{CommitError, Position};
use ruma::{OwnedDeviceId, OwnedServerName, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Inner,
    queue::{self, Queued},
    servers::{membership_stated, server_of_target},
};
use crate::{
    database::{Error, Range, Write},
    keys::Queried,
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::{
        Stamped,
        outbox::{AnnouncedDevices, AnnouncedRecord},
        partial::PartialServer,
        rooms::{Membership, Timeline, UserMembershipChange},
    },
};

/// Bytes of rows in one commit.
const COMMIT_BYTES_MAX: usize = 512 * 1024;
/// Members that are looked at together.
const CHUNK_USERS: usize = 1_000;
/// Positions that a number has room for, so that a restored backup's numbers are higher than all that came before.
const GENERATION_BITS: u32 = 40;

/// A user's devices as others see them.
struct Shown {
    /// Keys by device; none for a device without.
    devices: BTreeMap<OwnedDeviceId, (Option<String>, Option<Box<RawValue>>)>,
    cross_signing: (Option<Box<RawValue>>, Option<Box<RawValue>>),
}

impl Shown {
    fn has_keys(&self) -> bool {
        self.cross_signing.0.is_some() || self.devices.values().any(|(_, keys)| keys.is_some())
    }
}

impl Inner {
    /// What other servers were told last of a user's devices.
    pub(super) async fn announced(&self, user: UserNumber) -> Result<AnnouncedRecord, Error> {
        let row = self.sources.database.get::<AnnouncedDevices>(&user).await?;
        Ok(row.map(|row| row.value).unwrap_or_default())
    }

    /// A user's devices or keys changed: tells the servers that share a room what is new; whether there are any.
    pub(super) async fn announce_devices(
        self: &Arc<Self>,
        user: UserNumber,
        at: Position,
    ) -> Result<bool, Error> {
        let Some(user_id) = self.sources.users.id(user).await? else { return Ok(false) };
        if !self.sources.identity.is_ours(&user_id) {
            return Ok(false);
        }
        let announced = self.announced(user).await?;
        let shown = self.shown(user, &user_id).await?;
        let mut told = AnnouncedRecord { stream: announced.stream, ..self.digests(&shown) };
        let edus = updates(&user_id, &shown, &announced, &mut told, self.first_number(at));
        if edus.is_empty() {
            return Ok(false);
        }
        let servers = self.servers_of_user(user).await?;
        self.put_updates(user, &servers, edus, Some(told)).await?;
        Ok(!servers.is_empty())
    }

    /// A local user joined a room: servers that shared none with them may have an old list, and are told to ask anew.
    pub(super) async fn introduce_devices(
        self: &Arc<Self>,
        room: RoomNumber,
        user: UserNumber,
        at: Position,
    ) -> Result<bool, Error> {
        let change = self.sources.database.get::<UserMembershipChange>(&(user, at)).await?;
        let Some(change) = change else { return Ok(false) };
        if change.membership != Membership::Join || change.before == Some(Membership::Join) {
            return Ok(false);
        }
        if self.sources.rooms.is_partial(room) {
            // Whom to tell is known when the members are.
            return Ok(false);
        }
        self.introduce(room, user, None, at).await
    }

    /// A room is whole that was joined before its members were known: the servers in it are told of the devices of the
    /// local users in it, and so are those that were in it meanwhile without our knowing.
    pub(super) async fn introduce_all(
        self: &Arc<Self>,
        room: RoomNumber,
        at: Position,
    ) -> Result<bool, Error> {
        let rooms = &self.sources.rooms;
        let known = rooms.get(room).await?;
        let (joins, told) = rooms.was_partial(room).await?;
        let mut missed = BTreeSet::new();
        let mut first = at;
        for join in rooms.events().load_many(room, &joins).await? {
            first = first.min(join.position);
            missed
                .extend(self.recipients.servers.at(&known, join.record.state_before).await?.iter().cloned());
        }
        let range = Range::<Timeline>::between(&(room, first), &(room, at));
        let events: Vec<_> =
            self.sources.database.scan_all(range).await?.into_iter().map(|(_, number)| number).collect();
        for event in rooms.events().load_many(room, &events).await? {
            if membership_stated(&known, &event)? == Some(Membership::Join) {
                missed.extend(server_of_target(&event));
            }
        }
        missed.retain(|server| !told.contains(server) && self.recipients.allows(server));
        let mut any = false;
        for members in rooms.members(room, Membership::Join).await?.chunks(CHUNK_USERS) {
            let ids = self.sources.users.ids(members).await?;
            for (user, user_id) in members.iter().zip(ids) {
                if user_id.is_some_and(|user_id| self.sources.identity.is_ours(&user_id)) {
                    any |= self.introduce(room, *user, Some(missed.clone()), at).await?;
                }
            }
        }
        let mut write = Write::new();
        write.delete_prefix::<PartialServer>(&room);
        self.sources.database.commit(write).await?;
        Ok(any)
    }

    /// Tells the servers in a room that share no other with a user to ask for the user's devices anew. Where some time has
    /// passed since the user joined, also those that missed something since; the rest only if there are keys to ask for.
    async fn introduce(
        self: &Arc<Self>,
        room: RoomNumber,
        user: UserNumber,
        missed: Option<BTreeSet<OwnedServerName>>,
        at: Position,
    ) -> Result<bool, Error> {
        let Some(user_id) = self.sources.users.id(user).await? else { return Ok(false) };
        let room = self.sources.rooms.get(room).await?;
        let mut new = self.recipients.of_room(&room).await?;
        for other in self.sources.rooms.rooms_of(user, Membership::Join).await? {
            if other != room.number {
                let other = self.sources.rooms.get(other).await?;
                let known = self.recipients.of_room(&other).await?;
                new.retain(|server| !known.contains(server));
            }
        }
        let shown = self.shown(user, &user_id).await?;
        if let Some(missed) = missed {
            if !shown.has_keys() {
                new.clear();
            }
            new.extend(missed);
        }
        new.remove(self.sources.identity.server_name());
        if new.is_empty() {
            return Ok(false);
        }
        let Some((device_id, (name, keys))) = shown.devices.first_key_value() else { return Ok(false) };
        let mut told = self.announced(user).await?;
        told.stream = told.stream.saturating_add(1).max(self.first_number(at));
        // Without a number of the one before, the whole list is asked for.
        let edu = device_update(&user_id, device_id, told.stream, None, name.as_deref(), keys.as_deref());
        self.put_updates(user, &new, vec![("m.device_list_update", edu)], Some(told)).await?;
        Ok(!new.is_empty())
    }

    /// The servers that share a room with a user.
    pub(super) async fn servers_of_user(&self, user: UserNumber) -> Result<BTreeSet<OwnedServerName>, Error> {
        let mut servers = BTreeSet::new();
        for room in self.sources.rooms.rooms_of(user, Membership::Join).await? {
            let room = self.sources.rooms.get(room).await?;
            servers.extend((*self.recipients.servers.now(&room).await?).iter().cloned());
        }
        servers.retain(|server| self.recipients.allows(server));
        Ok(servers)
    }

    /// Writes the rows, and with the last of them what was told: if the server stops in between, it is told again.
    async fn put_updates(
        self: &Arc<Self>,
        user: UserNumber,
        servers: &BTreeSet<OwnedServerName>,
        edus: Vec<(&'static str, String)>,
        told: Option<AnnouncedRecord>,
    ) -> Result<(), CommitError> {
        let database = &self.sources.database;
        let (mut write, mut bytes, mut index) = (Write::new(), 0_usize, 0_u32);
        for server in servers {
            for (kind, content) in &edus {
                bytes = bytes.saturating_add(content.len());
                let queued = Queued { kind, content: content.clone(), user };
                queue::put(&mut write, database, server, index, queued);
                index = index.saturating_add(1);
                if bytes > COMMIT_BYTES_MAX {
                    database.commit(std::mem::take(&mut write)).await?;
                    (bytes, index) = (0, 0);
                }
            }
        }
        if let Some(told) = told {
            write.put::<AnnouncedDevices>(&user, &Stamped::pending(told));
        }
        database.commit(write).await?;
        Ok(())
    }

    async fn shown(&self, user: UserNumber, user_id: &UserId) -> Result<Shown, Error> {
        let wanted = BTreeMap::from([(user_id.to_owned(), Vec::new())]);
        let Queried { mut device_keys, mut master_keys, mut self_signing_keys, .. } =
            self.sources.keys.query(None, &wanted).await?;
        let mut keys = device_keys.remove(user_id).unwrap_or_default();
        let mut devices = BTreeMap::new();
        for device in &*self.sources.devices.list(user).await? {
            let of_device = keys.remove(&device.id);
            devices.insert(device.id.clone(), (device.row.display_name.clone(), of_device));
        }
        let cross_signing = (master_keys.remove(user_id), self_signing_keys.remove(user_id));
        Ok(Shown { devices, cross_signing })
    }

    fn digests(&self, shown: &Shown) -> AnnouncedRecord {
        let digest = |name: Option<&str>, keys: [Option<&RawValue>; 2]| {
            let [first, second] = keys.map(|keys| keys.map(RawValue::get).unwrap_or_default());
            let text = format!("{}\0{first}\0{second}", name.unwrap_or_default());
            self.sources.database.hash("announced device", text)
        };
        let devices = shown.devices.iter().map(|(device_id, (name, keys))| {
            (device_id.to_string(), digest(name.as_deref(), [keys.as_deref(), None]))
        });
        let (master, own) = &shown.cross_signing;
        let has_keys = master.is_some() || own.is_some();
        let cross_signing: Option<Hash128> =
            has_keys.then(|| digest(None, [master.as_deref(), own.as_deref()]));
        AnnouncedRecord { stream: 0, devices: devices.collect(), cross_signing }
    }

    /// The least number of an update that follows from a commit.
    fn first_number(&self, at: Position) -> u64 {
        let generation = u64::from(self.sources.database.store().generation());
        generation.checked_shl(GENERATION_BITS).unwrap_or_default().saturating_add(at.get())
    }
}

/// The updates that lead from what was told to what is; the numbers are put into `told`.
fn updates(
    user_id: &UserId,
    shown: &Shown,
    announced: &AnnouncedRecord,
    told: &mut AnnouncedRecord,
    first_number: u64,
) -> Vec<(&'static str, String)> {
    let known: BTreeMap<&str, Hash128> =
        announced.devices.iter().map(|(device_id, digest)| (device_id.as_str(), *digest)).collect();
    let mut edus = Vec::new();
    let next = |stream: &mut u64| {
        let before = (*stream > 0).then_some(*stream);
        *stream = stream.saturating_add(1).max(first_number);
        (*stream, before)
    };
    for (device_id, digest) in &told.devices {
        if known.get(device_id.as_str()) == Some(digest) {
            continue;
        }
        let device_id: OwnedDeviceId = device_id.as_str().into();
        let Some((name, keys)) = shown.devices.get(&device_id) else { continue };
        let (stream, before) = next(&mut told.stream);
        let edu = device_update(user_id, &device_id, stream, before, name.as_deref(), keys.as_deref());
        edus.push(("m.device_list_update", edu));
    }
    for device_id in known.keys() {
        let device: OwnedDeviceId = (*device_id).into();
        if !shown.devices.contains_key(&device) {
            let (stream, before) = next(&mut told.stream);
            let mut content = update(user_id, device_id, stream, before);
            content.insert("deleted".to_owned(), true.into());
            edus.push(("m.device_list_update", Value::Object(content).to_string()));
        }
    }
    if told.cross_signing.is_some() && told.cross_signing != announced.cross_signing {
        edus.push(("m.signing_key_update", signing_key_update(user_id, &shown.cross_signing)));
    }
    edus
}

fn signing_key_update(
    user_id: &UserId,
    (master, own): &(Option<Box<RawValue>>, Option<Box<RawValue>>),
) -> String {
    let mut content = Map::new();
    content.insert("user_id".to_owned(), user_id.as_str().into());
    for (field, key) in [("master_key", master), ("self_signing_key", own)] {
        if let Some(key) = key.as_ref().and_then(|key| serde_json::from_str::<Value>(key.get()).ok()) {
            content.insert(field.to_owned(), key);
        }
    }
    Value::Object(content).to_string()
}

fn device_update(
    user_id: &UserId,
    device_id: &OwnedDeviceId,
    stream: u64,
    before: Option<u64>,
    name: Option<&str>,
    keys: Option<&RawValue>,
) -> String {
    let mut content = update(user_id, device_id.as_str(), stream, before);
    if let Some(name) = name {
        content.insert("device_display_name".to_owned(), name.into());
    }
    if let Some(keys) = keys.and_then(|keys| serde_json::from_str::<Value>(keys.get()).ok()) {
        content.insert("keys".to_owned(), keys);
    }
    Value::Object(content).to_string()
}

fn update(user_id: &UserId, device_id: &str, stream: u64, before: Option<u64>) -> Map<String, Value> {
    let mut content = Map::new();
    content.insert("user_id".to_owned(), user_id.as_str().into());
    content.insert("device_id".to_owned(), device_id.into());
    content.insert("stream_id".to_owned(), stream.into());
    content.insert("prev_id".to_owned(), json!(before.into_iter().collect::<Vec<_>>()));
    content
}
