//! Device and cross-signing keys of users of other servers. While a room is shared with them, their servers tell of every
//! change, so that what was once asked for is kept until then.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use allod_storage::Position;
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    clock::Clock,
    database::{Database, Error, Write},
    federation::{
        client::{ClientError, FederationClient},
        questions::Answers,
    },
    keys::Queried,
    numbers::{RoomNumber, UserNumber},
    rooms::Rooms,
    tables::{
        Stamped,
        inbound::{RemoteKeyList, RemoteKeyListRecord},
        keys::KeyFailureRow,
        rooms::{MemberRecord, Membership, RoomMember},
    },
    users::Users,
};

mod failures;

pub use failures::SERVERS_MAX;
use failures::{Asked, Failures};

/// Rooms that are remembered to be shared with a user: one that stays so is enough.
const ROOMS_MAX: usize = 20;
/// Keys of one user that are kept, in bytes as JSON; more are asked for each time.
const BYTES_MAX: usize = 80 << 10;

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteKeys {
    database: Database,
    users: Users,
    rooms: Rooms,
    client: FederationClient,
    clock: Clock,
    failures: Failures,
}

/// What is kept of a user, as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    master: Option<Box<RawValue>>,
    self_signing: Option<Box<RawValue>>,
}

/// Why a server tells of changes: rooms that its user shares with one of this server.
#[derive(Clone, Debug)]
struct Shared {
    with: UserNumber,
    rooms: Vec<RoomNumber>,
}

/// Whether keys need to be asked for.
enum Look {
    /// They are known.
    Known(Kept),
    /// They may be kept once they are known, unless this row changes meanwhile.
    Keep { user: UserNumber, row: Option<Stamped<RemoteKeyListRecord>>, shared: Shared },
    /// Nothing tells when they change.
    Untold,
}

impl RemoteKeys {
    /// Over the requests to other servers.
    pub async fn open(
        database: Database,
        users: Users,
        rooms: Rooms,
        client: FederationClient,
        clock: Clock,
    ) -> Result<Self, Error> {
        let failures = Failures::open(database.clone(), clock.clone()).await?;
        Ok(Self { database, users, rooms, client, clock, failures })
    }

    /// One-time keys of other servers' devices, and the servers that did not answer within `patience`.
    pub async fn claim(
        &self,
        mut wanted: claim_keys::OneTimeKeyClaims,
        patience: Duration,
    ) -> Answers<claim_keys::Response> {
        wanted.retain(|user_id, _| !self.users.is_local(user_id));
        let answers = self.client.claim_keys(wanted, patience).await;
        self.failures.note(Asked::Claim, outcomes(&answers));
        answers
    }

    /// The servers that did not answer when they were asked for keys, the last failure first; a thousand at most, within
    /// the last month.
    pub fn failures(&self) -> Vec<KeyFailureRow> {
        self.failures.list()
    }

    /// The keys of other servers' users among `wanted`: of all devices, or of those listed; and the servers that did not
    /// answer within `patience`. A server speaks for its own users only.
    pub async fn query(
        &self,
        asking: UserNumber,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        patience: Duration,
    ) -> Result<(Queried, Vec<(OwnedServerName, ClientError)>), Error> {
        let (mut queried, mut failures) = (Queried::default(), Vec::new());
        let mut looks = BTreeMap::new();
        let mut asked = wanted.clone();
        asked.retain(|user_id, _| !self.users.is_local(user_id));
        for user_id in asked.keys().cloned().collect::<Vec<_>>() {
            match self.look(asking, &user_id).await? {
                Look::Known(kept) => {
                    asked.remove(&user_id);
                    add(&mut queried, &user_id, kept, wanted.get(&user_id));
                }
                keep @ Look::Keep { .. } => {
                    asked.insert(user_id.clone(), Vec::new());
                    looks.insert(user_id, keep);
                }
                Look::Untold => {}
            }
        }
        if asked.is_empty() {
            return Ok((queried, failures));
        }
        let answers = self.client.query_keys(asked, patience).await;
        self.failures.note(Asked::Query, outcomes(&answers));
        for (server, answer) in answers {
            match answer {
                Ok(answer) => {
                    for (user_id, kept) in by_user(&server, answer) {
                        if let Some(Look::Keep { user, row, shared }) = looks.remove(&user_id) {
                            self.keep(user, row.as_ref(), shared, &kept).await?;
                        }
                        add(&mut queried, &user_id, kept, wanted.get(&user_id));
                    }
                }
                Err(error) => failures.push((server, error)),
            }
        }
        Ok((queried, failures))
    }

    async fn look(&self, asking: UserNumber, user_id: &UserId) -> Result<Look, Error> {
        let Some(user) = self.users.number(user_id).await? else { return Ok(Look::Untold) };
        let row = self.database.get::<RemoteKeyList>(&user).await?;
        if let Some(Stamped { position, value }) = &row
            && let Some(json) = &value.json
            && self.has_been_told(user, value, *position).await?
            && let Ok(kept) = serde_json::from_str(json)
        {
            return Ok(Look::Known(kept));
        }
        let rooms = self.shared(asking, user).await?;
        Ok(if rooms.is_empty() {
            Look::Untold
        } else {
            Look::Keep { user, row, shared: Shared { with: asking, rooms } }
        })
    }

    /// Whether a room was shared all the time since the keys were asked for.
    async fn has_been_told(
        &self,
        user: UserNumber,
        record: &RemoteKeyListRecord,
        since: Position,
    ) -> Result<bool, Error> {
        let keys = record.rooms.iter().flat_map(|room| [(*room, user), (*room, record.shared_with)]);
        let rows = self.database.get_all::<RoomMember>(&keys.collect::<Vec<_>>()).await?;
        let stayed = |row: &Option<Stamped<MemberRecord>>| {
            row.as_ref().is_some_and(|row| row.value.membership == Membership::Join && row.position <= since)
        };
        Ok(rows.chunks(2).any(|pair| pair.iter().all(stayed)))
    }

    /// Rooms that both users have joined.
    async fn shared(&self, one: UserNumber, other: UserNumber) -> Result<Vec<RoomNumber>, Error> {
        let joined = self.rooms.rooms_of(one, Membership::Join).await?;
        let keys: Vec<_> = joined.iter().flat_map(|room| [(*room, one), (*room, other)]).collect();
        let rows = self.database.get_all::<RoomMember>(&keys).await?;
        let shared = joined.into_iter().zip(rows.chunks(2)).filter(|(room, rows)| {
            let [Some(one), Some(other)] = rows else { return false };
            // Who is in a room that was joined without its members, is not certain yet, but of those who came since.
            other.value.membership == Membership::Join
                && (!self.rooms.is_partial(*room) || other.position > one.position)
        });
        Ok(shared.map(|(room, _)| room).take(ROOMS_MAX).collect())
    }

    /// Keeps what a server said, unless it told of a change while it was asked.
    async fn keep(
        &self,
        user: UserNumber,
        row: Option<&Stamped<RemoteKeyListRecord>>,
        Shared { with, rooms }: Shared,
        kept: &Kept,
    ) -> Result<(), Error> {
        let Some(json) = serde_json::to_string(kept).ok().filter(|json| json.len() <= BYTES_MAX) else {
            return Ok(());
        };
        let mut write = Write::new();
        match row {
            Some(row) => write.equals::<RemoteKeyList>(&user, row),
            None => write.absent::<RemoteKeyList>(&user),
        };
        let at_ms = self.clock.now_ms();
        let record = RemoteKeyListRecord { json: Some(json), rooms, shared_with: with, at_ms };
        write.put::<RemoteKeyList>(&user, &Stamped::pending(record));
        match self.database.commit(write).await {
            Ok(_) | Err(allod_storage::CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn outcomes<T>(answers: &Answers<T>) -> impl Iterator<Item = (&ServerName, Option<&ClientError>)> {
    answers.iter().map(|(server, answer)| (&**server, answer.as_ref().err()))
}

/// The keys of a user are not what they were. To be part of the commit that tells clients of it.
pub(crate) fn forget(write: &mut Write, user: UserNumber, now_ms: u64) {
    let nothing = RemoteKeyListRecord { json: None, rooms: Vec::new(), shared_with: user, at_ms: now_ms };
    write.put::<RemoteKeyList>(&user, &Stamped::pending(nothing));
}

/// What a server said of its own users.
fn by_user(server: &OwnedServerName, answer: get_keys::Response) -> BTreeMap<OwnedUserId, Kept> {
    let mut users: BTreeMap<OwnedUserId, Kept> = BTreeMap::new();
    for (user_id, devices) in answer.device_keys {
        let devices = devices.into_iter().map(|(device_id, keys)| (device_id, keys.into_json()));
        users.entry(user_id).or_default().devices = devices.collect();
    }
    let known: BTreeSet<OwnedUserId> = users.keys().cloned().collect();
    for (user_id, key) in answer.master_keys.into_iter().filter(|(user_id, _)| known.contains(user_id)) {
        users.entry(user_id).or_default().master = Some(key.into_json());
    }
    for (user_id, key) in answer.self_signing_keys.into_iter().filter(|(user_id, _)| known.contains(user_id))
    {
        users.entry(user_id).or_default().self_signing = Some(key.into_json());
    }
    users.retain(|user_id, _| user_id.server_name() == &**server);
    users
}

fn add(queried: &mut Queried, user_id: &OwnedUserId, kept: Kept, wanted: Option<&Vec<OwnedDeviceId>>) {
    let Kept { mut devices, master, self_signing } = kept;
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        devices.retain(|device_id, _| wanted.contains(device_id));
    }
    queried.device_keys.insert(user_id.clone(), devices);
    queried.master_keys.extend(master.map(|key| (user_id.clone(), key)));
    queried.self_signing_keys.extend(self_signing.map(|key| (user_id.clone(), key)));
}
