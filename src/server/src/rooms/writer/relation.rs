//! What an event says of another one: whether it may, the rows that follow from it, and their undoing when it is
//! redacted.
//!
//! A redacted child no longer counts; a redacted parent keeps its children.

use std::collections::{HashMap, HashSet};

use allod_matrix::{
    event::pdu::Pdu,
    relation::{is_valid_edit, relates_to},
};

use super::{AppendError, Writer};
use crate::{
    database::{Error, Range, Write},
    numbers::{EventNumber, Hash128, UserNumber},
    rooms::event::StoredEvent,
    tables::rooms::{
        Aggregate, AggregateRecord, EditRecord, Relating, Relation, RelationCount, RelationRecord,
        ThreadByLatest,
    },
};

/// What was prepared and may not be in the database yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    aggregates: HashMap<EventNumber, AggregateRecord>,
    counts: HashMap<(EventNumber, UserNumber, Hash128), u64>,
    /// Children whose rows are being removed.
    gone: HashSet<EventNumber>,
}

/// A relation that an event has to another one of its room.
#[derive(Debug)]
pub(super) struct Related {
    parent: EventNumber,
    relating: Relating,
    record: RelationRecord,
    origin_server_ts: u64,
    event_id: String,
}

/// How many of the newest edits are looked at to find the latest, when that one is redacted.
const EDITS_EXAMINED_MAX: usize = 100;

impl Writer {
    /// The relation that an event has to another one of this room; an error if local users may not say so.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events>
    pub(super) async fn relation(
        &mut self,
        pdu: &Pdu,
        sender: UserNumber,
    ) -> Result<Option<Related>, AppendError> {
        let Some(relation) = relates_to(&pdu.content).relation else { return Ok(None) };
        let Some(parent) = self.core.events.number(&self.room, &relation.event_id).await? else {
            return Ok(None);
        };
        let parent_event = self.event_of(parent).await?;
        if !parent_event.is_shown() {
            return Ok(None);
        }
        let original = parent_event.pdu(&self.room)?;
        let relating = relating(&relation.rel_type, &original, pdu);
        if relating == Relating::Thread && relates_to(&original.content).relation.is_some() {
            return Err(AppendError::ThreadOnRelation);
        }
        let record =
            RelationRecord { rel_type: relation.rel_type, kind: pdu.kind.clone(), sender, key: relation.key };
        if relating == Relating::Annotation
            && let Some(way) = self.core.way(relating, &record)
            && self.relation_count((parent, sender, way)).await? > 0
        {
            return Err(AppendError::DuplicateAnnotation);
        }
        Ok(Some(Related {
            parent,
            relating,
            record,
            origin_server_ts: pdu.origin_server_ts.get().into(),
            event_id: pdu.event_id.to_string(),
        }))
    }

    /// The relation of an event of another server, or one that came before its parent: whatever it says is let pass, and
    /// what is against the rules counts as a relation of no known kind.
    pub(super) fn relation_received(
        &self,
        child: &Pdu,
        sender: UserNumber,
        parent: &StoredEvent,
    ) -> Result<Option<Related>, Error> {
        let Some(relation) = relates_to(&child.content).relation else { return Ok(None) };
        let original = parent.pdu(&self.room)?;
        let relating = match relating(&relation.rel_type, &original, child) {
            Relating::Thread if relates_to(&original.content).relation.is_some() => Relating::Other,
            relating => relating,
        };
        let record = RelationRecord {
            rel_type: relation.rel_type,
            kind: child.kind.clone(),
            sender,
            key: relation.key,
        };
        Ok(Some(Related {
            parent: parent.number,
            relating,
            record,
            origin_server_ts: child.origin_server_ts.get().into(),
            event_id: child.event_id.to_string(),
        }))
    }

    /// Writes what follows from a relation of the event about to be added at this depth.
    pub(super) async fn relate(
        &mut self,
        related: Option<Related>,
        number: EventNumber,
        depth: u64,
        write: &mut Write,
    ) -> Result<(), Error> {
        let Some(Related { parent, relating, record, origin_server_ts, event_id }) = related else {
            return Ok(());
        };
        let mut aggregate = self.aggregate(parent).await?;
        aggregate.children = aggregate.children.saturating_add(1);
        match relating {
            Relating::Reference => aggregate.references = aggregate.references.saturating_add(1),
            Relating::Edit => {
                let edit = Some(EditRecord { origin_server_ts, event_id, event: number });
                aggregate.edit = aggregate.edit.max(edit);
            }
            Relating::Thread => {
                aggregate.replies = aggregate.replies.saturating_add(1);
                let latest = aggregate.latest.max(Some((depth, number)));
                self.move_thread(parent, &mut aggregate, latest, write);
            }
            Relating::Annotation | Relating::Other => {}
        }
        self.count_relation(parent, relating, &record, |count| count.saturating_add(1), write).await?;
        write.put::<Relation>(&(self.room.number, parent, relating, depth, number), &record);
        self.put_aggregate(parent, aggregate, write);
        Ok(())
    }

    /// Removes what followed from the relation of an event that is being redacted.
    pub(super) async fn unrelate(&mut self, target: &StoredEvent, write: &mut Write) -> Result<(), Error> {
        let Some(relation) = relates_to(&target.pdu(&self.room)?.content).relation else { return Ok(()) };
        let room = self.room.number;
        let Some(parent) = self.core.events.number(&self.room, &relation.event_id).await? else {
            return Ok(());
        };
        let keys = Relating::ALL.map(|relating| (room, parent, relating, target.record.depth, target.number));
        let rows = self.core.database.multi_get::<Relation>(&keys).await?;
        let Some((key, record)) = keys.iter().zip(rows).find_map(|(key, row)| Some((key, row?))) else {
            return Ok(());
        };
        if !self.relations.gone.insert(target.number) {
            return Ok(());
        }
        let relating = key.2;
        let mut aggregate = self.aggregate(parent).await?;
        aggregate.children = aggregate.children.saturating_sub(1);
        match relating {
            Relating::Reference => aggregate.references = aggregate.references.saturating_sub(1),
            Relating::Edit if aggregate.edit.as_ref().is_some_and(|edit| edit.event == target.number) => {
                aggregate.edit = self.latest_edit(parent).await?;
            }
            Relating::Thread => {
                aggregate.replies = aggregate.replies.saturating_sub(1);
                if aggregate.latest.is_some_and(|(_, latest)| latest == target.number) {
                    let latest = self.latest_reply(parent).await?;
                    self.move_thread(parent, &mut aggregate, latest, write);
                }
            }
            Relating::Edit | Relating::Annotation | Relating::Other => {}
        }
        self.count_relation(parent, relating, &record, |count| count.saturating_sub(1), write).await?;
        write.delete::<Relation>(key);
        write.erase::<Relation>(key);
        self.put_aggregate(parent, aggregate, write);
        Ok(())
    }

    async fn aggregate(&self, parent: EventNumber) -> Result<AggregateRecord, Error> {
        if let Some(aggregate) = self.relations.aggregates.get(&parent) {
            return Ok(aggregate.clone());
        }
        let aggregate = self.core.database.get::<Aggregate>(&(self.room.number, parent)).await?;
        Ok(aggregate.unwrap_or_default())
    }

    fn put_aggregate(&mut self, parent: EventNumber, aggregate: AggregateRecord, write: &mut Write) {
        let key = (self.room.number, parent);
        if aggregate.children == 0 {
            write.delete::<Aggregate>(&key);
        } else {
            write.put::<Aggregate>(&key, &aggregate);
        }
        self.relations.aggregates.insert(parent, aggregate);
    }

    /// Gives a thread its place among the threads of the room.
    fn move_thread(
        &self,
        root: EventNumber,
        aggregate: &mut AggregateRecord,
        latest: Option<(u64, EventNumber)>,
        write: &mut Write,
    ) {
        let number = self.room.number;
        if aggregate.latest == latest {
            return;
        }
        if let Some((depth, event)) = aggregate.latest {
            write.delete::<ThreadByLatest>(&(number, depth, event, root));
        }
        if let Some((depth, event)) = latest {
            write.put::<ThreadByLatest>(&(number, depth, event, root), &());
        }
        aggregate.latest = latest;
    }

    async fn relation_count(&self, key: (EventNumber, UserNumber, Hash128)) -> Result<u64, Error> {
        if let Some(count) = self.relations.counts.get(&key) {
            return Ok(*count);
        }
        let (parent, user, way) = key;
        let count = self.core.database.get::<RelationCount>(&(self.room.number, parent, user, way)).await?;
        Ok(count.unwrap_or_default())
    }

    async fn count_relation(
        &mut self,
        parent: EventNumber,
        relating: Relating,
        record: &RelationRecord,
        change: fn(u64) -> u64,
        write: &mut Write,
    ) -> Result<(), Error> {
        let Some(way) = self.core.way(relating, record) else { return Ok(()) };
        let key = (parent, record.sender, way);
        let count = change(self.relation_count(key).await?);
        let row = (self.room.number, parent, record.sender, way);
        if count == 0 {
            write.delete::<RelationCount>(&row);
        } else {
            write.put::<RelationCount>(&row, &count);
        }
        self.relations.counts.insert(key, count);
        Ok(())
    }

    /// The latest reply of a thread without those that are going. One in flight is never asked for: it is the latest.
    async fn latest_reply(&self, root: EventNumber) -> Result<Option<(u64, EventNumber)>, Error> {
        let limit = self.relations.gone.len().saturating_add(1);
        let range = Range::<Relation>::prefix(&(self.room.number, root, Relating::Thread));
        let page = self.core.database.scan(&range.reversed().limit(limit)).await?;
        let mut replies = page.rows.iter().map(|(key, _)| (key.3, key.4));
        Ok(replies.find(|(_, event)| !self.relations.gone.contains(event)))
    }

    async fn latest_edit(&self, original: EventNumber) -> Result<Option<EditRecord>, Error> {
        let room = self.room.number;
        let range = Range::<Relation>::prefix(&(room, original, Relating::Edit));
        let page = self.core.database.scan(&range.reversed().limit(EDITS_EXAMINED_MAX)).await?;
        let numbers: Vec<_> = page.rows.iter().map(|(key, _)| key.4).collect();
        let edits = self.core.events.load_many(room, &numbers).await?;
        let kept = edits.iter().filter(|edit| !self.relations.gone.contains(&edit.number));
        Ok(kept.map(|edit| edit.as_edit()).max())
    }
}

fn relating(rel_type: &str, original: &Pdu, child: &Pdu) -> Relating {
    match rel_type {
        "m.reference" => Relating::Reference,
        "m.replace" if is_valid_edit(original, child) => Relating::Edit,
        "m.annotation" => Relating::Annotation,
        "m.thread" if !original.is_state() => Relating::Thread,
        _ => Relating::Other,
    }
}
