//! The log of commits: its records, how they are stored, and the hints that wake its consumers.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{broadcast, watch};

use crate::{AuditEntry, Error, LogEntry, Position};

/// Records that a slow subscriber may be behind before it is told that it lagged.
const HINTS_MAX: usize = 4096;

/// What the log says of one commit. Every commit has a record, also one without entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The position of the commit.
    pub position: Position,
    /// The entries that its batch carried, in order.
    pub entries: Arc<[LogEntry]>,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// The position of the commit that carried it.
    pub position: Position,
    /// Its place among the audit entries of that commit.
    pub index: u16,
    /// What it says.
    pub entry: AuditEntry,
}

/// What a subscription delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A commit that is durable and visible. Positions rise; a gap means the same as [`Hint::Lagged`].
    Record(LogRecord),
    /// Records were dropped because the receiver was slow: read the log, or the store.
    Lagged,
}

/// Receives the record of every commit after the subscription was made, as a hint: the store is the truth.
#[derive(Debug)]
pub struct Subscription {
    receiver: Option<broadcast::Receiver<LogRecord>>,
}

impl Subscription {
    /// The next hint; `None` once the store is closed. Cancelling the future loses nothing.
    pub async fn recv(&mut self) -> Option<Hint> {
        match self.receiver.as_mut()?.recv().await {
            Ok(record) => Some(Hint::Record(record)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Hint::Lagged),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next hint if one is there already.
    pub fn try_recv(&mut self) -> Option<Hint> {
        match self.receiver.as_mut()?.try_recv() {
            Ok(record) => Some(Hint::Record(record)),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Some(Hint::Lagged),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}

/// Where an engine announces what has become visible.
#[derive(Debug)]
pub(crate) struct Feed {
    head: watch::Sender<Position>,
    records: RwLock<Option<broadcast::Sender<LogRecord>>>,
}

impl Feed {
    pub(crate) fn new(head: Position) -> Self {
        Self { head: watch::Sender::new(head), records: RwLock::new(Some(broadcast::Sender::new(HINTS_MAX))) }
    }

    pub(crate) fn head(&self) -> Position {
        *self.head.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        Subscription { receiver: records.as_ref().map(broadcast::Sender::subscribe) }
    }

    /// Announces records in the order of their positions: first the head, then the hints.
    pub(crate) fn publish(&self, records: Vec<LogRecord>) {
        let Some(last) = records.last() else { return };
        self.head.send_replace(last.position);
        let sender = self.records.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.as_ref() {
            for record in records {
                // Nobody listening is no failure.
                let _unheard = sender.send(record);
            }
        }
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.records.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The stored form of a record's entries: each as its length in four bytes and its bytes.
pub(crate) fn encode_entries(entries: &[LogEntry]) -> Bytes {
    let length = entries.iter().map(|entry| entry.0.len() + 4).sum();
    let mut bytes = BytesMut::with_capacity(length);
    for entry in entries {
        bytes.put_u32(u32::try_from(entry.0.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&entry.0);
    }
    bytes.freeze()
}

/// Reads what [`encode_entries`] wrote.
pub(crate) fn decode_entries(mut bytes: Bytes) -> Result<Arc<[LogEntry]>, Error> {
    let corrupt = || Error::Corrupt("a record of the log is malformed".to_owned());
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let length = *bytes.first_chunk().ok_or_else(corrupt)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| corrupt())?;
        let end = length.checked_add(4).filter(|end| *end <= bytes.len()).ok_or_else(corrupt)?;
        entries.push(LogEntry(bytes.slice(4..end)));
        bytes = bytes.slice(end..);
    }
    Ok(entries.into())
}

/// The key of an audit entry.
pub(crate) fn audit_key(position: Position, index: u16) -> [u8; 10] {
    let mut key = [0; 10];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&position.get().to_be_bytes());
    tail.copy_from_slice(&index.to_be_bytes());
    key
}

/// Reads what [`audit_key`] wrote.
pub(crate) fn decode_audit_key(mut bytes: &[u8]) -> Result<(Position, u16), Error> {
    <(Position, u16) as crate::codec::KeyCodec>::decode(&mut bytes)
        .filter(|_| bytes.is_empty())
        .ok_or_else(|| Error::Corrupt("a key of the audit trail is malformed".to_owned()))
}

/// Reads the key of a log record.
pub(crate) fn decode_log_key(bytes: &[u8]) -> Result<Position, Error> {
    bytes
        .try_into()
        .map(|bytes| Position::new(u64::from_be_bytes(bytes)))
        .map_err(|_| Error::Corrupt("a key of the log is malformed".to_owned()))
}
