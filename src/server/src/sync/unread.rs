//! How much is unread: counted from the rows that say whom events notify, after what the user's receipts say is read.
//!
//! A count is kept in memory with the position that it is as of, and goes on from there; it begins anew when a receipt
//! moved or something was redacted. The newest [`EXAMINED_MAX`] rows are looked at, so larger counts are too low.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use std::{collections::BTreeMap, sync::Arc};

use allod_storage::Position;

use super::{Inner, room_delta::Window};
use crate::{
    database::{Error, Range},
    numbers::{EventNumber, RoomNumber, UserNumber},
    receipts::OwnReceipt,
    tables::notified::{Notified, NotifiedKind, NotifiedRecord},
};

/// Rows of a room that are looked at for a count.
const EXAMINED_MAX: usize = 1000;
/// Places that are looked up in memory before the rows are read instead.
const PLACES_MAX: usize = 64;

/// Numbers of unread events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) notifications: u64,
    pub(super) highlights: u64,
}

/// Up to where a user has read, by their receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Everything.
    all: Position,
    /// The main timeline.
    main: Position,
    /// Threads by their roots.
    threads: BTreeMap<EventNumber, Position>,
}

impl Read {
    /// Up to where a thread, or the main timeline, is read.
    pub(super) fn upto(&self, thread: Option<EventNumber>) -> Position {
        let own = match thread {
            Some(root) => self.threads.get(&root).copied().unwrap_or_default(),
            None => self.main,
        };
        self.all.max(own)
    }

    fn add(&mut self, thread: Option<EventNumber>, position: Position) {
        let read = match thread {
            Some(root) => self.threads.entry(root).or_default(),
            None => &mut self.main,
        };
        *read = position.max(*read);
    }
}

/// What is unread in a room for a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// As of this position.
    upto: Position,
    read: Read,
    /// By thread; `None` is the main timeline.
    counts: BTreeMap<Option<EventNumber>, Count>,
}

impl Unread {
    /// Of all threads and the main timeline.
    pub(super) fn total(&self) -> Count {
        self.counts.values().fold(Count::default(), |sum, count| Count {
            notifications: sum.notifications.saturating_add(count.notifications),
            highlights: sum.highlights.saturating_add(count.highlights),
        })
    }

    /// Of the main timeline.
    pub(super) fn main(&self) -> Count {
        self.counts.get(&None).copied().unwrap_or_default()
    }

    /// Of threads where there is something.
    pub(super) fn threads(&self) -> impl Iterator<Item = (EventNumber, Count)> {
        self.counts.iter().filter_map(|(thread, count)| Some(((*thread)?, *count)))
    }

    /// Takes in the next event; whether it could: if not, the count begins anew.
    fn follow(&mut self, user: UserNumber, at: Position, row: &NotifiedRecord) -> bool {
        match row.kind {
            NotifiedKind::Redaction => return false,
            NotifiedKind::Join if row.sender == user => {
                self.counts.clear();
                return true;
            }
            // Who writes has read.
            NotifiedKind::Message if row.sender == user => {
                self.counts.remove(&row.thread);
                return true;
            }
            NotifiedKind::Join | NotifiedKind::Message | NotifiedKind::State => {}
        }
        if at > self.read.upto(row.thread) {
            self.count(user, row);
        }
        true
    }

    fn count(&mut self, user: UserNumber, row: &NotifiedRecord) {
        if !row.notified.contains(user) || row.sender == user {
            return;
        }
        let count = self.counts.entry(row.thread).or_default();
        count.notifications = count.notifications.saturating_add(1);
        count.highlights = count.highlights.saturating_add(u64::from(row.highlighted.contains(user)));
    }

    /// Counts rows from the newest to the oldest.
    fn counted(
        user: UserNumber,
        upto: Position,
        read: Read,
        rows: &[((RoomNumber, Position), NotifiedRecord)],
    ) -> Self {
        let mut unread = Self { upto, read: read.clone(), counts: BTreeMap::new() };
        let mut read = read;
        for ((_, at), row) in rows {
            match row.kind {
                NotifiedKind::Join if row.sender == user => break,
                NotifiedKind::Message if row.sender == user => read.add(row.thread, *at),
                _ if *at > read.upto(row.thread) => unread.count(user, row),
                _ => {}
            }
        }
        unread
    }
}

impl Inner {
    /// What is unread in a room for a user, as of a position.
    pub(super) async fn unread(
        &self,
        room: RoomNumber,
        user: UserNumber,
        upto: Position,
    ) -> Result<Arc<Unread>, Error> {
        if let Some(known) = self.unread.get(&(room, user)) {
            // Another device may be ahead; what it was told is told this one soon.
            if known.upto >= upto {
                return Ok(known);
            }
            if let Some(unread) = self.unread_since(room, user, &known, upto).await? {
                let unread = Arc::new(unread);
                self.unread.insert((room, user), Arc::clone(&unread));
                return Ok(unread);
            }
        }
        let counted = self.count_unread(&[room], user, upto).await?.pop();
        Ok(counted.unwrap_or_default())
    }

    /// Counts many rooms at once, of which no count is known.
    pub(super) async fn prepare_unread(
        &self,
        rooms: &[RoomNumber],
        user: UserNumber,
        upto: Position,
    ) -> Result<(), Error> {
        let unknown = rooms.iter().filter(|room| self.unread.get(&(**room, user)).is_none());
        let unknown: Vec<_> = unknown.copied().collect();
        self.count_unread(&unknown, user, upto).await.map(drop)
    }

    /// A count that goes on from an earlier one; `None` if it must begin anew.
    async fn unread_since(
        &self,
        room: RoomNumber,
        user: UserNumber,
        known: &Unread,
        upto: Position,
    ) -> Result<Option<Unread>, Error> {
        let since = known.upto;
        let moved =
            self.activity.receipt_changed(room, since) || self.activity.user_data_changed(user, since);
        if moved && self.read(room, &self.sources.receipts.own(room, user).await?).await? != known.read {
            return Ok(None);
        }
        let mut unread = Unread { upto, ..known.clone() };
        if self.activity.last_event(room).is_some_and(|last| last <= since) {
            return Ok(Some(unread));
        }
        if let Some((places, false)) = self.reader.tails.newest(room, since, upto, PLACES_MAX) {
            let rows = places
                .iter()
                .rev()
                .map(|(at, event)| Some((*at, self.sources.rooms.notified(room, *event)?)));
            if let Some(rows) = rows.collect::<Option<Vec<_>>>() {
                let followed = rows.iter().all(|(at, row)| unread.follow(user, *at, row));
                return Ok(followed.then_some(unread));
            }
        }
        let range = Range::<Notified>::between(&(room, since.next()), &(room, upto.next()));
        let page = self.database().scan(&range.limit(EXAMINED_MAX)).await?;
        let followed = !page.more && page.rows.iter().all(|((_, at), row)| unread.follow(user, *at, row));
        Ok(followed.then_some(unread))
    }

    /// Counts from the rows, and keeps what was counted.
    async fn count_unread(
        &self,
        rooms: &[RoomNumber],
        user: UserNumber,
        upto: Position,
    ) -> Result<Vec<Arc<Unread>>, Error> {
        let receipts = self.sources.receipts.own_many(rooms, user).await?;
        let mut reads = Vec::with_capacity(rooms.len());
        let mut ranges = Vec::with_capacity(rooms.len());
        for (room, receipts) in rooms.iter().zip(&receipts) {
            let read = self.read(*room, receipts).await?;
            let window = Window { since: Some(read.all), until: upto };
            ranges.push(range_of(*room, window));
            reads.push(read);
        }
        let pages = self.database().scan_many(&ranges).await?;
        let mut counted = Vec::with_capacity(rooms.len());
        for ((room, read), page) in rooms.iter().zip(reads).zip(pages) {
            let unread = Arc::new(Unread::counted(user, upto, read, &page.rows));
            self.unread.insert((*room, user), Arc::clone(&unread));
            counted.push(unread);
        }
        Ok(counted)
    }

    /// What receipts say is read. Public and private ones count alike.
    pub(super) async fn read(&self, room: RoomNumber, receipts: &[OwnReceipt]) -> Result<Read, Error> {
        let mut read = Read::default();
        for receipt in receipts {
            match receipt.thread.as_deref() {
                None => read.all = read.all.max(receipt.event_position),
                Some("main") => read.add(None, receipt.event_position),
                Some(root) => {
                    let Ok(root) = ruma::EventId::parse(root) else { continue };
                    let known = self.sources.rooms.get(room).await?;
                    if let Some(root) = self.sources.rooms.events().number(&known, &root).await? {
                        read.add(Some(root), receipt.event_position);
                    }
                }
            }
        }
        Ok(read)
    }

    fn database(&self) -> &crate::database::Database {
        &self.sources.database
    }
}

/// The newest rows of a window.
fn range_of(room: RoomNumber, window: Window) -> Range<Notified> {
    let low = window.since.unwrap_or_default().next();
    let range = Range::<Notified>::between(&(room, low), &(room, window.until.next()));
    range.reversed().limit(EXAMINED_MAX)
}
