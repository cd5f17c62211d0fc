//! Rooms: their events, state and members. The only service that writes room rows.
//!
//! Reads go to the database and caches, and wait for no writer. Writes go to the room's task (`rooms/task.rs`), which is its only
//! writer; nothing there ever waits for a network.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use allod_matrix::state::RoomHashKey;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, RoomId, RoomVersionId, UserId, room_version_rules::RoomVersionRules};
use tokio::sync::{mpsc, oneshot};

use crate::{
    account_data::AccountData,
    clock::Clock,
    database::{Corrupt, Database, Error},
    identity::Identity,
    invite_rules::InviteRules,
    numbers::{Counter, EventNumber, RoomNumber, UserNumber},
    profiles::Profiles,
    push_rules::PushRules,
    random::Random,
    tables::{
        notified::NotifiedRecord,
        rooms::{MemberRecord, Membership, Room as RoomTable, RoomByName, RoomMember, RoomRecord, UserRoom},
    },
    tasks::Tasks,
    users::Users,
};

pub mod access;
pub mod adopt;
mod aggregations;
pub mod alias;
mod appservice;
pub mod candidate;
pub mod create;
pub mod delete;
pub mod directory;
pub mod event;
pub mod federation;
pub mod fsck;
pub mod hierarchy;
pub mod ingest;
mod lookup;
mod media;
pub mod membership;
pub mod mutual;
pub mod outside;
pub mod overview;
pub mod pagination;
pub mod partial;
pub mod policy;
mod power;
mod pushing;
pub mod read;
pub mod relations;
mod render;
pub mod reports;
pub mod send;
mod shown;
pub mod state;
pub mod summary;
mod task;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
mod third_party;
pub mod threads;
pub mod timestamp;
pub mod upgrade;
pub mod visibility;
mod whereabouts;
pub mod words;
mod writer;

pub use allod_matrix::create_room::Encryption;
pub use allod_matrix::{
    event::build::BuildError,
    filter::{EventFilter, RelationFilter},
};
pub use membership::MembershipError;
pub use writer::{Append, AppendError, Appended};

/// What never changes of a room, at hand.
#[derive(Debug)]
pub struct Room {
    /// Its number.
    pub number: RoomNumber,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of that version.
    pub rules: RoomVersionRules,
    /// The key of the hashes in its state trees.
    pub hash_key: RoomHashKey,
    /// Who created it.
    pub creator: UserNumber,
}

/// Options of rooms.
#[derive(Clone, Debug)]
pub struct RoomOptions {
    /// Version of new rooms where the client names none.
    pub default_version: RoomVersionId,
    /// Bytes of events kept in memory.
    pub event_cache_bytes: u64,
    /// Bytes of state-tree nodes kept in memory.
    pub node_cache_bytes: u64,
    /// Whether users who are not administrators may publish rooms in the directory.
    pub users_may_publish: bool,
    /// Which new rooms have to be encrypted.
    pub encryption: Encryption,
    /// Whether the words of messages are kept for searching.
    pub search: bool,
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            event_cache_bytes: 16 << 20,
            node_cache_bytes: 8 << 20,
            users_may_publish: false,
            encryption: Encryption::Never,
            search: true,
        }
    }
}

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct RoomSources {
    /// The database.
    pub database: Database,
    /// Users.
    pub users: Users,
    /// Profiles, which member events repeat.
    pub profiles: Profiles,
    /// Push rules, which say whom events notify.
    pub push_rules: PushRules,
    /// The server's name and signing key.
    pub identity: Identity,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where rooms' tasks are started.
    pub tasks: Tasks,
}

/// What reading and writing rooms takes; shared by the service and its tasks.
pub(crate) struct Core {
    pub(crate) database: Database,
    pub(crate) users: Users,
    pub(crate) profiles: Profiles,
    pub(crate) push_rules: PushRules,
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) tasks: Tasks,
    pub(crate) events: event::Events,
    pub(crate) states: state::States,
    pub(crate) sights: visibility::KnownSights,
    /// Whom the latest events notify, also of those whose commit is under way.
    pub(crate) notified: Cache<(RoomNumber, EventNumber), Arc<NotifiedRecord>>,
    pub(crate) options: RoomOptions,
    pub(crate) account_data: AccountData,
    kept: shown::Kept,
    policy: policy::Port,
    deletions: delete::Deletions,
    partials: partial::Partials,
    rooms: Cache<RoomNumber, Arc<Room>>,
    by_name: Cache<OwnedRoomId, RoomNumber>,
    numbers: Counter,
    last_creation_ms: AtomicU64,
    awake: Mutex<HashMap<RoomNumber, mpsc::Sender<task::Message>>>,
}

/// The service.
#[derive(Clone)]
pub struct Rooms {
    core: Arc<Core>,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rooms").finish_non_exhaustive()
    }
}

/// Why a room's task was not told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotTold {
    /// Its inbox is full.
    Busy,
    /// The server is stopping.
    Stopping,
}

/// Most rooms whose constants are kept at hand.
const ROOMS_KEPT_MAX: usize = 20_000;
/// Events of which it is remembered whom they notify.
const NOTIFIED_KEPT_MAX: usize = 10_000;

impl Rooms {
    /// Opens the service.
    pub async fn open(sources: RoomSources, options: RoomOptions) -> Result<Self, Error> {
        let RoomSources { database, users, profiles, push_rules, identity, clock, random, tasks } = sources;
        let newest = database.scan(&crate::database::Range::<RoomTable>::whole().reversed().limit(1)).await?;
        let newest = newest.rows.first().map(|(number, _)| *number);
        // The number of a deleted room is not given out again: what is left somewhere must not mean another one.
        let (deletions, newest_deleted) = delete::Deletions::open(&database).await?;
        let numbers = Counter::after(newest.max(newest_deleted).map(|number| number.0));
        let events = event::Events::new(database.clone(), options.event_cache_bytes);
        let states = state::States::new(database.clone(), options.node_cache_bytes);
        let partials = partial::Partials::open(&database).await?;
        whereabouts::fill(&database, &clock).await?;
        let core = Core {
            account_data: AccountData::new(database.clone()),
            database,
            users,
            profiles,
            push_rules,
            identity,
            clock,
            random,
            tasks,
            events,
            states,
            sights: visibility::KnownSights::new(),
            notified: Cache::new(NOTIFIED_KEPT_MAX),
            options,
            kept: shown::Kept::default(),
            policy: policy::Port::default(),
            deletions,
            partials,
            rooms: Cache::new(ROOMS_KEPT_MAX),
            by_name: Cache::new(ROOMS_KEPT_MAX),
            numbers,
            last_creation_ms: AtomicU64::new(0),
            awake: Mutex::default(),
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// The room with this id, if the server knows it.
    pub async fn find(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>, Error> {
        if let Some(number) = self.core.by_name.get(room_id).filter(|number| !self.is_gone(*number)) {
            return self.get(number).await.map(Some);
        }
        let name = self.core.database.hash("room", room_id.as_str());
        let number = self.core.database.get::<RoomByName>(&name).await?;
        let Some(number) = number.filter(|number| !self.is_gone(*number)) else { return Ok(None) };
        self.core.by_name.insert(room_id.to_owned(), number);
        self.get(number).await.map(Some)
    }

    /// The room with this number, which must exist, or have existed: of one that was deleted the name is still known.
    pub async fn get(&self, number: RoomNumber) -> Result<Arc<Room>, Error> {
        if let Some(room) = self.core.rooms.get(&number) {
            return Ok(room);
        }
        let missing = Error::Corrupt("Room", Corrupt("a row names a room that is not there"));
        let record = match self.core.database.get::<RoomTable>(&number).await? {
            Some(record) => record,
            None => self.core.deleted_record(number).await?.ok_or(missing)?,
        };
        let room = Arc::new(self.core.room_of(number, &record)?);
        self.core.rooms.insert(number, Arc::clone(&room));
        Ok(room)
    }

    /// Every room that the server knows, from outside also.
    pub async fn all(&self) -> Result<Vec<Arc<Room>>, Error> {
        let rows = self.core.database.scan_all(crate::database::Range::<RoomTable>::whole()).await?;
        let rows = rows.iter().filter(|(number, _)| !self.is_gone(*number));
        rows.map(|(number, record)| self.core.room_of(*number, record).map(Arc::new)).collect()
    }

    /// Reads what never changes of several rooms at once, so that it is at hand.
    pub async fn prefetch(&self, numbers: &[RoomNumber]) -> Result<(), Error> {
        let missing = numbers.iter().filter(|number| self.core.rooms.get(*number).is_none());
        let missing: Vec<RoomNumber> = missing.copied().collect();
        let records = self.core.database.get_all::<RoomTable>(&missing).await?;
        for (number, record) in missing.iter().zip(records) {
            if let Some(record) = record {
                self.core.rooms.insert(*number, Arc::new(self.core.room_of(*number, &record)?));
            }
        }
        Ok(())
    }

    /// The user's membership of the room, with the event that says so.
    pub async fn member(&self, room: RoomNumber, user: UserNumber) -> Result<Option<MemberRecord>, Error> {
        Ok(self.core.database.get::<RoomMember>(&(room, user)).await?.map(|row| row.value))
    }

    /// Whether the user has joined the room.
    pub async fn is_joined(&self, room: RoomNumber, user: UserNumber) -> Result<bool, Error> {
        Ok(self.member(room, user).await?.is_some_and(|member| member.membership == Membership::Join))
    }

    /// Users of the room with this membership.
    pub async fn members(&self, room: RoomNumber, membership: Membership) -> Result<Vec<UserNumber>, Error> {
        Ok(self.member_rows(room, membership).await?.into_iter().map(|(user, _)| user).collect())
    }

    /// The same with the events that say so.
    pub async fn member_rows(
        &self,
        room: RoomNumber,
        membership: Membership,
    ) -> Result<Vec<(UserNumber, EventNumber)>, Error> {
        let rows = self.core.database.scan_all(crate::database::Range::<RoomMember>::prefix(&room)).await?;
        let of_kind = rows.into_iter().filter(|(_, row)| row.value.membership == membership);
        Ok(of_kind.map(|((_, user), row)| (user, row.value.event)).collect())
    }

    /// Rooms that a local user has this membership of.
    pub async fn rooms_of(&self, user: UserNumber, membership: Membership) -> Result<Vec<RoomNumber>, Error> {
        let rows = self.core.database.scan_all(crate::database::Range::<UserRoom>::prefix(&user)).await?;
        let of_kind = rows.into_iter().filter(|(_, row)| row.value.membership == membership);
        Ok(of_kind.map(|((_, room), _)| room).collect())
    }

    /// All rooms that a local user has, or had, to do with and has not forgotten.
    pub async fn memberships_of(&self, user: UserNumber) -> Result<BTreeMap<RoomNumber, Membership>, Error> {
        let rows = self.core.database.scan_all(crate::database::Range::<UserRoom>::prefix(&user)).await?;
        let kept = rows.into_iter().filter(|(_, row)| !row.value.forgotten);
        Ok(kept.map(|((_, room), row)| (room, row.value.membership)).collect())
    }

    /// Whom a late event notifies, if that is in memory.
    pub(crate) fn notified(&self, room: RoomNumber, event: EventNumber) -> Option<Arc<NotifiedRecord>> {
        self.core.notified.get(&(room, event))
    }

    /// Loader of events.
    pub fn events(&self) -> &event::Events {
        &self.core.events
    }

    /// Reader of states.
    pub fn states(&self) -> &state::States {
        &self.core.states
    }

    /// Whose invitations a local user wants.
    pub async fn invite_rules(&self, user: UserNumber) -> Result<InviteRules, Error> {
        InviteRules::of(&self.core.account_data, user).await
    }

    /// Whether the user is one of this server's.
    pub fn is_ours(&self, user_id: &UserId) -> bool {
        self.core.identity.is_ours(user_id)
    }

    /// Hands an event to the room's task and waits until it is durable.
    pub async fn append(&self, room: &Arc<Room>, append: Append) -> Result<Appended, AppendError> {
        if let Some(reason) = self.refusal_of(room, &append.draft) {
            return Err(AppendError::Forbidden(reason.to_owned()));
        }
        self.check_policy(room, &append.draft).await?;
        let (reply, answer) = oneshot::channel();
        let message = task::Message::Append { append: Box::new(append), reply };
        self.tell(room, message).map_err(|not_told| match not_told {
            NotTold::Busy => AppendError::Busy,
            NotTold::Stopping => AppendError::Interrupted,
        })?;
        answer.await.map_err(|_| AppendError::Interrupted)?
    }

    /// Puts a message into the inbox of the room's task, which is started if it sleeps.
    fn tell(&self, room: &Arc<Room>, mut message: task::Message) -> Result<(), NotTold> {
        // A task that has just gone to sleep has left the registry, so the second try finds or starts a live one.
        for _ in 0..3 {
            match self.inbox(room).try_send(message) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(NotTold::Busy),
                Err(mpsc::error::TrySendError::Closed(back)) => {
                    self.lock_awake().remove(&room.number);
                    message = back;
                }
            }
        }
        Err(NotTold::Stopping)
    }

    fn inbox(&self, room: &Arc<Room>) -> mpsc::Sender<task::Message> {
        let mut awake = self.lock_awake();
        let inbox = awake.entry(room.number).or_insert_with(|| {
            let (inbox, messages) = mpsc::channel(task::INBOX_MESSAGES_MAX);
            let task = task::run(Arc::clone(&self.core), Arc::clone(room), messages);
            drop(self.core.tasks.spawn("room", task));
            inbox
        });
        inbox.clone()
    }

    fn lock_awake(&self) -> std::sync::MutexGuard<'_, HashMap<RoomNumber, mpsc::Sender<task::Message>>> {
        self.core.lock_awake()
    }
}

impl Core {
    fn lock_awake(&self) -> std::sync::MutexGuard<'_, HashMap<RoomNumber, mpsc::Sender<task::Message>>> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the task out of the registry, unless something has just arrived for it.
    fn may_sleep(&self, room: RoomNumber, messages: &mpsc::Receiver<task::Message>) -> bool {
        let mut awake = self.lock_awake();
        let idle = messages.is_empty();
        if idle {
            awake.remove(&room);
        }
        idle
    }

    fn room_of(&self, number: RoomNumber, record: &RoomRecord) -> Result<Room, Error> {
        let damaged = || Error::Corrupt("Room", Corrupt("room id or version does not parse"));
        let version = RoomVersionId::try_from(record.version.as_str()).map_err(|_| damaged())?;
        let rules = version.rules().ok_or_else(damaged)?;
        Ok(Room {
            number,
            room_id: RoomId::parse(record.room_id.as_str()).map_err(|_| damaged())?,
            version,
            rules,
            hash_key: self.room_hash_key(number),
            creator: record.creator,
        })
    }

    fn room_hash_key(&self, number: RoomNumber) -> RoomHashKey {
        RoomHashKey::new(self.database.derived_key("room state", number.0.to_be_bytes()))
    }
}
