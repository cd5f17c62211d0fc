//! Limits that every engine enforces: those of the smallest engine that may come.
//!
//! They are checked before anything is queued or read, by the same code for every engine.

use crate::space::Declared;
use crate::{Batch, Check, CommitError, Error, Key, KeyRange, Op, PositionAt, Scan};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value or log or audit entry, in bytes.
pub const VALUE_BYTES_MAX: usize = 96 * 1024;
/// Largest batch: all keys, values and entries together, in bytes, and [`BATCH_ITEM_BYTES`] for each item.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What each check, operation and entry counts in a batch besides its own bytes.
pub const BATCH_ITEM_BYTES: usize = 16;
/// Most keys in one `multi_get`.
pub const MULTI_GET_KEYS_MAX: usize = 1000;
/// Most rows in one page of a scan.
pub const SCAN_ROWS_MAX: usize = 1000;
/// A page of a scan or of the log ends early, saying so, once it holds this many bytes.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

const POSITION_BYTES: usize = 8;

/// Checks a batch against all limits and measures it.
pub(crate) fn measure(batch: &Batch, declared: &Declared) -> Result<usize, CommitError> {
    let mut meter = Meter { bytes: 0, declared };
    for check in &batch.checks {
        match check {
            Check::Absent(key) | Check::Exists(key) => meter.key(key)?,
            Check::Equals(key, value) => {
                meter.key(key)?;
                meter.value(value.len())?;
            }
        }
    }
    for op in &batch.ops {
        meter.op(op)?;
    }
    for entry in &batch.log {
        meter.item();
        meter.value(entry.0.len())?;
    }
    for entry in &batch.audit {
        meter.item();
        meter.value(entry.0.len())?;
    }
    if meter.bytes > BATCH_BYTES_MAX {
        return Err(CommitError::TooLarge("the batch is too large"));
    }
    Ok(meter.bytes)
}

/// Checks one key to be read.
pub(crate) fn check_key(key: &Key, declared: &Declared) -> Result<(), Error> {
    if key.bytes.len() > KEY_BYTES_MAX {
        return Err(Error::TooLarge("a key is too long"));
    }
    declared.name(key.space).map(|_| ())
}

/// Checks the keys of a `multi_get`.
pub(crate) fn check_keys(keys: &[Key], declared: &Declared) -> Result<(), Error> {
    if keys.len() > MULTI_GET_KEYS_MAX {
        return Err(Error::TooLarge("too many keys in one read"));
    }
    keys.iter().try_for_each(|key| check_key(key, declared))
}

/// Checks a scan.
pub(crate) fn check_scan(scan: &Scan, declared: &Declared) -> Result<(), Error> {
    if scan.limit > SCAN_ROWS_MAX {
        return Err(Error::TooLarge("too many rows in one page"));
    }
    // A cursor is a longest key and one byte more, and the end of a range may be one too.
    if scan.low.len().max(scan.high.len()) > KEY_BYTES_MAX + 1 {
        return Err(Error::TooLarge("a key is too long"));
    }
    declared.name(scan.space.id).map(|_| ())
}

/// Checks ranges of keys.
pub(crate) fn check_ranges(ranges: &[KeyRange], declared: &Declared) -> Result<(), Error> {
    ranges.iter().try_for_each(|range| {
        if range.low.len().max(range.high.len()) > KEY_BYTES_MAX + 1 {
            return Err(Error::TooLarge("a key is too long"));
        }
        declared.name(range.space.id).map(|_| ())
    })
}

struct Meter<'a> {
    bytes: usize,
    declared: &'a Declared,
}

impl Meter<'_> {
    fn item(&mut self) {
        self.bytes += BATCH_ITEM_BYTES;
    }

    fn key(&mut self, key: &Key) -> Result<(), CommitError> {
        self.item();
        self.bytes += key.bytes.len();
        if key.bytes.len() > KEY_BYTES_MAX {
            return Err(CommitError::TooLarge("a key is too long"));
        }
        match self.declared.name(key.space) {
            Ok(_) => Ok(()),
            Err(_) => Err(CommitError::TooLarge("a key is in no declared space")),
        }
    }

    fn value(&mut self, length: usize) -> Result<(), CommitError> {
        self.bytes += length;
        if length > VALUE_BYTES_MAX {
            return Err(CommitError::TooLarge("a value is too long"));
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), CommitError> {
        match op {
            Op::Put(key, value) => {
                self.key(key)?;
                self.value(value.len())
            }
            Op::PutPosition { key, value, at } => {
                self.key(key)?;
                self.value(value.len())?;
                let (in_key, in_value) = match *at {
                    PositionAt::InKey(offset) => (Some(offset), None),
                    PositionAt::InValue(offset) => (None, Some(offset)),
                    PositionAt::InBoth(in_key, in_value) => (Some(in_key), Some(in_value)),
                };
                let fits = |offset: Option<usize>, length: usize| {
                    offset.is_none_or(|offset| {
                        offset.checked_add(POSITION_BYTES).is_some_and(|end| end <= length)
                    })
                };
                if fits(in_key, key.bytes.len()) && fits(in_value, value.len()) {
                    Ok(())
                } else {
                    Err(CommitError::TooLarge("a position does not fit into its key or value"))
                }
            }
            Op::Delete(key) => self.key(key),
            Op::DeleteRange { low, high } => {
                self.key(low)?;
                self.bytes += high.len();
                if high.len() > KEY_BYTES_MAX + 1 {
                    return Err(CommitError::TooLarge("a key is too long"));
                }
                Ok(())
            }
        }
    }
}
