//! Redactions: who may, and what is left of the target.

use std::sync::Arc;

use allod_matrix::{
    event::{
        build::Draft,
        pdu::Pdu,
        redact::{is_redactable, redact},
    },
    power::{Action, Powers},
};
use bytes::Bytes;
use ruma::{EventId, UserId};

use super::{AppendError, Current, Writer};
use crate::{
    database::{Corrupt, Error, Range, Write},
    numbers::EventNumber,
    rooms::event::StoredEvent,
    tables::{
        Stamped,
        rooms::{BackwardExtremity, EventJson, EventStatus, Redaction},
    },
};

impl Writer {
    /// The event that a redaction means, if it is here. None also if it may be in the part of the history that is missing.
    pub(super) async fn redaction_target(
        &self,
        draft: &Draft,
    ) -> Result<Option<Arc<StoredEvent>>, AppendError> {
        if draft.kind != "m.room.redaction" {
            return Ok(None);
        }
        let in_content = || {
            let content: serde_json::Value = serde_json::from_str(draft.content.get()).ok()?;
            EventId::parse(content.get("redacts")?.as_str()?).ok()
        };
        let Some(event_id) = draft.redacts.clone().or_else(in_content) else {
            return Err(AppendError::UnknownTarget);
        };
        let Some(target) = self.held_one(&event_id).await? else {
            return if self.misses_history().await? { Ok(None) } else { Err(AppendError::UnknownTarget) };
        };
        match target.record.status {
            EventStatus::Timeline | EventStatus::Outlier => Ok(Some(target)),
            EventStatus::SoftFailed | EventStatus::Rejected => Err(AppendError::UnknownTarget),
        }
    }

    async fn misses_history(&self) -> Result<bool, Error> {
        let range = Range::<BackwardExtremity>::prefix(&self.room.number).limit(1);
        Ok(!self.core.database.scan(&range).await?.rows.is_empty())
    }

    /// From room version 3 on the rules let any redaction pass; whether it takes effect is decided here.
    pub(super) fn authorise_redaction(
        &self,
        pdu: &Pdu,
        target: Option<&StoredEvent>,
    ) -> Result<(), AppendError> {
        if pdu.kind != "m.room.redaction" {
            return Ok(());
        }
        let Some(target) = target else {
            // Whose it is, is not known.
            let may = self.may_redact_others(&pdu.sender);
            return if may { Ok(()) } else { Err(AppendError::UnknownTarget) };
        };
        let forbidden = |reason: &str| Err(AppendError::Forbidden(reason.to_owned()));
        if !is_redactable(&target.record.kind) {
            return forbidden("a room's create event cannot be redacted");
        }
        if target.record.kind == "m.room.server_acl" {
            return forbidden("server ACLs cannot be redacted");
        }
        let own = target.pdu(&self.room)?.sender == pdu.sender;
        if own || self.may_redact_others(&pdu.sender) {
            return Ok(());
        }
        forbidden("you may redact only your own events in this room")
    }

    /// Replaces the target's JSON by what a redaction leaves of it, and takes back what it said of another event.
    pub(super) async fn redact_target(
        &mut self,
        target: &StoredEvent,
        by: EventNumber,
        write: &mut Write,
    ) -> Result<(), Error> {
        self.unrelate(target, write).await?;
        self.forget_words(target, write)?;
        self.forget_media(target, write).await?;
        let key = (self.room.number, target.number);
        let redacted = redact(&target.json, &self.room.rules.redaction, None)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        write.put::<EventJson>(&key, &Bytes::from(redacted));
        write.erase::<EventJson>(&key);
        write.put::<Redaction>(&key, &Stamped::pending(by));
        if let Some(state_key) = &target.record.state_key {
            // The rules must read the redacted form from now on.
            let state = (target.record.kind.clone(), state_key.clone());
            if self.current.get(&state).and_then(Option::as_ref).is_some_and(|it| it.number == target.number)
            {
                self.current.remove(&state);
                self.room_state_redacted(target)?;
            }
        }
        Ok(())
    }

    /// Puts the redacted form of a piece of current state back where the rules look for it.
    pub(super) fn room_state_redacted(&mut self, target: &StoredEvent) -> Result<(), Error> {
        let redacted = redact(&target.json, &self.room.rules.redaction, None)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        let event_id = EventId::parse(target.record.event_id.as_str())
            .map_err(|_| Error::Corrupt("EventMeta", Corrupt("event id does not parse")))?;
        let pdu = Pdu::parse(&redacted, event_id, &self.room.room_id, &self.room.rules)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        let state_key = target.record.state_key.clone().unwrap_or_default();
        let current = Current { number: target.number, pdu: Arc::new(pdu) };
        self.current.insert((target.record.kind.clone(), state_key), Some(current));
        Ok(())
    }

    /// Whether the user has the power to redact what others sent.
    pub(super) fn may_redact_others(&self, user_id: &UserId) -> bool {
        let Some(create) = self.current("m.room.create", "") else { return false };
        let levels = self.current("m.room.power_levels", "").map(|levels| Arc::clone(&levels.pdu));
        Powers::new(&create.pdu, levels, &self.room.rules.authorization).may(user_id, Action::Redact)
    }
}
