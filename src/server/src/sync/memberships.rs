//! A user's rooms at a position: one scan, kept in memory until the log tells of a change.

use std::sync::Arc;

use allod_storage::{Position, Store};
use quick_cache::sync::Cache;
use roaring::RoaringBitmap;

use super::activity::Activity;
use crate::{
    database::{Database, Error, Range},
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::{
        deleted::{DepartedRoom, DepartedRoomRow},
        rooms::{Membership, MembershipChange, UserMembershipChange, UserRoom},
    },
};

/// Users whose rooms are kept in memory.
const USERS_KEPT_MAX: usize = 10_000;
/// How often the rooms are read again because they changed meanwhile.
const TRIES_MAX: usize = 8;

/// What a user has to do with a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRoomEntry {
    /// The room.
    pub room: RoomNumber,
    /// The membership.
    pub membership: Membership,
    /// The event that says so.
    pub event: EventNumber,
    /// Who sent that event.
    pub sender: UserNumber,
    /// The commit of that event.
    pub position: Position,
    /// Whether the user forgot the room since.
    pub forgotten: bool,
}

/// The rooms of a user.
#[derive(Debug, Default)]
pub struct UserRooms {
    /// By room number.
    pub rooms: Box<[UserRoomEntry]>,
    /// Those joined.
    pub joined: Arc<RoaringBitmap>,
    /// Everything up to here is in it.
    pub(super) read_at: Position,
    /// The newest change in it.
    pub(super) newest: Position,
}

impl UserRooms {
    /// What the user has to do with this room.
    pub fn get(&self, room: RoomNumber) -> Option<&UserRoomEntry> {
        let index = self.rooms.binary_search_by_key(&room, |entry| entry.room).ok()?;
        self.rooms.get(index)
    }
}

/// Loads users' rooms, and keeps those used lately.
#[derive(Clone)]
pub struct Memberships {
    database: Database,
    activity: Activity,
    cache: Arc<Cache<UserNumber, Arc<UserRooms>>>,
}

impl std::fmt::Debug for Memberships {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Memberships").finish_non_exhaustive()
    }
}

impl Memberships {
    /// Over a database, and what its log says.
    pub fn new(database: Database, activity: Activity) -> Self {
        Self { database, activity, cache: Arc::new(Cache::new(USERS_KEPT_MAX)) }
    }

    /// A position that is not older than the store's head, and the user's rooms as they are there.
    pub async fn at_head(
        &self,
        store: &Store,
        user: UserNumber,
    ) -> Result<(Position, Arc<UserRooms>), Error> {
        let mut wanted = store.head();
        let mut tries = 0_usize;
        loop {
            self.activity.reach(wanted).await;
            let rooms = self.current(user).await?;
            let position = self.activity.followed();
            // Rows newer than the position belong to the next sync, and changes after the rows were read are missing.
            let exact = rooms.newest <= position && !self.activity.membership_changed(user, rooms.read_at);
            if exact || tries >= TRIES_MAX {
                return Ok((position, rooms));
            }
            wanted = rooms.newest.max(store.head());
            tries = tries.saturating_add(1);
        }
    }

    /// The user's rooms: all that the log has told so far is in it, and perhaps more.
    pub async fn current(&self, user: UserNumber) -> Result<Arc<UserRooms>, Error> {
        if let Some(rooms) = self.cache.get(&user)
            && !self.activity.membership_changed(user, rooms.read_at)
        {
            return Ok(rooms);
        }
        let read_at = self.activity.followed();
        let rows = self.database.scan_all(Range::<UserRoom>::prefix(&user)).await?;
        let newest = rows.iter().map(|(_, row)| row.position).max().unwrap_or_default();
        let rooms: Box<[UserRoomEntry]> = rows
            .iter()
            .map(|((_, room), row)| UserRoomEntry {
                room: *room,
                membership: row.value.membership,
                event: row.value.event,
                sender: row.value.sender,
                position: row.position,
                forgotten: row.value.forgotten,
            })
            .collect();
        let joined =
            rooms.iter().filter(|entry| entry.membership == Membership::Join).map(|entry| entry.room.0);
        let joined = Arc::new(joined.collect::<RoaringBitmap>());
        let rooms = Arc::new(UserRooms { rooms, joined, read_at, newest });
        self.cache.insert(user, Arc::clone(&rooms));
        Ok(rooms)
    }

    /// The user's changes of membership after `since` and up to `upto`, in order.
    pub async fn changes(
        &self,
        user: UserNumber,
        since: Position,
        upto: Position,
    ) -> Result<Vec<(Position, MembershipChange)>, Error> {
        if since >= upto || !self.activity.membership_changed(user, since) {
            return Ok(Vec::new());
        }
        let range = Range::<UserMembershipChange>::between(&(user, since.next()), &(user, upto.next()));
        let rows = self.database.scan_all(range).await?;
        Ok(rows.into_iter().map(|((_, position), change)| (position, change)).collect())
    }

    /// Rooms that the user left after `since` and up to `upto`, and that were deleted.
    pub(super) async fn departed(
        &self,
        user: UserNumber,
        since: Position,
        upto: Position,
    ) -> Result<Vec<DepartedRoomRow>, Error> {
        if since >= upto || !self.activity.membership_changed(user, since) {
            return Ok(Vec::new());
        }
        let range = Range::<DepartedRoom>::between(&(user, since.next()), &(user, upto.next()));
        Ok(self.database.scan_all(range).await?.into_iter().map(|(_, row)| row).collect())
    }
}
