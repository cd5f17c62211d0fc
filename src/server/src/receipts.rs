//! Receipts and read markers: up to where each user has read.
//!
//! A receipt is kept by (room, user, kind, thread) and never moves back. A second row orders the receipts of a room by
//! position, so that a sync reads only those set since. Private receipts are shown to nobody but their user.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use allod_storage::{CommitError, Position};
use ruma::{EventId, OwnedEventId, UserId, events::receipt::ReceiptThread};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    account_data::{AccountData, AccountDataError},
    clock::Clock,
    database::{Database, Error, Range, Write},
    last_changes::{Changed, LastChanges},
    log::Happened,
    numbers::{Hash128, RoomNumber, UserNumber},
    room_lookup::RoomLookup,
    tables::{
        Stamped,
        user_data::{self, ReceiptChange, StoredReceipt},
    },
};

/// The type of the room's account datum that holds the read marker.
pub const FULLY_READ_TYPE: &str = "m.fully_read";
/// Most receipts of others that a first sync of a room shows: the latest.
pub const FIRST_RECEIPTS_MAX: usize = 500;
/// Receipts of a user that are read at once where many rooms are asked for.
const OWN_RECEIPTS_READ: usize = 20;
/// How often a write is tried again when someone else was faster.
const ATTEMPTS_MAX: usize = 16;

/// Who may see a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptKind {
    /// `m.read`: everybody in the room.
    Public,
    /// `m.read.private`: only its user.
    Private,
}

impl ReceiptKind {
    fn in_key(self) -> u8 {
        match self {
            Self::Public => 1,
            Self::Private => 2,
        }
    }

    fn from_key(byte: u8) -> Self {
        if byte == 1 { Self::Public } else { Self::Private }
    }

    /// The `receiptType` of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "m.read",
            Self::Private => "m.read.private",
        }
    }
}

/// Why a receipt was not set.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The room's timeline has no such event.
    #[error("there is no such event in the room")]
    UnknownEvent,
    /// Too many writes at once.
    #[error("too many receipts at once")]
    Busy,
    /// Setting the read marker failed.
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

/// What a user marks as read in a room, all at once.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// The event for `m.fully_read`.
    pub fully_read: Option<OwnedEventId>,
    /// The event for `m.read`.
    pub read: Option<OwnedEventId>,
    /// The event for `m.read.private`.
    pub read_private: Option<OwnedEventId>,
    /// The thread that the receipts are for.
    pub thread: ReceiptThread,
}

/// A receipt of the user who asks, for counting what is unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnReceipt {
    /// Public or private: the more advanced one counts.
    pub kind: ReceiptKind,
    /// None, `main` or the root of a thread.
    pub thread: Option<String>,
    /// Up to which event.
    pub event_id: String,
    /// Where that event stands in the timeline; zero if the timeline did not have it.
    pub event_position: Position,
    /// When the receipt was set. One newer than the sync's position may be used: counts err on the low side.
    pub position: Position,
}

/// The service of receipts.
#[derive(Clone, Debug)]
pub struct Receipts {
    database: Database,
    account_data: AccountData,
    rooms: Arc<dyn RoomLookup>,
    clock: Clock,
    last_changes: LastChanges<RoomNumber>,
    /// Whether people see what others have read.
    shared: Arc<AtomicBool>,
}

impl Receipts {
    /// Over a database, account data for the read markers, and the rooms that events are looked up in.
    pub fn new(
        database: Database,
        account_data: AccountData,
        rooms: Arc<dyn RoomLookup>,
        clock: Clock,
    ) -> Self {
        Self {
            database,
            account_data,
            rooms,
            clock,
            last_changes: LastChanges::new(),
            shared: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Whether people see what others have read; their own receipts work all the same.
    pub fn set_shared(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// Marks a room as read. What would move back, or does not move, is passed over.
    pub async fn mark(
        &self,
        room: RoomNumber,
        user: UserNumber,
        user_id: &UserId,
        marks: &Marks,
    ) -> Result<(), ReceiptError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            for (kind, event_id) in
                [(ReceiptKind::Public, &marks.read), (ReceiptKind::Private, &marks.read_private)]
            {
                if let Some(event_id) = event_id {
                    let receipt = self.receipt(room, user_id, event_id, &marks.thread).await?;
                    self.stage(&mut write, room, user, kind, receipt).await?;
                }
            }
            if let Some(event_id) = &marks.fully_read {
                self.stage_fully_read(&mut write, room, user, event_id).await?;
            }
            if write.is_empty() {
                return Ok(());
            }
            let announced = self.last_changes.announce(room);
            match self.database.commit(write).await {
                Ok(position) => {
                    announced.committed(position);
                    return Ok(());
                }
                Err(CommitError::Conflict(_)) => announced.nothing(),
                // The outcome may be unknown, so the announcement stays.
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        Err(ReceiptError::Busy)
    }

    /// The `m.receipt` contents of each room in which receipts that `user` may see were set after its `since` (all
    /// and the user's own, if there is no `since`) and up to `upto`. More than one content only where a user has two
    /// receipts at one event, for different threads.
    pub async fn changes(
        &self,
        rooms: &[(RoomNumber, Option<Position>)],
        user: UserNumber,
        upto: Position,
    ) -> Result<Vec<(RoomNumber, Vec<Box<RawValue>>)>, Error> {
        self.learn_last_changes(rooms).await?;
        let mut changes = Vec::new();
        for (room, since) in rooms {
            let rows = match since {
                Some(since) => self.changed(*room, *since, upto).await?,
                None if self.has_receipts(*room).await? => self.latest(*room, user, upto).await?,
                None => Vec::new(),
            };
            let shared = self.shared.load(Ordering::Relaxed);
            let visible =
                rows.iter().filter(|(kind, of, _)| (shared && *kind == ReceiptKind::Public) || *of == user);
            let contents = contents(visible.map(|(kind, _, receipt)| (*kind, receipt)));
            if !contents.is_empty() {
                changes.push((*room, contents));
            }
        }
        Ok(changes)
    }

    /// Whether anybody may have set a receipt in a room after `since`, private ones included; found out in memory.
    pub fn may_have_changed(&self, room: RoomNumber, since: Position) -> bool {
        self.last_changes.since(room, since) != Changed::No
    }

    /// The `m.receipt` content of the latest receipts at some events of a room that `user` may see, of all their own, and of
    /// all set after `since`, up to `upto`. Of two receipts of one user at one event it has one.
    pub async fn at_events(
        &self,
        room: RoomNumber,
        events: &HashSet<String>,
        user: UserNumber,
        (since, upto): (Option<Position>, Position),
    ) -> Result<Option<Box<RawValue>>, Error> {
        if !self.has_receipts(room).await? {
            return Ok(None);
        }
        let shared = self.shared.load(Ordering::Relaxed);
        let is_visible = |kind, of| of == user || (shared && kind == ReceiptKind::Public);
        let mut rows = self.latest(room, user, upto).await?;
        rows.retain(|(kind, of, receipt)| {
            is_visible(*kind, *of) && (*of == user || events.contains(receipt.event_id.as_str()))
        });
        if let Some(since) = since {
            let new = self.changed(room, since, upto).await?;
            let is_there = |(kind, of, receipt): &(ReceiptKind, UserNumber, StoredReceipt)| {
                rows.iter().any(|(other, by, row)| other == kind && by == of && row == receipt)
            };
            let new: Vec<_> =
                new.into_iter().filter(|row| is_visible(row.0, row.1) && !is_there(row)).collect();
            rows.extend(new);
        }
        Ok(contents(rows.iter().map(|(kind, _, receipt)| (*kind, receipt))).into_iter().next())
    }

    /// The user's receipts in a room, one for each kind and thread.
    pub async fn own(&self, room: RoomNumber, user: UserNumber) -> Result<Vec<OwnReceipt>, Error> {
        let rows = self.database.scan_all(Range::<user_data::Receipt>::prefix(&(room, user))).await?;
        Ok(own(rows))
    }

    /// The same for several rooms, in their order.
    pub async fn own_many(
        &self,
        rooms: &[RoomNumber],
        user: UserNumber,
    ) -> Result<Vec<Vec<OwnReceipt>>, Error> {
        let range =
            |room: &RoomNumber| Range::<user_data::Receipt>::prefix(&(*room, user)).limit(OWN_RECEIPTS_READ);
        let pages = self.database.scan_many(&rooms.iter().map(range).collect::<Vec<_>>()).await?;
        let mut all = Vec::with_capacity(rooms.len());
        for (room, page) in rooms.iter().zip(pages) {
            all.push(if page.more { self.own(*room, user).await? } else { own(page.rows) });
        }
        Ok(all)
    }

    async fn receipt(
        &self,
        room: RoomNumber,
        user_id: &UserId,
        event_id: &EventId,
        thread: &ReceiptThread,
    ) -> Result<StoredReceipt, ReceiptError> {
        let event_position =
            self.rooms.event_position(room, event_id).await?.ok_or(ReceiptError::UnknownEvent)?;
        Ok(StoredReceipt {
            user_id: user_id.to_string(),
            event_id: event_id.to_string(),
            event_position: event_position.get(),
            thread: thread.as_str().map(str::to_owned),
            ts: self.clock.now_ms(),
        })
    }

    async fn stage(
        &self,
        write: &mut Write,
        room: RoomNumber,
        user: UserNumber,
        kind: ReceiptKind,
        receipt: StoredReceipt,
    ) -> Result<(), Error> {
        let thread =
            receipt.thread.as_ref().map_or(Hash128::default(), |thread| self.database.hash("thread", thread));
        let key = (room, user, kind.in_key(), thread);
        match self.database.get::<user_data::Receipt>(&key).await? {
            Some(old) if old.value.event_position >= receipt.event_position => return Ok(()),
            Some(old) => {
                let moved = (room, old.position, user, kind.in_key(), thread);
                write.exists::<ReceiptChange>(&moved);
                write.delete::<ReceiptChange>(&moved);
            }
            None => {
                write.absent::<user_data::Receipt>(&key);
            }
        }
        write.put::<ReceiptChange>(&(room, Position::PENDING, user, kind.in_key(), thread), &receipt);
        write.put::<user_data::Receipt>(&key, &Stamped::pending(receipt));
        write.log(match kind {
            ReceiptKind::Public => Happened::Receipt { room },
            ReceiptKind::Private => Happened::UserData { user },
        });
        Ok(())
    }

    async fn stage_fully_read(
        &self,
        write: &mut Write,
        room: RoomNumber,
        user: UserNumber,
        event_id: &EventId,
    ) -> Result<(), ReceiptError> {
        let position = self.rooms.event_position(room, event_id).await?.ok_or(ReceiptError::UnknownEvent)?;
        let old = self.account_data.get(user, Some(room), FULLY_READ_TYPE).await?;
        let old_id = old.and_then(|datum| serde_json::from_str::<FullyRead>(datum.content.get()).ok());
        if let Some(old) = old_id
            && let Some(old_position) = self.rooms.event_position(room, &old.event_id).await?
            && old_position >= position
        {
            return Ok(());
        }
        let content = serde_json::json!({ "event_id": event_id }).to_string();
        self.account_data.stage(write, user, Some(room), FULLY_READ_TYPE, &content).await?;
        Ok(())
    }

    /// Finds out when the receipts of rooms changed last, where that is not known in memory.
    async fn learn_last_changes(&self, rooms: &[(RoomNumber, Option<Position>)]) -> Result<(), Error> {
        let unknown = |(room, since): &&(RoomNumber, Option<Position>)| {
            self.last_changes.since(*room, since.unwrap_or(Position::ZERO)) == Changed::Unknown
        };
        let unknown: Vec<RoomNumber> = rooms.iter().filter(unknown).map(|(room, _)| *room).collect();
        if unknown.len() <= 1 {
            return Ok(());
        }
        let newest = |room: &RoomNumber| Range::<ReceiptChange>::prefix(room).reversed().limit(1);
        let newest = self.database.scan_many(&unknown.iter().map(newest).collect::<Vec<_>>()).await?;
        for (room, page) in unknown.into_iter().zip(newest) {
            let position = page.rows.first().map(|((_, position, ..), _)| *position);
            self.last_changes.learn(room, position.unwrap_or(Position::ZERO));
        }
        Ok(())
    }

    /// Whether anybody may have set a receipt in the room.
    async fn has_receipts(&self, room: RoomNumber) -> Result<bool, Error> {
        Ok(self.changed_since(room, Position::ZERO).await? != Changed::No)
    }

    async fn changed_since(&self, room: RoomNumber, since: Position) -> Result<Changed, Error> {
        let changed = self.last_changes.since(room, since);
        if changed != Changed::Unknown {
            return Ok(changed);
        }
        let newest = Range::<ReceiptChange>::prefix(&room).reversed().limit(1);
        let newest = self.database.scan(&newest).await?.rows.first().map(|((_, position, ..), _)| *position);
        self.last_changes.learn(room, newest.unwrap_or(Position::ZERO));
        Ok(self.last_changes.since(room, since))
    }

    /// Receipts set after `since` and up to `upto`, of everybody.
    async fn changed(&self, room: RoomNumber, since: Position, upto: Position) -> Result<Rows, Error> {
        let changed = self.changed_since(room, since).await?;
        if changed == Changed::No || since >= upto {
            return Ok(Vec::new());
        }
        let range = Range::<ReceiptChange>::between(&(room, since.next()), &(room, upto.next()));
        Ok(rows(self.database.scan_all(range).await?))
    }

    /// The latest receipts of everybody, and all of `user`.
    async fn latest(&self, room: RoomNumber, user: UserNumber, upto: Position) -> Result<Rows, Error> {
        let range = Range::<ReceiptChange>::between(&room, &(room, upto.next())).reversed();
        let mut latest = rows(self.database.scan(&range.limit(FIRST_RECEIPTS_MAX)).await?.rows);
        latest.retain(|(_, of, _)| *of != user);
        let own = self.database.scan_all(Range::<user_data::Receipt>::prefix(&(room, user))).await?;
        latest.extend(
            own.into_iter()
                .filter(|(_, row)| row.position <= upto)
                .map(|((_, user, kind, _), row)| (ReceiptKind::from_key(kind), user, row.value)),
        );
        Ok(latest)
    }
}

/// A key of [`user_data::Receipt`].
type ReceiptKey = (RoomNumber, UserNumber, u8, Hash128);

fn own(rows: Vec<(ReceiptKey, Stamped<StoredReceipt>)>) -> Vec<OwnReceipt> {
    let own = rows.into_iter().map(|((_, _, kind, _), Stamped { position, value })| OwnReceipt {
        kind: ReceiptKind::from_key(kind),
        thread: value.thread,
        event_id: value.event_id,
        event_position: Position::new(value.event_position),
        position,
    });
    own.collect()
}

type Rows = Vec<(ReceiptKind, UserNumber, StoredReceipt)>;

/// A key of [`ReceiptChange`].
type ChangeKey = (RoomNumber, Position, UserNumber, u8, Hash128);

fn rows(scanned: Vec<(ChangeKey, StoredReceipt)>) -> Rows {
    scanned.into_iter().map(|((_, _, user, kind, _), row)| (ReceiptKind::from_key(kind), user, row)).collect()
}

#[derive(serde::Deserialize)]
struct FullyRead {
    event_id: OwnedEventId,
}

/// What `m.receipt` says of one user at one event.
#[derive(Serialize)]
struct Said<'a> {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
}

/// By event, receipt type and user.
type Content<'a> = BTreeMap<&'a str, BTreeMap<&'static str, BTreeMap<&'a str, Said<'a>>>>;

fn contents<'a>(receipts: impl Iterator<Item = (ReceiptKind, &'a StoredReceipt)>) -> Vec<Box<RawValue>> {
    let mut contents: Vec<Content<'_>> = Vec::new();
    for (kind, receipt) in receipts {
        let (event, user) = (receipt.event_id.as_str(), receipt.user_id.as_str());
        let taken = |content: &Content<'_>| {
            content
                .get(event)
                .and_then(|kinds| kinds.get(kind.as_str()))
                .is_some_and(|users| users.contains_key(user))
        };
        let said = Said { ts: receipt.ts, thread_id: receipt.thread.as_deref() };
        let free = contents.iter().position(|content| !taken(content)).unwrap_or_else(|| {
            contents.push(Content::new());
            contents.len().saturating_sub(1)
        });
        if let Some(content) = contents.get_mut(free) {
            content.entry(event).or_default().entry(kind.as_str()).or_default().insert(user, said);
        }
    }
    contents.iter().filter_map(|content| serde_json::value::to_raw_value(content).ok()).collect()
}

#[cfg(test)]
mod tests;
