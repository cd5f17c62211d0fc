//! The state that an event is built on and judged by.

use std::{collections::HashSet, sync::Arc};

use allod_matrix::{
    auth,
    event::{
        build::{Draft, Place},
        pdu::Pdu,
    },
};
use ruma::{EventId, events::StateEventType};

use super::{AppendError, Appended, Current, Writer};
use crate::{numbers::EventNumber, tables::rooms::FlatState};

impl Writer {
    /// Loads the current state that the rules, and the indexes, need to know for this event.
    pub(super) async fn load_current(&mut self, draft: &Draft) -> Result<(), AppendError> {
        let needed = auth::state_needed(
            &draft.kind,
            &draft.sender,
            draft.state_key.as_deref(),
            &draft.content,
            &self.room.rules.authorization,
        );
        let needed = needed.map_err(|error| AppendError::Forbidden(error.0))?;
        let mut wanted: HashSet<(String, String)> =
            needed.into_iter().map(|(kind, state_key)| (kind.to_string(), state_key)).collect();
        if let Some(state_key) = &draft.state_key {
            wanted.insert((draft.kind.clone(), state_key.clone()));
        }
        if draft.kind == "m.room.redaction" {
            wanted.insert(("m.room.power_levels".to_owned(), String::new()));
        }
        let wanted: Vec<_> = wanted.into_iter().filter(|key| !self.current.contains_key(key)).collect();
        let keys: Vec<_> = wanted
            .iter()
            .map(|(kind, state_key)| {
                (self.room.number, self.head.epoch, self.room.hash_key.entry_key(kind, state_key).0)
            })
            .collect();
        // Whatever is in flight is in `current` already, so the rest may be read from the database.
        let numbers = self.core.database.get_all::<FlatState>(&keys).await?;
        for (key, number) in wanted.into_iter().zip(numbers) {
            let current = match number {
                Some(number) => {
                    let event = self.event_of(number).await?;
                    Some(Current { number, pdu: event.pdu(&self.room)? })
                }
                None => None,
            };
            self.current.insert(key, current);
        }
        Ok(())
    }

    pub(super) fn current(&self, kind: &str, state_key: &str) -> Option<&Current> {
        // A borrowed look-up in a map with owned pairs needs the pair; states are few and short.
        self.current.get(&(kind.to_owned(), state_key.to_owned())).and_then(Option::as_ref)
    }

    /// The state event that already says what this one would.
    pub(super) fn unchanged(&self, draft: &Draft) -> Option<Appended> {
        let current = self.current(&draft.kind, draft.state_key.as_deref()?)?;
        let same =
            current.pdu.sender == draft.sender && same_json(current.pdu.content.get(), draft.content.get());
        same.then(|| Appended { event_id: current.pdu.event_id.clone(), number: current.number })
    }

    pub(super) fn place(&self, draft: &Draft) -> (Place, Vec<EventNumber>) {
        let mut auth_events = Vec::new();
        let mut numbers = Vec::new();
        let types = auth::auth_types(
            &draft.kind,
            &draft.sender,
            draft.state_key.as_deref(),
            &draft.content,
            &self.room.rules.authorization,
        );
        for (kind, state_key) in types.unwrap_or_default() {
            let kind = kind.to_string();
            if let Some(current) = self.current(&kind, &state_key) {
                auth_events.push(current.pdu.event_id.clone());
                numbers.push(current.number);
            }
        }
        let is_hashed_create = draft.kind == "m.room.create"
            && draft.state_key.as_deref() == Some("")
            && !self.room.rules.event_format.require_room_create_room_id;
        let place = Place {
            room_id: (!is_hashed_create).then(|| self.room.room_id.clone()),
            prev_events: self.tips.iter().map(|tip| tip.event_id.clone()).collect(),
            auth_events,
            depth: self.head.depth.saturating_add(1),
        };
        (place, numbers)
    }

    pub(super) fn authorise(&self, pdu: &Pdu) -> Result<(), AppendError> {
        let by_id = |event_id: &EventId| {
            let mut known = self.current.values().flatten();
            known.find(|current| *current.pdu.event_id == *event_id).map(|current| Arc::clone(&current.pdu))
        };
        let by_state = |kind: &StateEventType, state_key: &str| {
            self.current(&kind.to_string(), state_key).map(|current| Arc::clone(&current.pdu))
        };
        auth::check(&self.room.rules.authorization, pdu, by_id, by_state)
            .map_err(|error| AppendError::Forbidden(error.0))
    }
}

fn same_json(left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    let parse = |json| serde_json::from_str::<serde_json::Value>(json).ok();
    matches!((parse(left), parse(right)), (Some(left), Some(right)) if left == right)
}
