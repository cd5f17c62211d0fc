//! Account data, global and of rooms, tags included: what a user's clients keep for each other.
//!
//! A datum is stored in parts, because it may be larger than a stored value, and has one row in an index by position,
//! so that a sync reads only what changed. Writers find out through that row whether someone else was faster.
//! This service does not know what the types mean: push rules and read markers are written through it by their owners.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allod_storage::{CommitError, Position};
use serde_json::value::RawValue;

use crate::{
    database::{Corrupt, Database, Error, Range, Write},
    log::Happened,
    named_media,
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::{
        Stamped,
        user_data::{self, AccountDataChange, AccountDataPart, AccountDataUsage, DataUsage, PART_BYTES_MAX},
    },
};

/// Largest content of one datum, in bytes: one batch of the store, less the room that its keys and headers take.
pub const CONTENT_BYTES_MAX: usize = 960 * 1024;
/// Longest type of a datum, in bytes.
pub const TYPE_BYTES_MAX: usize = 255;
/// Most data that a user may have, global and of all rooms.
pub const DATA_PER_USER_MAX: u32 = 20_000;
/// Most bytes that the contents of a user's data may have together.
pub const BYTES_PER_USER_MAX: u64 = 32 * 1024 * 1024;
/// How often a write is tried again when someone else was faster.
const ATTEMPTS_MAX: usize = 16;
/// Stands for "no room" in keys; real rooms begin at 1.
const GLOBAL: RoomNumber = RoomNumber(0);

/// Why account data was not written.
#[derive(Debug, thiserror::Error)]
pub enum AccountDataError {
    /// The content or the type is too long.
    #[error("account data is too large")]
    TooLarge,
    /// The user has as much account data as a user may have.
    #[error("too much account data")]
    TooMany,
    /// The content is not a JSON object.
    #[error("account data must be a JSON object")]
    NotAnObject,
    /// Too many writes at once to the same data.
    #[error("account data is being written by too many others")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<CommitError> for AccountDataError {
    fn from(error: CommitError) -> Self {
        Self::Database(error.into())
    }
}

/// One piece of account data.
#[derive(Clone, Debug)]
pub struct Datum {
    /// The room, if it belongs to one.
    pub room: Option<RoomNumber>,
    /// The type.
    pub event_type: String,
    /// The content.
    pub content: Box<RawValue>,
    /// When it was set.
    pub position: Position,
}

impl Datum {
    /// Whether this stands for a datum that was deleted: an empty object, which syncs that saw the datum are told of.
    pub fn is_deleted(&self) -> bool {
        let inside = self.content.get().trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        inside.is_some_and(|inside| inside.trim().is_empty())
    }
}

/// The service of account data.
#[derive(Clone, Debug)]
pub struct AccountData {
    database: Database,
    notifying: Arc<Notifying>,
}

/// Global data that decide whom events notify: push rules and ignore lists.
const NOTIFYING_TYPES: [&str; 2] = ["m.push_rules", "m.ignored_user_list"];
/// Users that share a counter of changes.
const EPOCHS: usize = 4096;

/// How often data changed that decide whom events notify.
#[derive(Debug)]
struct Notifying {
    all: AtomicU64,
    /// By user, for users whose number ends alike.
    by_user: Box<[AtomicU64]>,
}

impl Notifying {
    fn of(&self, user: UserNumber) -> Option<&AtomicU64> {
        let number = usize::try_from(user.0).unwrap_or_default();
        self.by_user.get(number.checked_rem(self.by_user.len())?)
    }
}

/// A datum's key without the part.
type DatumKey = (UserNumber, RoomNumber, Hash128);
/// A datum's rows.
type Parts = Vec<(u8, Stamped<AccountDataPart>)>;

impl AccountData {
    /// Over a database.
    pub fn new(database: Database) -> Self {
        let by_user = (0..EPOCHS).map(|_| AtomicU64::new(0)).collect();
        Self { database, notifying: Arc::new(Notifying { all: AtomicU64::new(0), by_user }) }
    }

    /// A number that becomes another when anybody's push rules or ignore list change. Read it before reading those.
    pub fn notifying_epoch(&self) -> u64 {
        self.notifying.all.load(Ordering::Acquire)
    }

    /// The same for one user.
    pub fn notifying_epoch_of(&self, user: UserNumber) -> u64 {
        self.notifying.of(user).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// Tells that a datum was changed, or may have been.
    fn changed(&self, user: UserNumber, room: Option<RoomNumber>, event_type: &str) {
        if room.is_none() && NOTIFYING_TYPES.contains(&event_type) {
            if let Some(epoch) = self.notifying.of(user) {
                epoch.fetch_add(1, Ordering::AcqRel);
            }
            self.notifying.all.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A user's datum of a type, global or of a room. One that was deleted is none.
    pub async fn get(
        &self,
        user: UserNumber,
        room: Option<RoomNumber>,
        event_type: &str,
    ) -> Result<Option<Datum>, Error> {
        let datum = self.read(self.key(user, room, event_type)).await?;
        Ok(datum.filter(|datum| !datum.is_deleted()))
    }

    /// Deletes a datum, if there is one.
    pub async fn delete(
        &self,
        user: UserNumber,
        room: Option<RoomNumber>,
        event_type: &str,
    ) -> Result<(), AccountDataError> {
        if self.get(user, room, event_type).await?.is_some() {
            self.set(user, room, event_type, "{}").await?;
        }
        Ok(())
    }

    /// Adds to a write that all data of a user that belong to a room go without a trace, since the room does.
    pub(crate) async fn forget_room(
        &self,
        user: UserNumber,
        room: RoomNumber,
        write: &mut Write,
    ) -> Result<(), Error> {
        let rows = self.database.scan_all(Range::<user_data::AccountData>::prefix(&(user, room))).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let (mut count, mut bytes) = (0_u32, 0_u64);
        for ((_, _, kind, part), row) in &rows {
            write.delete::<user_data::AccountData>(&(user, room, *kind, *part));
            bytes = bytes.saturating_add(length(&row.value.content));
            if *part == 0 {
                count = count.saturating_add(1);
                write.delete::<AccountDataChange>(&(user, row.position, room, *kind));
            }
        }
        if let Some(usage) = self.database.get::<AccountDataUsage>(&user).await? {
            write.equals::<AccountDataUsage>(&user, &usage);
            let less = DataUsage {
                count: usage.count.saturating_sub(count),
                bytes: usage.bytes.saturating_sub(bytes),
            };
            write.put::<AccountDataUsage>(&user, &less);
        }
        Ok(())
    }

    /// Sets a datum, whatever was there before. An empty object deletes it (MSC3391).
    pub async fn set(
        &self,
        user: UserNumber,
        room: Option<RoomNumber>,
        event_type: &str,
        content: &str,
    ) -> Result<Position, AccountDataError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            self.stage(&mut write, user, room, event_type, content).await?;
            let outcome = self.database.commit(write).await;
            self.changed(user, room, event_type);
            match outcome {
                Err(CommitError::Conflict(_)) => {}
                other => return Ok(other?),
            }
        }
        Err(AccountDataError::Busy)
    }

    /// Changes a datum: `change` is given what is there and returns what shall be, or `None` for no change. It is
    /// called again if someone else was faster.
    pub async fn update<E: From<AccountDataError>>(
        &self,
        user: UserNumber,
        room: Option<RoomNumber>,
        event_type: &str,
        mut change: impl FnMut(Option<&Datum>) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        for _ in 0..ATTEMPTS_MAX {
            let key = self.key(user, room, event_type);
            let parts = self.parts(key).await.map_err(AccountDataError::from)?;
            let datum = assemble(key.1, &parts).map_err(AccountDataError::from)?;
            let Some(content) = change(datum.as_ref())? else { return Ok(()) };
            let mut write = Write::new();
            self.stage_over(&mut write, key, &parts, event_type, &content).await?;
            let outcome = self.database.commit(write).await;
            self.changed(user, room, event_type);
            match outcome {
                Err(CommitError::Conflict(_)) => {}
                other => return other.map(drop).map_err(|error| AccountDataError::from(error).into()),
            }
        }
        Err(AccountDataError::Busy.into())
    }

    /// Adds the setting of one datum to a write, which will fail with a conflict if someone else changes the user's
    /// account data first. At most one datum of a user in a write.
    pub async fn stage(
        &self,
        write: &mut Write,
        user: UserNumber,
        room: Option<RoomNumber>,
        event_type: &str,
        content: &str,
    ) -> Result<(), AccountDataError> {
        let key = self.key(user, room, event_type);
        let parts = self.parts(key).await?;
        self.stage_over(write, key, &parts, event_type, content).await
    }

    /// What changed at positions after `since` and up to `upto`, in that order, deleted data as empty objects; all there
    /// is without `since`. A datum that changed again after `upto` is left to the next sync.
    pub async fn changes(
        &self,
        user: UserNumber,
        since: Option<Position>,
        upto: Position,
    ) -> Result<Vec<Datum>, Error> {
        let Some(since) = since else { return self.all(user, upto).await };
        if since >= upto {
            return Ok(Vec::new());
        }
        let range = Range::<AccountDataChange>::between(&(user, since.next()), &(user, upto.next()));
        let changed = self.database.scan_all(range).await?;
        let heads: Vec<_> = changed.iter().map(|((_, _, room, kind), ())| (user, *room, *kind, 0)).collect();
        let mut data = Vec::with_capacity(heads.len());
        for (key, head) in heads.iter().zip(self.database.get_all::<user_data::AccountData>(&heads).await?) {
            let Some(head) = head else { continue };
            let datum = if head.value.parts == 1 {
                assemble(key.1, &[(0, head)])?
            } else {
                self.read((key.0, key.1, key.2)).await?
            };
            data.extend(datum.filter(|datum| datum.position <= upto));
        }
        Ok(data)
    }

    async fn all(&self, user: UserNumber, upto: Position) -> Result<Vec<Datum>, Error> {
        let rows = self.database.scan_all(Range::<user_data::AccountData>::prefix(&user)).await?;
        let mut by_key: BTreeMap<(RoomNumber, Hash128), Parts> = BTreeMap::new();
        for ((_, room, kind, part), row) in rows {
            by_key.entry((room, kind)).or_default().push((part, row));
        }
        let mut data = Vec::with_capacity(by_key.len());
        for ((room, kind), parts) in by_key {
            // Two pages of a scan are two snapshots: a datum written in between is read again on its own.
            let datum = match assemble(room, &parts) {
                Ok(datum) => datum,
                Err(_) => self.read((user, room, kind)).await?,
            };
            data.extend(datum.filter(|datum| datum.position <= upto && !datum.is_deleted()));
        }
        Ok(data)
    }

    fn key(&self, user: UserNumber, room: Option<RoomNumber>, event_type: &str) -> DatumKey {
        (user, room.unwrap_or(GLOBAL), self.database.hash("account data type", event_type))
    }

    async fn read(&self, key: DatumKey) -> Result<Option<Datum>, Error> {
        assemble(key.1, &self.parts(key).await?)
    }

    /// All parts of a datum, from one snapshot: they fit one page.
    async fn parts(&self, key: DatumKey) -> Result<Parts, Error> {
        let page = self.database.scan(&Range::<user_data::AccountData>::prefix(&key)).await?;
        Ok(page.rows.into_iter().map(|((_, _, _, part), row)| (part, row)).collect())
    }

    async fn stage_over(
        &self,
        write: &mut Write,
        key: DatumKey,
        old: &Parts,
        event_type: &str,
        content: &str,
    ) -> Result<(), AccountDataError> {
        if content.len() > CONTENT_BYTES_MAX || event_type.len() > TYPE_BYTES_MAX {
            return Err(AccountDataError::TooLarge);
        }
        if !content.trim_start().starts_with('{') {
            return Err(AccountDataError::NotAnObject);
        }
        let (user, room, kind) = key;
        for keep in named_media::keep(&self.database, user, content) {
            self.database.commit(keep).await?;
        }
        match old.first() {
            Some((_, head)) => {
                write.exists::<AccountDataChange>(&(user, head.position, room, kind));
                write.delete::<AccountDataChange>(&(user, head.position, room, kind));
            }
            None => {
                write.absent::<user_data::AccountData>(&(user, room, kind, 0));
            }
        }
        self.stage_usage(write, user, old, content).await?;
        let pieces = split(content);
        let count = u8::try_from(pieces.len()).map_err(|_| AccountDataError::TooLarge)?;
        for (part, piece) in (0..count).zip(pieces) {
            let event_type = if part == 0 { event_type } else { "" };
            let value = AccountDataPart {
                parts: count,
                event_type: event_type.to_owned(),
                content: piece.to_owned(),
            };
            write.put::<user_data::AccountData>(&(user, room, kind, part), &Stamped::pending(value));
        }
        for (part, _) in old.iter().filter(|(part, _)| *part >= count) {
            write.delete::<user_data::AccountData>(&(user, room, kind, *part));
        }
        write.put::<AccountDataChange>(&(user, Position::PENDING, room, kind), &());
        write.log(Happened::UserData { user });
        Ok(())
    }

    async fn stage_usage(
        &self,
        write: &mut Write,
        user: UserNumber,
        old: &Parts,
        content: &str,
    ) -> Result<(), AccountDataError> {
        let stored = self.database.get::<AccountDataUsage>(&user).await?;
        let usage = stored.unwrap_or_default();
        let old_bytes: u64 = old.iter().map(|(_, part)| length(&part.value.content)).sum();
        let updated = DataUsage {
            count: usage.count.saturating_add(u32::from(old.is_empty())),
            bytes: usage.bytes.saturating_sub(old_bytes).saturating_add(length(content)),
        };
        let grows = updated.count > usage.count || updated.bytes > usage.bytes;
        if grows && (updated.count > DATA_PER_USER_MAX || updated.bytes > BYTES_PER_USER_MAX) {
            return Err(AccountDataError::TooMany);
        }
        match &stored {
            Some(stored) => write.equals::<AccountDataUsage>(&user, stored),
            None => write.absent::<AccountDataUsage>(&user),
        };
        write.put::<AccountDataUsage>(&user, &updated);
        Ok(())
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Cuts a text into pieces that fit a row each; at least one.
fn split(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while text.len() > PART_BYTES_MAX {
        let mut end = PART_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let (piece, rest) = text.split_at(end);
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

/// Joins the rows of a datum; fails if they are not those of one write.
fn assemble(room: RoomNumber, parts: &[(u8, Stamped<AccountDataPart>)]) -> Result<Option<Datum>, Error> {
    const TORN: Error = Error::Corrupt("AccountData", Corrupt("parts of a datum are missing"));
    let Some((0, head)) = parts.first() else {
        return if parts.is_empty() { Ok(None) } else { Err(TORN) };
    };
    if parts.len() != usize::from(head.value.parts)
        || parts.iter().any(|(_, part)| part.position != head.position)
    {
        return Err(TORN);
    }
    let content: String = parts.iter().map(|(_, part)| part.value.content.as_str()).collect();
    Ok(Some(Datum {
        room: (room != GLOBAL).then_some(room),
        event_type: head.value.event_type.clone(),
        content: RawValue::from_string(content)
            .map_err(|_| Error::Corrupt("AccountData", Corrupt("a datum is not JSON")))?,
        position: head.position,
    }))
}

#[cfg(test)]
mod tests;
