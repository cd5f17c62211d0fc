//! Stored events: loading, caching, and their forms.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use allod_matrix::event::{client::ClientForm, pdu::Pdu};
use allod_storage::Position;
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use ruma::{EventId, OwnedEventId};

use super::Room;
use crate::{
    database::{Corrupt, Database, Error},
    numbers::{EventNumber, RoomNumber},
    tables::rooms::{EventByName, EventJson, EventMeta, EventRecord, EventStatus, Redaction, StateRoot},
};

/// An event as it is stored, with what was derived from it since it was loaded.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its number in its room.
    pub number: EventNumber,
    /// The commit that wrote its metadata; its place in the order of arrival.
    pub position: Position,
    /// What the server knows of it.
    pub record: EventRecord,
    /// Federation format.
    pub json: Bytes,
    /// The event that redacted it.
    pub redacted_by: Option<EventNumber>,
    client: OnceLock<Arc<ClientForm>>,
    pdu: OnceLock<Arc<Pdu>>,
}

impl StoredEvent {
    pub(crate) fn new(number: EventNumber, position: Position, record: EventRecord, json: Bytes) -> Self {
        Self {
            number,
            position,
            record,
            json,
            redacted_by: None,
            client: OnceLock::new(),
            pdu: OnceLock::new(),
        }
    }

    /// The same event as it stands after the commit at `position`.
    pub(crate) fn committed(self: Arc<Self>, position: Position) -> Self {
        match Arc::try_unwrap(self) {
            Ok(event) => Self { position, ..event },
            Err(shared) => Self {
                redacted_by: shared.redacted_by,
                ..Self::new(shared.number, position, shared.record.clone(), shared.json.clone())
            },
        }
    }

    /// Its id.
    pub fn id(&self) -> Result<OwnedEventId, Error> {
        EventId::parse(self.record.event_id.as_str()).map_err(|_| damaged())
    }

    /// Whether it is part of the history that clients see, if they may see it: neither refused nor an outlier nor held
    /// back.
    pub fn is_shown(&self) -> bool {
        self.record.status == EventStatus::Timeline && self.record.reason.is_none()
    }

    /// Whether nothing that it follows was here when it came, though it is not the room's first event.
    pub(crate) fn is_behind_gap(&self) -> bool {
        self.record.prev_events.is_empty() && self.record.depth > 1
    }

    /// Whether the state before and after it is known.
    pub(crate) fn has_state(&self) -> bool {
        match self.record.status {
            EventStatus::Timeline | EventStatus::SoftFailed => true,
            EventStatus::Rejected => self.record.state_after != StateRoot::default(),
            EventStatus::Outlier => false,
        }
    }

    /// The part of the client format that is the same for all readers.
    pub fn client_form(&self, room: &Room) -> Result<Arc<ClientForm>, Error> {
        if let Some(form) = self.client.get() {
            return Ok(Arc::clone(form));
        }
        let event_id = <&EventId>::try_from(self.record.event_id.as_str()).map_err(|_| damaged())?;
        let form = ClientForm::new(&self.json, event_id, &room.rules.redaction).map_err(|_| damaged())?;
        Ok(Arc::clone(self.client.get_or_init(|| Arc::new(form))))
    }

    /// The parsed event, as the authorisation rules read it.
    pub fn pdu(&self, room: &Room) -> Result<Arc<Pdu>, Error> {
        if let Some(pdu) = self.pdu.get() {
            return Ok(Arc::clone(pdu));
        }
        let event_id = EventId::parse(self.record.event_id.as_str()).map_err(|_| damaged())?;
        let mut pdu = Pdu::parse(&self.json, event_id, &room.room_id, &room.rules).map_err(|_| damaged())?;
        pdu.rejected = self.record.status == EventStatus::Rejected;
        Ok(Arc::clone(self.pdu.get_or_init(|| Arc::new(pdu))))
    }
}

fn damaged() -> Error {
    Error::Corrupt("EventJson", Corrupt("event does not parse"))
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(RoomNumber, EventNumber), Arc<StoredEvent>> for ByBytes {
    fn weight(&self, _key: &(RoomNumber, EventNumber), event: &Arc<StoredEvent>) -> u64 {
        // The JSON twice, for its client form, and the record and bookkeeping.
        u64::try_from(event.json.len()).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(700)
    }
}

/// Loads events, and keeps those used lately.
#[derive(Clone)]
pub struct Events {
    database: Database,
    cache: Arc<Cache<(RoomNumber, EventNumber), Arc<StoredEvent>, ByBytes>>,
    /// Counts what was taken out of the cache because it changed, so that a slow reader does not put it back.
    invalidations: Arc<AtomicU64>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Keeps at most about `cache_bytes` of events in memory.
    pub fn new(database: Database, cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / 2048).unwrap_or(usize::MAX);
        let cache = Cache::with_weighter(items, cache_bytes, ByBytes);
        Self { database, cache: Arc::new(cache), invalidations: Arc::default() }
    }

    /// The number of the event with this id in this room.
    pub async fn number(&self, room: &Room, event_id: &EventId) -> Result<Option<EventNumber>, Error> {
        let name = self.database.hash("event", event_id.as_str());
        self.database.get::<EventByName>(&(room.number, name)).await
    }

    /// The numbers of the events with these ids in this room, in their order.
    pub(crate) async fn numbers(
        &self,
        room: &Room,
        event_ids: &[&EventId],
    ) -> Result<Vec<Option<EventNumber>>, Error> {
        let keys: Vec<_> = event_ids
            .iter()
            .map(|event_id| (room.number, self.database.hash("event", event_id.as_str())))
            .collect();
        self.database.get_all::<EventByName>(&keys).await
    }

    /// The event with this number, if there is one.
    pub async fn get(
        &self,
        room: RoomNumber,
        number: EventNumber,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        Ok(self.get_many(room, &[number]).await?.pop().flatten())
    }

    /// The event with this number; the database is damaged if there is none.
    pub async fn load(&self, room: RoomNumber, number: EventNumber) -> Result<Arc<StoredEvent>, Error> {
        let missing = Error::Corrupt("EventMeta", Corrupt("a row names an event that is not there"));
        self.get(room, number).await?.ok_or(missing)
    }

    /// The events with these numbers, which must exist, in this order.
    pub async fn load_many(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let events = self.get_many(room, numbers).await?;
        let missing = || Error::Corrupt("EventMeta", Corrupt("a row names an event that is not there"));
        events.into_iter().map(|event| event.ok_or_else(missing)).collect()
    }

    /// The events with these numbers, in this order.
    pub async fn get_many(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<Option<Arc<StoredEvent>>>, Error> {
        let keys: Vec<_> = numbers.iter().map(|number| (room, *number)).collect();
        self.get_keys(&keys).await
    }

    /// Events of several rooms, in this order: all that are not in memory are read at once.
    pub async fn get_keys(
        &self,
        keys: &[(RoomNumber, EventNumber)],
    ) -> Result<Vec<Option<Arc<StoredEvent>>>, Error> {
        let mut events: Vec<_> = keys.iter().map(|key| self.cache.get(key)).collect();
        let missing: Vec<(RoomNumber, EventNumber)> =
            keys.iter().zip(&events).filter(|(_, event)| event.is_none()).map(|(key, _)| *key).collect();
        if missing.is_empty() {
            return Ok(events);
        }
        let before = self.invalidations.load(Ordering::Acquire);
        let records = self.database.get_all::<EventMeta>(&missing).await?;
        // Before the bodies: one that is redacted in between is shown redacted.
        let redactions = self.database.get_all::<Redaction>(&missing).await?;
        let bodies = self.database.get_all::<EventJson>(&missing).await?;
        let mut found = missing.iter().zip(records.into_iter().zip(bodies).zip(redactions));
        for event in events.iter_mut().filter(|event| event.is_none()) {
            let Some((key, (rows, redaction))) = found.next() else { break };
            if let (Some(record), Some(json)) = rows {
                let mut stored = StoredEvent::new(key.1, record.position, record.value, json);
                stored.redacted_by = redaction.map(|redaction| redaction.value);
                let stored = Arc::new(stored);
                self.keep(*key, &stored, before);
                *event = Some(stored);
            }
        }
        Ok(events)
    }

    /// Puts an event that has just been committed into the cache.
    pub(crate) fn insert(&self, room: RoomNumber, event: &Arc<StoredEvent>) {
        self.cache.insert((room, event.number), Arc::clone(event));
    }

    fn keep(&self, key: (RoomNumber, EventNumber), event: &Arc<StoredEvent>, before: u64) {
        self.cache.insert(key, Arc::clone(event));
        if self.invalidations.load(Ordering::Acquire) != before {
            self.cache.remove(&key);
        }
    }

    /// Forgets all events of a room that was deleted.
    pub(crate) fn forget_room(&self, room: RoomNumber) {
        self.invalidations.fetch_add(1, Ordering::AcqRel);
        self.cache.retain(|(of, _), _| *of != room);
    }

    /// Forgets an event whose rows have changed.
    pub(crate) fn invalidate(&self, room: RoomNumber, number: EventNumber) {
        self.invalidations.fetch_add(1, Ordering::AcqRel);
        self.cache.remove(&(room, number));
    }
}
