//! What was prepared and may not be in the database yet, and look-ups that know of it.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId};

use super::Writer;
use crate::{
    database::{Corrupt, Error, Range},
    numbers::{EventNumber, Hash128},
    rooms::event::StoredEvent,
    tables::rooms::{Awaited, Awaiting, BackwardExtremity},
};

/// Most events that are looked at when one comes that they waited for.
const WAITING_MAX: usize = 1_000;

/// Events in flight, and the rows that go with them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    events: HashMap<EventNumber, Arc<StoredEvent>>,
    names: HashMap<String, EventNumber>,
    gaps: Vec<(Hash128, EventNumber)>,
    awaited: Vec<(Hash128, Awaiting, EventNumber)>,
}

impl Ahead {
    pub(super) fn insert(&mut self, event: &Arc<StoredEvent>) {
        self.names.insert(event.record.event_id.clone(), event.number);
        self.events.insert(event.number, Arc::clone(event));
    }

    /// Forgets an event that is in the database now, unless it has been changed since.
    pub(super) fn remove(&mut self, event: &Arc<StoredEvent>) {
        if self.events.get(&event.number).is_some_and(|known| Arc::ptr_eq(known, event)) {
            self.events.remove(&event.number);
            self.names.remove(&event.record.event_id);
        }
    }

    pub(super) fn gap(&mut self, missing: Hash128, cited_by: EventNumber) {
        self.gaps.push((missing, cited_by));
    }

    pub(super) fn awaits(&mut self, target: Hash128, way: Awaiting, waiting: EventNumber) {
        self.awaited.push((target, way, waiting));
    }

    /// The state events in flight that name an event among their auth events.
    pub(super) fn referrers(&self, of: EventNumber) -> impl Iterator<Item = u32> {
        let refers = move |event: &&Arc<StoredEvent>| {
            event.record.state_key.is_some() && event.record.auth_events.contains(&of)
        };
        self.events.values().filter(refers).map(|event| event.number.0)
    }
}

impl Writer {
    pub(super) fn name_hash(&self, event_id: &EventId) -> Hash128 {
        self.core.database.hash("event", event_id.as_str())
    }

    /// The numbers of the events with these ids, in their order.
    pub(super) async fn numbers_of(
        &self,
        event_ids: &[OwnedEventId],
    ) -> Result<Vec<Option<EventNumber>>, Error> {
        let mut numbers: Vec<_> =
            event_ids.iter().map(|event_id| self.ahead.names.get(event_id.as_str()).copied()).collect();
        let missing: Vec<&EventId> = event_ids
            .iter()
            .zip(&numbers)
            .filter(|(_, number)| number.is_none())
            .map(|(event_id, _)| &**event_id)
            .collect();
        if missing.is_empty() {
            return Ok(numbers);
        }
        let mut found = self.core.events.numbers(&self.room, &missing).await?.into_iter();
        for number in numbers.iter_mut().filter(|number| number.is_none()) {
            *number = found.next().flatten();
        }
        Ok(numbers)
    }

    /// The events with these numbers, which must exist, in this order.
    pub(super) async fn events_of(&self, numbers: &[EventNumber]) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let mut events: Vec<_> =
            numbers.iter().map(|number| self.ahead.events.get(number).map(Arc::clone)).collect();
        let missing: Vec<EventNumber> = numbers
            .iter()
            .zip(&events)
            .filter(|(_, event)| event.is_none())
            .map(|(number, _)| *number)
            .collect();
        let mut found = self.core.events.load_many(self.room.number, &missing).await?.into_iter();
        for event in events.iter_mut().filter(|event| event.is_none()) {
            *event = found.next();
        }
        let lost = || Error::Corrupt("EventMeta", Corrupt("a row names an event that is not there"));
        events.into_iter().map(|event| event.ok_or_else(lost)).collect()
    }

    pub(super) async fn event_of(&self, number: EventNumber) -> Result<Arc<StoredEvent>, Error> {
        let lost = Error::Corrupt("EventMeta", Corrupt("a row names an event that is not there"));
        self.events_of(&[number]).await?.pop().ok_or(lost)
    }

    /// The events with these ids that are here, and the ids of the others.
    pub(super) async fn held(
        &self,
        event_ids: &[OwnedEventId],
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<OwnedEventId>), Error> {
        let numbers = self.numbers_of(event_ids).await?;
        let missing = event_ids.iter().zip(&numbers).filter(|(_, number)| number.is_none());
        let missing = missing.map(|(event_id, _)| event_id.clone()).collect();
        let known: Vec<_> = numbers.into_iter().flatten().collect();
        Ok((self.events_of(&known).await?, missing))
    }

    /// The event with this id, if it is here.
    pub(super) async fn held_one(&self, event_id: &OwnedEventId) -> Result<Option<Arc<StoredEvent>>, Error> {
        Ok(self.held(std::slice::from_ref(event_id)).await?.0.pop())
    }

    /// The events that cite an event which was missing.
    pub(super) async fn citing(&self, missing: Hash128) -> Result<Vec<EventNumber>, Error> {
        let range = Range::<BackwardExtremity>::prefix(&(self.room.number, missing));
        let rows = self.core.database.scan_all(range).await?;
        let mut citing: Vec<_> = rows.into_iter().map(|((.., citing), _)| citing).collect();
        citing.extend(self.ahead.gaps.iter().filter(|(hash, _)| *hash == missing).map(|(_, citing)| *citing));
        citing.sort_unstable();
        citing.dedup();
        Ok(citing)
    }

    /// The first events that wait in this way for an event which was missing.
    pub(super) async fn awaiting(
        &self,
        missing: Hash128,
        way: Awaiting,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let range = Range::<Awaited>::prefix(&(self.room.number, missing, way)).limit(WAITING_MAX);
        let rows = self.core.database.scan(&range).await?.rows;
        let mut waiting: Vec<EventNumber> = rows.into_iter().map(|((.., waiting), ())| waiting).collect();
        let ahead = self.ahead.awaited.iter().filter(|(hash, known, _)| (*hash, *known) == (missing, way));
        waiting.extend(ahead.map(|(.., number)| *number));
        waiting.sort_unstable();
        waiting.dedup();
        waiting.truncate(WAITING_MAX);
        self.events_of(&waiting).await
    }

    /// An event that may not be in the database yet.
    pub(super) fn in_flight(&self, number: EventNumber) -> Option<&Arc<StoredEvent>> {
        self.ahead.events.get(&number)
    }

    /// Whether a look-up in the database alone would miss something.
    pub(super) fn is_ahead(&self) -> bool {
        !self.ahead.events.is_empty()
    }
}
