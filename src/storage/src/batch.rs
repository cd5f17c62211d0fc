//! A write as a value: checks, operations, log and audit entries that happen together or not at all.

use bytes::Bytes;

use crate::{Key, Position};

/// What must hold, at the moment of the commit, for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No row is stored under the key.
    Absent(Key),
    /// Exactly this value is stored under the key.
    Equals(Key, Bytes),
    /// Some row is stored under the key.
    Exists(Key),
}

/// Where the position of the commit is written, as eight big-endian bytes, over the bytes that stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionAt {
    /// At this byte offset of the key.
    InKey(usize),
    /// At this byte offset of the value.
    InValue(usize),
    /// At the first offset in the key and the second in the value.
    InBoth(usize, usize),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores a value.
    Put(Key, Bytes),
    /// Stores a value with the commit's position in its key or value.
    PutPosition {
        /// The key, with eight bytes of room where the position goes.
        key: Key,
        /// The value, likewise.
        value: Bytes,
        /// Where the position goes.
        at: PositionAt,
    },
    /// Removes a row; nothing happens where there is none.
    Delete(Key),
    /// Removes all rows with `low <= key < high` of one space.
    DeleteRange {
        /// First key to remove; its space is the range's.
        low: Key,
        /// First key to keep; empty means to the end of the space.
        high: Vec<u8>,
    },
}

/// What consumers of the log are told of a commit; opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry(pub Bytes);

/// What the audit trail keeps of a commit; opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry(pub Bytes);

/// A write: applied as a whole, or not at all. Even an empty one takes a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Preconditions, checked against the store and all earlier commits.
    pub checks: Vec<Check>,
    /// The changes, applied in order: a later one to the same key wins.
    pub ops: Vec<Op>,
    /// Entries of the log at the commit's position.
    pub log: Vec<LogEntry>,
    /// Entries of the audit trail at the commit's position.
    pub audit: Vec<AuditEntry>,
}

impl Op {
    /// The change with the commit's position filled in: a [`Op::PutPosition`] becomes a [`Op::Put`].
    pub(crate) fn placed(self, position: Position) -> Self {
        let Self::PutPosition { mut key, value, at } = self else { return self };
        let mut value = Vec::from(value);
        let (in_key, in_value) = match at {
            PositionAt::InKey(offset) => (Some(offset), None),
            PositionAt::InValue(offset) => (None, Some(offset)),
            PositionAt::InBoth(in_key, in_value) => (Some(in_key), Some(in_value)),
        };
        place(&mut key.bytes, in_key, position);
        place(&mut value, in_value, position);
        Self::Put(key, Bytes::from(value))
    }
}

/// Writes the position over the bytes at `offset`; that they exist was checked with the limits.
fn place(bytes: &mut [u8], offset: Option<usize>, position: Position) {
    let room = offset.and_then(|offset| bytes.get_mut(offset..)).and_then(|rest| rest.first_chunk_mut());
    if let Some(room) = room {
        *room = position.get().to_be_bytes();
    }
}
