//! Sync: what changed for a user since a token, answered at once or when something happens.
//!
//! Every answer is as of one position of the log, which its token names: rows that are immutable or carry their position
//! are read up to there, and what is newer belongs to the next answer. The cost follows what changed: rooms are looked
//! at only if their last event, kept in memory (`activity`), is newer than the token.
//!
//! Owns no rows. Each kind of sync is a view over `room_delta`: [`v3`] is `GET /sync`, [`sliding`] simplified sliding sync.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use allod_storage::Position;
use quick_cache::sync::Cache;
use ruma::OwnedUserId;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::{
    activity::Activity,
    follow::Follower,
    lazy::ToldMembers,
    members::RoomMembers,
    memberships::Memberships,
    room_delta::RoomReader,
    sliding::{Connections, Facts},
    tail::Tails,
    unread::Unread,
};
use crate::{
    account_data::AccountData,
    clock::Clock,
    database::{Database, Error},
    filters::Filters,
    keys::{Counts, Keys},
    numbers::{DeviceNumber, RoomNumber, UserNumber},
    presence::Presence,
    push_rules::PushRules,
    random::Random,
    receipts::Receipts,
    rooms::Rooms,
    tasks::Tasks,
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    users::Users,
    wake::Wakes,
};

pub mod activity;
mod badge;
mod device_lists;
mod follow;
mod json;
pub mod key_changes;
mod lazy;
pub mod members;
pub mod memberships;
mod outside;
mod partial;
mod plan;
mod prefetch;
mod quiet;
mod room_delta;
mod sharing;
pub mod sliding;
mod state_after;
mod summary;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;
pub mod token;
mod unread;
pub mod v3;

/// Users whose ignore list is kept in memory.
const IGNORE_LISTS_KEPT_MAX: usize = 10_000;
/// Devices of which it is remembered that their inbox is empty.
const EMPTY_INBOXES_KEPT_MAX: usize = 50_000;
/// Devices whose counts of keys are kept in memory.
const KEY_COUNTS_KEPT_MAX: usize = 20_000;
/// Pairs of a room and a user of whom it is kept what is unread.
const UNREAD_KEPT_MAX: usize = 50_000;

/// What sync reads from.
#[derive(Clone, Debug)]
pub struct SyncSources {
    /// The database.
    pub database: Database,
    /// Users.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Account data.
    pub account_data: AccountData,
    /// Push rules.
    pub push_rules: PushRules,
    /// Filters.
    pub filters: Filters,
    /// Receipts.
    pub receipts: Receipts,
    /// Typing notifications.
    pub typing: Typing,
    /// Presence.
    pub presence: Presence,
    /// Messages to devices.
    pub to_device: ToDevice,
    /// Keys of devices and users.
    pub keys: Keys,
    /// Which threads users follow.
    pub thread_subscriptions: ThreadSubscriptions,
    /// The numbers of changes of typing and presence.
    pub sequence: Sequence,
    /// Who waits.
    pub wakes: Wakes,
    /// The time.
    pub clock: Clock,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Sync(Arc<Inner>);

struct Inner {
    sources: SyncSources,
    reader: RoomReader,
    activity: Activity,
    memberships: Memberships,
    members: RoomMembers,
    tasks: Tasks,
    stopping: CancellationToken,
    /// Tells this run of the server from others.
    boot: u32,
    ignored: Cache<UserNumber, Arc<IgnoreList>>,
    /// Up to where the inbox of a device was found empty.
    empty_inboxes: Cache<DeviceNumber, Position>,
    /// The keys that devices have left, and as of when.
    key_counts: Cache<DeviceNumber, Arc<(Position, Counts)>>,
    /// What is unread in rooms for users.
    unread: Cache<(RoomNumber, UserNumber), Arc<Unread>>,
    /// Connections of sliding syncs.
    connections: Connections,
    /// What their lists are filtered by.
    facts: Facts,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sync").finish_non_exhaustive()
    }
}

/// Whom a user ignores.
#[derive(Debug, Default)]
pub struct IgnoreList {
    read_at: Position,
    /// The ignored users.
    pub users: HashSet<UserNumber>,
}

/// The content of `m.ignored_user_list`.
#[derive(Default, Deserialize)]
struct IgnoredUserList {
    #[serde(default)]
    ignored_users: BTreeMap<OwnedUserId, serde_json::Value>,
}

impl Sync {
    /// Starts the service, and its consumer of the log.
    pub fn start(sources: SyncSources, random: &Random, tasks: &Tasks) -> Self {
        let store = sources.database.store().clone();
        // In this order: what is committed between the two is told twice, and nothing is missed.
        let subscription = store.subscribe();
        let activity = Activity::new(store.head());
        let memberships = Memberships::new(sources.database.clone(), activity.clone());
        let members = RoomMembers::new(sources.database.clone(), sources.rooms.clone(), activity.clone());
        let tails = Tails::new(activity.clone());
        let follower = Follower {
            store,
            tails: tails.clone(),
            activity: activity.clone(),
            memberships: memberships.clone(),
            members: members.clone(),
            wakes: sources.wakes.clone(),
        };
        follower.start(subscription, tasks);
        let reader = RoomReader {
            database: sources.database.clone(),
            rooms: sources.rooms.clone(),
            users: sources.users.clone(),
            told: ToldMembers::new(),
            activity: activity.clone(),
            tails,
        };
        Self(Arc::new(Inner {
            sources,
            reader,
            activity,
            memberships,
            members,
            tasks: tasks.clone(),
            stopping: tasks.stopping().clone(),
            boot: u32::from_be_bytes(random.bytes()),
            ignored: Cache::new(IGNORE_LISTS_KEPT_MAX),
            empty_inboxes: Cache::new(EMPTY_INBOXES_KEPT_MAX),
            key_counts: Cache::new(KEY_COUNTS_KEPT_MAX),
            unread: Cache::new(UNREAD_KEPT_MAX),
            connections: Connections::new(random),
            facts: Facts::new(),
        }))
    }

    /// The rooms of users, kept in memory.
    pub fn memberships(&self) -> &Memberships {
        &self.0.memberships
    }

    /// The members of rooms, kept in memory.
    pub fn members(&self) -> &RoomMembers {
        &self.0.members
    }

    /// Whom the user ignores, kept in memory.
    pub async fn ignored(&self, user: UserNumber) -> Result<Arc<IgnoreList>, Error> {
        self.0.ignored(user).await
    }

    /// What changed last.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }
}

impl Inner {
    /// The keys that a device has left: all changes that the log has told are in it.
    async fn key_counts(
        &self,
        user: UserNumber,
        device: DeviceNumber,
    ) -> Result<Arc<(Position, Counts)>, Error> {
        if let Some(known) = self.key_counts.get(&device)
            && !self.activity.user_data_changed(user, known.0)
        {
            return Ok(known);
        }
        let read_at = self.activity.followed();
        let counts = Arc::new((read_at, self.sources.keys.counts(user, device).await?));
        self.key_counts.insert(device, Arc::clone(&counts));
        Ok(counts)
    }

    /// Whom the user ignores.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
    async fn ignored(&self, user: UserNumber) -> Result<Arc<IgnoreList>, Error> {
        if let Some(list) = self.ignored.get(&user)
            && !self.activity.user_data_changed(user, list.read_at)
        {
            return Ok(list);
        }
        let read_at = self.activity.followed();
        let datum = self.sources.account_data.get(user, None, "m.ignored_user_list").await?;
        let content: IgnoredUserList =
            datum.and_then(|datum| serde_json::from_str(datum.content.get()).ok()).unwrap_or_default();
        let ids: Vec<_> = content.ignored_users.keys().map(|id| &**id).collect();
        let users = self.sources.users.numbers(&ids).await?.into_iter().flatten();
        let list = Arc::new(IgnoreList { read_at, users: users.filter(|other| *other != user).collect() });
        self.ignored.insert(user, Arc::clone(&list));
        Ok(list)
    }
}

#[cfg(test)]
mod tests;
