//! Rooms of which members are missing: which of their events rest on a state that is not whole.

use std::{collections::BTreeMap, sync::Arc};

use ruma::OwnedEventId;

use super::Writer;
use crate::{
    database::{Database, Error, Range, Write},
    numbers::{EventNumber, RoomNumber},
    rooms::{event::StoredEvent, ingest::Incoming},
    tables::{
        partial::{PartialEvent, PartialEventRecord, PartialRoom},
        rooms::StateRoot,
    },
};

/// What is known of a partial room.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The events whose states are to be computed anew.
    pub(super) events: BTreeMap<EventNumber, PartialEventRecord>,
}

impl Partial {
    /// What the rows say; nothing of a room that is whole.
    pub(super) async fn load(database: &Database, room: RoomNumber) -> Result<Option<Self>, Error> {
        if database.get::<PartialRoom>(&room).await?.is_none() {
            return Ok(None);
        }
        let rows = database.scan_all(Range::<PartialEvent>::prefix(&room)).await?;
        Ok(Some(Self { events: rows.into_iter().map(|((_, number), record)| (number, record)).collect() }))
    }
}

impl Writer {
    /// What is to be noted of an event whose state before it lacks members: one that follows such an event, or the join
    /// with which it begins.
    pub(super) fn partial_event(
        &self,
        incoming: &Incoming,
        known: &[Arc<StoredEvent>],
        missing: &[OwnedEventId],
        given: Option<StateRoot>,
    ) -> Option<PartialEventRecord> {
        if incoming.partial.is_some() && given.is_some() {
            let missing = missing.iter().map(ToString::to_string).collect();
            return Some(PartialEventRecord { missing, given: None });
        }
        let events = &self.partial.as_ref()?.events;
        let follows = known.iter().any(|parent| events.contains_key(&parent.number));
        follows.then(|| PartialEventRecord { missing: Vec::new(), given })
    }

    /// Notes such an event. A join with which a room would become partial must have been accepted.
    pub(super) fn put_partial(
        &mut self,
        incoming: &Incoming,
        number: EventNumber,
        accepted: bool,
        record: PartialEventRecord,
        write: &mut Write,
    ) {
        let room = self.room.number;
        if !record.missing.is_empty() {
            if !accepted {
                return;
            }
            if let Some(partial) = incoming.partial.as_ref().filter(|_| self.partial.is_none()) {
                write.put::<PartialRoom>(&room, partial);
            }
        }
        write.put::<PartialEvent>(&(room, number), &record);
        self.partial.get_or_insert_default().events.insert(number, record);
    }

    /// Notes an event of a local user.
    pub(super) fn put_partial_local(
        &mut self,
        number: EventNumber,
        prev_events: &[EventNumber],
        write: &mut Write,
    ) {
        let Some(partial) = &mut self.partial else { return };
        if prev_events.iter().any(|parent| partial.events.contains_key(parent)) {
            let record = PartialEventRecord::default();
            write.put::<PartialEvent>(&(self.room.number, number), &record);
            partial.events.insert(number, record);
        }
    }
}
