//! Who is joined to rooms, and which rooms are encrypted, in memory: for all that asks who shares a room with whom.

use std::sync::Arc;

use allod_storage::Position;
use quick_cache::{Weighter, sync::Cache};
use roaring::RoaringBitmap;

use super::activity::Activity;
use crate::{
    database::{Database, Error, Range},
    numbers::{RoomNumber, UserNumber},
    rooms::Rooms,
    tables::rooms::{Membership, RoomHead, RoomMember},
};

/// Bytes of member sets kept in memory.
const MEMBER_BYTES_MAX: u64 = 8 << 20;
/// Rooms of which it is remembered whether they are encrypted.
const ENCRYPTED_KEPT_MAX: usize = 50_000;

#[derive(Clone)]
struct ByBytes;

impl Weighter<RoomNumber, Arc<RoaringBitmap>> for ByBytes {
    fn weight(&self, _room: &RoomNumber, members: &Arc<RoaringBitmap>) -> u64 {
        u64::try_from(members.serialized_size()).unwrap_or(u64::MAX).saturating_add(128)
    }
}

/// Joined members of rooms.
#[derive(Clone)]
pub struct RoomMembers {
    database: Database,
    rooms: Rooms,
    activity: Activity,
    joined: Arc<Cache<RoomNumber, Arc<RoaringBitmap>, ByBytes>>,
    /// Whether a room is encrypted, and as of when that was seen.
    encrypted: Arc<Cache<RoomNumber, (bool, Position)>>,
}

impl std::fmt::Debug for RoomMembers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RoomMembers").finish_non_exhaustive()
    }
}

impl RoomMembers {
    /// Over a database, and what its log says.
    pub(super) fn new(database: Database, rooms: Rooms, activity: Activity) -> Self {
        let joined = Cache::with_weighter(20_000, MEMBER_BYTES_MAX, ByBytes);
        let encrypted = Cache::new(ENCRYPTED_KEPT_MAX);
        Self { database, rooms, activity, joined: Arc::new(joined), encrypted: Arc::new(encrypted) }
    }

    /// The users joined to a room: all changes that the log has told are in it, and perhaps more.
    pub async fn joined(&self, room: RoomNumber) -> Result<Arc<RoaringBitmap>, Error> {
        if let Some(members) = self.joined.get(&room) {
            return Ok(members);
        }
        let read_at = self.activity.followed();
        let rows = self.database.scan_all(Range::<RoomMember>::prefix(&room)).await?;
        let joined = rows.iter().filter(|(_, row)| row.value.membership == Membership::Join);
        let members: Arc<RoaringBitmap> = Arc::new(joined.map(|((_, user), _)| user.0).collect());
        // What changed while the rows were read may be missing, and must not stay.
        if !self.activity.members_changed(room, read_at) {
            self.joined.insert(room, Arc::clone(&members));
            if self.activity.members_changed(room, read_at) {
                self.joined.remove(&room);
            }
        }
        Ok(members)
    }

    /// Takes a change of a membership into what is kept.
    pub(super) async fn update(&self, room: RoomNumber, user: UserNumber) {
        let Some(members) = self.joined.get(&room) else { return };
        match self.database.get::<RoomMember>(&(room, user)).await {
            Ok(row) => {
                let is_in = row.is_some_and(|row| row.value.membership == Membership::Join);
                if is_in != members.contains(user.0) {
                    let mut changed = (*members).clone();
                    if is_in {
                        changed.insert(user.0);
                    } else {
                        changed.remove(user.0);
                    }
                    self.joined.insert(room, Arc::new(changed));
                }
            }
            Err(_) => drop(self.joined.remove(&room)),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.joined.clear();
    }

    /// Whether the room is encrypted. That does not end.
    pub async fn is_encrypted(&self, room: RoomNumber) -> Result<bool, Error> {
        let last_event = self.activity.last_event(room);
        match self.encrypted.get(&room) {
            Some((true, _)) => return Ok(true),
            Some((false, at)) if last_event.is_some_and(|last| last <= at) => return Ok(false),
            Some(_) | None => {}
        }
        let Some(head) = self.database.get::<RoomHead>(&room).await? else { return Ok(false) };
        let known = self.rooms.get(room).await?;
        let event = self.rooms.states().get(&known, head.value.root, "m.room.encryption", "").await?;
        self.activity.event(room, head.position);
        self.encrypted.insert(room, (event.is_some(), head.position));
        Ok(event.is_some())
    }

    /// Of these rooms, those that are encrypted.
    pub async fn encrypted(&self, rooms: &RoaringBitmap) -> Result<Vec<RoomNumber>, Error> {
        let mut encrypted = Vec::new();
        for room in rooms.iter().map(RoomNumber) {
            if self.is_encrypted(room).await? {
                encrypted.push(room);
            }
        }
        Ok(encrypted)
    }

    /// All who are joined to one of these rooms.
    pub async fn union(&self, rooms: &[RoomNumber]) -> Result<RoaringBitmap, Error> {
        let mut users = RoaringBitmap::new();
        for room in rooms {
            users |= &*self.joined(*room).await?;
        }
        Ok(users)
    }
}
