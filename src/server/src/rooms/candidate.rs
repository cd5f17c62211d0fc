//! Events that are built on a room and not yet in it: another server must sign them first.
//!
//! The room's task waits for no network, so such an event is built beside it, and handed in when it is whole. What the
//! room did meanwhile is then beside it in the graph.

use std::{collections::HashSet, sync::Arc};

use allod_matrix::{
    auth,
    event::{
        build::{Draft, Place, Signed, build},
        pdu::Pdu,
    },
};
use ruma::{EventId, events::StateEventType};

use super::{AppendError, Room, Rooms};
use crate::database::Error;

impl Rooms {
    /// Builds and signs an event on the newest end of the room, and checks it against the room's rules; nothing is
    /// stored.
    pub async fn candidate(&self, room: &Room, draft: Draft) -> Result<Signed, AppendError> {
        let rules = &room.rules.authorization;
        let state_key = draft.state_key.as_deref();
        let forbidden = |error: auth::AuthError| AppendError::Forbidden(error.0);
        let needed = auth::state_needed(&draft.kind, &draft.sender, state_key, &draft.content, rules);
        let needed: HashSet<(String, String)> =
            needed.map_err(forbidden)?.into_iter().map(|(kind, key)| (kind.to_string(), key)).collect();
        let types = auth::auth_types(&draft.kind, &draft.sender, state_key, &draft.content, rules);
        let types: HashSet<(String, String)> =
            types.unwrap_or_default().into_iter().map(|(kind, key)| (kind.to_string(), key)).collect();
        let head = self.head(room.number).await?;
        let state = self.state_at(room, &head.root, needed.union(&types)).await?;
        let tips = self.core.events.load_many(room.number, &head.extremities).await?;
        let mut prev_events = Vec::with_capacity(tips.len());
        for tip in &tips {
            prev_events.push(tip.pdu(room)?.event_id.clone());
        }
        let allowing = state.iter().filter(|(key, _)| types.contains(key));
        let place = Place {
            room_id: Some(room.room_id.clone()),
            prev_events,
            auth_events: allowing.map(|(_, pdu)| pdu.event_id.clone()).collect(),
            depth: head.depth.saturating_add(1),
        };
        let signed = build(draft, place, &room.rules, self.core.identity.key())?;
        let by_id = |event_id: &EventId| {
            state.iter().find(|(_, pdu)| *pdu.event_id == *event_id).map(|(_, pdu)| Arc::clone(pdu))
        };
        let by_state = |kind: &StateEventType, state_key: &str| {
            let kind = kind.to_string();
            let found = state.iter().find(|((of, key), _)| *of == kind && key == state_key);
            found.map(|(_, pdu)| Arc::clone(pdu))
        };
        auth::check(rules, &signed.pdu, by_id, by_state).map_err(forbidden)?;
        Ok(signed)
    }

    async fn state_at(
        &self,
        room: &Room,
        root: &crate::tables::rooms::StateRoot,
        keys: impl Iterator<Item = &(String, String)>,
    ) -> Result<Vec<((String, String), Arc<Pdu>)>, Error> {
        let mut keys: Vec<(String, String)> = keys.cloned().collect();
        keys.sort_unstable();
        let entries: Vec<_> =
            keys.iter().map(|(kind, state_key)| room.hash_key.entry_key(kind, state_key)).collect();
        let numbers = self.core.states.get_many(room, *root, &entries).await?;
        let mut state = Vec::new();
        for (key, number) in keys.into_iter().zip(numbers) {
            if let Some(number) = number {
                state.push((key, self.core.events.load(room.number, number).await?.pdu(room)?));
            }
        }
        Ok(state)
    }
}
