//! What one event does to another that may come later: redactions (§Handling redactions, room version 3) and relations.
//!
//! A redaction takes effect when it and its target are here and its sender may; until then clients see nothing of it.

use std::sync::Arc;

use allod_matrix::{
    event::{is_redactable, pdu::Pdu, redact},
    power::{Action, Powers},
    relation::relates_to,
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::OwnedEventId;

use super::Writer;
use crate::{
    database::{Corrupt, Error, Write},
    numbers::EventNumber,
    rooms::event::StoredEvent,
    tables::{
        Stamped,
        rooms::{Awaited, Awaiting, EventRecord, EventStatus, Redaction, StateRoot},
    },
};

/// Why a redaction is held back whose target may still come.
pub(super) const TARGET_MISSING: &str = "what it redacts is not here";

/// What a redaction does.
pub(super) enum Effect {
    /// It is none.
    None,
    /// It redacts this event.
    Applies(Arc<StoredEvent>),
    /// Nothing, for now or for ever.
    Held {
        /// Why.
        reason: &'static str,
        /// Whether its target may still come.
        awaits: bool,
    },
}

/// What waited for an event.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Redactions that take effect.
    redactions: Vec<Arc<StoredEvent>>,
    /// Events that relate to it.
    children: Vec<Arc<StoredEvent>>,
}

impl Writer {
    /// What an accepted event does as a redaction.
    pub(super) async fn effect(&mut self, pdu: &Pdu, before: StateRoot) -> Result<Effect, Error> {
        if pdu.kind != "m.room.redaction" {
            return Ok(Effect::None);
        }
        let held = |reason, awaits| Ok(Effect::Held { reason, awaits });
        let Some(target_id) = &pdu.redacts else { return held("it redacts nothing", false) };
        let Some(target) = self.held_one(target_id).await? else {
            return held(TARGET_MISSING, true);
        };
        if target.record.status == EventStatus::Rejected {
            return held("what it redacts was refused", false);
        }
        if self.may_redact(pdu, before, &*target.pdu(&self.room)?).await? {
            Ok(Effect::Applies(target))
        } else {
            held("its sender may not redact what it names", false)
        }
    }

    /// Whether a redaction that was accepted may take effect on its target: its sender has the power, or is of the same
    /// server as the target's.
    async fn may_redact(&mut self, pdu: &Pdu, before: StateRoot, target: &Pdu) -> Result<bool, Error> {
        if !is_redactable(&target.kind) {
            return Ok(false);
        }
        if pdu.sender.server_name() == target.sender.server_name() {
            return Ok(true);
        }
        let name = |kind: &str| (kind.to_owned(), String::new());
        let names = [name("m.room.create"), name("m.room.power_levels")];
        let state = self.pdus_at(before, &names).await?;
        let [create, levels] = names.map(|name| state.get(&name).cloned());
        let Some(create) = create else { return Ok(false) };
        let powers = Powers::new(&create, levels, &self.room.rules.authorization);
        Ok(powers.may(&pdu.sender, Action::Redact))
    }

    /// Lets a redaction wait for its target.
    pub(super) fn await_target(&mut self, pdu: &Pdu, number: EventNumber, write: &mut Write) {
        if let Some(target) = &pdu.redacts {
            self.put_awaited(target, number, Awaiting::Redaction, write);
        }
    }

    fn put_awaited(&mut self, target: &OwnedEventId, number: EventNumber, way: Awaiting, write: &mut Write) {
        let name = self.name_hash(target);
        write.put::<Awaited>(&(self.room.number, name, way, number), &());
        self.ahead.awaits(name, way, number);
    }

    /// Relates a shown event to its parent, or lets it wait for it.
    pub(super) async fn relate_received(
        &mut self,
        pdu: &Pdu,
        event: &StoredEvent,
        write: &mut Write,
    ) -> Result<(), Error> {
        if event.redacted_by.is_some() {
            return Ok(());
        }
        let Some(relation) = relates_to(&pdu.content).relation else { return Ok(()) };
        match self.held_one(&relation.event_id).await? {
            Some(parent) if parent.is_shown() => {
                let related = self.relation_received(pdu, event.record.sender, &parent)?;
                self.relate(related, event.number, event.record.depth, write).await
            }
            Some(parent) if parent.record.status != EventStatus::Outlier => Ok(()),
            _ => {
                self.put_awaited(&relation.event_id, event.number, Awaiting::Relation, write);
                Ok(())
            }
        }
    }

    /// Finds what waited for an event that is about to be stored, and redacts it if that is what waited.
    pub(super) async fn take_waiting(
        &mut self,
        pdu: &Pdu,
        event: &mut StoredEvent,
        write: &mut Write,
    ) -> Result<Waiting, Error> {
        let mut waiting = Waiting::default();
        if event.record.status == EventStatus::Rejected {
            return Ok(waiting);
        }
        let name = self.name_hash(&pdu.event_id);
        for waits in self.awaiting(name, Awaiting::Redaction).await? {
            write.delete::<Awaited>(&(self.room.number, name, Awaiting::Redaction, waits.number));
            let redaction = waits.pdu(&self.room)?;
            if self.may_redact(&redaction, waits.record.state_before, pdu).await? {
                waiting.redactions.push(waits);
            }
        }
        // A relation is one to an event that is shown; otherwise it may still come to that.
        if event.is_shown() {
            waiting.children = self.awaiting(name, Awaiting::Relation).await?;
            for child in &waiting.children {
                write.delete::<Awaited>(&(self.room.number, name, Awaiting::Relation, child.number));
            }
        }
        if let Some(redaction) = waiting.redactions.last() {
            self.redact_new(event, redaction.number, write)?;
        }
        Ok(waiting)
    }

    /// Redacts an outlier that a redaction waits for. The redaction itself stays held back until its target has a place.
    pub(super) async fn redact_outlier(
        &mut self,
        pdu: &Pdu,
        event: &mut StoredEvent,
        write: &mut Write,
    ) -> Result<(), Error> {
        for waits in self.awaiting(self.name_hash(&pdu.event_id), Awaiting::Redaction).await? {
            let redaction = waits.pdu(&self.room)?;
            if self.may_redact(&redaction, waits.record.state_before, pdu).await? {
                return self.redact_new(event, waits.number, write);
            }
        }
        Ok(())
    }

    /// Redacts an event that is about to be stored.
    fn redact_new(&self, event: &mut StoredEvent, by: EventNumber, write: &mut Write) -> Result<(), Error> {
        let redacted = redact(&event.json, &self.room.rules.redaction, None)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        event.json = Bytes::from(redacted);
        event.redacted_by = Some(by);
        write.put::<Redaction>(&(self.room.number, event.number), &Stamped::pending(by));
        Ok(())
    }

    /// Shows the redactions that waited for the event, and relates its children to it; returns those redactions as they
    /// are now.
    ///
    /// A redaction is new to nobody then: whoever is shown its target is shown it redacted.
    pub(super) async fn release(
        &mut self,
        event: &Arc<StoredEvent>,
        waiting: Waiting,
        write: &mut Write,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let mut released = Vec::with_capacity(waiting.redactions.len());
        for redaction in waiting.redactions {
            let record = EventRecord { reason: None, ..redaction.record.clone() };
            self.put_history(redaction.number, &record, write);
            let shown = StoredEvent::new(redaction.number, Position::PENDING, record, redaction.json.clone());
            released.push(self.put_event(shown, false, write));
        }
        for child in waiting.children.iter().filter(|child| child.redacted_by.is_none()) {
            let related = self.relation_received(&*child.pdu(&self.room)?, child.record.sender, event)?;
            self.relate(related, child.number, child.record.depth, write).await?;
        }
        Ok(released)
    }
}
