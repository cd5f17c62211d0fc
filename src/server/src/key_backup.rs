//! Server-side key backups: room keys that a user's clients encrypt and leave here.
//!
//! A user has versions of a backup, of which only the newest is written. A version's `etag` changes with every change of
//! its keys, because its row is part of every write.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use std::{collections::BTreeMap, sync::Arc};

use allod_storage::CommitError;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    database::{Database, Error, Range, Write},
    numbers::{Hash128, UserNumber},
    tables::keys::{BackupKey, BackupKeyRow, BackupVersion, BackupVersionRow},
};

/// Longest data of a key, in bytes.
pub const KEY_BYTES_MAX: usize = 32 * 1024;
/// Longest `auth_data`, in bytes.
pub const AUTH_DATA_BYTES_MAX: usize = 32 * 1024;
/// Longest id of a session, in bytes.
pub const SESSION_ID_BYTES_MAX: usize = 255;
/// Most keys in a version.
pub const KEYS_PER_VERSION_MAX: u64 = 1_000_000;
/// Most bytes of keys in one commit.
const COMMIT_BYTES_MAX: usize = 640 * 1024;
/// Most keys in one commit.
const COMMIT_KEYS_MAX: usize = 500;
/// How often a write is tried again when someone else was faster.
const ATTEMPTS_MAX: usize = 16;
/// Queues of those who write; a user's number says which is theirs.
const QUEUES: usize = 64;

/// Why a backup was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no such version, or no such key in it.
    #[error("there is no such backup or key")]
    NotFound,
    /// Only the newest version is written.
    #[error("the backup has a newer version")]
    WrongVersion {
        /// The newest version.
        current: u32,
    },
    /// The algorithm of a version cannot be changed.
    #[error("the algorithm of a backup cannot be changed")]
    OtherAlgorithm,
    /// The data is not what the specification says.
    #[error("malformed key data")]
    Malformed,
    /// The data is too long, or there are too many keys.
    #[error("the backup is too large")]
    TooLarge,
    /// Too many writes at once to the same backup.
    #[error("the backup is being written by too many others")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<CommitError> for BackupError {
    fn from(error: CommitError) -> Self {
        Self::Database(error.into())
    }
}

/// A version of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub number: u32,
    /// What is stored of it.
    pub row: BackupVersionRow,
}

/// What a change of keys left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Changed if keys did.
    pub etag: u64,
    /// Keys in the version.
    pub count: u64,
}

/// Key data by room and session.
pub type RoomKeys = BTreeMap<OwnedRoomId, BTreeMap<String, Box<RawValue>>>;

/// Which keys of a version are meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those of a room.
    Room(&'a RoomId),
    /// That of a session.
    Session(&'a RoomId, &'a str),
}

/// What decides between two keys of the same session.
#[derive(Deserialize)]
struct Quality {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
    #[serde(rename = "session_data")]
    _session_data: Map<String, Value>,
}

impl Quality {
    fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Whether this key replaces `other`: verified, then from an earlier message, then forwarded less often.
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |key: &Self| (!key.is_verified, key.first_message_index, key.forwarded_count);
        rank(self) < rank(other)
    }
}

/// The service of key backups.
#[derive(Clone, Debug)]
pub struct KeyBackup {
    database: Database,
    queues: Arc<Queues>,
}

/// Those who write keys of the same user go one after the other: each would find the version changed that it counts in,
/// and who lost often would be sent away. What counts is decided by each commit's checks.
#[derive(Debug)]
struct Queues([Mutex<()>; QUEUES]);

impl Queues {
    async fn turn(&self, user: UserNumber) -> Option<MutexGuard<'_, ()>> {
        let queue = usize::try_from(user.0).unwrap_or_default().checked_rem(QUEUES)?;
        Some(self.0.get(queue)?.lock().await)
    }
}

/// A key's place, its room and session, and its data.
type NewKey = ((Hash128, Hash128), BackupKeyRow);

impl KeyBackup {
    /// Over a database.
    pub fn new(database: Database) -> Self {
        Self { database, queues: Arc::new(Queues(std::array::from_fn(|_| Mutex::default()))) }
    }

    /// Makes a new version, which is the newest from then on.
    pub async fn create(
        &self,
        user: UserNumber,
        algorithm: &str,
        auth_data: &str,
    ) -> Result<u32, BackupError> {
        check_auth_data(algorithm, auth_data)?;
        for _ in 0..ATTEMPTS_MAX {
            let newest =
                self.database.scan(&Range::<BackupVersion>::prefix(&user).reversed().limit(1)).await?;
            let number = newest.rows.first().map_or(1, |((_, number), _)| number.saturating_add(1));
            let mut write = Write::new();
            write.absent::<BackupVersion>(&(user, number));
            let row = BackupVersionRow {
                algorithm: algorithm.to_owned(),
                auth_data: auth_data.to_owned(),
                etag: 0,
                count: 0,
                deleted: false,
            };
            write.put::<BackupVersion>(&(user, number), &row);
            match self.database.commit(write).await {
                Ok(_) => return Ok(number),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BackupError::Busy)
    }

    /// The newest version that was not deleted.
    pub async fn newest(&self, user: UserNumber) -> Result<Version, BackupError> {
        let mut range = Range::<BackupVersion>::prefix(&user).reversed().limit(16);
        loop {
            let page = self.database.scan(&range).await?;
            if let Some(((_, number), row)) = page.rows.iter().find(|(_, row)| !row.deleted) {
                return Ok(Version { number: *number, row: row.clone() });
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Err(BackupError::NotFound),
            }
        }
    }

    /// A version that was not deleted.
    pub async fn version(&self, user: UserNumber, number: u32) -> Result<Version, BackupError> {
        let row = self.database.get::<BackupVersion>(&(user, number)).await?;
        let row = row.filter(|row| !row.deleted).ok_or(BackupError::NotFound)?;
        Ok(Version { number, row })
    }

    /// Changes the `auth_data` of a version.
    pub async fn update(
        &self,
        user: UserNumber,
        number: u32,
        algorithm: &str,
        auth_data: &str,
    ) -> Result<(), BackupError> {
        check_auth_data(algorithm, auth_data)?;
        for _ in 0..ATTEMPTS_MAX {
            let Version { row: old, .. } = self.version(user, number).await?;
            if old.algorithm != algorithm {
                return Err(BackupError::OtherAlgorithm);
            }
            let mut write = Write::new();
            write.equals::<BackupVersion>(&(user, number), &old);
            write.put::<BackupVersion>(
                &(user, number),
                &BackupVersionRow { auth_data: auth_data.to_owned(), ..old },
            );
            match self.database.commit(write).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BackupError::Busy)
    }

    /// Deletes a version with its keys; one that was deleted already is no error.
    pub async fn delete(&self, user: UserNumber, number: u32) -> Result<(), BackupError> {
        let row = self.database.get::<BackupVersion>(&(user, number)).await?.ok_or(BackupError::NotFound)?;
        if row.deleted {
            return Ok(());
        }
        let mut write = Write::new();
        let row = BackupVersionRow { auth_data: String::new(), count: 0, deleted: true, ..row };
        write.put::<BackupVersion>(&(user, number), &row);
        write.delete_prefix::<BackupKey>(&(user, number));
        self.database.commit(write).await?;
        Ok(())
    }

    /// Adds keys to the newest version; a key that is there is replaced only by a better one.
    pub async fn put(&self, user: UserNumber, number: u32, keys: &RoomKeys) -> Result<Totals, BackupError> {
        let keys = self.new_keys(keys)?;
        let mut totals = self.writable(user, number).await?.row.totals();
        let mut rest = keys.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(commit_length(rest));
            totals = self.put_together(user, number, now).await?;
            rest = later;
        }
        Ok(totals)
    }

    /// The keys of a version.
    pub async fn keys(
        &self,
        user: UserNumber,
        number: u32,
        which: Which<'_>,
    ) -> Result<RoomKeys, BackupError> {
        self.version(user, number).await?;
        let mut keys = RoomKeys::new();
        for (_, row) in self.rows(user, number, which).await? {
            let (Ok(room_id), Ok(json)) = (RoomId::parse(&*row.room_id), RawValue::from_string(row.json))
            else {
                continue;
            };
            keys.entry(room_id).or_default().insert(row.session_id, json);
        }
        Ok(keys)
    }

    /// Deletes keys of a version.
    pub async fn delete_keys(
        &self,
        user: UserNumber,
        number: u32,
        which: Which<'_>,
    ) -> Result<Totals, BackupError> {
        let _turn = self.queues.turn(user).await;
        for _ in 0..ATTEMPTS_MAX {
            let Version { row: old, .. } = self.writable(user, number).await?;
            let mut write = Write::new();
            let deleted = match which {
                Which::All => {
                    write.delete_prefix::<BackupKey>(&(user, number));
                    old.count
                }
                Which::Room(room_id) => {
                    write.delete_prefix::<BackupKey>(&(user, number, self.room_hash(room_id)));
                    u64::try_from(self.rows(user, number, which).await?.len()).unwrap_or(u64::MAX)
                }
                Which::Session(..) => {
                    let rows = self.rows(user, number, which).await?;
                    for (key, _) in &rows {
                        write.delete::<BackupKey>(key);
                    }
                    u64::try_from(rows.len()).unwrap_or(u64::MAX)
                }
            };
            if deleted == 0 {
                return Ok(old.totals());
            }
            let row = BackupVersionRow {
                count: old.count.saturating_sub(deleted),
                etag: old.etag.saturating_add(1),
                ..old.clone()
            };
            write.equals::<BackupVersion>(&(user, number), &old);
            write.put::<BackupVersion>(&(user, number), &row);
            match self.database.commit(write).await {
                Ok(_) => return Ok(row.totals()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BackupError::Busy)
    }

    /// The version, if keys may be written to it.
    async fn writable(&self, user: UserNumber, number: u32) -> Result<Version, BackupError> {
        let newest = self.newest(user).await?;
        if newest.number == number {
            return Ok(newest);
        }
        self.version(user, number).await?;
        Err(BackupError::WrongVersion { current: newest.number })
    }

    async fn put_together(
        &self,
        user: UserNumber,
        number: u32,
        keys: &[NewKey],
    ) -> Result<Totals, BackupError> {
        let places: Vec<_> =
            keys.iter().map(|((room, session), _)| (user, number, *room, *session)).collect();
        let _turn = self.queues.turn(user).await;
        for _ in 0..ATTEMPTS_MAX {
            let Version { row: old, .. } = self.writable(user, number).await?;
            let existing = self.database.get_all::<BackupKey>(&places).await?;
            let mut write = Write::new();
            let mut added = 0_u64;
            for ((place, (_, new)), existing) in places.iter().zip(keys).zip(existing) {
                match existing {
                    Some(existing) if !replaces(new, &existing) => continue,
                    Some(_) => {}
                    None => added = added.saturating_add(1),
                }
                write.put::<BackupKey>(place, new);
            }
            if write.is_empty() {
                return Ok(old.totals());
            }
            let row = BackupVersionRow {
                count: old.count.saturating_add(added),
                etag: old.etag.saturating_add(1),
                ..old.clone()
            };
            if row.count > KEYS_PER_VERSION_MAX {
                return Err(BackupError::TooLarge);
            }
            write.equals::<BackupVersion>(&(user, number), &old);
            write.put::<BackupVersion>(&(user, number), &row);
            match self.database.commit(write).await {
                Ok(_) => return Ok(row.totals()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BackupError::Busy)
    }

    async fn rows(
        &self,
        user: UserNumber,
        number: u32,
        which: Which<'_>,
    ) -> Result<Vec<((UserNumber, u32, Hash128, Hash128), BackupKeyRow)>, Error> {
        match which {
            Which::All => self.database.scan_all(Range::<BackupKey>::prefix(&(user, number))).await,
            Which::Room(room_id) => {
                self.database
                    .scan_all(Range::<BackupKey>::prefix(&(user, number, self.room_hash(room_id))))
                    .await
            }
            Which::Session(room_id, session_id) => {
                let key = (user, number, self.room_hash(room_id), self.session_hash(session_id));
                Ok(self.database.get::<BackupKey>(&key).await?.map(|row| (key, row)).into_iter().collect())
            }
        }
    }

    fn new_keys(&self, keys: &RoomKeys) -> Result<Vec<NewKey>, BackupError> {
        let mut new = Vec::new();
        for (room_id, sessions) in keys {
            for (session_id, json) in sessions {
                if json.get().len() > KEY_BYTES_MAX || session_id.len() > SESSION_ID_BYTES_MAX {
                    return Err(BackupError::TooLarge);
                }
                Quality::parse(json.get()).ok_or(BackupError::Malformed)?;
                let row = BackupKeyRow {
                    room_id: room_id.to_string(),
                    session_id: session_id.clone(),
                    json: json.get().to_owned(),
                };
                new.push(((self.room_hash(room_id), self.session_hash(session_id)), row));
            }
        }
        Ok(new)
    }

    fn room_hash(&self, room_id: &RoomId) -> Hash128 {
        self.database.hash("backup room", room_id.as_str())
    }

    fn session_hash(&self, session_id: &str) -> Hash128 {
        self.database.hash("backup session", session_id)
    }
}

impl BackupVersionRow {
    /// What the client is told after each change.
    pub fn totals(&self) -> Totals {
        Totals { etag: self.etag, count: self.count }
    }
}

fn check_auth_data(algorithm: &str, auth_data: &str) -> Result<(), BackupError> {
    if auth_data.len() > AUTH_DATA_BYTES_MAX || algorithm.len() > SESSION_ID_BYTES_MAX {
        return Err(BackupError::TooLarge);
    }
    if auth_data.starts_with('{') { Ok(()) } else { Err(BackupError::Malformed) }
}

/// Whether a new key replaces the one that is there; one that cannot be read is replaced.
fn replaces(new: &BackupKeyRow, existing: &BackupKeyRow) -> bool {
    match (Quality::parse(&new.json), Quality::parse(&existing.json)) {
        (Some(new), Some(existing)) => new.is_better_than(&existing),
        (new, None) => new.is_some(),
        (None, Some(_)) => false,
    }
}

/// How many of these keys fit a commit; at least one.
fn commit_length(keys: &[NewKey]) -> usize {
    let mut bytes = 0_usize;
    let fits = keys.iter().take(COMMIT_KEYS_MAX).take_while(|(_, row)| {
        let text = row.json.len().saturating_add(row.room_id.len()).saturating_add(row.session_id.len());
        bytes = bytes.saturating_add(text);
        bytes <= COMMIT_BYTES_MAX
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests;
