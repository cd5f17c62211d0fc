//! The effects of a group's earlier batches, over which the checks of its later ones are judged.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Check, Error, Key, Op};

/// Changes that are decided but not yet in the store.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    points: BTreeMap<Key, Option<Bytes>>,
    ranges: Vec<(Key, Vec<u8>)>,
}

impl Overlay {
    /// Takes in a change whose position is filled in.
    pub(crate) fn add(&mut self, op: &Op) {
        match op {
            Op::Put(key, value) | Op::PutPosition { key, value, .. } => {
                self.points.insert(key.clone(), Some(value.clone()));
            }
            Op::Delete(key) => {
                self.points.insert(key.clone(), None);
            }
            Op::DeleteRange { low, high } => {
                if let Some(bounds) = key_range(low, high) {
                    for (_, value) in self.points.range_mut(bounds) {
                        *value = None;
                    }
                    self.ranges.push((low.clone(), high.clone()));
                }
            }
        }
    }

    /// What the key holds after the changes so far.
    fn get(&self, key: &Key) -> Told {
        if let Some(value) = self.points.get(key) {
            return value.clone().map_or(Told::Removed, Told::Holds);
        }
        let deleted = self.ranges.iter().any(|(low, high)| {
            low.space == key.space && low.bytes <= key.bytes && (high.is_empty() || key.bytes < *high)
        });
        if deleted { Told::Removed } else { Told::Nothing }
    }
}

/// What an overlay says of a key.
enum Told {
    /// What the store says.
    Nothing,
    /// It was removed.
    Removed,
    /// It has this value.
    Holds(Bytes),
}

/// The index of the first check that does not hold, reading the store where the overlay says nothing.
pub(crate) fn first_failed(
    checks: &[Check],
    overlay: &Overlay,
    mut read: impl FnMut(&Key) -> Result<Option<Bytes>, Error>,
) -> Result<Option<usize>, Error> {
    for (index, check) in checks.iter().enumerate() {
        let (Check::Absent(key) | Check::Equals(key, _) | Check::Exists(key)) = check;
        let stored = match overlay.get(key) {
            Told::Holds(value) => Some(value),
            Told::Removed => None,
            Told::Nothing => read(key)?,
        };
        let holds = match check {
            Check::Absent(_) => stored.is_none(),
            Check::Exists(_) => stored.is_some(),
            Check::Equals(_, expected) => stored.as_ref() == Some(expected),
        };
        if !holds {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The bounds of a range of keys of one space; `None` if the range is empty.
pub(crate) fn key_range(low: &Key, high: &[u8]) -> Option<(Bound<Key>, Bound<Key>)> {
    let end = if high.is_empty() {
        match low.space.checked_add(1) {
            Some(space) => Bound::Excluded(Key { space, bytes: Vec::new() }),
            None => Bound::Unbounded,
        }
    } else if low.bytes.as_slice() < high {
        Bound::Excluded(Key { space: low.space, bytes: high.to_vec() })
    } else {
        return None;
    };
    Some((Bound::Included(low.clone()), end))
}
