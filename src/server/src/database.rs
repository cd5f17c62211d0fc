//! The store with types: tables in, values out.

use std::marker::PhantomData;

use allod_storage::{
    AuditEntry, Batch, Check, Commit, CommitError, Error as StorageError, Key, LogEntry, Op, PositionAt,
    SCAN_ROWS_MAX, Scan, Store,
    codec::{KeyCodec, prefix_end},
};
use bytes::Bytes;

use crate::{
    log::Happened,
    numbers::{DeviceNumber, Hash128, RoomNumber, UserNumber},
    random::Random,
    tables::{
        self, Lifetime, StoredValue, Table, TableInfo,
        meta::Meta,
        upkeep::{ErasedRange, PendingErasure},
    },
};

pub use self::form::cursor;
use self::form::{decode, key_bytes, rows_of, storage_key};

mod form;

/// Stored bytes that do not decode; says what is wrong with them.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Corrupt(pub &'static str);

/// Why a read failed. Reads fail only when the machine does.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A row of this table is damaged.
    #[error("damaged row in table {0}: {1}")]
    Corrupt(&'static str, Corrupt),
    /// A write was refused or its outcome is unknown.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Error {
    /// Whether writing fails on this machine, as on a full disk, so that the server only reads until that is repaired.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Commit(CommitError::ReadOnly(_) | CommitError::Unknown))
    }
}

/// Typed access to a store.
#[derive(Clone)]
pub struct Database {
    store: Store,
    hash_key: [u8; 32],
}

impl std::fmt::Debug for Database {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Database").finish_non_exhaustive()
    }
}

/// Rows of three tables, where they are there.
pub type ThreeRows<A, B, C> =
    (Option<<A as Table>::Value>, Option<<B as Table>::Value>, Option<<C as Table>::Value>);

/// Row of [`Meta`] that holds the key of the hashes in keys.
const META_HASH_KEY: u8 = 1;

impl Database {
    /// Wraps a store, giving a new one its secret hash key.
    pub async fn open(store: Store, random: &Random) -> Result<Self, Error> {
        let mut database = Self { store, hash_key: [0; 32] };
        let stored = database.get::<Meta>(&META_HASH_KEY).await?;
        database.hash_key = if let Some(key) = stored {
            let damaged = |_| Error::Corrupt("Meta", Corrupt("the hash key is not 32 bytes long"));
            key.as_ref().try_into().map_err(damaged)?
        } else {
            let key = random.bytes::<32>();
            let mut write = Write::new();
            write.absent::<Meta>(&META_HASH_KEY);
            write.put::<Meta>(&META_HASH_KEY, &Bytes::copy_from_slice(&key));
            database.commit(write).await?;
            key
        };
        Ok(database)
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The hash that stands for `text` in keys. `purpose` keeps equal texts of different kinds apart.
    pub fn hash(&self, purpose: &str, text: impl AsRef<[u8]>) -> Hash128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
        hasher.update(purpose.as_bytes()).update(&[0]).update(text.as_ref());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        Hash128(hash)
    }

    /// A secret key derived from the database's own, for one purpose and subject.
    pub fn derived_key(&self, purpose: &str, subject: impl AsRef<[u8]>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
        hasher.update(b"key").update(&[0]).update(purpose.as_bytes()).update(&[0]).update(subject.as_ref());
        *hasher.finalize().as_bytes()
    }

    /// The row under `key`.
    pub async fn get<T: Table>(&self, key: &T::Key) -> Result<Option<T::Value>, Error> {
        let row = self.store.get(&storage_key::<T>(key).0).await?;
        row.map(|value| decode::<T>(&value)).transpose()
    }

    /// Rows of two tables, one consistent snapshot.
    pub async fn get_two<A: Table, B: Table>(
        &self,
        first: &A::Key,
        second: &B::Key,
    ) -> Result<(Option<A::Value>, Option<B::Value>), Error> {
        let keys = [storage_key::<A>(first).0, storage_key::<B>(second).0];
        let mut rows = self.store.multi_get(&keys).await?.into_iter();
        let (first, second) = (rows.next().flatten(), rows.next().flatten());
        Ok((
            first.map(|value| decode::<A>(&value)).transpose()?,
            second.map(|value| decode::<B>(&value)).transpose()?,
        ))
    }

    /// Three rows of three tables, one consistent snapshot.
    pub async fn get_three<A: Table, B: Table, C: Table>(
        &self,
        first: &A::Key,
        second: &B::Key,
        third: &C::Key,
    ) -> Result<ThreeRows<A, B, C>, Error> {
        let keys = [storage_key::<A>(first).0, storage_key::<B>(second).0, storage_key::<C>(third).0];
        let mut rows = self.store.multi_get(&keys).await?.into_iter();
        let [first, second, third] = [(); 3].map(|()| rows.next().flatten());
        Ok((
            first.map(|value| decode::<A>(&value)).transpose()?,
            second.map(|value| decode::<B>(&value)).transpose()?,
            third.map(|value| decode::<C>(&value)).transpose()?,
        ))
    }

    /// The rows under `keys`, one consistent snapshot, in their order. At most 1,000.
    pub async fn multi_get<T: Table>(&self, keys: &[T::Key]) -> Result<Vec<Option<T::Value>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = keys.iter().map(|key| storage_key::<T>(key).0).collect();
        let rows = self.store.multi_get(&keys).await?;
        rows.into_iter().map(|row| row.map(|value| decode::<T>(&value)).transpose()).collect()
    }

    /// The rows under any number of `keys`, in snapshots of 1,000.
    pub async fn get_all<T: Table>(&self, keys: &[T::Key]) -> Result<Vec<Option<T::Value>>, Error> {
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(allod_storage::MULTI_GET_KEYS_MAX) {
            rows.extend(self.multi_get::<T>(chunk).await?);
        }
        Ok(rows)
    }

    /// One page of a range.
    pub async fn scan<T: Table>(&self, range: &Range<T>) -> Result<Rows<T>, Error> {
        rows_of(self.store.scan(&range.scan()).await?)
    }

    /// The first pages of several ranges, in their order, each a snapshot of its own.
    pub async fn scan_many<T: Table>(&self, ranges: &[Range<T>]) -> Result<Vec<Rows<T>>, Error> {
        let scans: Vec<Scan> = ranges.iter().map(Range::scan).collect();
        self.store.scan_many(&scans).await?.into_iter().map(rows_of).collect()
    }

    /// All rows of a range, page by page (each page a snapshot). For ranges whose size something else bounds.
    pub async fn scan_all<T: Table>(&self, mut range: Range<T>) -> Result<Vec<(T::Key, T::Value)>, Error> {
        let mut all = Vec::new();
        range.limit = SCAN_ROWS_MAX;
        loop {
            let page = self.scan(&range).await?;
            if let (true, Some((last, _))) = (page.more, page.rows.last()) {
                range = range.continued_after(last);
                all.extend(page.rows);
            } else {
                all.extend(page.rows);
                return Ok(all);
            }
        }
    }

    /// The tables that still have rows of a room.
    pub async fn tables_with_rows_of_room(&self, room: RoomNumber) -> Result<Vec<&'static str>, Error> {
        let mut found = Vec::new();
        for table in tables::all().filter(TableInfo::is_by_room) {
            let low = key_bytes(table.id, &room);
            let high = prefix_end(&low);
            let scan = Scan { space: table.space, low, high, reverse: false, limit: 1, keys_only: true };
            if !self.store.scan(&scan).await?.rows.is_empty() {
                found.push(table.name);
            }
        }
        Ok(found)
    }

    /// Enqueues a write at once; the future ends when it is durable and visible.
    pub fn submit(&self, write: Write) -> Commit {
        self.store.submit(write.into_batch())
    }

    /// Commits a write.
    pub async fn commit(&self, write: Write) -> Result<allod_storage::Position, CommitError> {
        self.submit(write).await
    }
}

/// A page of typed rows.
#[derive(Debug)]
pub struct Rows<T: Table> {
    /// Rows in the order asked for.
    pub rows: Vec<(T::Key, T::Value)>,
    /// Whether the range holds more.
    pub more: bool,
}

/// A range of a table.
#[derive(Debug)]
pub struct Range<T> {
    low: Vec<u8>,
    high: Vec<u8>,
    reverse: bool,
    limit: usize,
    table: PhantomData<T>,
}

impl<T: Table> Range<T> {
    /// All rows whose key begins with `prefix`.
    pub fn prefix(prefix: &impl KeyCodec) -> Self {
        let low = key_bytes(T::INFO.id, prefix);
        Self::bytes(low.clone(), prefix_end(&low))
    }

    /// The whole table.
    pub fn whole() -> Self {
        Self::prefix(&())
    }

    /// Rows with `low <= key < high`; both may be beginnings of keys.
    pub fn between(low: &impl KeyCodec, high: &impl KeyCodec) -> Self {
        Self::bytes(key_bytes(T::INFO.id, low), key_bytes(T::INFO.id, high))
    }

    /// Rows that begin with `prefix` and come after all that begin with `after`.
    pub fn after(prefix: &impl KeyCodec, after: &impl KeyCodec) -> Self {
        let high = prefix_end(&key_bytes(T::INFO.id, prefix));
        Self::bytes(prefix_end(&key_bytes(T::INFO.id, after)), high)
    }

    fn scan(&self) -> Scan {
        Scan {
            space: T::INFO.space,
            low: self.low.clone(),
            high: self.high.clone(),
            reverse: self.reverse,
            limit: self.limit,
            keys_only: false,
        }
    }

    fn bytes(low: Vec<u8>, high: Vec<u8>) -> Self {
        Self { low, high, reverse: false, limit: SCAN_ROWS_MAX, table: PhantomData }
    }

    /// From the highest key down.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most this many rows a page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.min(SCAN_ROWS_MAX);
        self
    }

    /// The rest of the range behind a key that [`cursor`] wrote down.
    #[must_use]
    pub fn resumed_after(mut self, cursor: &[u8]) -> Self {
        self.low = [cursor, &[0]].concat();
        self
    }

    /// The rest of the range behind `last`.
    #[must_use]
    pub fn continued_after(mut self, last: &T::Key) -> Self {
        let mut cursor = key_bytes(T::INFO.id, last);
        if self.reverse {
            self.high = cursor;
        } else {
            cursor.push(0);
            self.low = cursor;
        }
        self
    }
}

/// A typed batch under construction.
#[derive(Clone, Debug, Default)]
pub struct Write {
    batch: Batch,
    erased: Vec<ErasedRange>,
}

impl Write {
    /// An empty write.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.batch.ops.is_empty()
    }

    /// How many rows and ranges it changes.
    pub fn len(&self) -> usize {
        self.batch.ops.len()
    }

    /// Stores a row; pending positions in key or value become the commit's.
    pub fn put<T: Table>(&mut self, key: &T::Key, value: &T::Value) {
        let (key, in_key) = storage_key::<T>(key);
        let value = Bytes::from(value.encode());
        let at = match (in_key, T::Value::POSITION_OFFSET) {
            (Some(in_key), Some(in_value)) => Some(PositionAt::InBoth(in_key, in_value)),
            (Some(in_key), None) => Some(PositionAt::InKey(in_key)),
            (None, Some(in_value)) => Some(PositionAt::InValue(in_value)),
            (None, None) => None,
        };
        self.batch.ops.push(match at {
            Some(at) => Op::PutPosition { key, value, at },
            None => Op::Put(key, value),
        });
    }

    /// Stores a row with the position that it already carries.
    pub fn put_unstamped<T: Table>(&mut self, key: &T::Key, value: &T::Value) {
        self.batch.ops.push(Op::Put(storage_key::<T>(key).0, value.encode().into()));
    }

    /// Removes a row.
    pub fn delete<T: Table>(&mut self, key: &T::Key) {
        self.batch.ops.push(Op::Delete(storage_key::<T>(key).0));
    }

    /// Removes all rows whose key begins with `prefix`.
    pub fn delete_prefix<T: Table>(&mut self, prefix: &impl KeyCodec) {
        self.delete_range(&T::INFO, prefix);
    }

    /// Removes what goes with a device: its rows in every table with that lifetime.
    pub fn delete_rows_of_device(&mut self, user: UserNumber, device: DeviceNumber) {
        for table in tables::all().filter(|table| table.lifetime == Lifetime::Device) {
            self.delete_range(&table, &(user, device));
        }
    }

    /// Removes what goes with the devices of a user, all of them.
    pub fn delete_rows_of_devices(&mut self, user: UserNumber) {
        for table in tables::all().filter(|table| table.lifetime == Lifetime::Device) {
            self.delete_range(&table, &user);
            self.erase_range(&table, key_bytes(table.id, &user), None);
        }
    }

    /// Removes what goes with a user: the rows in every table with that lifetime. What goes with the devices stays.
    pub fn delete_rows_of_user(&mut self, user: UserNumber) {
        for table in tables::all().filter(|table| table.lifetime == Lifetime::User) {
            self.delete_range(&table, &user);
            self.erase_range(&table, key_bytes(table.id, &user), None);
        }
    }

    /// Removes what goes with a room: its rows in every table whose keys begin with the room's number.
    pub fn delete_rows_of_room(&mut self, room: RoomNumber) {
        for table in tables::all().filter(TableInfo::is_by_room) {
            self.delete_range(&table, &room);
            self.erase_range(&table, key_bytes(table.id, &room), None);
        }
    }

    /// Notes that what this and earlier writes delete or overwrite of rows whose key begins with `prefix` must leave the
    /// disk within `erase_within`; see [`Erasure`](crate::housekeeping::erasure::Erasure).
    pub fn erase<T: Table>(&mut self, prefix: &impl KeyCodec) {
        self.erase_range(&T::INFO, key_bytes(T::INFO.id, prefix), None);
    }

    /// The same for the rows from one key to another, both included.
    pub fn erase_between<T: Table>(&mut self, first: &T::Key, last: &T::Key) {
        let last = prefix_end(&key_bytes(T::INFO.id, last));
        self.erase_range(&T::INFO, key_bytes(T::INFO.id, first), Some(last));
    }

    /// The same for the rows from one beginning of keys to another, both included.
    pub fn erase_from_to<T: Table>(&mut self, first: &impl KeyCodec, last: &impl KeyCodec) {
        let last = prefix_end(&key_bytes(T::INFO.id, last));
        self.erase_range(&T::INFO, key_bytes(T::INFO.id, first), Some(last));
    }

    fn erase_range(&mut self, table: &TableInfo, low: Vec<u8>, high: Option<Vec<u8>>) {
        let high = high.unwrap_or_else(|| prefix_end(&low));
        self.erased.push(ErasedRange { space: table.space.id, low, high });
    }

    fn into_batch(mut self) -> Batch {
        for (number, range) in (0..).zip(std::mem::take(&mut self.erased)) {
            self.put::<PendingErasure>(&(allod_storage::Position::PENDING, number), &range);
        }
        self.batch
    }

    fn delete_range(&mut self, table: &TableInfo, prefix: &impl KeyCodec) {
        let low = key_bytes(table.id, prefix);
        let high = prefix_end(&low);
        self.batch.ops.push(Op::DeleteRange { low: Key::new(table.space, low), high });
    }

    /// Requires that there is no such row. Returns the check's index, as a conflict names it.
    pub fn absent<T: Table>(&mut self, key: &T::Key) -> usize {
        self.check(Check::Absent(storage_key::<T>(key).0))
    }

    /// Requires that there is such a row.
    pub fn exists<T: Table>(&mut self, key: &T::Key) -> usize {
        self.check(Check::Exists(storage_key::<T>(key).0))
    }

    /// Requires that the row is exactly this.
    pub fn equals<T: Table>(&mut self, key: &T::Key, value: &T::Value) -> usize {
        self.check(Check::Equals(storage_key::<T>(key).0, value.encode().into()))
    }

    fn check(&mut self, check: Check) -> usize {
        self.batch.checks.push(check);
        self.batch.checks.len().saturating_sub(1)
    }

    /// Tells the log's consumers.
    pub fn log(&mut self, happened: Happened) {
        self.batch.log.push(happened.encode());
    }

    /// Adds an encoded log entry.
    pub fn log_entry(&mut self, entry: LogEntry) {
        self.batch.log.push(entry);
    }

    /// Adds an entry to the audit trail.
    pub fn audit(&mut self, entry: AuditEntry) {
        self.batch.audit.push(entry);
    }

    /// Adds all that `other` does, behind what this does.
    pub fn append(&mut self, other: Self) {
        self.batch.checks.extend(other.batch.checks);
        self.batch.ops.extend(other.batch.ops);
        self.batch.log.extend(other.batch.log);
        self.batch.audit.extend(other.batch.audit);
        self.erased.extend(other.erased);
    }
}
