//! The events themselves: whether each is what its id stands for, and what is kept beside it and found by it.

use std::sync::Arc;

use allod_matrix::{
    event::{pdu::Pdu, redact::redact},
    relation::relates_to,
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedUserId, UserId,
    signatures::{add_content_hash_to_event, reference_hash},
};

use super::{Check, Damage, PAGE_ROWS, Stop, facts::Fact};
use crate::{
    database::Range,
    numbers::{EventNumber, UserNumber},
    rooms::event::StoredEvent,
    tables::{
        Stamped,
        rooms::{
            AuthReferrer, EventByName, EventJson, EventMeta, EventRecord, EventStatus, Redaction, RoomByName,
        },
    },
};

/// An event's rows.
struct Rows {
    number: EventNumber,
    position: Position,
    record: EventRecord,
    json: Option<Bytes>,
    redacted_by: Option<EventNumber>,
    /// The number that its id leads to.
    named: Option<EventNumber>,
    sender: Option<OwnedUserId>,
}

impl Check {
    pub(super) async fn check_events(&mut self) -> Result<(), Stop> {
        self.check_room_index().await?;
        self.read_names().await?;
        let mut range = Range::<EventMeta>::prefix(&self.room.number).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            let more = page.len() >= PAGE_ROWS;
            if let Some((last, _)) = page.last() {
                range = range.continued_after(last);
            }
            self.check_page(page).await?;
            if !more {
                return Ok(());
            }
        }
    }

    async fn read_names(&mut self) -> Result<(), Stop> {
        let mut range = Range::<EventMeta>::prefix(&self.room.number).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            let more = page.len() >= PAGE_ROWS;
            if let Some((last, _)) = page.last() {
                range = range.continued_after(last);
            }
            self.names.extend(page.into_iter().map(|((_, number), row)| (row.value.event_id, number)));
            if !more {
                return Ok(());
            }
        }
    }

    async fn check_room_index(&mut self) -> Result<(), Stop> {
        let name = self.core.database.hash("room", self.room.room_id.as_str());
        if self.core.database.get::<RoomByName>(&name).await? != Some(self.room.number) {
            let subject = self.room.room_id.to_string();
            if self.find(Damage::RoomIndex, subject, true) {
                self.write.put::<RoomByName>(&name, &self.room.number);
            }
        }
        Ok(())
    }

    async fn check_page(
        &mut self,
        page: Vec<(<EventMeta as crate::tables::Table>::Key, Stamped<EventRecord>)>,
    ) -> Result<(), Stop> {
        let database = self.core.database.clone();
        let keys: Vec<_> = page.iter().map(|(key, _)| *key).collect();
        let names: Vec<_> = page
            .iter()
            .map(|(_, row)| (self.room.number, database.hash("event", &row.value.event_id)))
            .collect();
        let senders: Vec<_> = page.iter().map(|(_, row)| row.value.sender).collect();
        let bodies = database.get_all::<EventJson>(&keys).await?;
        let redactions = database.get_all::<Redaction>(&keys).await?;
        let named = database.get_all::<EventByName>(&names).await?;
        let senders = self.core.users.ids(&senders).await?;
        let found = bodies.into_iter().zip(redactions).zip(named).zip(senders);
        for ((key, row), (((json, redaction), named), sender)) in page.into_iter().zip(found) {
            let redacted_by = redaction.map(|redaction| redaction.value);
            let (number, position, record) = (key.1, row.position, row.value);
            self.check_event(Rows { number, position, record, json, redacted_by, named, sender }).await?;
            self.flush_some().await?;
        }
        Ok(())
    }

    async fn check_event(&mut self, rows: Rows) -> Result<(), Stop> {
        let event_id = rows.record.event_id.clone();
        let Some(json) = &rows.json else {
            self.find(Damage::EventLost, event_id, false);
            return Ok(());
        };
        let Some(pdu) = self.parsed(&event_id, json) else {
            self.find(Damage::EventAltered, event_id, false);
            return Ok(());
        };
        if rows.named != Some(rows.number) && self.find(Damage::EventIndex, event_id.as_str(), true) {
            let name = self.core.database.hash("event", &event_id);
            self.write.put::<EventByName>(&(self.room.number, name), &rows.number);
            self.changed.push(rows.number);
        }
        self.check_redaction(&rows, json);
        let record = self.check_metadata(&rows, &pdu).await?;
        self.check_auth_index(rows.number, &record).await?;
        let known = |id: &OwnedEventId| self.names.get(id.as_str()).copied();
        let stored = StoredEvent::new(rows.number, rows.position, record, Bytes::new());
        let fact = Fact {
            position: rows.position,
            status: stored.record.status,
            shown: stored.is_shown(),
            has_state: stored.has_state(),
            is_state: pdu.is_state(),
            sender: stored.record.sender,
            depth: stored.record.depth,
            origin_server_ts: stored.record.origin_server_ts,
            before: stored.record.state_before,
            after: stored.record.state_after,
            parents: pdu.prev_events.iter().filter_map(known).collect(),
            complete: stored.record.prev_events.len() == pdu.prev_events.len(),
            event_id,
        };
        if fact.shown
            && rows.redacted_by.is_none()
            && let Some(relation) = relates_to(&pdu.content).relation
            && let Some(parent) = self.names.get(relation.event_id.as_str())
        {
            self.related.insert(rows.number, *parent);
        }
        self.facts.insert(rows.number, fact);
        Ok(())
    }

    /// The event, if its JSON is what its id and its content hash stand for.
    fn parsed(&self, event_id: &str, json: &Bytes) -> Option<Arc<Pdu>> {
        let rules = &self.room.rules;
        let mut object: CanonicalJsonObject = serde_json::from_slice(json).ok()?;
        if !rules.event_format.require_event_id {
            let hash = reference_hash(&object, rules).ok()?;
            if event_id.strip_prefix('$') != Some(hash.as_str()) {
                return None;
            }
        }
        let claimed = object.get("hashes").cloned();
        add_content_hash_to_event(&mut object).ok()?;
        if claimed != object.get("hashes").cloned() && !self.is_redacted(json) {
            return None;
        }
        let event_id = EventId::parse(event_id).ok()?;
        Pdu::parse(json, event_id, &self.room.room_id, rules).ok().map(Arc::new)
    }

    /// Whether nothing is left in it that a redaction would take.
    fn is_redacted(&self, json: &Bytes) -> bool {
        redact(json, &self.room.rules.redaction, None).is_ok_and(|redacted| redacted == json[..])
    }

    fn check_redaction(&mut self, rows: &Rows, json: &Bytes) {
        if rows.redacted_by.is_none() || self.is_redacted(json) {
            return;
        }
        if self.find(Damage::Redaction, rows.record.event_id.as_str(), true)
            && let Ok(redacted) = redact(json, &self.room.rules.redaction, None)
        {
            self.write.put::<EventJson>(&(self.room.number, rows.number), &Bytes::from(redacted));
            self.changed.push(rows.number);
        }
    }

    /// Compares what is kept beside the JSON with it; the record as it should be.
    async fn check_metadata(&mut self, rows: &Rows, pdu: &Pdu) -> Result<EventRecord, Stop> {
        let mut right = rows.record.clone();
        right.kind.clone_from(&pdu.kind);
        right.state_key.clone_from(&pdu.state_key);
        right.origin_server_ts = pdu.origin_server_ts.get().into();
        if rows.sender.as_deref() != Some(&*pdu.sender) {
            right.sender = self.user_of(&pdu.sender).await?;
        }
        let wrong = |named: &[OwnedEventId], recorded: &[EventNumber]| {
            let named: Vec<_> = named.iter().filter_map(|id| self.names.get(id.as_str()).copied()).collect();
            recorded.iter().any(|number| !named.contains(number)).then_some(named)
        };
        if let Some(parents) = wrong(&pdu.prev_events, &right.prev_events) {
            right.prev_events = parents;
        }
        if let Some(auth_events) = wrong(&pdu.auth_events, &right.auth_events) {
            right.auth_events = auth_events;
        }
        if right != rows.record && self.find(Damage::Metadata, right.event_id.as_str(), true) {
            self.put_record(rows.number, rows.position, &right);
        }
        Ok(right)
    }

    async fn user_of(&self, user_id: &UserId) -> Result<UserNumber, Stop> {
        if self.repair {
            return Ok(self.core.users.number_or_new(user_id).await?);
        }
        Ok(self.core.users.number(user_id).await?.unwrap_or_default())
    }

    /// Rewrites an event's metadata at the position where it stood.
    pub(super) fn put_record(&mut self, number: EventNumber, position: Position, record: &EventRecord) {
        let row = Stamped { position, value: record.clone() };
        self.write.put_unstamped::<EventMeta>(&(self.room.number, number), &row);
        self.changed.push(number);
    }

    async fn check_auth_index(&mut self, number: EventNumber, record: &EventRecord) -> Result<(), Stop> {
        if record.state_key.is_none() || record.status == EventStatus::Rejected {
            return Ok(());
        }
        let room = self.room.number;
        let keys: Vec<_> = record.auth_events.iter().map(|auth_event| (room, *auth_event, number)).collect();
        let rows = self.core.database.get_all::<AuthReferrer>(&keys).await?;
        for (key, row) in keys.iter().zip(rows) {
            if row.is_none() && self.find(Damage::AuthIndex, record.event_id.as_str(), true) {
                self.write.put::<AuthReferrer>(key, &());
                self.changed.push(number);
            }
        }
        Ok(())
    }
}
