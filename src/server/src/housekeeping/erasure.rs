//! Gets the bytes of what was redacted or erased off the disk, within a time that the operator sets.
//!
//! Whoever overwrites or deletes such rows notes their range of keys in the same commit
//! ([`Write::erase`](crate::database::Write::erase)). From time to time the noted ranges are rewritten by the engine, from
//! the write-ahead logs down to the last level, and the notes deleted: after a crash in between it is done once more.

use std::{collections::BTreeMap, time::Duration};

use allod_storage::{KeyRange, Space};

use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    tables::{
        SPACES,
        upkeep::{Chore, ChoreRow, ErasedRange, PendingErasure},
    },
};

/// Row of [`Chore`] that holds when this was last done.
const CHORE: u8 = 0;
/// Most notes worked off in one round.
const NOTES_MAX: usize = 100_000;
/// Ranges of a space beyond which whole tables are rewritten instead.
const RANGES_PER_SPACE_MAX: usize = 64;
/// Bytes of a key that tell the ranges of one round apart: the table, and the number of the room or user.
const GROUP_BYTES: usize = 5;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Notes that were worked off.
    pub notes: usize,
    /// Ranges of keys that were rewritten.
    pub ranges: usize,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Erasure {
    database: Database,
    clock: Clock,
    within: Duration,
}

impl Erasure {
    /// Over a database; bytes are gone `within` this time.
    pub fn new(database: Database, clock: Clock, within: Duration) -> Self {
        Self { database, clock, within }
    }

    /// The time within which bytes are gone.
    pub fn within(&self) -> Duration {
        self.within
    }

    /// Erases what is noted unless that was done a short while ago. Half of the time may pass between two rounds, so that
    /// the other half is left for the work itself.
    pub async fn run_if_due(&self) -> Result<Option<Erased>, Error> {
        let last = self.database.get::<Chore>(&CHORE).await?.unwrap_or_default();
        let pause_ms = u64::try_from(self.within.as_millis() / 2).unwrap_or(u64::MAX);
        if self.clock.now_ms() < last.finished_ms.saturating_add(pause_ms) {
            return Ok(None);
        }
        self.run().await.map(Some)
    }

    /// Erases what is noted.
    pub async fn run(&self) -> Result<Erased, Error> {
        let started_ms = self.clock.now_ms();
        let notes = self.notes().await?;
        if notes.is_empty() {
            return Ok(Erased::default());
        }
        let ranges = merged(notes.iter().map(|(_, range)| range));
        self.database.store().compact_ranges(&ranges).await?;
        for chunk in notes.chunks(1000) {
            let mut write = Write::new();
            for (key, _) in chunk {
                write.delete::<PendingErasure>(key);
            }
            self.database.commit(write).await?;
        }
        let mut write = Write::new();
        write.put::<Chore>(&CHORE, &ChoreRow { finished_ms: started_ms, cursor: None });
        self.database.commit(write).await?;
        let erased = Erased { notes: notes.len(), ranges: ranges.len() };
        tracing::info!(notes = erased.notes, ranges = erased.ranges, "erased what was redacted or deleted");
        Ok(erased)
    }

    async fn notes(&self) -> Result<Vec<((allod_storage::Position, u32), ErasedRange)>, Error> {
        let mut notes = Vec::new();
        let mut range = Range::<PendingErasure>::whole();
        loop {
            let page = self.database.scan(&range).await?;
            let next = page.rows.last().map(|(key, _)| *key).filter(|_| page.more);
            notes.extend(page.rows);
            match next {
                Some(last) if notes.len() < NOTES_MAX => range = range.continued_after(&last),
                _ => return Ok(notes),
            }
        }
    }
}

/// The ranges to rewrite: one for all that lies in a room or with a user, and if that makes too many, one a table.
fn merged<'a>(notes: impl Iterator<Item = &'a ErasedRange>) -> Vec<KeyRange> {
    let mut by_space: BTreeMap<u8, Vec<&ErasedRange>> = BTreeMap::new();
    for note in notes {
        by_space.entry(note.space).or_default().push(note);
    }
    let mut ranges = Vec::new();
    for (id, notes) in by_space {
        // A space that a later version has given up holds nothing that this one could rewrite.
        let Some((space, _)) = SPACES.iter().find(|(space, _)| space.id == id) else { continue };
        let by_room = grouped(*space, &notes, GROUP_BYTES);
        let few = by_room.len() <= RANGES_PER_SPACE_MAX;
        ranges.extend(if few { by_room } else { grouped(*space, &notes, 1) });
    }
    ranges
}

/// One range for all notes whose keys begin alike.
fn grouped(space: Space, notes: &[&ErasedRange], bytes: usize) -> Vec<KeyRange> {
    let mut groups: BTreeMap<&[u8], (&[u8], &[u8])> = BTreeMap::new();
    for note in notes {
        let group = note.low.get(..bytes).unwrap_or(&note.low);
        let hull = groups.entry(group).or_insert((&note.low, &note.high));
        hull.0 = hull.0.min(&note.low);
        // An empty end is the end of the space.
        hull.1 = if hull.1.is_empty() || note.high.is_empty() { &[] } else { hull.1.max(&note.high) };
    }
    groups
        .into_values()
        .map(|(low, high)| KeyRange { space, low: low.to_vec(), high: high.to_vec() })
        .collect()
}

#[cfg(test)]
mod tests;
