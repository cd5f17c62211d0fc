//! Deleting rooms, and blocking them: what is known of it, and the steps by which a room goes.
//!
//! A deletion is a row ([`RoomDeletion`]) that says what is to be done next; who does it is
//! [`RoomDeletions`](crate::room_deletion::RoomDeletions). From its first commit on, nobody may enter the room. Once its
//! members have left, one commit takes away the room's name and the version of its head: from then on no look-up finds the
//! room, and nothing can be written into it, since every batch of a room checks that version. What is left of it goes
//! afterwards, part by part; its number is never given out again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use allod_matrix::event::build::Draft;
use allod_storage::CommitError;
use roaring::RoaringBitmap;
use ruma::{OwnedRoomId, RoomId, RoomVersionId};

use super::{Core, MembershipError, Room, Rooms};
use crate::{
    audit::{Act, Actor, Audited},
    database::{Database, Error, Range, Write},
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::{
        deleted::{BlockedRoom, BlockedRoomRow, DeletionStep, RoomDeletion, RoomDeletionRow},
        rooms::{Alias, HeadVersion, Published, RoomAlias, RoomByName, RoomRecord},
    },
};

mod members;
mod remains;

/// Why nobody enters a room that is blocked.
const BLOCKED: &str = "This room has been blocked by the administrators of this server";
/// Why nobody enters a room that is being deleted.
const CLOSING: &str = "This room is being deleted by the administrators of this server";

/// Why a room is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// The server does not know the room.
    #[error("there is no such room here")]
    NotFound,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// What an administrator wants of a room.
#[derive(Clone, Debug)]
pub struct DeletionWish {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which administrator it is; none for whoever may use the machine.
    pub by: Option<UserNumber>,
    /// Whether nobody of this server may enter the room again.
    pub block: bool,
    /// Whether what is stored of it goes; else its members leave, and that is all.
    pub purge: bool,
    /// The name that the deletion goes by.
    pub delete_id: String,
}

/// What is in memory of deleted and blocked rooms.
#[derive(Debug, Default)]
pub(super) struct Deletions(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    /// Rooms that are being deleted, and the hashes of their ids.
    closing: BTreeMap<RoomNumber, Hash128>,
    /// Numbers that stand for nothing any more.
    gone: RoaringBitmap,
    /// Rooms that nobody may enter, by the hash of the id.
    blocked: HashSet<Hash128>,
}

impl Deletions {
    /// Reads the rows. The greatest number that a deleted room had comes with it.
    pub(super) async fn open(database: &Database) -> Result<(Self, Option<RoomNumber>), Error> {
        let mut state = State::default();
        let rows = database.scan_all(Range::<RoomDeletion>::whole()).await?;
        let greatest = rows.last().map(|(number, _)| *number);
        for (number, row) in rows {
            if row.is_gone() {
                state.gone.insert(number.0);
            }
            if row.step != DeletionStep::Done {
                state.closing.insert(number, database.hash("room", &row.room_id));
            }
        }
        let blocked = database.scan_all(Range::<BlockedRoom>::whole()).await?;
        state.blocked = blocked.into_iter().map(|(name, _)| name).collect();
        Ok((Self(RwLock::new(state)), greatest))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a number stands for a room that was deleted.
    pub(super) fn is_gone(&self, room: RoomNumber) -> bool {
        self.read().gone.contains(room.0)
    }

    /// Why nobody may enter the room with this name, if so.
    fn refusal(&self, name: Hash128) -> Option<&'static str> {
        let state = self.read();
        if state.blocked.contains(&name) {
            return Some(BLOCKED);
        }
        state.closing.values().any(|closing| *closing == name).then_some(CLOSING)
    }

    fn is_idle(&self) -> bool {
        let state = self.read();
        state.blocked.is_empty() && state.closing.is_empty()
    }
}

impl Rooms {
    /// Why no user of this server may enter this room now, if so: it is blocked, or is being deleted.
    pub fn refusal(&self, room_id: &RoomId) -> Option<&'static str> {
        let deletions = &self.core.deletions;
        if deletions.is_idle() {
            return None;
        }
        deletions.refusal(self.core.database.hash("room", room_id.as_str()))
    }

    /// Refuses where no user of this server may enter the room.
    pub fn check_entry(&self, room_id: &RoomId) -> Result<(), MembershipError> {
        self.refusal(room_id).map_or(Ok(()), |reason| Err(MembershipError::Forbidden(reason)))
    }

    /// Whether a number stands for a room that was deleted.
    pub fn is_gone(&self, room: RoomNumber) -> bool {
        self.core.deletions.is_gone(room)
    }

    /// Why an event of a local user is not wanted in a room, if so: one that is being deleted is only left, and one that is
    /// blocked is not entered.
    pub(super) fn refusal_of(&self, room: &Room, draft: &Draft) -> Option<&'static str> {
        let reason = self.refusal(&room.room_id)?;
        let membership = (draft.kind == "m.room.member").then(|| {
            let content: Option<serde_json::Value> = serde_json::from_str(draft.content.get()).ok();
            content.and_then(|content| Some(content.get("membership")?.as_str()?.to_owned()))
        });
        let is_entry = !matches!(membership.clone().flatten().as_deref(), Some("leave" | "ban"));
        let counts = if reason == BLOCKED { membership.is_some() && is_entry } else { is_entry };
        counts.then_some(reason)
    }

    /// Notes that a room is to be deleted; from then on nobody enters it. A deletion that is under way already is returned as
    /// it is. A room that the server does not know can be blocked.
    pub async fn begin_deletion(&self, wish: &DeletionWish) -> Result<RoomDeletionRow, DeletionError> {
        let now_ms = self.core.clock.now_ms();
        let room = self.find(&wish.room_id).await?;
        let (number, version) = match &room {
            Some(room) => (room.number, room.version.clone()),
            None if wish.block => (RoomNumber(self.core.numbers.next()), RoomVersionId::V1),
            None => return Err(DeletionError::NotFound),
        };
        if wish.block {
            self.set_blocked(&wish.room_id, wish.by, true).await?;
        }
        let before = self.core.database.get::<RoomDeletion>(&number).await?;
        if let Some(before) = before.as_ref().filter(|before| before.step != DeletionStep::Done) {
            return Ok(before.clone());
        }
        let known = room.is_some();
        let row = RoomDeletionRow {
            delete_id: wish.delete_id.clone(),
            room_id: wish.room_id.to_string(),
            version: version.to_string(),
            by: wish.by,
            requested_ms: now_ms,
            block: wish.block,
            purge: wish.purge,
            step: if known { DeletionStep::Leaving } else { DeletionStep::Done },
            since_ms: now_ms,
            rounds: 0,
            left: 0,
            members: 0,
            failed: 0,
            files: 0,
            told: 0,
            cursor: None,
            finished_ms: (!known).then_some(now_ms),
        };
        let mut write = Write::new();
        match &before {
            Some(before) => write.equals::<RoomDeletion>(&number, before),
            None => write.absent::<RoomDeletion>(&number),
        };
        write.put::<RoomDeletion>(&number, &row);
        write.audit(self.audited(wish.by, Act::DeleteRoom { room: number, block: wish.block }));
        match self.core.database.commit(write).await {
            Ok(_) => {}
            // Somebody else was faster: theirs is the one.
            Err(CommitError::Conflict(_)) => {
                let row = self.core.database.get::<RoomDeletion>(&number).await?;
                return row.ok_or(DeletionError::NotFound);
            }
            Err(error) => return Err(Error::from(error).into()),
        }
        if known {
            let name = self.core.database.hash("room", wish.room_id.as_str());
            self.core.deletions.write().closing.insert(number, name);
        } else {
            self.core.deletions.write().gone.insert(number.0);
        }
        Ok(row)
    }

    /// Blocks a room, whether it is known or not, or no longer does.
    pub async fn set_blocked(
        &self,
        room_id: &RoomId,
        by: Option<UserNumber>,
        blocked: bool,
    ) -> Result<(), Error> {
        let name = self.core.database.hash("room", room_id.as_str());
        let room = self.find(room_id).await?.map(|room| room.number);
        let mut write = Write::new();
        if blocked {
            let row = BlockedRoomRow { room_id: room_id.to_string(), by, at_ms: self.core.clock.now_ms() };
            write.put::<BlockedRoom>(&name, &row);
        } else {
            write.delete::<BlockedRoom>(&name);
        }
        write.audit(self.audited(by, Act::SetRoomBlocked { room, blocked }));
        self.core.database.commit(write).await?;
        let mut state = self.core.deletions.write();
        if blocked {
            state.blocked.insert(name);
        } else {
            state.blocked.remove(&name);
        }
        Ok(())
    }

    /// Who blocked a room, and when, if it is blocked.
    pub async fn blocked(&self, room_id: &RoomId) -> Result<Option<BlockedRoomRow>, Error> {
        let name = self.core.database.hash("room", room_id.as_str());
        self.core.database.get::<BlockedRoom>(&name).await
    }

    /// All deletions, also those that are done, in the order of the rooms' numbers.
    pub async fn deletions(&self) -> Result<Vec<(RoomNumber, RoomDeletionRow)>, Error> {
        self.core.database.scan_all(Range::<RoomDeletion>::whole()).await
    }

    /// Makes the room unknown, if no user of this server has anything to do with it any more, or if they `may_stay`; whether
    /// it is now. Nothing can be written into it from then on.
    pub(crate) async fn shut(
        &self,
        room: &Room,
        row: &RoomDeletionRow,
        may_stay: bool,
    ) -> Result<bool, Error> {
        let database = &self.core.database;
        let version = database.get::<HeadVersion>(&room.number).await?;
        if !may_stay && !self.local_members(room.number).await?.is_empty() {
            return Ok(false);
        }
        let mut write = Write::new();
        match &version {
            Some(version) => write.equals::<HeadVersion>(&room.number, version),
            None => write.absent::<HeadVersion>(&room.number),
        };
        if row.purge {
            let name = database.hash("room", room.room_id.as_str());
            write.delete::<HeadVersion>(&room.number);
            write.delete::<RoomByName>(&name);
            write.erase::<RoomByName>(&name);
        }
        self.unpublish_all(room.number, &mut write).await?;
        write.put::<RoomDeletion>(&room.number, row);
        match database.commit(write).await {
            Ok(_) => {}
            Err(CommitError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if row.purge {
            self.core.deletions.write().gone.insert(room.number.0);
            self.core.by_name.remove(&room.room_id);
            self.lock_awake().remove(&room.number);
            self.core.partials.forget(room.number);
        } else {
            self.deletion_is_done(room.number);
        }
        Ok(true)
    }

    /// The room's names and its place in the directory go.
    async fn unpublish_all(&self, room: RoomNumber, write: &mut Write) -> Result<(), Error> {
        let rows = self.core.database.scan_all(Range::<RoomAlias>::prefix(&room)).await?;
        for ((_, alias), _) in rows {
            write.delete::<Alias>(&alias);
            write.erase::<Alias>(&alias);
            write.delete::<RoomAlias>(&(room, alias));
        }
        write.erase::<RoomAlias>(&room);
        write.delete::<Published>(&room);
        Ok(())
    }

    /// A deletion has ended: its room can be entered again, if it is not blocked.
    pub(crate) fn deletion_is_done(&self, room: RoomNumber) {
        self.core.deletions.write().closing.remove(&room);
    }

    fn audited(&self, by: Option<UserNumber>, act: Act) -> allod_storage::AuditEntry {
        let actor = by.map_or(Actor::Operator, Actor::User);
        Audited { at_ms: self.core.clock.now_ms(), actor, act }.encode()
    }
}

impl Core {
    /// What never changes of a room that was deleted, for those who still have its number.
    pub(super) async fn deleted_record(&self, room: RoomNumber) -> Result<Option<RoomRecord>, Error> {
        let row = self.database.get::<RoomDeletion>(&room).await?.filter(RoomDeletionRow::is_gone);
        Ok(row.map(|row| RoomRecord {
            room_id: row.room_id,
            version: row.version,
            creator: UserNumber::default(),
            created_ms: 0,
        }))
    }
}
